//! What is written for a user to type is what there is.

use super::tree::Tree;

/// The main job, and the tests: the only commands that a newcomer needs.
const MAIN_JOB: &str = "cargo run --release -- -f datasets/tour.sql";
const TESTS: &str = "cargo test --workspace";

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let commands: Vec<_> = setup_commands(tree.text("README.md"));
    if commands != [MAIN_JOB, TESTS] {
        findings.push(format!(
            "README.md: its first code block must be `{MAIN_JOB}` and `{TESTS}`, and is {commands:?}"
        ));
    }
    if !tree.text(".ci/run").lines().any(|line| line.trim().ends_with(TESTS)) {
        findings.push(format!(".ci/run: does not run the README's `{TESTS}`"));
    }
    findings.extend(check_variables(tree));
    findings
}

/// A variable in `deploy` that the command line does not read would be set in vain.
fn check_variables(tree: &Tree) -> Vec<String> {
    let arguments = tree.text("crates/skep-cli/src/args.rs");
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".env") {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, _)) = line.split_once('=') else { continue };
            if !arguments.contains(&format!("\"{name}\"")) {
                findings.push(format!("{path}: skep does not read {name}"));
            }
        }
    }
    findings
}

/// Returns the lines of the first code block, without comments.
fn setup_commands(readme: &str) -> Vec<&str> {
    readme
        .lines()
        .skip_while(|line| !line.starts_with("```"))
        .skip(1)
        .take_while(|line| !line.starts_with("```"))
        .map(|line| line.split_once(" #").map_or(line, |(command, _)| command).trim())
        .filter(|line| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(readme: &str, ci: &str) -> Tree {
        let files = [("README.md", readme), (".ci/run", ci)];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        Tree { files: files.to_vec(), ..Tree::default() }
    }

    #[test]
    fn both_commands_must_be_there_and_be_run() {
        let readme = format!("# skep\n\n```sh\n{MAIN_JOB}   # the tour\n{TESTS}\n```\n");
        let ci = format!("step {TESTS}\n");
        assert!(check(&tree(&readme, &ci)).is_empty());
        assert_eq!(check(&tree("# skep\n", &ci)).len(), 1);
        assert_eq!(check(&tree(&readme, "step cargo build\n")).len(), 1);
    }

    #[test]
    fn a_variable_that_nobody_reads_is_found() {
        let mut tree = Tree::default();
        tree.files.push(("deploy/a.env".to_owned(), "# SKEP_C=1\nSKEP_A=1\nSKEP_B=\n".to_owned()));
        let arguments = "#[arg(long, env = \"SKEP_A\")]".to_owned();
        tree.files.push(("crates/skep-cli/src/args.rs".to_owned(), arguments));
        assert_eq!(check_variables(&tree), ["deploy/a.env: skep does not read SKEP_B"]);
    }
}
