//! Passwords that are typed at the terminal.

use std::fs::File;
use std::io;

use pty::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Asks for a password at the terminal of the process's session; what is typed is not shown.
///
/// # Errors
///
/// Fails without a terminal, and when Ctrl-C is pressed.
pub(crate) fn ask_password(question: &str) -> io::Result<String> {
    // The question is shown before the library turns the echo off: who types (or pastes) at once
    // would see the beginning of the password.
    let _unechoed = Unechoed::begin(File::open("/dev/tty")?)?;
    rpassword::prompt_password(question)
}

/// A terminal that does not show what is typed, until the end of the value.
struct Unechoed {
    terminal: File,
    before: Termios,
}

impl Unechoed {
    fn begin(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ECHONL;
        tcsetattr(&terminal, OptionalActions::Now, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unechoed {
    fn drop(&mut self) {
        // It fails where the terminal is gone.
        let _gone = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
