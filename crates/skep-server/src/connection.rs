//! Connections that come in: how many there may be, and when they are cut.
//!
//! Who connects has said nothing yet, so it must not cost much: connections have a bound, those
//! that never said anything a smaller one, of which the oldest makes room for the next. A connection
//! that is silent for longer than the keepalive of HTTP/2 lets a living one be is dead, whatever
//! state it is in; that also ends those that never begin.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::debug;

use crate::config::GrpcConfig;
use crate::listen::Phase;

/// How long to wait after the system could not accept a connection: it is mostly short of files,
/// and asking again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whoever has sent so much has begun: more than HTTP/2's preface and its first frame, less than a
/// greeting of TLS.
const GREETING_BYTES: usize = 33;

/// The other end of a connection, as each request on it knows it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its addresses.
    pub(crate) tcp: TcpConnectInfo,
    /// The connection, while it is there.
    pub(crate) life: Weak<ConnectionLife>,
}

/// Lives as long as a connection.
#[derive(Debug)]
pub(crate) struct ConnectionLife {
    /// No other connection of this process has it.
    pub(crate) number: u64,
    gate: Arc<Gate>,
}

#[cfg(test)]
impl ConnectionLife {
    /// Makes one of no connection.
    pub(crate) fn alone(number: u64) -> Arc<Self> {
        let open_count = AtomicUsize::new(1);
        let gate =
            Gate { max_count: 1, max_newcomer_count: 1, open_count, newcomers: Mutex::default() };
        Arc::new(Self { number, gate: Arc::new(gate) })
    }
}

impl Drop for ConnectionLife {
    fn drop(&mut self) {
        self.gate.open_count.fetch_sub(1, Ordering::Relaxed);
        self.gate.forget(self.number);
    }
}

/// Who may come in.
#[derive(Debug)]
struct Gate {
    max_count: usize,
    max_newcomer_count: usize,
    open_count: AtomicUsize,
    /// Those that have not begun, oldest first, and how to cut them.
    newcomers: Mutex<VecDeque<(u64, oneshot::Sender<()>)>>,
}

impl Gate {
    /// Lets a connection in, or not.
    fn admit(
        self: &Arc<Self>,
        number: u64,
    ) -> Option<(Arc<ConnectionLife>, oneshot::Receiver<()>)> {
        let is_full = self.open_count.load(Ordering::Relaxed) >= self.max_count;
        let (cut, evicted) = oneshot::channel();
        let mut newcomers = self.newcomers.lock();
        if (is_full && !newcomers.is_empty()) || newcomers.len() >= self.max_newcomer_count {
            // It need not be there any more.
            if let Some((_, cut)) = newcomers.pop_front() {
                // It may have ended just now.
                let _ = cut.send(());
            }
        } else if is_full {
            return None;
        }
        newcomers.push_back((number, cut));
        drop(newcomers);
        self.open_count.fetch_add(1, Ordering::Relaxed);
        Some((Arc::new(ConnectionLife { number, gate: Arc::clone(self) }), evicted))
    }

    /// Takes a connection out of those that have not begun.
    fn forget(&self, number: u64) {
        let mut newcomers = self.newcomers.lock();
        if let Ok(at) = newcomers.binary_search_by_key(&number, |(number, _)| *number) {
            drop(newcomers.remove(at));
        }
    }
}

/// Returns the connections that come in, until the server is cut.
pub(crate) fn accept(
    listener: TcpListener,
    phase: watch::Receiver<Phase>,
    config: &GrpcConfig,
) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
    let gate = Arc::new(Gate {
        max_count: config.max_connection_count,
        max_newcomer_count: config.max_newcomer_count,
        open_count: AtomicUsize::new(0),
        newcomers: Mutex::default(),
    });
    let silence_timeout = config.silence_timeout;
    // HTTP/2 asks whether the other side lives, but cannot end a connection that takes nothing: it
    // would say so first.
    let blocked_timeout = silence_timeout.min(config.keepalive_interval + config.keepalive_timeout);
    let timeouts = (silence_timeout, blocked_timeout);
    let begin = (listener, phase, gate, 0_u64);
    stream::unfold(begin, move |(listener, phase, gate, mut number)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    sleep(ACCEPT_PAUSE).await;
                    return Some((Err(error), (listener, phase, gate, number)));
                }
            };
            number += 1;
            let Some((life, evicted)) = gate.admit(number) else {
                debug!("a connection too many");
                continue;
            };
            // One that is gone already shows so when it is read from.
            let _ = stream.set_nodelay(true);
            let connection = Connection::new(stream, phase.clone(), life, evicted, timeouts);
            return Some((Ok(connection), (listener, phase, gate, number)));
        }
    })
}

