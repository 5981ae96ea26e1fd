//! The prompt, at a terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{run, skep};
use crate::role::Coordinator;
use crate::terminal::Terminal;
use crate::users::Place;

/// A wait that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn prompt(home: &TempDir) -> Terminal {
    let mut terminal = Terminal::start(skep(&[]), home.path(), 80);
    terminal.wait_for("type .help for commands.");
    terminal.wait_for("\nskep> ");
    terminal
}

/// Checks that it still answers, and ends it.
#[track_caller]
fn answers_and_ends(mut terminal: Terminal) {
    terminal.send("SELECT 6 * 7 AS n;\r");
    let shown = terminal.wait_for("│     42 │");
    assert!(!shown.contains("error"), "{shown}");
    ends(terminal);
}

/// Ends it where it asks for the next statement.
#[track_caller]
fn ends(mut terminal: Terminal) {
    terminal.wait_for("\nskep> ");
    terminal.send("\x04");
    assert_eq!(terminal.finish().0, Some(0));
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_first_conversation() {
    let home = home();
    let mut terminal = prompt(&home);
    terminal.send("SELECT 40 + 2 AS answer;\r");
    let result = terminal.wait_for("1 row · 1 column · 0.");
    assert!(result.contains("│ answer │\r\n│ bigint │\r\n"), "{result}");
    assert!(result.contains("│     42 │\r\n"), "{result}");
    terminal.wait_for("\nskep> ");
    terminal.send(".timer off\r");
    terminal.wait_for("\nskep> ");
    terminal.send(".mode csv\r");
    terminal.wait_for("\nskep> ");
    terminal.send("SELECT 'a' || 'b' AS x;\r");
    terminal.wait_for("x\r\nab\r\n1 row · 1 column");
    terminal.wait_for("\nskep> ");
    terminal.send("quit\r");
    assert_eq!(terminal.finish().0, Some(0));
}

#[test]
fn enter_goes_on_until_the_statement_ends() {
    let home = home();
    let mut terminal = prompt(&home);
    terminal.send("SELECT\r");
    terminal.wait_for(" ...> ");
    terminal.send("6 * 7 AS n\r");
    terminal.wait_for(" ...> ");
    terminal.send(";\r");
    terminal.wait_for("│     42 │");
    ends(terminal);
}

#[test]
fn statements_without_rows_say_what_they_did() {
    let home = home();
    let mut terminal = prompt(&home);
    terminal.send("CREATE TABLE bees (name varchar);\r");
    terminal.wait_for("\nCREATE TABLE · 0.");
    terminal.wait_for("\nskep> ");
    terminal.send("INSERT INTO bees VALUES ('Maja'), ('Willi');\r");
    terminal.wait_for("\n2 rows written · 0.");
    terminal.wait_for("\nskep> ");
    terminal.send(".tables b%\r");
    terminal.wait_for("│ bees ");
    terminal.wait_for("\nskep> ");
    terminal.send("\\d bees\r");
    terminal.wait_for("│ name ");
    ends(terminal);
}

#[test]
fn an_interrupt_cancels_the_statement_and_keeps_the_prompt() {
    let home = home();
    let mut terminal = prompt(&home);
    terminal.send("SELECT 'sta' || 'rted' AS s; SELECT count(*) FROM range(1000000000000);\r");
    terminal.wait_for("started");
    terminal.wait_for("1 row");
    terminal.interrupt();
    terminal.wait_for("cancelled after ");
    terminal.wait_for("\nskep> ");
    answers_and_ends(terminal);
}

#[test]
fn ctrl_c_at_the_prompt_clears_the_line() {
    let home = home();
    let mut terminal = prompt(&home);
    terminal.send("SELECT nonsense");
    terminal.wait_for("nonsense");
    terminal.send("\x03");
    terminal.wait_for("\nskep> ");
    answers_and_ends(terminal);
}

#[test]
fn errors_keep_the_prompt() {
    let home = home();
    let mut terminal = prompt(&home);
    terminal.send("SELECT 1 +;\r");
    terminal.wait_for("error: ");
    terminal.wait_for("--> prompt:1:");
    terminal.wait_for("\nskep> ");
    terminal.send(".tabels\r");
    terminal.wait_for("did you mean .tables?");
    terminal.wait_for("\nskep> ");
    terminal.send(".read /nowhere.sql\r");
    terminal.wait_for("error: cannot read /nowhere.sql");
    ends(terminal);
}

#[test]
fn statements_are_remembered_for_the_user_alone() {
    let home = home();
    let mut terminal = prompt(&home);
    terminal.send("SELECT 6 * 7 AS n;\r");
    terminal.wait_for("│     42 │");
    terminal.wait_for("\nskep> ");
    terminal.send(" SELECT 'se' || 'cret' AS s;\r");
    terminal.wait_for("│ secret");
    ends(terminal);
    let file = home.path().join(".local/state/skep/history.txt");
    assert_eq!(fs::read_to_string(&file).unwrap(), "SELECT 6 * 7 AS n;\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let mut terminal = prompt(&home);
    terminal.send("\x1b[A");
    terminal.wait_for("SELECT 6 * 7 AS n;");
    terminal.send("\r");
    terminal.wait_for("│     42 │");
    ends(terminal);
}

#[test]
fn long_results_show_both_ends() {
    let home = home();
    let statement = "SELECT value AS v FROM range(100000) ORDER BY value";
    let terminal = Terminal::start(skep(&["-c", statement]), home.path(), 80);
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(0));
    let rows: Vec<_> = shown.lines().filter(|line| line.starts_with('│')).collect();
    assert_eq!(rows.len(), 2 + 20 + 1 + 20, "{shown}");
    let cell = |line: &str| line.trim_matches(['│', ' ']).to_owned();
    assert_eq!(cell(rows[21]), "19");
    assert_eq!(cell(rows[22]), "·");
    assert_eq!(cell(rows[23]), "99980");
    assert_eq!(cell(rows[42]), "99999");
    assert!(shown.contains("100,000 rows (40 shown) · 1 column · "), "{shown}");
}

#[test]
fn wide_results_fit_the_screen() {
    let home = home();
    let columns = (0..20).map(|n| format!("{n}000000 AS number_{n}")).collect::<Vec<_>>();
    let statement = format!("SELECT repeat('x', 500) AS long, {}", columns.join(", "));
    let terminal = Terminal::start(skep(&["-c", &statement]), home.path(), 60);
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(0));
    assert!(shown.contains("xxxxxxxxxxx…"), "{shown}");
    assert!(shown.contains("21 columns (4 shown)"), "{shown}");
    for line in shown.lines().filter(|line| line.starts_with(['│', '┌', '└', '├'])) {
        assert!(line.chars().count() <= 60, "{line}");
    }
}

