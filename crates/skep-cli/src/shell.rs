//! Runs scripts: statement after statement, with results, messages and errors where they belong.
//!
//! The prompt and batch mode differ in where scripts come from and in what is said beside the
//! results; how a script runs is the same, and is here.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_engine::{Error, Position, ScriptSplitter, ScriptStatement, StatementKind};

use crate::args::Args;
use crate::dot_command::{DotCommand, DotError};
use crate::execution::{Execution, Executor, Started};
use crate::render::{Format, Page, Shown};
use crate::report::{Origin, report_error, report_message};
use crate::script::Script;
use crate::style::Palette;

/// How deep files may read files; only a file that reads itself gets there.
const MAX_READ_DEPTH: usize = 32;

/// How a script, or a part of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// All of it ran.
    Done,
    /// A statement failed.
    Failed,
    /// The user wants to leave.
    Quit,
    /// The user stopped it.
    Interrupted,
    /// Nobody reads the results any more.
    OutputClosed,
}

/// What to write, and how.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    /// Whether to tell what statements did, beside their rows.
    tells_status: bool,
    tells_time: bool,
    out: Palette,
    err: Palette,
}

/// Runs scripts.
pub(crate) struct Shell {
    executor: Executor,
    output: Output,
    continues_on_error: bool,
    read_depth: usize,
}

/// Why a statement has no result.
enum Failure {
    Statement(Error),
    Output(io::Error),
}

impl Output {
    /// Decides what to write from the command line and from what is a terminal.
    pub(crate) fn new(args: &Args, interactive: bool) -> Self {
        Self {
            format: args.format,
            tells_status: !args.quiet && (interactive || io::stdout().is_terminal()),
            tells_time: true,
            out: args.color.palette(&io::stdout()),
            err: args.color.palette(&io::stderr()),
        }
    }

    /// Returns whether anything is said beside results and errors.
    pub(crate) fn tells_status(&self) -> bool {
        self.tells_status
    }

    /// Returns the colours for what is not a result.
    pub(crate) fn err(&self) -> Palette {
        self.err
    }

    fn page(&self) -> Page {
        let stdout = io::stdout();
        let columns = stdout.is_terminal().then(|| {
            terminal_size::terminal_size_of(&stdout).map_or(80, |(width, _)| usize::from(width.0))
        });
        Page { columns, palette: self.out }
    }

    fn tell(&self, what: &str, took: Duration) {
        if !self.tells_status {
            return;
        }
        let line = match self.tells_time {
            true => format!("{what} · {}", seconds(took)),
            false => what.to_owned(),
        };
        write_message(&format!("{}\n", self.err.faint(&line)));
    }
}

impl Shell {
    /// Makes a shell that has run nothing.
    pub(crate) fn new(executor: Executor, output: Output, continues_on_error: bool) -> Self {
        Self { executor, output, continues_on_error, read_depth: 0 }
    }

    /// Returns whether a failed statement is not the end.
    pub(crate) fn continues_on_error(&self) -> bool {
        self.continues_on_error
    }

    /// Returns how this shell writes.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Forgets a Ctrl-C that came while nothing ran.
    pub(crate) fn clear_interrupts(&self) {
        self.executor.clear_interrupts();
    }

    /// Stops without waiting.
    pub(crate) fn shut_down(self) {
        self.executor.shut_down();
    }

