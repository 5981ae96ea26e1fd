//! A small server of our own on loopback, which speaks as much HTTP, and as much of S3's dialect, as
//! reading needs; and which can hold an answer back.
//!
//! Holding is how tests stop a query at a place of their choice with nothing but what a user could
//! do: a task that reads a held file waits, whoever runs it, until the file is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A file server; it serves until the test process ends.
#[derive(Debug, Clone)]
pub struct ObjectServer {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<[u8]>>,
    held: BTreeSet<String>,
    /// By file: how many requests for its bytes came while it was held.
    held_requests: BTreeMap<String, usize>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectServer {
    /// Starts a server of these files: paths without a leading slash, and their bytes.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub fn start<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared::default());
        let server = Self { address, shared: Arc::clone(&shared) };
        for (path, bytes) in files {
            server.put(path, bytes);
        }
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || while answer(&connection, &shared).is_some() {});
            }
        });
        Ok(server)
    }

    /// Adds a file, or replaces it.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.shared.state().files.insert(path.to_owned(), bytes.into());
    }

    /// Returns HOST:PORT.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the URL of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Returns the statements by which a session reaches the server as `s3://`.
    pub fn s3_settings(&self) -> String {
        format!(
            "SET s3.endpoint = 'http://{}'; SET s3.allow_http = 'true'; \
             SET s3.access_key_id = 'someone'; SET s3.secret_access_key = 'verysecret'; \
             SET s3.region = 'somewhere'",
            self.address
        )
    }

    /// Holds back the bytes of a file from now on. What is asked of its size is answered.
    pub fn hold(&self, path: &str) {
        let mut state = self.shared.state();
        state.held.insert(path.to_owned());
        state.held_requests.insert(path.to_owned(), 0);
    }

    /// Lets go of a file: whoever waits for its bytes gets them.
    pub fn release(&self, path: &str) {
        self.shared.state().held.remove(path);
        self.shared.changed.notify_all();
    }

    /// Waits until so many requests for the bytes of a held file have come since it is held.
    /// Returns false if they have not within `bound`.
    pub fn wait_for_requests(&self, path: &str, count: usize, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        let mut state = self.shared.state();
        loop {
            if state.held_requests.get(path).is_some_and(|seen| *seen >= count) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Answers one request; `None` ends the connection.
fn answer(connection: &TcpStream, shared: &Shared) -> Option<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next()?.ok()?;
    let mut range = None;
    let mut is_refused = false;
    for line in lines {
        let line = line.ok()?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bytes) = line.strip_prefix("range: bytes=") {
            range = Some(bytes.to_owned());
        }
        is_refused |= line.starts_with("authorization:") && line.contains("wrongkey");
    }
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_start_matches('/');
    let is_listing = query.contains("list-type=2");
    if method == "GET" && !is_listing {
        wait_until_released(shared, path);
    }
    let file = shared.state().files.get(path).cloned();
    let (status, body, extra) = match file {
        _ if is_refused => ("403 Forbidden", b"<Error/>".to_vec(), String::new()),
        _ if is_listing => ("200 OK", listing(&shared.state().files, path, query), String::new()),
        None => ("404 Not Found", Vec::new(), String::new()),
        Some(bytes) => part(&bytes, range.as_deref()),
    };
    let mut out = connection;
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
         ETag: \"1\"\r\nAccept-Ranges: bytes\r\n{extra}\r\n",
        body.len()
    )
    .ok()?;
    if method != "HEAD" {
        out.write_all(&body).ok()?;
    }
    out.flush().ok()
}

fn wait_until_released(shared: &Shared, path: &str) {
    let mut state = shared.state();
    if !state.held.contains(path) {
        return;
    }
    *state.held_requests.entry(path.to_owned()).or_default() += 1;
    shared.changed.notify_all();
    while state.held.contains(path) {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

fn part(bytes: &[u8], range: Option<&str>) -> (&'static str, Vec<u8>, String) {
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return ("200 OK", bytes.to_vec(), String::new());
    };
    let last = bytes.len().saturating_sub(1);
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, to.min(last)),
        (Ok(from), Err(_)) => (from, last),
        (Err(_), Ok(suffix)) => (bytes.len() - suffix.min(bytes.len()), last),
        (Err(_), Err(_)) => (0, last),
    };
    let Some(wanted) = bytes.get(from..=to) else {
        return ("416 Range Not Satisfiable", Vec::new(), String::new());
    };
    let header = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
    ("206 Partial Content", wanted.to_vec(), header)
}

/// S3's answer to ListObjectsV2, for a bucket that is the path's first part.
fn listing(files: &BTreeMap<String, Arc<[u8]>>, bucket: &str, query: &str) -> Vec<u8> {
    let prefix = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("prefix="))
        .unwrap_or("")
        .replace("%2F", "/");
    let mut body =
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
    for (path, bytes) in files {
        let Some(key) = path.strip_prefix(&format!("{bucket}/")) else { continue };
        if key.starts_with(&prefix) {
            // A String takes whatever is written to it.
            let _ = write!(
                body,
                "<Contents><Key>{key}</Key><LastModified>2026-11-21T12:00:00.000Z</LastModified>\
                 <ETag>\"1\"</ETag><Size>{}</Size></Contents>",
                bytes.len()
            );
        }
    }
    body.push_str("</ListBucketResult>");
    body.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    fn get(address: &str, path: &str) -> String {
        let mut connection = TcpStream::connect(address).unwrap();
        write!(connection, "GET /{path} HTTP/1.1\r\nRange: bytes=1-2\r\n\r\n").unwrap();
        connection.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_held_file_waits_and_is_answered_when_it_is_let_go() {
        let server = ObjectServer::start([("b/x", b"abcd".to_vec())]).unwrap();
        assert!(get(server.address(), "b/x").ends_with("\r\n\r\nbc"));
        server.hold("b/x");
        assert!(!server.wait_for_requests("b/x", 1, Duration::from_millis(1)));
        let address = server.address().to_owned();
        let reader = thread::spawn(move || get(&address, "b/x"));
        assert!(server.wait_for_requests("b/x", 1, BOUND));
        assert!(!reader.is_finished());
        server.release("b/x");
        assert!(reader.join().unwrap().ends_with("\r\n\r\nbc"));
    }
}
