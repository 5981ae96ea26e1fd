//! Where statements come from: the command line, a file, standard input, the prompt.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::thread;

use tokio::sync::mpsc;

/// Lines that are read ahead of the statement that runs.
const WAITING_LINES: usize = 256;

/// A script and its name.
#[derive(Debug)]
pub(crate) struct Script {
    name: String,
    lines: Lines,
    line_count: u64,
}

#[derive(Debug)]
enum Lines {
    Text(Option<String>),
    /// Read by a thread of its own, because reading may wait for ever and Ctrl-C must not.
    Reader(mpsc::Receiver<io::Result<Vec<u8>>>),
}

impl Script {
    /// Makes a script of a text, called `name` in messages.
    pub(crate) fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), lines: Lines::Text(Some(text.into())), line_count: 0 }
    }

    /// Opens a file, or standard input if `path` is `-`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::stdin());
        }
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let name = path.display().to_string();
        Ok(Self { name, lines: Lines::read(file), line_count: 0 })
    }

    /// Makes a script of standard input.
    pub(crate) fn stdin() -> Self {
        Self { name: "stdin".to_owned(), lines: Lines::read(io::stdin()), line_count: 0 }
    }

    /// Returns what to call the script.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the next line or lines, with their ends.
    ///
    /// # Errors
    /// If the file cannot be read or is not UTF-8.
    pub(crate) async fn next_lines(&mut self) -> io::Result<Option<String>> {
        match &mut self.lines {
            Lines::Text(text) => Ok(text.take()),
            Lines::Reader(lines) => {
                let Some(line) = lines.recv().await else { return Ok(None) };
                let line = line?;
                self.line_count += 1;
                let refused =
                    |_bytes| io::Error::other(format!("line {} is not UTF-8", self.line_count));
                String::from_utf8(line).map(Some).map_err(refused)
            }
        }
    }
}

impl Lines {
    fn read(source: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_LINES);
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            loop {
                let mut line = Vec::new();
                let read = source.read_until(b'\n', &mut line);
                let last = !matches!(read, Ok(1..));
                let item = read.map(|_| line);
                let wanted = matches!(&item, Ok(line) if line.is_empty())
                    || sender.blocking_send(item).is_ok();
                if last || !wanted {
                    break;
                }
            }
        });
        Self::Reader(receiver)
    }
}
