//! The leading comments of a script, which say what it is and how it is to be run.

use anyhow::{Context, Result, bail};

use super::mode::Mode;

/// What the leading `# key: value` lines of a script say.
///
/// Other comment lines among them are prose and ignored; the header ends at the first line that is
/// no comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the script is about: `# description:`, the first line of every file.
    pub description: String,
    /// Where it runs: `# modes:`, all of them if absent.
    pub modes: Vec<Mode>,
    /// Bytes of memory the engine may use: `# memory: 64MB`.
    pub memory_limit: Option<usize>,
    /// Partitions a query is cut into: `# partitions: 1`.
    pub target_partitions: Option<usize>,
}

impl Header {
    /// Reads the header of a script.
    ///
    /// # Errors
    /// If the first line is no `# description:`, or a value cannot be read.
    pub fn parse(script: &str) -> Result<Self> {
        let first = script.lines().next().unwrap_or_default();
        let description = first.strip_prefix("# description:").map(str::trim).unwrap_or_default();
        if description.is_empty() {
            bail!("the first line must be `# description: ...`, and is {first:?}");
        }
        let mut header = Self {
            description: description.to_owned(),
            modes: Mode::ALL.to_vec(),
            memory_limit: None,
            target_partitions: None,
        };
        for line in script.lines().skip(1).map_while(|line| line.strip_prefix('#')) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key.trim() {
                "modes" => {
                    header.modes =
                        value.split_whitespace().map(str::parse).collect::<Result<_>>()?;
                    if header.modes.is_empty() {
                        bail!("`# modes:` names no mode");
                    }
                }
                "memory" => header.memory_limit = Some(parse_megabytes(value)?),
                "partitions" => {
                    let count = value.parse().with_context(|| format!("# partitions: {value}"))?;
                    header.target_partitions = Some(count);
                }
                _ => {}
            }
        }
        Ok(header)
    }
}

/// Reads `64MB` as bytes; no other unit is needed.
fn parse_megabytes(value: &str) -> Result<usize> {
    let megabytes = value.strip_suffix("MB").map(str::trim).and_then(|text| text.parse().ok());
    let megabytes: usize = megabytes
        .with_context(|| format!("`# memory:` wants whole megabytes, as in 64MB: {value}"))?;
    Ok(megabytes * 1024 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_alone_means_every_mode() {
        let header = Header::parse("# description: joins\n\nquery I\n").unwrap();
        assert_eq!(header.description, "joins");
        assert_eq!(header.modes, Mode::ALL);
        assert_eq!(header.memory_limit, None);
    }

    #[test]
    fn a_header_ends_at_the_first_line_that_is_no_comment() {
        let script = "# description: x\n# modes: embedded in-process\n# memory: 64MB\n# partitions: 2\n\
                      \n# modes: multi-process\n";
        let header = Header::parse(script).unwrap();
        assert_eq!(header.modes, [Mode::Embedded, Mode::InProcess]);
        assert_eq!(header.memory_limit, Some(64 << 20));
        assert_eq!(header.target_partitions, Some(2));
    }

    #[test]
    fn a_script_without_description_is_refused() {
        for script in ["", "query I\nSELECT 1\n", "# description:\n", "\n# description: late\n"] {
            assert!(Header::parse(script).is_err(), "{script:?}");
        }
    }

    #[test]
    fn an_unknown_mode_is_refused() {
        let error = Header::parse("# description: x\n# modes: embeded\n").unwrap_err();
        assert!(error.to_string().contains("embeded"), "{error}");
    }
}
