//! Connections of a listener that have not finished CONNECT: so many at a time. When one more comes, whoever keeps the node waiting for
//! the longest gives way, so that silence holds nobody up who has something to say.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::places::PlaceOf;

/// Who has said nothing yet may do so for this long: a client's first word comes with its connection, or right behind it.
const FIRST_WORD_WITHIN: Duration = Duration::from_millis(100);
/// Who has said something, and is waited for again, may be far away, or slow at TLS.
const NEXT_WORD_WITHIN: Duration = Duration::from_secs(1);
/// So often the client is given that time again: in TLS 1.2, in the upgrade to a WebSocket, in an exchange of AUTH packets. Who asks
/// for more answers than that, by pings, has no more time for it.
const ANSWERS_MAX: u8 = 4;
/// So many give way at once: behind the one who needs a place there are others, as a rule.
const AT_ONCE: usize = 16;
/// So often somebody is looked for who gives way, while there is no place.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Those of one listener.
pub(crate) struct Handshakes {
    free: Arc<Semaphore>,
    next: AtomicU64,
    /// In the order in which they came.
    under_way: Mutex<BTreeMap<u64, Arc<Mutex<Turn>>>>,
}

/// A place among them, given back when it is dropped: CONNECT is complete, or the connection gone.
pub(crate) struct Place {
    handshakes: Arc<Handshakes>,
    number: u64,
    turn: Arc<Mutex<Turn>>,
    _permit: OwnedSemaphorePermit,
}

/// Whose turn it is to say something.
struct Turn {
    /// The client's; since its connection was accepted, it has said its first word, or was answered. A byte now and then is no
    /// progress.
    since: Instant,
    has_spoken: bool,
    /// Something was heard that is not answered yet.
    is_asked: bool,
    answers: u8,
    /// What the node waits with. `None`: it does not wait for the client.
    waits: Option<Waker>,
    gives_way: bool,
    /// Whom it counts for, where unfinished connections of an address are limited.
    of: Option<PlaceOf>,
}

impl Handshakes {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(max as usize)),
            next: AtomicU64::default(),
            under_way: Mutex::default(),
        })
    }

    /// A place for somebody who was accepted. While there is none, those give way who keep the node waiting.
    pub(crate) async fn take(self: &Arc<Self>) -> Place {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return self.place(permit);
        }
        loop {
            ask_the_longest_silent(self.under_way.lock().values(), AT_ONCE);
            let freed = timeout(LOOK_AGAIN_AFTER, Arc::clone(&self.free).acquire_owned());
            if let Ok(Ok(permit)) = freed.await {
                return self.place(permit);
            }
        }
    }

    fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        let turn = Arc::new(Mutex::new(Turn::new()));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.under_way.lock().insert(number, Arc::clone(&turn));
        Place {
            handshakes: Arc::clone(self),
            number,
            turn,
            _permit: permit,
        }
    }
}

impl Place {
    /// From now on it counts for its client's address. Where that has `max` already, one of them gives way. False: none of them does.
    pub(crate) fn count_for(&self, of: &PlaceOf, max: u32) -> bool {
        let under_way = self.handshakes.under_way.lock();
        let is_of = |turn: &&Arc<Mutex<Turn>>| {
            let turn = turn.lock();
            turn.of.as_ref() == Some(of) && !turn.gives_way
        };
        let has_room = under_way.values().filter(is_of).count() < max as usize
            || ask_the_longest_silent(under_way.values().filter(is_of), 1);
        if has_room {
            self.turn.lock().of = Some(of.clone());
        }
        has_room
    }

    /// The socket of who has the place. What is read from it tells whether the client keeps the node waiting.
    pub(crate) fn watch(&self, stream: TcpStream) -> Arriving {
        Arriving {
            stream,
            turn: Arc::downgrade(&self.turn),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshakes.under_way.lock().remove(&self.number);
    }
}

impl Turn {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            has_spoken: false,
            is_asked: false,
            answers: 0,
            waits: None,
            gives_way: false,
            of: None,
        }
    }

    /// How long the client has kept the node waiting, if it is for too long.
    fn overdue(&self) -> Option<Duration> {
        let within = match self.has_spoken {
            false => FIRST_WORD_WITHIN,
            true => NEXT_WORD_WITHIN,
        };
        let silent = self.since.elapsed();
        (self.waits.is_some() && !self.gives_way && silent >= within).then_some(silent)
    }

    fn heard(&mut self) {
        self.waits = None;
        self.gives_way = false;
        self.is_asked = true;
        if !self.has_spoken {
            self.has_spoken = true;
            self.since = Instant::now();
        }
    }

    fn answered(&mut self) {
        if std::mem::take(&mut self.is_asked) && self.answers < ANSWERS_MAX {
            self.answers += 1;
            self.since = Instant::now();
        }
    }
}

/// Whether there is anybody who was silent for too long; so many of them give way. Who has not said a word goes before those who have.
fn ask_the_longest_silent<'a>(turns: impl Iterator<Item = &'a Arc<Mutex<Turn>>>, count: usize) -> bool {
    let overdue = turns.filter_map(|one| {
        let turn = one.lock();
        Some((turn.has_spoken, Reverse(turn.overdue()?), one))
    });
    let mut overdue: Vec<_> = overdue.collect();
    overdue.sort_unstable_by_key(|(has_spoken, silent, _)| (*has_spoken, *silent));
    for (_, _, turn) in overdue.iter().take(count) {
        let mut turn = turn.lock();
        turn.gives_way = true;
        if let Some(waker) = turn.waits.take() {
            waker.wake();
        }
    }
    !overdue.is_empty()
}

