//! One HTTP request and its answer: enough for a node's admin listener, which closes when it is asked to.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, ensure};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A node that leaves may have much to hand over.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// More than any answer of a node.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Status and body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Sends a request without a body.
pub(super) fn ask(address: &str, method: &str, path: &str) -> anyhow::Result<Answer> {
    let mut stream = connect(address)?;
    stream.set_write_timeout(Some(CONNECT_LIMIT))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&answer)
}

fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut outcome = Err(anyhow::anyhow!("{address} has no address"));
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => outcome = Err(error.into()),
        }
    }
    outcome
}

fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let text = std::str::from_utf8(answer).context("the answer is not text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = name
            .eq_ignore_ascii_case("content-length")
            .then(|| value.trim())?;
        value.parse::<usize>().ok()
    });
    ensure!(
        length.is_none_or(|length| length == body.len()),
        "the answer ended early"
    );
    Ok(Answer {
        status: status.context("the answer has no status")?,
        body: body.to_owned(),
    })
}

/// A part of a path, with everything but letters, digits and a few signs written as `%` and hexadecimal digits.
pub(super) fn escaped(part: &str) -> String {
    let mut escaped = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        let answer = parse(b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nno\n").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (409, "no\n"));
        for broken in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nno",
        ] {
            assert!(parse(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn names_of_nodes_cannot_leave_their_place_in_a_path() {
        assert_eq!(escaped("node-1.a"), "node-1.a");
        assert_eq!(escaped("../a b?%"), "..%2Fa%20b%3F%25");
    }
}
