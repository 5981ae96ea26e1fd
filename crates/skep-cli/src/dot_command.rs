//! Commands to the prompt itself, in both of the spellings that people have in their fingers:
//! `.tables` and `\dt`.

use std::path::PathBuf;

use crate::render::Format;

/// A command to the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DotCommand {
    /// Explain the commands.
    Help,
    /// Leave.
    Quit,
    /// Run this statement, which asks the catalog.
    Ask(String),
    /// Change the format of results, or tell it.
    Mode(Option<Format>),
    /// Tell times or not.
    Timer(bool),
    /// Run the statements of a file.
    Read(PathBuf),
}

/// Why a command cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DotError {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: String,
}

struct Spelling {
    names: &'static [&'static str],
    argument: &'static str,
    help: &'static str,
    parse: fn(&str) -> Result<DotCommand, String>,
}

const SPELLINGS: &[Spelling] = &[
    Spelling {
        names: &[".tables", "\\dt"],
        argument: "[PATTERN]",
        help: "the tables and views; in a pattern, % is any text",
        parse: |argument| ask(argument, "SHOW TABLES"),
    },
    Spelling {
        names: &[".schema", "\\d"],
        argument: "TABLE",
        help: "the columns of a table",
        parse: schema,
    },
    Spelling {
        names: &[".functions", "\\df"],
        argument: "[PATTERN]",
        help: "the functions",
        parse: |argument| ask(argument, "SHOW FUNCTIONS"),
    },
    Spelling {
        names: &[".settings"],
        argument: "[PATTERN]",
        help: "the settings and their values",
        parse: |argument| ask(argument, "SHOW SETTINGS"),
    },
    Spelling {
        names: &[".mode"],
        argument: "[FORMAT]",
        help: "how results are written",
        parse: mode,
    },
    Spelling {
        names: &[".timer", "\\timing"],
        argument: "on|off",
        help: "whether to tell how long statements took",
        parse: timer,
    },
    Spelling {
        names: &[".read", "\\i"],
        argument: "FILE",
        help: "run the statements of a file",
        parse: read,
    },
    Spelling {
        names: &[".help", "\\?"],
        argument: "",
        help: "this text",
        parse: |argument| nothing(argument, DotCommand::Help),
    },
    Spelling {
        names: &[".quit", ".exit", "\\q"],
        argument: "",
        help: "leave (so does Ctrl-D)",
        parse: |argument| nothing(argument, DotCommand::Quit),
    },
];

impl DotCommand {
    /// Reads a line that may be a command: one that starts with `.` or `\`, or says `quit`.
    pub(crate) fn parse(line: &str) -> Option<Result<Self, DotError>> {
        let line = line.trim().trim_end_matches(';').trim_end();
        if line.eq_ignore_ascii_case("quit") || line.eq_ignore_ascii_case("exit") {
            return Some(Ok(Self::Quit));
        }
        if !line.starts_with(['.', '\\']) {
            return None;
        }
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let lower = name.to_ascii_lowercase();
        let Some(spelling) = SPELLINGS.iter().find(|known| known.names.contains(&lower.as_str()))
        else {
            return Some(Err(unknown(name, &lower)));
        };
        let usage = || format!("usage: {} {}", spelling.names[0], spelling.argument);
        Some((spelling.parse)(argument.trim()).map_err(|message| DotError {
            message: format!("{name}: {message}"),
            hint: usage().trim_end().to_owned(),
        }))
    }

    /// Returns the text of `.help`.
    pub(crate) fn help() -> String {
        let mut help =
            String::from("SQL statements end with \";\" and may go over several lines.\n\n");
        for spelling in SPELLINGS {
            let names = spelling.names.join(" ");
            let usage = format!("{names} {}", spelling.argument);
            help.push_str(&format!("  {usage:<24} {}\n", spelling.help));
        }
        help.push_str(concat!(
            "\n  Ctrl-C clears the line, or cancels the statement that runs; Ctrl-R searches the\n",
            "  history; a line that starts with a blank is not kept in it.\n\n",
            "  SELECT * FROM 'data/*.parquet' LIMIT 5;   reads files where they are\n",
            "  DESCRIBE t; EXPLAIN SELECT ...;           tells what is there, and how it runs\n",
        ));
        help
    }
}

fn unknown(name: &str, lower: &str) -> DotError {
    let known = SPELLINGS.iter().flat_map(|spelling| spelling.names);
    let nearest = known
        .max_by(|a, b| strsim::jaro_winkler(lower, a).total_cmp(&strsim::jaro_winkler(lower, b)));
    let hint = match nearest {
        Some(nearest) if strsim::jaro_winkler(lower, nearest) > 0.8 => {
            format!("did you mean {nearest}?")
        }
        _ => ".help lists the commands".to_owned(),
    };
    DotError { message: format!("unknown command \"{name}\""), hint }
}