/// One connection. When its server is cut or gone, it breaks off: whoever serves a connection has
/// tasks of its own, and would go on until the other side left.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Ready once it is to break off.
    cut: BoxFuture<'static, ()>,
    is_cut: bool,
    life: Arc<ConnectionLife>,
    /// While less came than a greeting: how much.
    greeting_bytes: Option<usize>,
    silence_timeout: Duration,
    /// While it takes nothing that is written.
    blocked_timeout: Duration,
    last_heard: Instant,
    /// Due at some time not later than the end of a silence that goes on.
    silence: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(
        stream: TcpStream,
        mut phase: watch::Receiver<Phase>,
        life: Arc<ConnectionLife>,
        evicted: oneshot::Receiver<()>,
        (silence_timeout, blocked_timeout): (Duration, Duration),
    ) -> Self {
        let cut = async move {
            let server = async {
                // An error says that the server is gone.
                let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
            };
            let eviction = async {
                // An error says that it has begun, and is not cut any more.
                if evicted.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = server => {}
                () = eviction => {}
            }
        };
        Self {
            stream,
            cut: cut.boxed(),
            is_cut: false,
            life,
            greeting_bytes: Some(0),
            silence_timeout,
            blocked_timeout,
            last_heard: Instant::now(),
            silence: Box::pin(sleep(silence_timeout)),
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.poll_unpin(cx).is_ready();
        if self.is_cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn heard(&mut self, bytes: usize) {
        self.last_heard = Instant::now();
        if let Some(before) = self.greeting_bytes {
            let now = before.saturating_add(bytes);
            self.greeting_bytes = (now < GREETING_BYTES).then_some(now);
            if self.greeting_bytes.is_none() {
                self.life.gate.forget(self.life.number);
            }
        }
    }

    /// Waits on, unless it was silent for so long. Asked where it is written to as well: who writes
    /// more than the other side takes may not get to reading.
    fn unless_silent<T>(&mut self, timeout: Duration, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.poll_silence(timeout, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready once it was silent for so long.
    fn poll_silence(&mut self, timeout: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.last_heard + timeout;
        if due < self.silence.deadline() {
            self.silence.as_mut().reset(due);
        }
        loop {
            ready!(self.silence.as_mut().poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.silence.as_mut().reset(due);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(outcome) => {
                self.heard(buf.filled().len() - before);
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                let timeout = self.silence_timeout;
                self.unless_silent(timeout, cx)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => {
                let timeout = self.blocked_timeout;
                self.unless_silent(timeout, cx)
            }
            written => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match Pin::new(&mut self.stream).poll_write_vectored(cx, bufs) {
            Poll::Pending => {
                let timeout = self.blocked_timeout;
                self.unless_silent(timeout, cx)
            }
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Self::ConnectInfo {
        Peer { tcp: self.stream.connect_info(), life: Arc::downgrade(&self.life) }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::runtime::SpawnedTask;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn connect(
        config: GrpcConfig,
    ) -> (impl Stream<Item = io::Result<Connection>>, String, watch::Sender<Phase>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (phase, watched) = watch::channel(Phase::Serving);
        (Box::pin(accept(listener, watched, &config)), address, phase)
    }

    async fn end_of(connection: &mut Connection) -> io::ErrorKind {
        connection.read_u8().await.unwrap_err().kind()
    }

    #[tokio::test]
    async fn a_cut_connection_breaks_off_while_it_waits() {
        let (mut incoming, address, phase) = connect(GrpcConfig::default()).await;
        let _client = TcpStream::connect(&address).await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        let cutting = async { phase.send(Phase::Cut).unwrap() };
        let (kind, ()) = tokio::join!(end_of(&mut connection), cutting);
        assert_eq!(kind, io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn who_says_nothing_is_cut() {
        let silence_timeout = Duration::from_millis(50);
        let config = GrpcConfig { silence_timeout, ..GrpcConfig::default() };
        let (mut incoming, address, _phase) = connect(config).await;
        let mut client = TcpStream::connect(&address).await.unwrap();
        client.write_all(&[7; 40]).await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        connection.read_exact(&mut [0; 40]).await.unwrap();
        assert_eq!(end_of(&mut connection).await, io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_neither_says_nor_takes_anything_is_cut_where_it_is_written_to() {
        // When HTTP/2 would give it up, if it could still say so; else silence alone takes an hour.
        let config = GrpcConfig {
            keepalive_interval: Duration::from_millis(20),
            keepalive_timeout: Duration::from_millis(30),
            silence_timeout: Duration::from_secs(3600),
            ..GrpcConfig::default()
        };
        let (mut incoming, address, _phase) = connect(config).await;
        let _client = TcpStream::connect(&address).await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        let much = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = connection.write_all(&much).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_oldest_of_those_that_have_not_begun_makes_room() {
        let config = GrpcConfig { max_newcomer_count: 2, ..GrpcConfig::default() };
        let (mut incoming, address, _phase) = connect(config).await;
        let mut clients = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..3 {
            let mut client = TcpStream::connect(&address).await.unwrap();
            let mut connection = incoming.next().await.unwrap().unwrap();
            if connections.is_empty() {
                // Has begun: is not asked to make room.
                client.write_all(&[7; GREETING_BYTES]).await.unwrap();
                connection.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
            }
            clients.push(client);
            connections.push(connection);
        }
        clients.push(TcpStream::connect(&address).await.unwrap());
        connections.push(incoming.next().await.unwrap().unwrap());
        assert_eq!(end_of(&mut connections[1]).await, io::ErrorKind::ConnectionAborted);
        for idx in [0, 2, 3] {
            clients[idx].write_all(&[9]).await.unwrap();
            assert_eq!(connections[idx].read_u8().await.unwrap(), 9, "{idx}");
        }
    }

    #[tokio::test]
    async fn connections_have_a_bound_and_give_their_place_back() {
        let config = GrpcConfig { max_connection_count: 1, ..GrpcConfig::default() };
        let (mut incoming, address, _phase) = connect(config).await;
        let mut first = TcpStream::connect(&address).await.unwrap();
        let mut held = incoming.next().await.unwrap().unwrap();
        first.write_all(&[7; GREETING_BYTES]).await.unwrap();
        held.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
        let peer = held.connect_info();
        let mut second = TcpStream::connect(&address).await.unwrap();
        let accepting = SpawnedTask::spawn(async move {
            let next = incoming.next().await.unwrap().unwrap();
            (next, incoming)
        });
        // Closed without a word.
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(peer.life.upgrade().is_some());
        drop(held);
        assert!(peer.life.upgrade().is_none());
        let _third = TcpStream::connect(&address).await.unwrap();
        let (_third_accepted, _incoming) = accepting.await.unwrap();
    }
}
