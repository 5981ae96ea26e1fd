//! Amounts of memory and disk, as people write them: `512MB`, `2GiB`, `50%`.

use std::fs;
use std::path::Path;
use std::str::FromStr;

/// A number of bytes, or a share of what the machine has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the machine's memory.
    Percent(f64),
}

/// The units that are known; one letter alone means the binary one.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (digits, unit) = (&text[..end], text[end..].trim().to_lowercase());
        let number: f64 = digits.parse().map_err(|_parse| {
            "expected a number and a unit, as in 512MB, 2GiB or 50%".to_owned()
        })?;
        if unit == "%" {
            return match number > 0.0 && number <= 100.0 {
                true => Ok(Self::Percent(number)),
                false => Err("a share must be more than 0% and at most 100%".to_owned()),
            };
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "unknown unit \"{unit}\": use B, KB, MB, GB, TB, KiB ... TiB or %"
            ));
        };
        let bytes = number * *factor as f64;
        if !(1.0..=9e18).contains(&bytes) {
            return Err("must be at least one byte, and less than 9 exabytes".to_owned());
        }
        Ok(Self::Bytes(bytes as u64))
    }
}

impl Size {
    /// Returns the number of bytes.
    ///
    /// # Errors
    /// If this is a share and the machine does not tell how much memory it has.
    pub(crate) fn bytes(self) -> Result<u64, String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Percent(percent) => {
                let total = machine_memory().ok_or(
                    "cannot tell how much memory this machine has: give a number of bytes instead",
                )?;
                Ok((total as f64 * percent / 100.0) as u64)
            }
        }
    }
}

/// Returns the memory that this process can have: the machine's, or less in a container.
fn machine_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits
        .iter()
        .filter_map(|path| fs::read_to_string(Path::new(path)).ok()?.trim().parse::<u64>().ok());
    Some(limit.fold(total, u64::min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_bytes() {
        for (text, bytes) in [
            ("1024", 1024),
            ("512MB", 512_000_000),
            ("512 mb", 512_000_000),
            ("2GiB", 2 << 30),
            ("2g", 2 << 30),
            ("1.5KiB", 1536),
            ("100b", 100),
        ] {
            assert_eq!(text.parse(), Ok(Size::Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn shares_are_of_the_machine() {
        assert_eq!("50%".parse(), Ok(Size::Percent(50.0)));
        let half = Size::Percent(50.0).bytes().unwrap();
        let all = Size::Percent(100.0).bytes().unwrap();
        assert!(all.abs_diff(2 * half) <= 2);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "expected a number"),
            ("much", "expected a number"),
            ("-1MB", "expected a number"),
            ("1.2.3MB", "expected a number"),
            ("5 parsecs", "unknown unit \"parsecs\""),
            ("0", "at least one byte"),
            ("0%", "more than 0%"),
            ("101%", "at most 100%"),
            ("99999999999TB", "less than 9 exabytes"),
        ] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
