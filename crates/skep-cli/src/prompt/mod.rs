//! The prompt: reads statements from a person and runs them.

use std::borrow::Cow;

use reedline::{Prompt, PromptEditMode, PromptHistorySearch, PromptHistorySearchStatus, Signal};

use crate::report::report_message;
use crate::script::Script;
use crate::shell::{Flow, Shell, write_message};

mod editor;
mod history;

/// Runs the prompt until the user leaves.
pub(crate) fn run(shell: &mut Shell) -> Flow {
    let palette = shell.output().err();
    if shell.output().tells_status() {
        let name = palette.name(concat!("skep ", env!("CARGO_PKG_VERSION")));
        write_message(&format!("{name}\nEnd statements with \";\", type .help for commands.\n"));
    }
    let mut editor = editor::open(palette);
    loop {
        let input = match editor.read_line(&SkepPrompt) {
            Ok(Signal::Success(input)) => input,
            Ok(Signal::CtrlD) => return Flow::Done,
            Ok(_) => continue,
            Err(error) => {
                let message = format!("cannot read from the terminal: {error}");
                write_message(&report_message(&message, None, palette));
                return Flow::Failed;
            }
        };
        shell.clear_interrupts();
        match shell.run_script(Script::text("prompt", input)) {
            Flow::Done | Flow::Failed | Flow::Interrupted => {}
            stop @ (Flow::Quit | Flow::OutputClosed) => return stop,
        }
    }
}

/// What stands before the lines.
struct SkepPrompt;

impl Prompt for SkepPrompt {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed("skep")
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed(" ...> ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        let found = match search.status {
            PromptHistorySearchStatus::Passing => "history",
            PromptHistorySearchStatus::Failing => "not in history",
        };
        Cow::Owned(format!(" ({found}: {}) ", search.term))
    }
}
