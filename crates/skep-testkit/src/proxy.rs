//! A TCP proxy that can be cut, as a network can, and that can stand still.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A proxy on loopback; it passes bytes on until it is cut, or the test process ends.
#[derive(Debug, Clone)]
pub struct Proxy {
    address: String,
    shared: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    /// Both ends of each connection.
    open: Vec<TcpStream>,
    refused: usize,
    /// How many more bytes of answers are passed on; none for all.
    allowance: Option<u64>,
}

impl Proxy {
    /// Starts a proxy in front of HOST:PORT.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub fn start(target: impl Into<String>) -> std::io::Result<Self> {
        let target = target.into();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Mutex::new(State::default()));
        let proxy = Self { address, shared, changed: Arc::default() };
        let accepting = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.serve(client, &target);
            }
        });
        Ok(proxy)
    }

    /// Returns HOST:PORT of the proxy.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts all connections, and each that is tried from now on.
    pub fn cut(&self) {
        let mut state = self.state();
        state.is_cut = true;
        for connection in state.open.drain(..) {
            // It may be gone already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Stands still when so many more bytes have come from the other side.
    pub fn hold_after(&self, bytes: u64) {
        self.state().allowance = Some(bytes);
    }

    /// Passes everything on again.
    pub fn release(&self) {
        self.state().allowance = None;
        self.changed.notify_all();
    }

    /// Waits until so many bytes of an answer may be passed on.
    fn wait_to_pass(&self, count: usize) {
        let mut state = self.state();
        loop {
            match &mut state.allowance {
                None => return,
                Some(left) if *left >= count as u64 => {
                    *left -= count as u64;
                    return;
                }
                Some(_) => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Returns how many connections were tried since it was cut.
    pub fn refused(&self) -> usize {
        self.state().refused
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, client: TcpStream, target: &str) {
        let mut state = self.state();
        if state.is_cut {
            state.refused += 1;
            return;
        }
        let Ok(server) = TcpStream::connect(target) else { return };
        for (from, to, is_answer) in [(&client, &server, false), (&server, &client, true)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
            let proxy = is_answer.then(|| self.clone());
            thread::spawn(move || pass(from, to, proxy));
        }
        state.open.extend([client, server]);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, answers: Option<Proxy>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(proxy) = &answers {
            proxy.wait_to_pass(count);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
