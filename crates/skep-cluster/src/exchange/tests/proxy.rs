//! A connection that somebody tampers with.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::*;

/// What happens to what the keeper says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tampering {
    /// It is cut off after so many bytes.
    CutAfter(usize),
    /// The byte there is changed.
    Flip(usize),
    /// Nothing goes on after so many bytes, and the connection stays.
    HangAfter(usize),
}

pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    /// Bytes of the keeper that came here.
    pub(super) passed: Arc<AtomicUsize>,
    _work: SpawnedTask<()>,
}

impl Proxy {
    pub(super) async fn start(keeper: SocketAddr, tampering: Tampering) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let passed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&passed);
        let work = SpawnedTask::spawn(async move {
            let (reader, _) = listener.accept().await.unwrap();
            let keeper = TcpStream::connect(keeper).await.unwrap();
            let (from_reader, to_reader) = reader.into_split();
            let (from_keeper, to_keeper) = keeper.into_split();
            let is_hanging = Arc::new(AtomicUsize::new(0));
            let up = SpawnedTask::spawn(pass(from_reader, to_keeper, Arc::clone(&is_hanging)));
            tamper(from_keeper, to_reader, tampering, &count, &is_hanging).await;
            drop(up);
        });
        Self { address, passed, _work: work }
    }
}

/// Passes on what the reader says, and swallows it once the connection hangs.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_hanging: Arc<AtomicUsize>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let swallow = is_hanging.load(Ordering::SeqCst) > 0;
        if !swallow && to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

async fn tamper(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    tampering: Tampering,
    count: &AtomicUsize,
    is_hanging: &AtomicUsize,
) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let before = count.fetch_add(length, Ordering::SeqCst);
        let after = before + length;
        let passed = &mut bytes[..length];
        match tampering {
            Tampering::CutAfter(limit) if after > limit => {
                let _ = to.write_all(&passed[..limit - before]).await;
                return;
            }
            Tampering::HangAfter(limit) if after > limit => {
                is_hanging.store(1, Ordering::SeqCst);
                let _ = to.write_all(&passed[..limit - before]).await;
                std::future::pending::<()>().await;
            }
            Tampering::Flip(place) if (before..after).contains(&place) => {
                passed[place - before] ^= 0x10;
            }
            _ => {}
        }
        if to.write_all(passed).await.is_err() {
            return;
        }
    }
}
