//! Figures of several measurements as one.

use std::time::Duration;

/// Returns a time in milliseconds, as the tables and files of figures have it.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Returns a figure with three digits after the point: more are more than a run can tell.
pub fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Returns the geometric mean of ratios, in which twice as slow and twice as fast cancel out; NaN of
/// none.
pub fn geometric_mean(ratios: impl IntoIterator<Item = f64>) -> f64 {
    let logarithms: Vec<f64> = ratios.into_iter().map(f64::ln).collect();
    (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_as_slow_and_twice_as_fast_cancel_out() {
        assert_eq!(round(geometric_mean([2.0, 0.5])), 1.0);
        assert_eq!(round(geometric_mean([2.0, 2.0, 16.0])), 4.0);
        assert!(geometric_mean([]).is_nan());
    }
}