/// Another one needed the place.
#[derive(Debug, thiserror::Error)]
#[error("silent while others waited")]
struct GaveWay;

/// Whether a connection ended because it was silent while others waited for its place.
pub(crate) fn gave_way(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<GaveWay>())
}

/// A client's socket. From the moment that its place is given back, nothing but that.
pub(crate) struct Arriving {
    stream: TcpStream,
    turn: Weak<Mutex<Turn>>,
}

impl Arriving {
    /// `None`: it has arrived.
    fn turn(&mut self) -> Option<Arc<Mutex<Turn>>> {
        if Weak::ptr_eq(&self.turn, &Weak::new()) {
            return None;
        }
        let turn = self.turn.upgrade();
        if turn.is_none() {
            self.turn = Weak::new();
        }
        turn
    }

    /// The kernel knows what the runtime may not have been told yet.
    fn is_silent(&self) -> bool {
        let peeked = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Arriving {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(turn) = self.turn() else { return read };
        let mut turn = turn.lock();
        if read.is_ready() {
            turn.heard();
            return read;
        }
        if turn.gives_way {
            if self.is_silent() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, GaveWay)));
            }
            turn.heard();
        }
        turn.waits = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Arriving {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(turn) = self.turn() {
            turn.lock().answered();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(turn) = self.turn() {
            turn.lock().answered();
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A client's end, and the node's.
    async fn pair(listener: &TcpListener, place: &Place) -> (TcpStream, Arriving) {
        let dialling = TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, accepted) = tokio::join!(dialling, listener.accept());
        (dialled.unwrap(), place.watch(accepted.unwrap().0))
    }

    /// Waits for the client's words as a connection does, and keeps its place until there is an end.
    fn serve(place: Place, mut stream: Arriving) -> tokio::task::JoinHandle<io::Result<Vec<u8>>> {
        tokio::spawn(async move {
            let mut said = Vec::new();
            let read = stream.read_to_end(&mut said).await;
            drop(place);
            read.map(|_| said)
        })
    }

    #[tokio::test]
    async fn who_says_nothing_gives_way_and_who_has_spoken_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let handshakes = Handshakes::new(3);
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for says in [&b"half a word"[..], b"", b""] {
            let place = handshakes.take().await;
            let (mut client, stream) = pair(&listener, &place).await;
            client.write_all(says).await.unwrap();
            clients.push(client);
            served.push(serve(place, stream));
        }
        tokio::time::sleep(2 * FIRST_WORD_WITHIN).await;
        let _fourth = handshakes.take().await;
        for silent in served.drain(1..) {
            assert!(gave_way(&silent.await.unwrap().unwrap_err()));
        }
        drop(clients);
        assert_eq!(served.remove(0).await.unwrap().unwrap(), b"half a word");
        assert_eq!(handshakes.under_way.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_byte_now_and_then_keeps_no_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let handshakes = Handshakes::new(1);
        let place = handshakes.take().await;
        let (mut client, stream) = pair(&listener, &place).await;
        let served = serve(place, stream);
        tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let _next = timeout(10 * NEXT_WORD_WITHIN, handshakes.take()).await.unwrap();
        assert!(gave_way(&served.await.unwrap().unwrap_err()));
    }

    #[test]
    fn answers_give_time_again_and_not_without_end() {
        let mut turn = Turn::new();
        turn.heard();
        for answer in 0..=ANSWERS_MAX {
            let before = turn.since;
            std::thread::sleep(Duration::from_millis(2));
            turn.heard();
            assert_eq!(turn.since, before, "a byte more is no progress");
            turn.answered();
            assert_eq!(turn.since > before, answer < ANSWERS_MAX, "{answer}");
            let now = turn.since;
            turn.answered();
            assert_eq!(turn.since, now, "nothing was asked");
        }
    }

    #[tokio::test]
    async fn who_is_not_waited_for_keeps_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let handshakes = Handshakes::new(1);
        let place = handshakes.take().await;
        // Nobody reads: its password is judged, say.
        let (_client, _stream) = pair(&listener, &place).await;
        assert!(timeout(5 * FIRST_WORD_WITHIN, handshakes.take()).await.is_err());
        drop(place);
        handshakes.take().await;
    }

    #[tokio::test]
    async fn an_address_has_its_own_bound_and_its_silent_ones_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let handshakes = Handshakes::new(10);
        let of = |last: u8| PlaceOf::address([10, 0, 0, last].into());
        let silent = handshakes.take().await;
        let (_client, stream) = pair(&listener, &silent).await;
        assert!(silent.count_for(&of(1), 1));
        let served = serve(silent, stream);
        let next = handshakes.take().await;
        assert!(!next.count_for(&of(1), 1), "the other one has just come");
        assert!(next.count_for(&of(2), 1), "another address");
        tokio::time::sleep(2 * FIRST_WORD_WITHIN).await;
        let third = handshakes.take().await;
        assert!(third.count_for(&of(1), 1));
        assert!(gave_way(&served.await.unwrap().unwrap_err()));
    }
}
