//! Whether and how to use colours.
//!
//! The choice follows what people already set for other tools: the flag, then `NO_COLOR`, then
//! `CLICOLOR_FORCE`, then whether there is a terminal that can show colours at all.

use std::env;
use std::io::IsTerminal;

use nu_ansi_term::{Color, Style};

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// At a terminal that can show them, unless NO_COLOR is set.
    Auto,
    /// Always, also into files and pipes.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Decides for one output stream.
    pub(crate) fn palette(self, stream: &impl IsTerminal) -> Palette {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let colors = match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if set("NO_COLOR").is_some() => false,
            Self::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Self::Auto => stream.is_terminal() && set("TERM").is_none_or(|term| term != "dumb"),
        };
        Palette { colors }
    }
}

/// The colours of one output stream: what each is for, not how it looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Palette {
    colors: bool,
}

impl Palette {
    /// No colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colors: false };

    /// Returns whether there are colours at all.
    pub(crate) fn has_colors(self) -> bool {
        self.colors
    }

    /// Something went wrong.
    pub(crate) fn error(self, text: &str) -> String {
        self.paint(Color::Red.bold(), text)
    }

    /// What to do about it.
    pub(crate) fn hint(self, text: &str) -> String {
        self.paint(Color::Cyan.bold(), text)
    }

    /// Lines and places around the thing itself.
    pub(crate) fn frame(self, text: &str) -> String {
        self.paint(Color::Blue.bold(), text)
    }

    /// Names of columns and commands.
    pub(crate) fn name(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    /// What is there but matters less: types, NULL, counts.
    pub(crate) fn faint(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.colors { style.paint(text).to_string() } else { text.to_owned() }
    }
}