fn nothing(argument: &str, command: DotCommand) -> Result<DotCommand, String> {
    if argument.is_empty() { Ok(command) } else { Err("takes no argument".to_owned()) }
}

fn ask(pattern: &str, statement: &str) -> Result<DotCommand, String> {
    Ok(DotCommand::Ask(match unquoted(pattern) {
        "" => statement.to_owned(),
        pattern => format!("{statement} LIKE '{}'", pattern.replace('\'', "''")),
    }))
}

fn schema(argument: &str) -> Result<DotCommand, String> {
    match argument {
        "" => Err("which table?".to_owned()),
        name if name.contains(';') => Err("expected the name of one table".to_owned()),
        name => Ok(DotCommand::Ask(format!("DESCRIBE {name}"))),
    }
}

fn mode(argument: &str) -> Result<DotCommand, String> {
    if argument.is_empty() {
        return Ok(DotCommand::Mode(None));
    }
    match Format::from_name(argument) {
        Some(format) => Ok(DotCommand::Mode(Some(format))),
        None => {
            let names = Format::names().join(", ");
            Err(format!("unknown format \"{argument}\", known are {names}"))
        }
    }
}

fn timer(argument: &str) -> Result<DotCommand, String> {
    match argument.to_ascii_lowercase().as_str() {
        "on" => Ok(DotCommand::Timer(true)),
        "off" => Ok(DotCommand::Timer(false)),
        _ => Err("expected on or off".to_owned()),
    }
}

fn read(argument: &str) -> Result<DotCommand, String> {
    match unquoted(argument) {
        "" => Err("which file?".to_owned()),
        "-" => Err("standard input is where the commands come from".to_owned()),
        path => Ok(DotCommand::Read(PathBuf::from(path))),
    }
}

/// Returns what is between the quotes, if there are any.
fn unquoted(argument: &str) -> &str {
    let inside = |quote| argument.strip_prefix(quote)?.strip_suffix(quote);
    inside('\'').or_else(|| inside('"')).unwrap_or(argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> DotCommand {
        DotCommand::parse(line).expect("a command").expect("a good one")
    }

    fn error(line: &str) -> DotError {
        DotCommand::parse(line).expect("a command").expect_err("a bad one")
    }

    #[test]
    fn both_spellings_mean_the_same() {
        for (dot, backslash) in [
            (".tables", "\\dt"),
            (".schema t", "\\d t"),
            (".functions", "\\df"),
            (".help", "\\?"),
            (".quit", "\\q"),
            (".read a.sql", "\\i 'a.sql'"),
            (".exit", "quit;"),
            (".QUIT ;", " Exit "),
        ] {
            assert_eq!(parse(dot), parse(backslash), "{dot}");
        }
    }

    #[test]
    fn sql_is_no_command() {
        for line in ["SELECT 1", "", "quit now", "exits"] {
            assert_eq!(DotCommand::parse(line), None, "{line}");
        }
    }

    #[test]
    fn mistakes_get_a_suggestion() {
        assert_eq!(error(".table").hint, "did you mean .tables?");
        assert_eq!(error(".shcema t").hint, "did you mean .schema?");
        assert_eq!(error(".xyzzy").hint, ".help lists the commands");
        assert_eq!(error(".schema").hint, "usage: .schema TABLE");
        assert!(error(".mode xml").message.contains("known are box, table, csv"));
        assert!(error(".timer maybe").message.contains("expected on or off"));
        assert!(error(".quit now").message.contains("takes no argument"));
    }

    #[test]
    fn patterns_are_quoted() {
        let ask = |text: &str| DotCommand::Ask(text.to_owned());
        assert_eq!(parse(".tables"), ask("SHOW TABLES"));
        assert_eq!(parse(".tables bee%"), ask("SHOW TABLES LIKE 'bee%'"));
        assert_eq!(parse("\\dt 'bee%'"), ask("SHOW TABLES LIKE 'bee%'"));
        assert_eq!(parse(".functions o'clock"), ask("SHOW FUNCTIONS LIKE 'o''clock'"));
    }

    #[test]
    fn help_names_every_command() {
        let help = DotCommand::help();
        for name in SPELLINGS.iter().flat_map(|spelling| spelling.names) {
            assert!(help.contains(name), "{name}");
        }
    }
}
