//! Plain functions for a fuzzer to call with any bytes. They panic only if the broker is wrong.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::websocket_frames::ByteStream;

/// Takes the bytes as what follows a WebSocket's handshake, whole and in pieces of the size that the first byte says: what
/// comes out is the same, and so is the end.
///
/// # Panics
/// That is not so.
pub fn websocket(bytes: &[u8]) {
    let Some((piece, stream)) = bytes.split_first() else {
        return;
    };
    let (whole, is_whole_right) = read(stream, stream.len().max(1));
    let (pieces, are_pieces_right) = read(stream, usize::from(*piece).max(1));
    assert_eq!(whole, pieces, "the pieces change what comes out");
    assert_eq!(
        is_whole_right, are_pieces_right,
        "the pieces change whether it is right"
    );
    assert!(whole.len() <= stream.len(), "more comes out than went in");
}

/// What comes out until the end or an error, and which of both it was.
fn read(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut stream = ByteStream::new(Pieces {
        left: bytes.to_vec(),
        piece,
    });
    let mut read = Vec::new();
    let result = pin!(stream.read_to_end(&mut read)).poll(&mut Context::from_waker(Waker::noop()));
    match result {
        Poll::Ready(result) => (read, result.is_ok()),
        Poll::Pending => panic!("it waits for a socket that never waits"),
    }
}

/// A socket with these bytes; whatever is written is gone.
struct Pieces {
    left: Vec<u8>,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.left.len()).min(buf.remaining());
        buf.put_slice(&self.left[..length]);
        self.left.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
