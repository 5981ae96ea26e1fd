//! How long to wait before the next try.

use std::time::Duration;

/// Bounds of the waiting between tries.
#[derive(Debug, Clone)]
pub struct BackoffConfig {
    /// Before the first try after a connection was lost. Several tries have to fit into the time
    /// for which the coordinator keeps a life whose connection broke (200 ms).
    pub first: Duration,
    /// The longest wait; also how long a connection must have lasted to begin from the first again.
    pub max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { first: Duration::from_millis(10), max: Duration::from_secs(2) }
    }
}

/// Waits that double from the first to the longest, each shortened at random by up to a half, so
/// that a hundred workers do not come back at once. Never ends.
#[derive(Debug)]
pub struct Backoff {
    config: BackoffConfig,
    try_count: u32,
    random: u64,
}

impl Backoff {
    /// Creates it at the first wait; equal seeds give equal waits.
    pub fn new(config: BackoffConfig, seed: u64) -> Self {
        Self { config, try_count: 0, random: seed | 1 }
    }

    /// Returns how many waits there were since the start or the last reset.
    pub fn try_count(&self) -> u32 {
        self.try_count
    }

    /// Returns the next wait.
    pub fn next_wait(&mut self) -> Duration {
        // Beyond 2^20 every sensible bound is reached.
        let factor = 1_u32 << self.try_count.min(20);
        self.try_count = self.try_count.saturating_add(1);
        let whole = self.config.first.saturating_mul(factor).min(self.config.max);
        // Source: Marsaglia 2003, xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 40) as f64 / f64::from(1_u32 << 24);
        whole.mul_f64(1.0 - part / 2.0)
    }

    /// Takes note of how long a connection lasted that has ended.
    pub fn lasted(&mut self, time: Duration) {
        if time >= self.config.max {
            self.try_count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_stay_within_half() {
        let mut backoff = Backoff::new(BackoffConfig::default(), 7);
        for whole in [10, 20, 40, 80, 160, 320, 640, 1280, 2000, 2000, 2000] {
            let whole = Duration::from_millis(whole);
            let wait = backoff.next_wait();
            assert!(wait <= whole && wait >= whole / 2, "{wait:?} of {whole:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next_wait() >= Duration::from_secs(1));
        }
    }

    #[test]
    fn several_tries_fit_into_the_grace_of_the_coordinator() {
        let mut backoff = Backoff::new(BackoffConfig::default(), 3);
        let total: Duration = (0..4).map(|_| backoff.next_wait()).sum();
        assert!(total < Duration::from_millis(200), "{total:?}");
    }

    #[test]
    fn only_a_connection_that_lasted_begins_anew() {
        let mut backoff = Backoff::new(BackoffConfig::default(), 3);
        for _ in 0..10 {
            backoff.next_wait();
        }
        backoff.lasted(Duration::from_millis(100));
        assert!(backoff.next_wait() >= Duration::from_secs(1));
        backoff.lasted(Duration::from_secs(3));
        assert!(backoff.next_wait() <= Duration::from_millis(10));
    }

    #[test]
    fn seeds_part_the_waits_of_workers() {
        let waits = |seed| {
            let mut backoff = Backoff::new(BackoffConfig::default(), seed);
            (0..8).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(11), waits(11));
        assert_ne!(waits(11), waits(13));
    }
}
