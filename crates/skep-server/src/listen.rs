//! Taking an address, and connections that can be cut.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::error::{Error, Result};

/// How long to wait after the system could not accept a connection: it is mostly short of files,
/// and asking again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How far a server is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It takes nothing new, and finishes what runs.
    Draining,
    /// All its connections are cut.
    Cut,
}

/// Listens on HOST:PORT.
///
/// # Errors
/// [`Error::InvalidAddress`]; [`Error::OpenToAll`] for an address that other machines can reach,
/// unless `is_insecure`; [`Error::Listen`] if the system does not let us.
pub(crate) async fn bind(address: &str, is_insecure: bool) -> Result<TcpListener> {
    let invalid = |message: String| Error::InvalidAddress { address: address.to_owned(), message };
    if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(invalid("it has no port".to_owned()));
    }
    let places: Vec<SocketAddr> =
        lookup_host(address).await.map_err(|error| invalid(error.to_string()))?.collect();
    if !is_insecure && places.iter().any(|place| !place.ip().is_loopback()) {
        return Err(Error::OpenToAll { address: address.to_owned() });
    }
    let failed = |source| Error::Listen { address: address.to_owned(), source };
    TcpListener::bind(&places[..]).await.map_err(failed)
}

/// Returns HOST:PORT at which others reach this process: what it was told, with the port that it
/// listens on in place of 0, or where it listens.
///
/// # Errors
/// [`Error::InvalidAddress`] if what it was told has no host or no port.
pub(crate) fn advertised(address: Option<&str>, local: SocketAddr) -> Result<String> {
    let Some(address) = address else { return Ok(local.to_string()) };
    match address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(0))) if !host.is_empty() => Ok(format!("{host}:{}", local.port())),
        Some((host, Ok(_))) if !host.is_empty() => Ok(address.to_owned()),
        _ => Err(Error::InvalidAddress {
            address: address.to_owned(),
            message: "it has no host or no port".to_owned(),
        }),
    }
}

/// Who is connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<HashMap<SocketAddr, Life>>>);

/// The life of a connection, seen from elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Life(Weak<()>);

/// A connection's entry among the peers, which ends with it.
#[derive(Debug)]
pub(crate) struct Arrival {
    peers: Peers,
    place: SocketAddr,
    alive: Arc<()>,
}

impl Peers {
    /// Notes a new connection.
    pub(crate) fn arrived(&self, place: SocketAddr) -> Arrival {
        let alive = Arc::new(());
        self.0.lock().insert(place, Life(Arc::downgrade(&alive)));
        Arrival { peers: self.clone(), place, alive }
    }

    /// Returns the life of the connection from a place, if there is one.
    pub(crate) fn life(&self, place: SocketAddr) -> Option<Life> {
        self.0.lock().get(&place).filter(|life| !life.is_over()).cloned()
    }
}

impl Life {
    /// Returns whether the connection is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Returns whether this is the same connection.
    pub(crate) fn ptr_eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mine = Life(Arc::downgrade(&self.alive));
        let mut peers = self.peers.0.lock();
        // Another connection may have come from the same place.
        if peers.get(&self.place).is_some_and(|known| known.ptr_eq(&mine)) {
            peers.remove(&self.place);
        }
    }
}

/// Returns the connections that come in, until the server is cut.
pub(crate) fn accept(
    listener: TcpListener,
    phase: watch::Receiver<Phase>,
    peers: Peers,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    stream::unfold((listener, phase, peers), |(listener, phase, peers)| async move {
        let accepted = listener.accept().await.and_then(|(stream, peer)| {
            stream.set_nodelay(true)?;
            Ok(Connection::new(stream, phase.clone(), peers.arrived(peer)))
        });
        if accepted.is_err() {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        Some((accepted, (listener, phase, peers)))
    })
}

/// One connection. When its server is cut or gone, it breaks off: whoever serves a connection has
/// tasks of its own, and would go on until the other side left.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Ready once it is to break off.
    cut: BoxFuture<'static, ()>,
    is_cut: bool,
    _arrival: Arrival,
}

impl Connection {
    fn new(stream: TcpStream, mut phase: watch::Receiver<Phase>, arrival: Arrival) -> Self {
        let cut = async move {
            // An error says that the server is gone.
            let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
        };
        Self { stream, cut: cut.boxed(), is_cut: false, _arrival: arrival }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.poll_unpin(cx).is_ready();
        if self.is_cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn what_is_advertised_is_where_it_listens_unless_told() {
        let local = "127.0.0.1:7".parse().unwrap();
        for (told, expected) in [
            (None, "127.0.0.1:7"),
            (Some("bees.example:9"), "bees.example:9"),
            (Some("bees.example:0"), "bees.example:7"),
        ] {
            assert_eq!(advertised(told, local).unwrap(), expected);
        }
        for wrong in ["bees", ":7", "bees:", "bees:many"] {
            assert!(matches!(advertised(Some(wrong), local), Err(Error::InvalidAddress { .. })));
        }
    }

    #[tokio::test]
    async fn an_open_address_wants_to_be_asked_for() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let error = bind(address, false).await.unwrap_err();
            assert!(matches!(error, Error::OpenToAll { .. }), "{error}");
            assert!(error.hint().unwrap().contains("--insecure"));
        }
        assert!(bind("127.0.0.1:0", false).await.is_ok());
        assert!(bind("0.0.0.0:0", true).await.is_ok());
    }

    #[tokio::test]
    async fn addresses_that_are_none_are_refused() {
        for address in ["", "localhost", "127.0.0.1:", "127.0.0.1:99999", "grpc://127.0.0.1"] {
            let error = bind(address, false).await.unwrap_err();
            assert!(matches!(error, Error::InvalidAddress { .. }), "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_said_to_be() {
        let first = bind("127.0.0.1:0", false).await.unwrap();
        let address = first.local_addr().unwrap().to_string();
        let error = bind(&address, false).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(error.hint().unwrap().contains("another process"));
    }

    #[tokio::test]
    async fn a_cut_connection_breaks_off_while_it_waits() {
        let listener = bind("127.0.0.1:0", false).await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let (phase, watched) = watch::channel(Phase::Serving);
        let peers = Peers::default();
        let mut connection = Connection::new(stream, watched, peers.arrived(peer));
        let reading = async { connection.read_u8().await.unwrap_err().kind() };
        let cutting = async { phase.send(Phase::Cut).unwrap() };
        let (kind, ()) = tokio::join!(reading, cutting);
        assert_eq!(kind, io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn a_peer_is_there_as_long_as_its_connection() {
        let (peers, place) = (Peers::default(), SocketAddr::from(([127, 0, 0, 1], 1)));
        let first = peers.arrived(place);
        let life = peers.life(place).unwrap();
        // Its place was taken again before its end was seen.
        let second = peers.arrived(place);
        assert!(!peers.life(place).unwrap().ptr_eq(&life));
        drop(first);
        assert!(life.is_over());
        assert!(peers.life(place).is_some());
        drop(second);
        assert!(peers.life(place).is_none());
        assert!(peers.0.lock().is_empty());
    }
}
