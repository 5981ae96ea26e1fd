//! Who may import whom, read from `cargo metadata`.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::tree::Tree;

/// Each of our packages, and which others of ours it may import.
const IMPORTS: [(&str, &[&str]); 10] = [
    ("skep-proto", &[]),
    ("skep-store", &["skep-proto"]),
    ("skep-engine", &["skep-proto", "skep-store"]),
    ("skep-cluster", &["skep-engine", "skep-proto", "skep-store", "skep-testkit"]),
    ("skep-server", &["skep-cluster", "skep-engine", "skep-proto", "skep-store"]),
    ("skep-client", &["skep-proto"]),
    ("skep-cli", &["skep-client", "skep-engine", "skep-proto", "skep-server", "skep-testkit"]),
    ("skep-testkit", &["skep-client", "skep-engine", "skep-proto", "skep-server"]),
    ("xtask", &["skep-testkit"]),
    ("skep-bench", &["skep-client", "skep-engine", "skep-proto", "skep-server", "skep-testkit"]),
];

/// Packages of others that are kept to some of ours; tests may use them anywhere.
const KEPT: [(&str, &[&str]); 10] = [
    ("arrow-flight", &["skep-cluster", "skep-server", "skep-client", "skep-bench"]),
    ("axum", &["skep-server"]),
    ("datafusion-proto", &["skep-cluster"]),
    ("datafusion-substrait", &["skep-engine", "skep-client"]),
    ("reedline", &["skep-cli"]),
    ("clap", &["skep-cli", "skep-bench", "xtask"]),
    ("sqllogictest", &["skep-testkit"]),
    ("libtest-mimic", &["skep-testkit"]),
    ("tpchgen", &["skep-testkit"]),
    ("tracing-subscriber", &["skep-cli"]),
];

/// What may be imported for tests alone.
const DEV_ONLY: [&str; 3] = ["insta", "proptest", "libc"];

/// An import of one package by another.
#[derive(Debug)]
struct Import {
    importer: String,
    imported: String,
    is_dev: bool,
}

pub(crate) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut findings = check_imports(&imports(tree)?);
    for (path, text) in tree.ending("/Cargo.toml") {
        // What stands in for packages of others is held as those are.
        if !path.starts_with("vendor/") && !text.contains("[lints]\nworkspace = true") {
            findings.push(format!("{path}: does not take the workspace's lints"));
        }
    }
    Ok(findings)
}

fn imports(tree: &Tree) -> Result<Vec<Import>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&tree.root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut imports = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            imports.push(Import {
                importer: package["name"].as_str().unwrap_or_default().to_owned(),
                imported: dependency["name"].as_str().unwrap_or_default().to_owned(),
                is_dev: dependency["kind"] == "dev",
            });
        }
    }
    if imports.is_empty() {
        bail!("cargo metadata names no dependency");
    }
    Ok(imports)
}

fn check_imports(imports: &[Import]) -> Vec<String> {
    let mut findings = Vec::new();
    for Import { importer, imported, is_dev } in imports {
        let Some((_, allowed)) = IMPORTS.iter().find(|(package, _)| package == importer) else {
            findings.push(format!("{importer}: not in tidy's table of imports"));
            continue;
        };
        let is_ours = IMPORTS.iter().any(|(package, _)| package == imported);
        if is_ours && !allowed.contains(&imported.as_str()) {
            findings.push(format!("{importer}: must not import {imported}"));
        }
        if imported == "skep-testkit" && importer == "skep-cli" && !is_dev {
            findings.push(format!("{importer}: imports {imported} outside of tests"));
        }
        if let Some((_, keepers)) = KEPT.iter().find(|(package, _)| package == imported)
            && !is_dev
            && !keepers.contains(&importer.as_str())
        {
            findings.push(format!("{importer}: {imported} is kept to {}", keepers.join(", ")));
        }
        if DEV_ONLY.contains(&imported.as_str()) && !is_dev {
            findings.push(format!("{importer}: imports {imported} outside of tests"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(importer: &str, imported: &str, is_dev: bool) -> Import {
        Import { importer: importer.to_owned(), imported: imported.to_owned(), is_dev }
    }

    #[test]
    fn imports_against_the_table_are_found() {
        let breaches = [
            import("skep-engine", "skep-cli", false),
            import("skep-proto", "skep-engine", false),
            import("skep-cli", "skep-testkit", false),
            import("skep-engine", "clap", false),
            import("skep-engine", "proptest", false),
            import("skep-new", "serde", false),
        ];
        for breach in breaches {
            assert_eq!(check_imports(&[breach]).len(), 1);
        }
        let fine = [
            import("skep-cli", "skep-testkit", true),
            import("skep-engine", "proptest", true),
            import("skep-engine", "clap", true),
            import("skep-engine", "datafusion", false),
        ];
        assert_eq!(check_imports(&fine), Vec::<String>::new());
    }
}
