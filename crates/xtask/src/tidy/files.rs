//! Checks of single files: length, names, headers of scripts, traces of a machine.

use skep_testkit::slt::Header;

use super::tree::Tree;

const MAX_LINE_COUNT: usize = 800;

/// Words that say nothing of what is inside.
const BANNED_NAMES: [&str; 9] =
    ["manager", "helper", "helpers", "util", "utils", "common", "misc", "types", "managers"];

/// Directories of somebody's machine, in two pieces so that this file may hold them.
const MACHINE_PATHS: [(&str, &str); 2] = [("/wo", "rk/"), ("/ro", "ot/")];

/// Where every locked package comes from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".rs") {
        let line_count = text.lines().count();
        if line_count > MAX_LINE_COUNT {
            findings.push(format!("{path}: {line_count} lines, more than {MAX_LINE_COUNT}"));
        }
        findings.extend(check_name(path));
    }
    for (path, text) in &tree.files {
        findings.extend(check_machine(path, text));
        if path.ends_with(".slt") || path.ends_with(".slt_slow") {
            findings.extend(Header::parse(text).err().map(|error| format!("{path}: {error:#}")));
        }
    }
    for (path, text) in tree.ending("Cargo.lock") {
        findings.extend(text.lines().enumerate().filter_map(|(idx, line)| {
            let source = line.strip_prefix("source = ")?;
            (source.trim_matches('"') != REGISTRY)
                .then(|| format!("{path}:{}: a package from {source}", idx + 1))
        }));
    }
    let settings = tree.text(".cargo/config.toml");
    if settings.contains("[source") || settings.contains("[registr") {
        findings.push(".cargo/config.toml: names a registry".to_owned());
    }
    findings
}

/// Modules are named for what they hold.
fn check_name(path: &str) -> Option<String> {
    let source = path.split_once("/src/").map(|(_, source)| source)?;
    let banned = source
        .trim_end_matches(".rs")
        .split(['/', '_'])
        .find(|word| BANNED_NAMES.contains(word))?;
    Some(format!("{path}: {banned:?} names nothing"))
}

fn check_machine(path: &str, text: &str) -> Option<String> {
    MACHINE_PATHS.into_iter().find_map(|(head, tail)| {
        let needle = format!("{head}{tail}");
        let line_idx = text.lines().position(|line| line.contains(&needle))?;
        Some(format!("{path}:{}: {needle} is of one machine", line_idx + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str, text: &str) -> Tree {
        Tree { files: vec![(path.to_owned(), text.to_owned())], ..Tree::default() }
    }

    #[test]
    fn each_rule_finds_its_breach_and_nothing_else() {
        let machine = format!("{}{}x", MACHINE_PATHS[0].0, MACHINE_PATHS[0].1);
        let breaches = [
            ("crates/a/src/a.rs", "\n".repeat(801)),
            ("crates/a/src/string_utils.rs", String::new()),
            ("crates/a/src/common/mod.rs", String::new()),
            ("README.md", machine),
            ("sql-tests/a.slt", "query I\nSELECT 1\n----\n1\n".to_owned()),
            ("Cargo.lock", "source = \"registry+https://example.org/index\"\n".to_owned()),
            ("benches/a/Cargo.lock", "source = \"git+https://example.org/a\"\n".to_owned()),
            (".cargo/config.toml", "[source.crates-io]\n".to_owned()),
        ];
        for (path, text) in breaches {
            assert_eq!(check(&tree(path, &text)).len(), 1, "{path}");
        }
        let fine = [
            ("crates/a/src/a.rs", "\n".repeat(800)),
            ("crates/a/src/column_type.rs", String::new()),
            ("sql-tests/a.slt", "# description: a\n".to_owned()),
            ("Cargo.lock", format!("source = \"{REGISTRY}\"\n")),
        ];
        for (path, text) in fine {
            assert_eq!(check(&tree(path, &text)), Vec::<String>::new(), "{path}");
        }
    }
}
