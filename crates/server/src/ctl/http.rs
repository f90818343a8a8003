//! One HTTP request and its answer: enough for a node's admin listener, which closes when it is asked to.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, ensure};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What is asked may take a node a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// More than any answer of a node.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is asked of a node.
#[derive(Debug, Default)]
pub(crate) struct Request<'a> {
    pub(crate) address: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) token: Option<&'a str>,
    /// In JSON.
    pub(crate) body: Option<String>,
}

/// Status and body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl<'a> Request<'a> {
    pub(crate) fn get(address: &'a str, path: &'a str) -> Self {
        Self {
            address,
            method: "GET",
            path,
            ..Self::default()
        }
    }

    /// Opens a connection and asks. HTTP 1.0 has no parts: the body is all that comes until the end.
    fn send(&self) -> anyhow::Result<TcpStream> {
        let mut stream = connect(self.address)?;
        stream.set_write_timeout(Some(CONNECT_LIMIT))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let Self {
            address,
            method,
            path,
            ..
        } = self;
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n");
        if let Some(token) = self.token {
            ensure!(
                token.bytes().all(|byte| byte.is_ascii_graphic()),
                "the token has signs that none has"
            );
            // Writing to a String has no way to fail.
            let _ = write!(head, "Authorization: Bearer {token}\r\n");
        }
        if self.body.is_some() {
            head.push_str("Content-Type: application/json\r\n");
        }
        let body = self.body.as_deref().unwrap_or("");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
        Ok(stream)
    }
}

/// Asks and waits for the whole answer.
pub(crate) fn ask(request: &Request<'_>) -> anyhow::Result<Answer> {
    let mut answer = Vec::new();
    request.send()?.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&answer)
}

/// Asks, and shows each line of the answer as it comes, until it ends or `show` fails. The status, if it is not 200, comes
/// with the whole body.
pub(crate) fn follow(
    request: &Request<'_>,
    mut show: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Answer> {
    let mut reader = BufReader::new(request.send()?);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let count = (&mut reader).take(8192).read_until(b'\n', &mut head)?;
        ensure!(count > 0, "the answer is not HTTP");
    }
    let answer = parse_parts(&head, "")?;
    if answer.status != 200 {
        let mut body = String::new();
        reader.take(ANSWER_BYTES_MAX).read_to_string(&mut body)?;
        return Ok(Answer { body, ..answer });
    }
    for line in reader.lines() {
        show(&line?)?;
    }
    Ok(answer)
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
    parse_parts(head.as_bytes(), body)
}

fn parse_parts(head: &[u8], body: &str) -> anyhow::Result<Answer> {
    let head = std::str::from_utf8(head).context("the answer is not text")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.context("the answer has no status")?,
        body: body.to_owned(),
    })
}

/// A part of a path or of a query, with everything but letters, digits and a few signs written as `%` and hexadecimal digits.
pub(crate) fn escaped(part: &str) -> String {
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

    #[test]
    fn a_token_cannot_add_lines_to_a_request() {
        let request = Request {
            token: Some("a\r\nX: y"),
            ..Request::get("127.0.0.1:1", "/")
        };
        assert!(request.send().is_err());
    }
}
