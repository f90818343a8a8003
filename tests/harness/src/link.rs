//! A link from one node to another that a test can cut and heal: a TCP proxy on a port of its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const DIAL_LIMIT: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 16 * 1024;

/// How a link is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Connections are closed, and new ones too: both ends notice at once.
    Refuse,
    /// Nothing arrives any more, and nobody is told. What was under way arrives when the link is healed.
    Silent,
}

/// One direction of dialling: whoever dials the link's address speaks with its target. Ends with this value.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cut: Option<Cut>,
    ended: bool,
    next: u64,
    /// Both sides of each connection, to close them.
    open: BTreeMap<u64, [TcpStream; 2]>,
}

impl Link {
    /// A link in good order.
    pub fn to(target: SocketAddr) -> io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.state().ended {
                    return;
                }
                let serving = Arc::clone(&accepting);
                thread::spawn(move || serving.serve(stream));
            }
        });
        Ok(Link { address, shared })
    }

    /// What to dial instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks the link.
    pub fn cut(&self, cut: Cut) {
        let mut state = self.shared.state();
        state.cut = Some(cut);
        if cut == Cut::Refuse {
            state.close_all();
        }
        self.shared.changed.notify_all();
    }

    /// Mends the link.
    pub fn heal(&self) {
        self.shared.state().cut = None;
        self.shared.changed.notify_all();
    }

    /// How many connections go through the link.
    pub fn connections(&self) -> usize {
        self.shared.state().open.len()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        state.close_all();
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts, which then sees the end.
        drop(TcpStream::connect_timeout(&self.address, DIAL_LIMIT));
    }
}

impl State {
    fn close_all(&mut self) {
        for stream in std::mem::take(&mut self.open).into_values().flatten() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the link is silent; an error when nothing may pass any more.
    fn passable(&self) -> io::Result<MutexGuard<'_, State>> {
        let silent = |state: &mut State| state.cut == Some(Cut::Silent) && !state.ended;
        let waited = self.changed.wait_while(self.state(), silent);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        match state.ended || state.cut == Some(Cut::Refuse) {
            true => Err(io::ErrorKind::ConnectionRefused.into()),
            false => Ok(state),
        }
    }

    fn serve(self: Arc<Self>, near: TcpStream) {
        let Ok((number, far)) = self.open(&near) else {
            return;
        };
        let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else {
            return self.close(number);
        };
        let back = Arc::clone(&self);
        let back = thread::spawn(move || back.copy(far_again, near_again));
        self.copy(near, far);
        drop(back.join());
        self.close(number);
    }

    fn open(&self, near: &TcpStream) -> io::Result<(u64, TcpStream)> {
        drop(self.passable()?);
        let far = TcpStream::connect_timeout(&self.target, DIAL_LIMIT)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let both = [near.try_clone()?, far.try_clone()?];
        // Looked at again under the lock that `cut` takes: no connection slips through.
        let mut state = self.passable()?;
        state.next += 1;
        let number = state.next;
        state.open.insert(number, both);
        Ok((number, far))
    }

    fn close(&self, number: u64) {
        self.state().open.remove(&number);
    }

    /// Passes on what comes until one side ends. What is read while the link is silent waits here.
    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = from.read(&mut chunk) {
            let Ok(state) = self.passable() else { break };
            drop(state);
            if to.write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        // The end of a stream is news, too, and has to wait like other news.
        drop(self.passable());
        to.shutdown(Shutdown::Write).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const MOMENT: Duration = Duration::from_millis(200);

    /// Sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut chunk = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut chunk) {
                        stream.write_all(&chunk[..length]).unwrap();
                    }
                });
            }
        });
        address
    }

    fn dial(link: &Link) -> TcpStream {
        let stream = TcpStream::connect(link.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn says(stream: &mut TcpStream, word: &[u8]) {
        stream.write_all(word).unwrap();
        hears(stream, word);
    }

    fn hears(stream: &mut TcpStream, word: &[u8]) {
        let mut heard = vec![0; word.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, word);
    }

    #[test]
    fn a_link_passes_on_both_ways() {
        let link = Link::to(echo()).unwrap();
        let mut stream = dial(&link);
        says(&mut stream, b"hello");
        assert_eq!(link.connections(), 1);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the end is passed on");
    }

    #[test]
    fn a_refusing_link_closes_what_is_open_and_what_comes() {
        let link = Link::to(echo()).unwrap();
        let mut stream = dial(&link);
        says(&mut stream, b"hello");
        link.cut(Cut::Refuse);
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        assert!(matches!(dial(&link).read(&mut [0]), Ok(0) | Err(_)));
        assert_eq!(link.connections(), 0);
        link.heal();
        says(&mut dial(&link), b"again");
    }

    #[test]
    fn a_silent_link_keeps_everything_until_it_is_healed() {
        let link = Link::to(echo()).unwrap();
        let mut stream = dial(&link);
        says(&mut stream, b"hello");
        link.cut(Cut::Silent);
        let mut new = dial(&link);
        stream.write_all(b"lost?").unwrap();
        new.write_all(b"new").unwrap();
        for stream in [&mut stream, &mut new] {
            stream.set_read_timeout(Some(MOMENT)).unwrap();
            assert!(stream.read(&mut [0]).is_err(), "nothing comes, not even an end");
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        link.heal();
        hears(&mut stream, b"lost?");
        hears(&mut new, b"new");
    }

    #[test]
    fn a_link_that_is_gone_refuses() {
        let link = Link::to(echo()).unwrap();
        let mut stream = dial(&link);
        says(&mut stream, b"hello");
        let address = link.address();
        drop(link);
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        let refused = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            TcpStream::connect(address).is_err()
        });
        assert!(refused, "nobody listens any more");
    }
}
