//! The text files of the checkout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The text files of the checkout, with what is generated left out.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Where it was read from.
    pub(crate) root: PathBuf,
    /// Path from the root, with forward slashes, and text; sorted by path.
    pub(crate) files: Vec<(String, String)>,
}

/// Directories that hold nothing of ours; hidden ones are ours if they are listed here too.
const SKIPPED: [&str; 2] = ["target", "node_modules"];
const HIDDEN: [&str; 4] = [".cargo", ".ci", ".config", ".github"];

impl Tree {
    /// Reads the files below `root`; what is no UTF-8 is no text and left out.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self { root: root.to_path_buf(), files: Vec::new() };
        let mut directories = vec![root.to_path_buf()];
        while let Some(directory) = directories.pop() {
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("cannot read {}", directory.display()))?;
            for entry in entries {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    let is_hidden = name.starts_with('.') && !HIDDEN.contains(&name.as_str());
                    if !is_hidden && !SKIPPED.contains(&name.as_str()) {
                        directories.push(path);
                    }
                } else if name == ".git" {
                    // In a work tree this is a file, and git's own.
                } else if let Ok(text) = fs::read_to_string(&path) {
                    let relative = path.strip_prefix(root)?.display().to_string();
                    tree.files.push((relative.replace('\\', "/"), text));
                }
            }
        }
        tree.files.sort();
        Ok(tree)
    }

    /// Returns the text of one file, empty if there is none.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.iter().find(|(name, _)| name == path).map_or("", |(_, text)| text)
    }

    /// Returns the files whose names end in `suffix`.
    pub(crate) fn ending<'a>(
        &'a self,
        suffix: &'a str,
    ) -> impl Iterator<Item = &'a (String, String)> {
        self.files.iter().filter(move |(path, _)| path.ends_with(suffix))
    }
}
