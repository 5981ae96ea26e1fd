//! The roles of the binary: how they start, what they say, how they end.

use std::fs;
use std::net::TcpListener;

use pty::process::{Signal, kill_process};

use crate::process::run;
use crate::role::{Coordinator, Role, pid, wait_until_gone, word};

/// Starts a cluster on free ports.
fn cluster(args: &[&str]) -> Role {
    let mut all = vec!["cluster", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    all.extend(["--slots", "1", "--memory", "64MiB", "--exit-with-stdin"]);
    all.extend(args);
    Role::start(&all)
}

/// Reads the lines of the workers and the last one.
fn lines_of(cluster: &Role, worker_count: usize) -> (Vec<String>, String) {
    let workers = (0..worker_count).map(|_| cluster.line()).collect();
    (workers, cluster.line())
}

#[test]
fn help_teaches() {
    let help = run(&["--help"]).success();
    for part in ["coordinator", "worker", "cluster", "Roles:", "grpc://127.0.0.1:50051"] {
        assert!(help.contains(part), "{part}");
    }
    for (role, parts) in [
        ("coordinator", ["--listen", "--http", "--data-dir", "--config", "[scheduler]", "SIGTERM"]),
        (
            "worker",
            ["--coordinator", "--advertise", "--slots", "--memory", "--data-dir", "SIGTERM"],
        ),
        ("cluster", ["--workers", "--slots", "--replace", "--memory", "ready grpc://", "SIGTERM"]),
    ] {
        let help = run(&[role, "--help"]).success();
        for part in parts {
            assert!(help.contains(part), "{role}: {part}");
        }
        assert!(!help.contains("exit-with-stdin"), "{role}");
    }
}

#[test]
fn a_wrong_call_is_told_from_a_failure() {
    for args in [
        &["cluster"][..],
        &["cluster", "--workers", "0"],
        &["worker"],
        &["worker", "--coordinator", "grpc://h:1", "--slots", "none"],
        &["-c", "SELECT 1", "cluster", "--workers", "1"],
    ] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn a_coordinator_says_where_it_is_and_ends_when_told() {
    for signal in [Signal::Term, Signal::Int] {
        let mut coordinator = Coordinator::start(&[]);
        assert!(!coordinator.url.ends_with(":0"));
        coordinator.role.signal(signal);
        assert_eq!(coordinator.role.wait().code(), Some(0));
    }
    let mut coordinator = Coordinator::start(&[]);
    coordinator.role.close_stdin();
    assert_eq!(coordinator.role.wait().code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (listen, http) in [(taken.as_str(), free), (free, taken.as_str())] {
        for role in [&["coordinator"][..], &["cluster", "--workers", "1"]] {
            let mut args = role.to_vec();
            args.extend(["--listen", listen, "--http", http]);
            let outcome = run(&args);
            assert_eq!(outcome.code, Some(1), "{args:?}");
            let message = format!("error: cannot listen on {taken}: ");
            assert!(outcome.stderr.starts_with(&message), "{}", outcome.stderr);
            assert!(outcome.stderr.contains("hint: another process listens there"));
            assert_eq!(outcome.stdout, "");
        }
    }
}

#[test]
fn an_open_address_wants_insecure() {
    let outcome = run(&["coordinator", "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("0.0.0.0:0 can be reached"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--insecure"), "{}", outcome.stderr);
    let args = ["coordinator", "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0", "--insecure"];
    let coordinator = Role::start(&args);
    assert!(coordinator.line().contains("grpc://0.0.0.0:"));
}

#[test]
fn a_configuration_file_is_read_and_flags_go_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("skep.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, "listen = '127.0.0.1:0'\nhttp = 'nowhere'\n[scheduler]\nmax_attempts = 2\n")
        .unwrap();
    let coordinator = Role::start(&["coordinator", "--config", path, "--http", "127.0.0.1:0"]);
    assert!(coordinator.line().starts_with("coordinator pid "));
    let outcome = run(&["coordinator", "--config", path]);
    assert!(outcome.stderr.contains("invalid address \"nowhere\""), "{}", outcome.stderr);

    fs::write(&file, "[scheduler]\nmax_atempts = 2\n").unwrap();
    let outcome = run(&["coordinator", "--config", path]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("unknown key \"scheduler.max_atempts\""), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("did you mean \"max_attempts\" in [scheduler]?"));
}

#[test]
fn a_worker_reads_a_configuration_file_too() {
    let coordinator = Coordinator::start(&["--token", "bees"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("worker.toml");
    let path = file.to_str().unwrap();
    let text = format!(
        "coordinator = '{}'\nslots = 3\nmemory_bytes = 268435456\ntoken = 'bees'\n",
        coordinator.url
    );
    fs::write(&file, text).unwrap();
    let slots = || {
        let query = "SELECT slots, memory_limit_bytes FROM system.workers WHERE state = 'live'";
        run(&[&coordinator.url, "--format", "csv", "-c", query]).success()
    };
    let worker = Role::start(&["worker", "--config", path, "--exit-with-stdin"]);
    assert!(worker.line().starts_with("worker "));
    assert_eq!(slots(), "slots,memory_limit_bytes\n3,268435456\n");
    drop(worker);
    // A flag goes before it.
    let wrong = run(&["worker", "--config", path, "--token", "wasps"]);
    assert!(wrong.stderr.contains("does not know the cluster's token"), "{}", wrong.stderr);
    let args = ["worker", "--config", path, "--slots", "1", "--exit-with-stdin"];
    let worker = Role::start(&args);
    assert!(worker.line().starts_with("worker "));
    assert!(slots().contains("1,268435456\n"));

    for (text, message) in [
        ("slots = 0", "invalid value of \"slots\": must be at least 1"),
        ("users = '/users'", "unknown key \"users\""),
    ] {
        fs::write(&file, text).unwrap();
        let outcome = run(&["worker", "--config", path]);
        assert_eq!(outcome.code, Some(2));
        assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    }
    fs::write(&file, "slots = 1").unwrap();
    let outcome = run(&["worker", "--config", path]);
    assert!(
        outcome.stderr.contains("the coordinator to work for is missing"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_cluster_says_who_is_there_and_takes_all_with_it() {
    for signal in [Some(Signal::Term), Some(Signal::Int), None] {
        let mut cluster = cluster(&["--workers", "2"]);
        let (workers, ready) = lines_of(&cluster, 2);
        let mut ids: Vec<_> = workers.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["1", "2"]);
        assert!(workers.iter().all(|line| word(line, "grpc://").starts_with("grpc://127.0.0.1:")));
        assert!(ready.starts_with("ready grpc://127.0.0.1:"), "{ready}");
        let url = word(&ready, "grpc://");
        assert_eq!(run(&[url, "--format", "csv", "-c", "SELECT 1 AS x"]).success(), "x\n1\n");
        match signal {
            Some(signal) => cluster.signal(signal),
            None => cluster.close_stdin(),
        }
        assert_eq!(cluster.wait().code(), Some(0), "{signal:?}");
        for worker in &workers {
            wait_until_gone(pid(worker));
        }
    }
}

#[test]
fn a_cluster_that_is_killed_leaves_no_process() {
    let mut cluster = cluster(&["--workers", "2"]);
    let (workers, _) = lines_of(&cluster, 2);
    cluster.signal(Signal::Kill);
    cluster.wait();
    for worker in &workers {
        wait_until_gone(pid(worker));
    }
}

#[test]
fn a_stopped_worker_does_not_keep_a_cluster_from_ending() {
    let mut cluster = cluster(&["--workers", "1"]);
    let (workers, _) = lines_of(&cluster, 1);
    kill_process(pid(&workers[0]), Signal::Stop).unwrap();
    cluster.signal(Signal::Term);
    assert_eq!(cluster.wait().code(), Some(0));
    wait_until_gone(pid(&workers[0]));
}

#[test]
fn a_dead_worker_is_told_and_replaced_if_wanted() {
    let cluster_without = cluster(&["--workers", "2"]);
    let (workers, _) = lines_of(&cluster_without, 2);
    kill_process(pid(&workers[0]), Signal::Kill).unwrap();
    let told = cluster_without.error_line();
    assert!(told.contains("ended (signal 9)"), "{told}");

    let replacing = cluster(&["--workers", "2", "--replace"]);
    let (workers, _) = lines_of(&replacing, 2);
    kill_process(pid(&workers[0]), Signal::Kill).unwrap();
    let again = replacing.line();
    let id = workers[0].split(' ').nth(1).unwrap();
    assert!(again.starts_with(&format!("worker {id} pid ")), "{again}");
    assert_ne!(pid(&again), pid(&workers[0]));
}

#[test]
fn a_coordinator_without_workers_answers_what_is_little_work() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    fs::write(&config, "[scheduler]\nno_worker_timeout = '1s'\n").unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let path = directory.path().join("t.parquet").display().to_string();
    let ask = |query: &str| run(&[&coordinator.url, "--format", "csv", "-c", query]);
    let copy = format!("COPY (SELECT value AS k FROM generate_series(1, 1000)) TO '{path}'");
    ask(&copy).success();
    // Each of these would wait for a worker, and fail, if it were not known to be next to nothing.
    for (query, answer) in [
        (format!("SELECT (SELECT max(k) FROM '{path}' WHERE k < 8) AS m"), "m\n7\n"),
        (format!("SELECT 1 AS a WHERE EXISTS (SELECT 1 FROM '{path}' WHERE k > 999)"), "a\n1\n"),
        (format!("SELECT EXISTS (SELECT 1 FROM '{path}' WHERE k > 1000) AS e"), "e\nfalse\n"),
        ("SELECT sum(value) AS s FROM generate_series(1, 100)".to_owned(), "s\n5050\n"),
        (
            format!(
                "SELECT count(*) AS n FROM '{path}' WHERE k IN (SELECT value FROM \
                 generate_series(1, 10)) AND EXISTS (SELECT 1 FROM generate_series(1, 3))"
            ),
            "n\n10\n",
        ),
    ] {
        assert_eq!(ask(&query).success(), answer, "{query}");
    }
    for query in [
        "SELECT count(*) FROM generate_series(1, 1000000000000)".to_owned(),
        format!("SELECT count(*) FROM '{path}' AS a JOIN '{path}' AS b ON a.k < b.k"),
    ] {
        let refused = ask(&query);
        assert_eq!(refused.code, Some(1), "{query}");
        assert!(refused.stderr.contains("no live worker for 1s"), "{query}: {}", refused.stderr);
    }
}
