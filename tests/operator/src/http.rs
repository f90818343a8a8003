//! Requests to a node's admin listener, with full control of the head.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// A node's admin listener.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    head: String,
}

/// What a node tells as it happens.
pub struct Events(Lines<BufReader<TcpStream>>);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Everything before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Api {
    /// Asks at an address, without a token.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            head: String::new(),
        }
    }

    /// Sends a line of the head with every request.
    pub fn with(mut self, line: &str) -> Self {
        self.head.push_str(line);
        self.head.push_str("\r\n");
        self
    }

    /// Sends a token with every request.
    pub fn token(self, token: &str) -> Self {
        self.with(&format!("Authorization: Bearer {token}"))
    }

    /// Sends a request; `body` is JSON.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = self.head.clone();
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        if !head.to_lowercase().contains("host:") {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\n{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .with_context(|| format!("{method} {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
        let status = head.split_whitespace().nth(1).context("no status")?.parse()?;
        Ok(Answer {
            status,
            head: head.to_lowercase(),
            body: body.to_owned(),
        })
    }

    /// Asks for what happens from now on, and waits until the node says that it tells it.
    pub fn follow(&self, path: &str) -> Result<Events> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let (head, host) = (&self.head, self.address);
        write!(stream, "GET {path} HTTP/1.0\r\n{head}Host: {host}\r\n\r\n")?;
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().context("an answer")??;
        anyhow::ensure!(status.contains(" 200 "), "{path}: {status}");
        while !lines.next().context("the end of the head")??.is_empty() {}
        Ok(Events(lines))
    }

    /// A good answer in JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, None)?.good()
    }

    /// Sends JSON and expects a good answer.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", path, Some(body))?.good()
    }
}

impl Iterator for Events {
    type Item = Result<Value>;

    /// The next event; none, if there are no more.
    fn next(&mut self) -> Option<Result<Value>> {
        loop {
            match self.0.next()? {
                Err(error) => return Some(Err(error.into())),
                Ok(line) => {
                    let Some(json) = line.strip_prefix("data: ") else {
                        continue;
                    };
                    return Some(serde_json::from_str(json).context(line));
                }
            }
        }
    }
}

impl Answer {
    /// The body of a good answer.
    pub fn good(self) -> Result<Value> {
        anyhow::ensure!(
            (200..300).contains(&self.status),
            "{}: {}",
            self.status,
            self.body
        );
        match self.body.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_str(&self.body).context(self.body),
        }
    }
}