    /// Runs a script: each statement as soon as it is complete.
    pub(crate) fn run_script(&mut self, mut script: Script) -> Flow {
        let mut splitter = ScriptSplitter::new();
        let mut outcome = Flow::Done;
        let mut at_start = true;
        loop {
            let lines = match self.executor.wait_for(script.next_lines()) {
                Ok(Ok(Some(lines))) => lines,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    let message = format!("cannot read {}: {error}", script.name());
                    self.write_error(&message, None);
                    return Flow::Failed;
                }
                Err(_cancelled) => return Flow::Interrupted,
            };
            let lines = match std::mem::take(&mut at_start) {
                true => lines.strip_prefix('\u{feff}').unwrap_or(&lines),
                false => &lines,
            };
            for line in lines.split_inclusive('\n') {
                match self.run_line(line, &mut splitter, script.name()) {
                    Flow::Done => {}
                    Flow::Failed if self.continues_on_error => outcome = Flow::Failed,
                    stop => return stop,
                }
            }
        }
        match splitter.finish().map(|statement| self.run_statement(&statement, script.name())) {
            None | Some(Flow::Done) => outcome,
            Some(stop) => stop,
        }
    }

    fn run_line(&mut self, line: &str, splitter: &mut ScriptSplitter, script: &str) -> Flow {
        if splitter.is_idle()
            && let Some(command) = DotCommand::parse(line)
        {
            // The splitter counts lines for the places in messages.
            splitter.push(&line[line.trim_end_matches('\n').len()..]);
            return self.run_command(command);
        }
        splitter.push(line);
        let mut outcome = Flow::Done;
        while let Some(statement) = splitter.next_statement() {
            match self.run_statement(&statement, script) {
                Flow::Done => {}
                Flow::Failed if self.continues_on_error => outcome = Flow::Failed,
                stop => return stop,
            }
        }
        outcome
    }

    fn run_command(&mut self, command: Result<DotCommand, DotError>) -> Flow {
        match command {
            Err(DotError { message, hint }) => {
                self.write_error(&message, Some(&hint));
                return Flow::Failed;
            }
            Ok(DotCommand::Help) => write_message(&DotCommand::help()),
            Ok(DotCommand::Quit) => return Flow::Quit,
            Ok(DotCommand::Ask(text)) => {
                let start = Position { line: 1, column: 1 };
                return self.run_statement(&ScriptStatement { text, start }, "");
            }
            Ok(DotCommand::Mode(Some(format))) => self.output.format = format,
            Ok(DotCommand::Mode(None)) => {
                write_message(&format!("{}\n", self.output.format.name()));
            }
            Ok(DotCommand::Timer(on)) => self.output.tells_time = on,
            Ok(DotCommand::Read(path)) => {
                if self.read_depth >= MAX_READ_DEPTH {
                    self.write_error(&format!("{} reads itself", path.display()), None);
                    return Flow::Failed;
                }
                let script = match Script::file(&path) {
                    Ok(script) => script,
                    Err(error) => {
                        let message = format!("cannot read {}: {error}", path.display());
                        self.write_error(&message, None);
                        return Flow::Failed;
                    }
                };
                self.read_depth += 1;
                let flow = self.run_script(script);
                self.read_depth -= 1;
                return flow;
            }
        }
        Flow::Done
    }

    fn run_statement(&self, statement: &ScriptStatement, script: &str) -> Flow {
        let began = Instant::now();
        let failure = match self.execute(&statement.text, began) {
            Ok(()) => return Flow::Done,
            Err(failure) => failure,
        };
        match failure {
            Failure::Statement(Error::Cancelled) if self.executor.is_interrupted() => {
                let line = format!("cancelled after {}", seconds(began.elapsed()));
                write_message(&format!("{}\n", self.output.err.error(&line)));
                Flow::Interrupted
            }
            Failure::Statement(error) => {
                let origin = (!script.is_empty()).then_some(Origin { script, statement });
                write_message(&report_error(&error, origin, self.output.err));
                Flow::Failed
            }
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Flow::OutputClosed
            }
            Failure::Output(error) => {
                let format = self.output.format.name();
                self.write_error(&format!("cannot write the result as {format}: {error}"), None);
                Flow::Failed
            }
        }
    }

    fn execute(&self, statement: &str, began: Instant) -> Result<(), Failure> {
        let (mut execution, started) = self.executor.start(statement)?;
        match &started.kind {
            StatementKind::Query => {
                let (row_count, shown) = self.write_rows(&mut execution, &started)?;
                let column_count = started.schema.fields().len();
                self.output.tell(&summary(row_count, column_count, shown), began.elapsed());
            }
            StatementKind::Write { row_count } => {
                while execution.next_batch()?.is_some() {}
                let rows = counted(*row_count, "row");
                self.output.tell(&format!("{rows} written"), began.elapsed());
            }
            StatementKind::Command { tag } => {
                while execution.next_batch()?.is_some() {}
                self.output.tell(tag, began.elapsed());
            }
        }
        Ok(())
    }

    fn write_rows(
        &self,
        execution: &mut Execution<'_>,
        started: &Started,
    ) -> Result<(u64, Shown), Failure> {
        let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
        let mut renderer =
            self.output.format.renderer(Arc::clone(&started.schema), self.output.page());
        let mut row_count = 0;
        let outcome = loop {
            match execution.next_batch() {
                Ok(Some(batch)) => {
                    row_count += batch.num_rows() as u64;
                    renderer.batch(&batch, &mut out)?;
                    // The next batch can take long, and somebody may be waiting for this one.
                    out.flush()?;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        outcome?;
        let shown = renderer.finish(&mut out)?;
        out.flush()?;
        Ok((row_count, shown))
    }

    fn write_error(&self, message: &str, hint: Option<&str>) {
        write_message(&report_message(message, hint, self.output.err));
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Statement(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Writes to standard error.
pub(crate) fn write_message(message: &str) {
    // Without standard error there is nobody to tell.
    let _ = io::stderr().lock().write_all(message.as_bytes());
}

/// Says how many rows and columns there are, and how many of them were shown.
fn summary(row_count: u64, column_count: usize, shown: Shown) -> String {
    if shown.is_text {
        return "EXPLAIN".to_owned();
    }
    let hidden_rows = shown.hidden_rows as u64;
    let mut rows = counted(row_count, "row");
    if hidden_rows > 0 {
        rows.push_str(&format!(" ({} shown)", grouped(row_count - hidden_rows)));
    }
    let mut columns = counted(column_count as u64, "column");
    if shown.hidden_columns > 0 {
        columns.push_str(&format!(" ({} shown)", column_count - shown.hidden_columns));
    }
    format!("{rows} · {columns}")
}

fn counted(count: u64, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {what}{ending}", grouped(count))
}

/// Writes a number with a comma before every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Writes a time with as many digits as are worth reading.
fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        ..1.0 => format!("{seconds:.3} s"),
        ..60.0 => format!("{seconds:.2} s"),
        _ => format!("{} min {:.0} s", duration.as_secs() / 60, seconds % 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_say_what_is_not_seen() {
        assert_eq!(summary(0, 1, Shown::default()), "0 rows · 1 column");
        assert_eq!(summary(2, 2, Shown { is_text: true, ..Shown::default() }), "EXPLAIN");
        let shown = Shown { hidden_rows: 1_234_527, hidden_columns: 4, is_text: false };
        assert_eq!(
            summary(1_234_567, 12, shown),
            "1,234,567 rows (40 shown) · 12 columns (8 shown)"
        );
    }

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_micros(1_234)), "0.001 s");
        assert_eq!(seconds(Duration::from_millis(1_234)), "1.23 s");
        assert_eq!(seconds(Duration::from_millis(125_400)), "2 min 5 s");
    }
}
