//! What a user says about how a table is cached.

use std::fmt;
use std::str::FromStr;

use skep_store::StorageLevel;

use crate::error::{Error, Result, closest};

/// How a table is cached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheOptions {
    /// Where its partitions may be kept.
    pub level: CacheLevel,
    /// How its rows are spread over its partitions; `None` leaves them as the plan gives them.
    pub cluster_by: Option<ClusterBy>,
}

/// Rows with the same values in these columns are in the same partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterBy {
    /// The columns, in an order that matters: two tables fit if theirs is the same.
    pub columns: Vec<String>,
    /// How many partitions; `None` is what the session cuts a query into.
    pub partitions: Option<usize>,
}

/// A storage level, by Spark's name for it.
///
/// Rows are always kept encoded, so the `_SER` levels are the ones without; what is kept is Arrow's
/// memory, so `OFF_HEAP` is `MEMORY_AND_DISK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheLevel {
    name: &'static str,
    level: StorageLevel,
    replicas: usize,
}

/// All levels.
const LEVELS: [CacheLevel; 12] = [
    level("MEMORY_AND_DISK", StorageLevel::MemoryAndDisk, 1),
    level("MEMORY_AND_DISK_2", StorageLevel::MemoryAndDisk, 2),
    level("MEMORY_AND_DISK_SER", StorageLevel::MemoryAndDisk, 1),
    level("MEMORY_AND_DISK_SER_2", StorageLevel::MemoryAndDisk, 2),
    level("MEMORY_ONLY", StorageLevel::MemoryOnly, 1),
    level("MEMORY_ONLY_2", StorageLevel::MemoryOnly, 2),
    level("MEMORY_ONLY_SER", StorageLevel::MemoryOnly, 1),
    level("MEMORY_ONLY_SER_2", StorageLevel::MemoryOnly, 2),
    level("DISK_ONLY", StorageLevel::DiskOnly, 1),
    level("DISK_ONLY_2", StorageLevel::DiskOnly, 2),
    level("DISK_ONLY_3", StorageLevel::DiskOnly, 3),
    level("OFF_HEAP", StorageLevel::MemoryAndDisk, 1),
];

const fn level(name: &'static str, level: StorageLevel, replicas: usize) -> CacheLevel {
    CacheLevel { name, level, replicas }
}

impl CacheLevel {
    /// Returns where the store may keep a partition.
    pub fn storage(self) -> StorageLevel {
        self.level
    }

    /// Returns on how many workers each partition is to be. One process keeps one copy: a second
    /// would be lost with the first.
    pub fn replicas(self) -> usize {
        self.replicas
    }
}

impl Default for CacheLevel {
    fn default() -> Self {
        LEVELS[0]
    }
}

impl fmt::Display for CacheLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for CacheLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = text.to_ascii_uppercase();
        if let Some(level) = LEVELS.iter().find(|level| level.name == wanted) {
            return Ok(*level);
        }
        let hint = match wanted.as_str() {
            "NONE" => "UNCACHE TABLE takes a table out of the cache".to_owned(),
            _ => match closest(&wanted, LEVELS.iter().map(|level| level.name)) {
                Some(level) => format!("did you mean \"{level}\"?"),
                None => "MEMORY_AND_DISK, MEMORY_ONLY or DISK_ONLY".to_owned(),
            },
        };
        Err(Error::InvalidOption {
            option: STORAGE_LEVEL.to_owned(),
            message: format!("there is no storage level \"{text}\""),
            hint: Some(hint),
        })
    }
}

/// The one option of `CACHE TABLE`.
const STORAGE_LEVEL: &str = "storageLevel";

impl CacheOptions {
    /// Takes the options of a statement.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for one that there is not, given twice, or with a wrong value.
    pub(crate) fn parse(options: &[(String, String)]) -> Result<Self> {
        let mut level = None;
        for (option, value) in options {
            if !option.eq_ignore_ascii_case(STORAGE_LEVEL) {
                return Err(Error::InvalidOption {
                    option: option.clone(),
                    message: "CACHE TABLE has no such option".to_owned(),
                    hint: Some(format!("did you mean \"{STORAGE_LEVEL}\"?")),
                });
            }
            if level.replace(value.parse()?).is_some() {
                return Err(Error::InvalidOption {
                    option: option.clone(),
                    message: "it is given twice".to_owned(),
                    hint: None,
                });
            }
        }
        Ok(Self { level: level.unwrap_or_default(), cluster_by: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_found_by_its_name_in_any_case() {
        for level in LEVELS {
            assert_eq!(level.name.parse::<CacheLevel>().unwrap(), level);
            assert_eq!(level.name.to_lowercase().parse::<CacheLevel>().unwrap(), level);
            assert_eq!(level.name.ends_with("_2"), level.replicas == 2);
        }
        let error = "MEMORY_AND_DISC".parse::<CacheLevel>().unwrap_err();
        assert_eq!(error.hint(), Some("did you mean \"MEMORY_AND_DISK\"?"));
        assert!("NONE".parse::<CacheLevel>().unwrap_err().hint().unwrap().contains("UNCACHE"));
    }

    #[test]
    fn other_options_are_refused() {
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let parsed = CacheOptions::parse(&[option("storagelevel", "disk_only")]).unwrap();
        assert_eq!(parsed.level.storage(), StorageLevel::DiskOnly);
        let error = CacheOptions::parse(&[option("level", "DISK_ONLY")]).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean \"storageLevel\"?"));
        let twice = [option("storageLevel", "DISK_ONLY"), option("storageLevel", "DISK_ONLY")];
        CacheOptions::parse(&twice).unwrap_err();
    }
}