#[test]
fn quiet_means_results_only() {
    let home = home();
    let terminal = Terminal::start(skep(&["-q", "-c", "SELECT 1 AS x"]), home.path(), 80);
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(0));
    assert!(shown.ends_with("┘\r\n"), "{shown}");
}

#[test]
fn results_that_go_to_a_file_hold_results_only() {
    let home = home();
    let mut terminal = Terminal::start_with_results(skep(&["--format", "csv"]), home.path());
    terminal.wait_for("reading statements from the terminal, up to Ctrl-D");
    terminal.send("SELECT 6 * 7 AS n;\n");
    terminal.send("\x04");
    let file = home.path().join("results");
    assert_eq!(terminal.finish().0, Some(0));
    assert_eq!(fs::read_to_string(file).unwrap(), "n\n42\n");
}

/// A prompt whose statements run at a coordinator.
fn remote_prompt(home: &TempDir, url: &str) -> Terminal {
    let mut terminal = Terminal::start(skep(&[url]), home.path(), 80);
    terminal.wait_for("type .help for commands.");
    terminal.wait_for("\nskep> ");
    terminal
}

#[test]
fn a_conversation_with_a_coordinator_is_as_one_with_this_process() {
    let home = home();
    let coordinator = Coordinator::start_with_worker(&[]);
    let mut terminal = remote_prompt(&home, &coordinator.url);
    terminal.send("CREATE TABLE bees (name varchar);\r");
    terminal.wait_for("\nCREATE TABLE · 0.");
    terminal.wait_for("\nskep> ");
    terminal.send("INSERT INTO bees VALUES ('Maja'), ('Willi');\r");
    terminal.wait_for("\n2 rows written · ");
    terminal.wait_for("\nskep> ");
    terminal.send(".tables b%\r");
    terminal.wait_for("│ bees ");
    terminal.wait_for("\nskep> ");
    terminal.send("\\d bees\r");
    terminal.wait_for("│ name ");
    terminal.wait_for("\nskep> ");
    terminal.send("SELECT count(*) AS n\r");
    terminal.wait_for(" ...> ");
    terminal.send("FROM bees;\r");
    terminal.wait_for("│      2 │");
    terminal.wait_for("1 row · 1 column · ");
    terminal.wait_for("\nskep> ");
    terminal.send("SELECT 1 +;\r");
    terminal.wait_for("error: ");
    terminal.wait_for("--> prompt:1:");
    ends(terminal);
    // It was the coordinator's.
    let listed =
        run(&[&coordinator.url, "--format", "csv", "-c", "SELECT max(name) AS m FROM bees"]);
    assert_eq!(listed.success(), "m\nWilli\n");
}

