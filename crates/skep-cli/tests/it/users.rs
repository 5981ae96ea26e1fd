//! Users, their roles and passwords, as people meet them.

use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::process::{Outcome, run, run_with_input, skep};
use crate::role::{Coordinator, Role};

const TOKEN: &str = "the cluster's own";

/// Everything goes to the workers that can.
const CONFIG: &str = "[planner]\nsmall_query_bytes = 1\nmin_scan_bytes_per_task = 1024\n";

/// A coordinator with a worker and the users ann (admin), will (writer) and rita (reader).
pub(crate) struct Place {
    directory: TempDir,
    pub(crate) coordinator: Coordinator,
    _worker: Role,
}

fn add(data: &str, name: &str, role: &str) -> Outcome {
    let password = format!("{name}-secret\n");
    let args = ["user", "add", name, "--role", role, "--data-dir", data];
    run_with_input(&args, password.as_bytes())
}

impl Place {
    pub(crate) fn start(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (data, config, open) = (path("data"), path("skep.toml"), path("open"));
        for (name, role) in [("ann", "admin"), ("will", "writer"), ("rita", "reader")] {
            add(&data, name, role).success();
        }
        fs::write(&config, CONFIG).unwrap();
        for name in ["open", "closed"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(Path::new(&path(name)).join("x.csv"), "x\n7\n").unwrap();
        }
        let mut args = vec!["--data-dir", &data, "--config", &config, "--token", TOKEN];
        args.extend(["--allow-root", &open]);
        args.extend(more);
        let coordinator = Coordinator::start(&args);
        let worker = Role::worker(&coordinator.url, &[("SKEP_CLUSTER_TOKEN", TOKEN)]);
        Self { directory, coordinator, _worker: worker }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn url(&self, credentials: &str) -> String {
        self.coordinator.url.replace("://", &format!("://{credentials}"))
    }

    fn run_as(&self, name: &str, statement: &str) -> Outcome {
        let url = self.url(&format!("{name}:{name}-secret@"));
        run(&[&url, "--format", "csv", "-c", statement])
    }
}

#[test]
fn users_are_kept_in_a_private_file() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    add(data, "ann", "admin").success();
    add(data, "rita", "reader").success();
    let file = Path::new(data).join("users");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("ann:admin:$argon2id$") && !text.contains("secret"), "{text}");
    let list = || run(&["user", "list", "--data-dir", data]).success();
    assert_eq!(list(), "ann admin\nrita reader\n");
    run(&["user", "remove", "rita", "--data-dir", data]).success();
    assert_eq!(list(), "ann admin\n");
    for (args, message) in [
        (&["user", "add", "ann", "--data-dir", data][..], "user \"ann\" already exists"),
        (&["user", "add", "a:b", "--data-dir", data], "letters, digits"),
        (&["user", "remove", "rita", "--data-dir", data], "user \"rita\" not found"),
        (&["user", "passwd", "rita", "--data-dir", data], "user \"rita\" not found"),
        (&["user", "add", "eve"], "hint: add --data-dir DIR or --users FILE"),
        (&["user", "list", "--users", "/nowhere/users"], "skep user add"),
    ] {
        let outcome = run_with_input(args, b"pw\n");
        assert_eq!(outcome.code, Some(1), "{args:?}");
        assert!(outcome.stderr.contains(message), "{args:?}: {}", outcome.stderr);
    }
    let empty = run_with_input(&["user", "add", "eve", "--data-dir", data], b"\n");
    assert!(empty.stderr.contains("at least one character"), "{}", empty.stderr);
    assert_eq!(run(&["user", "add", "e", "--role", "root", "--data-dir", data]).code, Some(2));
}

