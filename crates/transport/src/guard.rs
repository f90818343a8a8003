//! A connection that a token can cut, and that must show its first bytes in time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::net::{Io, Proof};

/// How many bytes show that a client speaks HTTP/2.
const PREFACE_BYTES: usize = 24;

/// A connection with a guard. `T` is kept as long as the connection.
pub(crate) struct Guarded<T> {
    io: Box<dyn Io>,
    cut: CancellationToken,
    cut_wait: Pin<Box<WaitForCancellationFutureOwned>>,
    preface: Option<Preface>,
    proof: Proof,
    _kept: T,
}

struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<T> Guarded<T> {
    pub(crate) fn new(io: Box<dyn Io>, cut: &CancellationToken, kept: T) -> Self {
        Self {
            io,
            cut: cut.clone(),
            cut_wait: Box::pin(cut.clone().cancelled_owned()),
            preface: None,
            proof: Proof::none(),
            _kept: kept,
        }
    }

    /// The other end has to begin with HTTP/2 within some time.
    pub(crate) fn with_preface_within(mut self, within: Duration) -> Self {
        self.preface = Some(Preface {
            missing: PREFACE_BYTES,
            deadline: Box::pin(tokio::time::sleep(within)),
        });
        self
    }

    /// What the other end has proved.
    pub(crate) fn with_proof(mut self, proof: Proof) -> Self {
        self.proof = proof;
        self
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.is_cancelled() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl<T: Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut_wait.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Some(preface) = &mut self.preface {
            preface.missing = preface.missing.saturating_sub(buf.filled().len() - before);
            if preface.missing == 0 {
                self.preface = None;
            } else if read.is_pending() {
                ready!(preface.deadline.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<T: Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: Send + Sync + 'static> tonic::transport::server::Connected for Guarded<T> {
    type ConnectInfo = Proof;

    fn connect_info(&self) -> Proof {
        self.proof.clone()
    }
}
