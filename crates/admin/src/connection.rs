//! Connections to the admin listener: so many at a time, and none that stays silent for long. Probes come here, too, and a node
//! that does not answer them is restarted: so whoever has been silent for the longest gives way to the next.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// One more takes the place of another.
const CONNECTIONS_MAX: usize = 256;
/// A connection on which nothing moves for this long is closed; longer than Prometheus' usual interval.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// How HTTP/2 begins, and no request of HTTP/1. It is not spoken here: one connection could ask for many things at once, and take
/// them back. The library would speak it, since it does where nodes talk to each other.
const HTTP_2: &[u8] = b"PRI ";
/// A failed accept (no file descriptors left) is tried again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Guarded {
    listener: TcpListener,
    started: Instant,
    places: Vec<Place>,
}

/// Of a connection that was accepted.
struct Place {
    /// When something moved on it, in milliseconds since the start.
    moved_ms: Arc<AtomicU64>,
    /// When this is dropped, the connection ends.
    kept: oneshot::Sender<()>,
}

impl Guarded {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            started: Instant::now(),
            places: Vec::new(),
        }
    }

    fn take_in(&mut self, stream: TcpStream) -> Connection {
        self.places.retain(|place| !place.kept.is_closed());
        let silent = |place: &Place| place.moved_ms.load(Ordering::Relaxed);
        while self.places.len() >= CONNECTIONS_MAX {
            let longest = self
                .places
                .iter()
                .enumerate()
                .min_by_key(|(_, place)| silent(place));
            let Some((longest, _)) = longest else { break };
            self.places.swap_remove(longest);
        }
        let moved_ms = Arc::new(AtomicU64::new(self.started.elapsed().as_millis() as u64));
        let (kept, gives_way) = oneshot::channel();
        self.places.push(Place {
            moved_ms: Arc::clone(&moved_ms),
            kept,
        });
        Connection {
            stream,
            idle: Box::pin(tokio::time::sleep(IDLE_LIMIT)),
            started: self.started,
            moved_ms,
            gives_way,
            over: false,
            like_http_2: Some(0),
        }
    }
}

impl Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (self.take_in(stream), peer),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    started: Instant,
    moved_ms: Arc<AtomicU64>,
    gives_way: oneshot::Receiver<()>,
    over: bool,
    /// So many bytes came, and all were those of HTTP/2's beginning; `None`: others came.
    like_http_2: Option<usize>,
}

impl Connection {
    /// Whether what has come, with these bytes, begins as HTTP/2.
    fn is_http_2(&mut self, bytes: &[u8]) -> bool {
        let Some(before) = self.like_http_2 else {
            return false;
        };
        let expected = &HTTP_2[before..];
        let compared = expected.len().min(bytes.len());
        let is_alike = expected[..compared] == bytes[..compared];
        self.like_http_2 = is_alike.then_some(before + compared);
        self.like_http_2 == Some(HTTP_2.len())
    }

    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_LIMIT);
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.moved_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Nothing moves: for too long, or while another one needs the place?
    fn poll_end<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.over = self.over
            || self.idle.as_mut().poll(context).is_ready()
            || Pin::new(&mut self.gives_way).poll(context).is_ready();
        match self.over {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            return self.poll_end(context);
        }
        if self.is_http_2(&buffer.filled()[before..]) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.moved();
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        match written {
            Poll::Pending => self.poll_end(context),
            written => {
                // Whoever looks on says nothing, and reads.
                self.moved();
                written
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