#[test]
fn a_client_says_who_it_is() {
    let place = Place::start(&[]);
    let query = ["--format", "csv", "-c", "SELECT 1 AS x"];
    let connect = |credentials: &str, password: Option<&str>| {
        let mut command = skep(&[&[place.url(credentials).as_str()][..], &query].concat());
        if let Some(password) = password {
            command.env("SKEP_PASSWORD", password);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(connect("rita:rita-secret@", None), (Some(0), String::new()));
    assert_eq!(connect("rita@", Some("rita-secret")), (Some(0), String::new()));
    for (credentials, password, message) in [
        ("", None, "error: the coordinator wants to know who asks\nhint: connect with a user"),
        ("rita:wrong-one@", None, "error: wrong user or password\nhint: "),
        ("rita@", Some("wrong-one"), "error: wrong user or password\nhint: "),
        ("eve:rita-secret@", None, "error: wrong user or password\nhint: "),
    ] {
        let (code, stderr) = connect(credentials, password);
        assert_eq!(code, Some(1), "{credentials}");
        assert!(stderr.starts_with(message), "{credentials}: {stderr}");
        assert!(!stderr.contains("wrong-one") && !stderr.contains("secret"), "{stderr}");
    }
    // Guessing gets slow.
    let slowed = (0..6).map(|_| connect("will:guess@", None).1);
    assert!(slowed.into_iter().any(|stderr| stderr.contains("too many logins have failed")));
    // A new password counts at once, for the tokens too.
    let data = place.path("data");
    let args = ["user", "passwd", "rita", "--data-dir", &data];
    run_with_input(&args, b"another\n").success();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while connect("rita:another@", None).0 != Some(0) {
        assert!(std::time::Instant::now() < deadline);
        // The old one was right until a moment ago; guesses of the new one must not be slowed.
        std::thread::park_timeout(std::time::Duration::from_millis(1100));
    }
    assert!(connect("rita:rita-secret@", None).1.contains("wrong user or password"));
}

#[test]
fn a_role_is_what_one_may_do() {
    let place = Place::start(&[]);
    let create = "CREATE TABLE t AS SELECT value FROM generate_series(1, 20000)";
    place.run_as("will", create).success();
    let sum = "SELECT sum(value) AS s FROM t";
    assert_eq!(place.run_as("rita", sum).success(), "s\n200010000\n");
    assert_eq!(place.run_as("will", sum).success(), "s\n200010000\n");
    for statement in [
        "INSERT INTO t VALUES (1)",
        "DROP TABLE t",
        "CREATE TABLE u (x INT)",
        "CREATE SCHEMA s",
        &format!("COPY t TO '{}'", place.path("open/t.parquet")),
    ] {
        let outcome = place.run_as("rita", statement);
        assert_eq!(outcome.code, Some(1), "{statement}");
        for part in ["user \"rita\" is a reader\n", "hint: it takes the role writer or admin"] {
            assert!(outcome.stderr.contains(part), "{statement}: {}", outcome.stderr);
        }
    }
    for (user, file, is_allowed) in [
        ("rita", "open/x.csv", true),
        ("rita", "closed/x.csv", false),
        ("rita", "data/catalog.json", false),
        ("will", "closed/x.csv", false),
        ("ann", "closed/x.csv", true),
    ] {
        let outcome = place.run_as(user, &format!("SELECT * FROM '{}'", place.path(file)));
        assert_eq!(outcome.code, Some(i32::from(!is_allowed)), "{user} {file}: {outcome:?}");
        if !is_allowed {
            assert!(outcome.stderr.contains("no permission to name the files"), "{outcome:?}");
        }
    }
    // What others do is nobody's business but an admin's.
    for table in ["queries", "tasks", "stages"] {
        let seen = |user: &str| {
            let count = format!("SELECT count(DISTINCT query) AS n FROM system.{table}");
            let csv = place.run_as(user, &count).success();
            csv.lines().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let (all, wills, ritas) = (seen("ann"), seen("will"), seen("rita"));
        assert!(wills >= 1 && ritas >= 1, "{table}: {wills} {ritas}");
        assert!(all >= wills + ritas, "{table}: {all} {wills} {ritas}");
        if table == "queries" {
            let theirs =
                "SELECT count(*) AS n FROM system.queries WHERE sql LIKE 'CREATE TABLE t%'";
            assert_eq!(place.run_as("rita", theirs).success(), "n\n0\n");
            let users = "SELECT DISTINCT user_name FROM system.queries ORDER BY user_name";
            assert_eq!(place.run_as("ann", users).success(), "user_name\nann\nrita\nwill\n");
            assert_eq!(place.run_as("rita", users).success(), "user_name\nrita\n");
        }
    }
}

#[test]
fn a_statement_is_ended_by_its_user_and_by_admins_alone() {
    let place = Place::start(&[]);
    let endless = "SELECT value AS endless FROM generate_series(1, 1000000000000)";
    let running = "SELECT query FROM system.queries WHERE state = 'running' \
                   AND sql LIKE '%AS endless%' AND sql NOT LIKE '%system.%'";
    for (owner, others, end) in [
        ("ann", ["rita", "will"], "ann"),
        ("will", ["rita"; 2], "ann"),
        ("will", ["rita"; 2], "will"),
    ] {
        let url = place.url(&format!("{owner}:{owner}-secret@"));
        let mut child = skep(&[&url, "--format", "csv", "-c", endless]).spawn().unwrap();
        let mut rows = BufReader::new(child.stdout.take().unwrap());
        rows.read_exact(&mut [0; 8]).unwrap();
        let query = place.run_as("ann", running).success();
        let query = query.lines().nth(1).unwrap();
        let kill = format!("KILL QUERY '{query}'");
        for other in others {
            let refused = place.run_as(other, &kill);
            assert_eq!(refused.code, Some(1), "{other}: {refused:?}");
            // Not even that it is there.
            let message = format!("error: query \"{query}\" does not run\n");
            assert!(refused.stderr.starts_with(&message), "{other}: {}", refused.stderr);
        }
        assert!(place.run_as("ann", running).success().contains(query));
        place.run_as(end, &kill).success();
        // Unread rows may stand in the pipe.
        let reader = std::thread::spawn(move || rows.read_to_end(&mut Vec::new()).unwrap());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains("cancelled"), "{said}");
        reader.join().unwrap();
    }
}

#[test]
fn without_the_token_no_worker_is_let_in_and_with_users_there_must_be_one() {
    let place = Place::start(&[]);
    let worker = run(&["worker", "--coordinator", &place.coordinator.url, "--token", "guess"]);
    assert_eq!(worker.code, Some(1));
    assert!(worker.stderr.contains("does not know the cluster's token"), "{}", worker.stderr);
    let data = place.path("data");
    let args = ["coordinator", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let outcome = run(&[&args[..], &["--data-dir", &data]].concat());
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("anybody can attach as a worker"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--token"), "{}", outcome.stderr);
    let nowhere = [&args[..], &["--users", "/nowhere/users", "--token", "t"]].concat();
    assert!(run(&nowhere).stderr.contains("skep user add"));
    // Who is asked may come from anywhere.
    let open = ["coordinator", "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0", "--token", "t"];
    let open = Role::start(&[&open[..], &["--data-dir", &data]].concat());
    assert!(open.line().contains("grpc://0.0.0.0:"));
}

#[test]
fn a_cluster_with_users_has_a_secret_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    add(data, "rita", "reader").success();
    let cluster = ["cluster", "--workers", "1", "--slots", "1", "--memory", "64MiB"];
    let cluster = [&cluster[..], &["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]].concat();
    let cluster = [&cluster[..], &["--data-dir", data, "--exit-with-stdin"]].concat();
    let cluster = Role::start(&cluster);
    assert!(cluster.line().starts_with("worker 1 "));
    let ready = cluster.line();
    let url = crate::role::word(&ready, "grpc://");
    let known = url.replace("://", "://rita:rita-secret@");
    run(&[&known, "--format", "null", "-c", "SELECT 1"]).success();
    assert!(run(&[url, "-c", "SELECT 1"]).stderr.contains("wants to know who asks"));
    let stranger = run(&["worker", "--coordinator", url]);
    assert!(stranger.stderr.contains("does not know the cluster's token"), "{}", stranger.stderr);
}

#[test]
fn secrets_are_shown_by_nothing() {
    const SECRET: &str = "hunter2hunter2";
    let place = Place::start(&[]);
    let script = format!(
        "SET s3.secret_access_key = '{SECRET}'; SET s3.access_key_id = 'key{SECRET}'; \
         SHOW SETTINGS; SHOW s3.secret_access_key; \
         SELECT * FROM information_schema.df_settings; \
         CREATE EXTERNAL TABLE r (x INT) STORED AS csv LOCATION 'http://u:{SECRET}@127.0.0.1:9/d/'; \
         SHOW CREATE TABLE r; DESCRIBE EXTENDED r; EXPLAIN VERBOSE SELECT * FROM r; \
         SELECT * FROM 'http://u:{SECRET}@127.0.0.1:9/x.csv'; \
         SELECT * FROM 's3://bucket/x.csv'; \
         SELECT * FROM information_schema.tables; SELECT * FROM information_schema.views"
    );
    let url = place.url("ann:ann-secret@");
    let outcome = run(&[&url, "--continue-on-error", "-c", &script]);
    for said in [&outcome.stdout, &outcome.stderr] {
        let line = said.lines().find(|line| line.contains(SECRET) || line.contains("ann-secret"));
        assert_eq!(line, None);
    }
    assert!(outcome.stdout.contains("s3.secret_access_key"), "{}", outcome.stdout);
}

#[test]
fn secrets_are_logged_by_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    add(data, "ann", "admin").success();
    let mut command = skep(&[
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--data-dir",
        data,
        "--exit-with-stdin",
    ]);
    command.env("SKEP_LOG", "debug").env("SKEP_CLUSTER_TOKEN", "hush-cluster");
    let mut coordinator = Role::spawn(command);
    let line = coordinator.line();
    let url = crate::role::word(&line, "grpc://");
    let script = "SET s3.secret_access_key = 'hush-store'; SELECT 1 AS x";
    for credentials in ["ann:ann-secret@", "ann:hush-guess@"] {
        let url = url.replace("://", &format!("://{credentials}"));
        run(&[&url, "--format", "null", "-c", script]);
    }
    run(&["worker", "--coordinator", url, "--token", "hush-stranger"]);
    coordinator.close_stdin();
    let log = coordinator.errors_to_the_end();
    assert!(log.iter().any(|line| line.contains("logged in")), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("a login has failed")), "{log:#?}");
    // Also as the header says it, and in a token.
    for secret in ["hush", "ann-secret", "YW5uOmFubi1zZWNyZXQ", "skep1.", "argon2id"] {
        let line = log.iter().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
