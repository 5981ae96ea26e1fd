//! A terminal for the prompt to run in: a pseudo-terminal whose screen is kept as text.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pty::fs::{Mode, OFlags, open};
use pty::process::{Pid, Signal, kill_process};
use pty::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use pty::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// A wait that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process at a terminal.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Screen>,
    /// How much of the text earlier waits have looked at.
    seen: usize,
}

#[derive(Default)]
struct Screen {
    written: Mutex<Written>,
    changed: Condvar,
}

#[derive(Default)]
struct Written {
    /// What the process wrote, without the control sequences.
    text: String,
    ended: bool,
}

impl Terminal {
    /// Starts a process at a terminal of so many columns, with its state under `home`.
    pub(crate) fn start(command: Command, home: &Path, columns: u16) -> Self {
        Self::start_with(command, home, columns, None)
    }

    /// Starts a process at a terminal, with its standard output in the file `home/results`.
    pub(crate) fn start_with_results(command: Command, home: &Path) -> Self {
        Self::start_with(command, home, 80, Some(File::create(home.join("results")).unwrap()))
    }

    fn start_with(mut command: Command, home: &Path, columns: u16, results: Option<File>) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let line = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).unwrap();
        command.env("HOME", home).env("TERM", "xterm-256color").env_remove("XDG_STATE_HOME");
        command.stdin(line.try_clone().unwrap());
        match results {
            Some(results) => command.stdout(results),
            None => command.stdout(line.try_clone().unwrap()),
        };
        command.stderr(line);
        let child = command.spawn().unwrap();
        // The command holds the process's end open: without this the reader would never see the end.
        drop(command);
        let keyboard = File::from(controller);
        let screen = Arc::new(Screen::default());
        let (shown, output) = (Arc::clone(&screen), keyboard.try_clone().unwrap());
        std::thread::spawn(move || shown.show(output));
        Self { child, keyboard, screen, seen: 0 }
    }

    /// Types; `\r` is Enter.
    pub(crate) fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the text comes after what was waited for before, and returns what came up to it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut written = self.screen.written.lock().unwrap();
        loop {
            if let Some(place) = written.text[self.seen..].find(text) {
                let end = self.seen + place + text.len();
                let shown = written.text[self.seen..end].to_owned();
                self.seen = end;
                return shown;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let over = written.ended || left.is_zero();
            assert!(!over, "no {text:?} in {:?}", &written.text[self.seen..]);
            written = self.screen.changed.wait_timeout(written, left).unwrap().0;
        }
    }

    /// Waits until what is typed is not shown any more.
    #[track_caller]
    pub(crate) fn wait_until_unechoed(&self) {
        let deadline = Instant::now() + PATIENCE;
        while tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ECHO) {
            assert!(Instant::now() < deadline, "the terminal still shows what is typed");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Does what Ctrl-C does while the terminal is not in the prompt's hands.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::Int).unwrap();
    }

    /// Waits for the process to end; returns its exit status and what it wrote last.
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut written = self.screen.written.lock().unwrap();
        while !written.ended {
            written = self.screen.changed.wait(written).unwrap();
        }
        (code, written.text[self.seen..].to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Screen {
    /// Takes in what the process writes, and answers what it asks of the terminal.
    fn show(&self, mut terminal: File) {
        let mut pending = Vec::new();
        let mut piece = [0; 4096];
        // Reading fails when the process is gone.
        while let Ok(count @ 1..) = terminal.read(&mut piece) {
            pending.extend_from_slice(&piece[..count]);
            let (text, asked) = plain_text(&mut pending);
            for _ in 0..asked {
                let _gone = terminal.write_all(b"\x1b[1;1R");
            }
            self.written.lock().unwrap().text.push_str(&text);
            self.changed.notify_all();
        }
        self.written.lock().unwrap().ended = true;
        self.changed.notify_all();
    }
}

/// Takes the text out of what was written and leaves an unfinished sequence; also tells how often
/// the place of the cursor was asked for.
fn plain_text(pending: &mut Vec<u8>) -> (String, usize) {
    let mut text = Vec::new();
    let mut asked = 0;
    let mut idx = 0;
    while idx < pending.len() {
        if pending[idx] != 0x1b {
            text.push(pending[idx]);
            idx += 1;
            continue;
        }
        let Some(kind) = pending.get(idx + 1) else { break };
        if *kind != b'[' {
            idx += 2;
            continue;
        }
        let is_final = |byte: &u8| (0x40..=0x7e).contains(byte);
        let Some(length) = pending[idx + 2..].iter().position(is_final) else { break };
        let end = idx + 2 + length;
        asked += usize::from(&pending[idx + 2..=end] == b"6n");
        idx = end + 1;
    }
    // A character can be cut in two as well.
    let valid = match std::str::from_utf8(&text) {
        Ok(valid) => valid.len(),
        Err(error) => error.valid_up_to(),
    };
    let rest = text.split_off(valid);
    pending.splice(..idx, rest);
    (String::from_utf8(text).unwrap(), asked)
}
