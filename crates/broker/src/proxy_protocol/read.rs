//! Takes a header from a socket, and not one byte of what follows it.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Header, LINE_MAX, Malformed, Progress, parse};

/// Why no header was read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The connection ended, or never said anything.
    Gone,
    /// What came is no header.
    Malformed(Malformed),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The first byte, which stays where it is. `None`: the connection ended without one.
pub(super) async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    match stream.peek(&mut byte).await {
        Ok(1) => Some(byte[0]),
        _ => None,
    }
}

/// Reads one header; what follows stays in the socket, as TLS has to see all of it.
pub(super) async fn header(stream: &mut TcpStream) -> Result<Header, ReadError> {
    let mut bytes = Vec::with_capacity(LINE_MAX);
    loop {
        match parse(&bytes).map_err(ReadError::Malformed)? {
            Progress::Complete(header, _) => return Ok(header),
            Progress::Need(more) => read_exactly(stream, &mut bytes, more).await?,
            Progress::NeedLine => {
                let mut ahead = [0; LINE_MAX];
                let seen = stream.peek(&mut ahead[..LINE_MAX - bytes.len()]).await?;
                let line_end = ahead[..seen].iter().position(|byte| *byte == b'\n');
                read_exactly(stream, &mut bytes, line_end.map_or(seen, |end| end + 1)).await?;
            }
        }
    }
}

async fn read_exactly(stream: &mut TcpStream, bytes: &mut Vec<u8>, more: usize) -> Result<(), ReadError> {
    if more == 0 {
        return Err(ReadError::Gone);
    }
    let start = bytes.len();
    bytes.resize(start + more, 0);
    stream.read_exact(&mut bytes[start..]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const CLIENT: &[u8] = b"\x10\x0d and what else a client says";

    /// What the header says, and what is left in the socket behind it.
    async fn read(pieces: &[&[u8]]) -> (Header, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        proxy.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let send = async {
            for piece in pieces {
                proxy.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            proxy.shutdown().await.unwrap();
        };
        let (header, ()) = tokio::join!(header(&mut stream), send);
        let mut left = Vec::new();
        stream.read_to_end(&mut left).await.unwrap();
        (header.unwrap(), left)
    }

    #[tokio::test]
    async fn not_one_byte_behind_a_header_is_taken() {
        let binary = [&super::super::SIGNATURE[..], b"\x20\x00\x00\x00"].concat();
        for header in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            &binary,
        ] {
            let all = [header, CLIENT].concat();
            let (at_once, left) = read(&[&all]).await;
            assert_eq!(left, CLIENT, "{}", header.escape_ascii());
            let bytes: Vec<_> = all.chunks(1).collect();
            let (by_bytes, left) = read(&bytes).await;
            assert_eq!(left, CLIENT, "{}", header.escape_ascii());
            assert_eq!(at_once, by_bytes);
        }
    }
}