#[test]
fn an_interrupt_cancels_what_a_coordinator_runs_and_keeps_the_prompt() {
    let home = home();
    let coordinator = Coordinator::start_with_worker(&[]);
    let mut terminal = remote_prompt(&home, &coordinator.url);
    terminal.send("SELECT 'sta' || 'rted' AS s; SELECT count(*) FROM range(1000000000000);\r");
    terminal.wait_for("started");
    terminal.wait_for("1 row");
    let states = |state: &str| {
        let count = format!(
            "SELECT count(*) AS n FROM system.queries WHERE state = '{state}' \
             AND sql LIKE '%range(%' AND sql NOT LIKE '%system.%'"
        );
        run(&[&coordinator.url, "--format", "csv", "-c", &count]).success()
    };
    let deadline = Instant::now() + PATIENCE;
    while states("running") != "n\n1\n" {
        assert!(Instant::now() < deadline, "it does not run");
    }
    terminal.interrupt();
    terminal.wait_for("cancelled after ");
    terminal.wait_for("\nskep> ");
    while states("cancelled") != "n\n1\n" {
        assert!(Instant::now() < deadline, "it runs on");
    }
    answers_and_ends(terminal);
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let home = home();
    let place = Place::start(&[]);
    let url = place.coordinator.url.replace("://", "://rita@");
    // It is asked for at the terminal of the session, which a process has to be given.
    let at_terminal = || {
        let mut command = std::process::Command::new("setsid");
        let skep = skep(&[&url]);
        command.args(["--ctty", "--wait"]).arg(skep.get_program()).args(skep.get_args());
        for (name, value) in skep.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    };
    let mut terminal = Terminal::start(at_terminal(), home.path(), 80);
    // Ctrl-S holds back what is written: nothing is asked before the terminal stops showing what is
    // typed, for somebody may answer at once.
    terminal.send("\x13");
    terminal.wait_until_unechoed();
    terminal.send("\x11");
    terminal.wait_for("password of rita: ");
    terminal.send("rita-secret\r");
    let shown = terminal.wait_for("type .help for commands.");
    assert!(!shown.contains("secret"), "{shown}");
    terminal.wait_for("\nskep> ");
    terminal.send("CREATE TABLE t (x INT);\r");
    terminal.wait_for("user \"rita\" is a reader");
    ends(terminal);
    let mut terminal = Terminal::start(at_terminal(), home.path(), 80);
    terminal.wait_for("password of rita: ");
    terminal.send("a guess\r");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(1));
    assert!(shown.contains("error: wrong user or password"), "{shown}");
    assert!(!shown.contains("guess"), "{shown}");
}
