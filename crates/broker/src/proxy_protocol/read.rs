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
