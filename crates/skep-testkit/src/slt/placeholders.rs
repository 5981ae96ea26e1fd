//! Paths that differ from machine to machine, under names that do not.

use std::path::Path;

use anyhow::Result;

use crate::tpch::{DataSet, Format};
use crate::workspace;

/// The names that a script writes for paths, and the paths of this run.
///
/// A script's statements and commands have the names replaced by paths; whatever comes back, rows
/// and error texts alike, has the paths replaced by names, so that answers can be written down.
#[derive(Debug, Default)]
pub(crate) struct Placeholders {
    pairs: Vec<(&'static str, String)>,
}

impl Placeholders {
    /// Gathers the paths that `script` names, and generates the data behind those it needs.
    pub(crate) fn for_script(script: &str, test_dir: &Path) -> Result<Self> {
        let mut placeholders = Self::default();
        placeholders.add("__TEST_DIR__", test_dir);
        placeholders.add("__DATASETS__", &workspace::root().join("datasets"));
        let generated = [
            ("__TPCH__", DataSet::SMALL),
            ("__TPCH_CSV__", DataSet { format: Format::Csv, ..DataSet::SMALL }),
            ("__TPCH_SF1__", DataSet { scale: 1.0, ..DataSet::SMALL }),
        ];
        for (name, data_set) in generated {
            if script.contains(name) {
                placeholders.add(name, &data_set.cached()?);
            }
        }
        Ok(placeholders)
    }

    fn add(&mut self, name: &'static str, path: &Path) {
        self.pairs.push((name, path.display().to_string()));
    }

    /// Replaces names by paths.
    pub(crate) fn fill(&self, text: &str) -> String {
        self.pairs.iter().fold(text.to_owned(), |text, (name, path)| text.replace(name, path))
    }

    /// Replaces paths by names; object stores write paths without the slash in front.
    pub(crate) fn restore(&self, text: &str) -> String {
        self.pairs.iter().fold(text.to_owned(), |text, (name, path)| {
            let text = text.replace(path.as_str(), name);
            match path.strip_prefix('/') {
                Some(relative) => text.replace(relative, name),
                None => text,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_back_as_names() {
        let mut placeholders = Placeholders::default();
        placeholders.add("__TEST_DIR__", Path::new("/tmp/abc"));
        assert_eq!(placeholders.fill("COPY t TO '__TEST_DIR__/x'"), "COPY t TO '/tmp/abc/x'");
        assert_eq!(placeholders.restore("file:///tmp/abc/x"), "file://__TEST_DIR__/x");
        assert_eq!(placeholders.restore("[[tmp/abc/x:0..3]]"), "[[__TEST_DIR__/x:0..3]]");
    }
}
