//! The ADBC driver that people use, from PyPI, in a virtual environment of its own.
//!
//! The environment is made below the target directory, once. Where there is no Python, or no index
//! of packages can be reached, the test says so on standard error and passes.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use datafusion::prelude::col;
use skep_client::{Client, substrait_plan};

use crate::cluster::rows;
use crate::role::Coordinator;
use crate::tls::Authority;
use crate::users::Place;

/// What is installed: a change makes the environment anew.
const PACKAGES: [&str; 3] = ["adbc-driver-flightsql", "adbc-driver-manager", "pyarrow"];

/// Each is a function of the script, and gets the address of a coordinator of its own.
const CASES: [&str; 8] =
    ["db_api", "parameters", "objects", "table_schema", "ingest", "cancel", "sessions", "errors"];

#[test]
fn the_driver_from_pypi_works() {
    let Some(python) = python() else { return };
    for case in CASES {
        let coordinator = Coordinator::start_with_worker(&[]);
        run(&python, case, &coordinator.url, &[]);
    }
}

#[tokio::test]
async fn the_driver_from_pypi_sends_substrait_plans() {
    let Some(python) = python() else { return };
    let coordinator = Coordinator::start_with_worker(&[]);
    let client = Client::connect(&coordinator.url).await.unwrap();
    let create = "CREATE TABLE people AS VALUES ('ann'), ('bob')";
    rows(&client, create).await.unwrap();
    let people = client.table("people").await.unwrap();
    let who = people.select(vec![col("column1").alias("who")]).unwrap();
    let who = who.sort(vec![col("who").sort(true, false)]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let plan = directory.path().join("plan");
    fs::write(&plan, substrait_plan(who).unwrap()).unwrap();
    run(&python, "substrait", &coordinator.url, &[format!("plan={}", plan.display())]);
}

#[test]
fn the_driver_from_pypi_says_who_asks() {
    let Some(python) = python() else { return };
    let place = Place::start(&[]);
    let [open, closed] = ["open", "closed"].map(|name| format!("{name}={}", place.path(name)));
    run(&python, "reader", &place.coordinator.url, &[open, closed]);
    run(&python, "users", &place.coordinator.url, &[]);
}

#[test]
fn the_driver_from_pypi_knows_the_coordinator_by_its_certificate() {
    let Some(python) = python() else { return };
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let [cert, key] = authority.sign("server", &["127.0.0.1", "bees.internal"]);
    let server = ["--tls-cert", &cert, "--tls-key", &key];
    let (ca, other_ca) = (format!("ca={}", authority.ca()), format!("other_ca={}", other.ca()));
    let coordinator = Coordinator::start(&server);
    run(&python, "tls", &coordinator.url, &[ca.clone(), other_ca]);
    let both = [&server[..], &["--tls-ca", &authority.ca(), "--tls-client-ca", &authority.ca()]];
    let coordinator = Coordinator::start(&both.concat());
    let mut pairs = vec![ca];
    for (prefix, authority) in [("", &authority), ("other_", &other)] {
        let [cert, key] = authority.sign("client", &["client"]);
        pairs.extend([format!("{prefix}cert={cert}"), format!("{prefix}key={key}")]);
    }
    run(&python, "mutual_tls", &coordinator.url, &pairs);
}

/// Runs a case of the script.
#[track_caller]
fn run(python: &Path, case: &str, url: &str, more: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/flight/adbc.py");
    let address = url.replace("grpc://", "grpc+tcp://");
    let run = Command::new(python).arg(&script).args([case, &address]).args(more).output().unwrap();
    assert!(run.status.success(), "{case}: {}", said(&run));
}

/// Returns the Python that has the driver; says so if there is none.
fn python() -> Option<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match MADE.get_or_init(environment) {
        Ok(python) => Some(python.clone()),
        Err(why) => {
            say_skipped(why);
            None
        }
    }
}

/// Whoever runs the tests must see what was not tested: `eprintln!` is kept back for tests that pass.
fn say_skipped(why: &str) {
    let text = format!("SKIPPED: the ADBC driver was not tested: {why}\n");
    io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Makes the environment, if it is not there; returns its Python.
fn environment() -> Result<PathBuf, String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adbc-venv");
    let python = directory.join("bin/python");
    let stamp = directory.join("packages");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(python);
    }
    let _ = fs::remove_dir_all(&directory);
    let mut made = Command::new("python3");
    made.args(["-m", "venv"]).arg(&directory);
    done(&mut made, "python3 makes no virtual environment")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let bounds = ["--retries", "1", "--timeout", "20", "--only-binary", ":all:"];
    let mut install = Command::new(&python);
    install.args(pip).args(bounds).args(PACKAGES);
    done(&mut install, "pip does not install the driver")?;
    fs::write(stamp, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn done(command: &mut Command, otherwise: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{otherwise}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{otherwise}: {}", said(&output))),
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).join("\n")
}
