//! Who may ask: by token, or, where there are none, from this machine and not on behalf of a foreign web page.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use serde::Serialize;
use tokio::sync::watch;
use tracing::info;

use crate::cluster::AdminError;
use crate::connection::Guarded;

/// A token is at least this long.
pub const TOKEN_BYTES_MIN: usize = 32;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Read,
    /// Look and change.
    Write,
}

/// The tokens that are accepted. With none at all, this machine may do everything and nobody else anything.
#[derive(Clone, Default)]
pub struct Access {
    /// Each permits to look.
    pub read: Vec<String>,
    /// Each permits to look and to change.
    pub write: Vec<String>,
}

/// What a request was let in as.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Granted {
    pub(crate) role: Role,
    /// `token` or `loopback`.
    pub(crate) by: &'static str,
}

/// The tokens that are accepted now.
#[derive(Clone)]
pub(crate) struct Current(Arc<watch::Sender<Access>>);

/// Of a request that is answered for as long as it takes: whether it would still be let in.
#[derive(Clone)]
pub(crate) struct Welcome {
    access: watch::Receiver<Access>,
    peer: IpAddr,
    headers: HeaderMap,
}

impl Current {
    pub(crate) fn new(access: Access) -> Self {
        Self(Arc::new(watch::Sender::new(access)))
    }

    pub(crate) fn has_tokens(&self) -> bool {
        self.0.borrow().has_tokens()
    }

    pub(crate) fn set(&self, access: Access) {
        self.0.send_replace(access);
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().fmt(f)
    }
}

impl Welcome {
    /// Ends when other tokens are accepted, and not what this request came with.
    pub(crate) async fn is_over(&mut self) {
        while self.access.changed().await.is_ok() {
            if self
                .access
                .borrow_and_update()
                .judge(self.peer, &self.headers)
                .is_err()
            {
                return;
            }
        }
        // Nobody can change it any more.
        std::future::pending().await
    }
}

/// The other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Connected<IncomingStream<'_, Guarded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tokens to read, {} to write",
            self.read.len(),
            self.write.len()
        )
    }
}

impl Access {
    /// Whether there are tokens.
    pub fn has_tokens(&self) -> bool {
        !(self.read.is_empty() && self.write.is_empty())
    }

    /// What a request may do, or why it may do nothing.
    fn judge(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Granted, AdminError> {
        if self.has_tokens() {
            let role = bearer(headers).and_then(|token| self.role_of(token));
            let granted = role.map(|role| Granted { role, by: "token" });
            return granted.ok_or(AdminError::Unauthorized);
        }
        let refused = |reason: &str| Err(AdminError::Forbidden(reason.to_owned()));
        if !peer.to_canonical().is_loopback() {
            return refused(
                "without admin.read_tokens or admin.write_tokens only this machine (127.0.0.1, ::1) is answered: \
                 run `flotilla ctl` there",
            );
        }
        // A page whose name was made to mean this machine still says its name.
        if !is_this_machine(host(headers)) {
            return refused("without tokens the node is to be asked as localhost, 127.0.0.1 or [::1]");
        }
        if is_foreign_page(headers) {
            return refused("without tokens web pages of others are not answered");
        }
        Ok(Granted {
            role: Role::Write,
            by: "loopback",
        })
    }

    /// Every token is compared to its end, so that the time tells nothing.
    fn role_of(&self, token: &str) -> Option<Role> {
        let among = |tokens: &[String]| {
            let found = tokens
                .iter()
                .filter(|known| known.len() >= TOKEN_BYTES_MIN)
                .map(|known| u8::from(same(known.as_bytes(), token.as_bytes())));
            found.fold(0, |any, one| any | one) == 1
        };
        let (write, read) = (among(&self.write), among(&self.read));
        match (write, read) {
            (true, _) => Some(Role::Write),
            (false, true) => Some(Role::Read),
            (false, false) => None,
        }
    }
}

/// Lets a request in, and writes down who changed something.
pub(crate) async fn guard(
    State(current): State<Current>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let judged = current.0.borrow().judge(peer.ip(), request.headers());
    let granted = match judged {
        Ok(granted) => granted,
        Err(refused) => return refused.into_response(),
    };
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if changes && granted.role < Role::Write {
        return AdminError::Forbidden("this token may only look".to_owned()).into_response();
    }
    request.extensions_mut().insert(granted);
    if !changes {
        let welcome = Welcome {
            access: current.0.subscribe(),
            peer: peer.ip(),
            headers: request.headers().clone(),
        };
        request.extensions_mut().insert(welcome);
        return next.run(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = next.run(request).await;
    info!(target: "audit", event = "operator change", %peer, by = granted.by, %method, path,
        status = answer.status().as_u16());
    answer
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.unwrap_or("")
}

/// The host of `host:port`, also `[::1]:9100`.
pub(crate) fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, _)) => inner,
        None => host.split(':').next().unwrap_or(host),
    }
}

fn is_this_machine(host: &str) -> bool {
    let name = host_name(host);
    let loopback = name
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback());
    loopback || name.eq_ignore_ascii_case("localhost")
}

/// A browser says on whose behalf it asks. The dashboard is a page of this node itself.
fn is_foreign_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let own = |origin: &str| {
        origin
            .strip_prefix("http://")
            .is_some_and(|name| name == host(headers))
    };
    !origin.to_str().is_ok_and(own)
}

/// Takes as long for the first byte that differs as for the last.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0u8, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differing) == 0 && a.len() == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (header::HeaderName::from_static(name), value.parse().unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn judged(access: &Access, peer: &str, lines: &[(&'static str, &'static str)]) -> Result<Role, u16> {
        let judged = access.judge(peer.parse().unwrap(), &headers(lines));
        judged
            .map(|granted| granted.role)
            .map_err(|error| error.into_response().status().as_u16())
    }

    #[test]
    fn without_tokens_this_machine_may_do_everything_and_nobody_else_anything() {
        let none = Access::default();
        let local = [("host", "127.0.0.1:9100")];
        assert_eq!(judged(&none, "127.0.0.1", &local), Ok(Role::Write));
        assert_eq!(judged(&none, "::1", &[("host", "[::1]:9100")]), Ok(Role::Write));
        assert_eq!(
            judged(&none, "::ffff:127.0.0.1", &[("host", "localhost")]),
            Ok(Role::Write)
        );
        assert_eq!(judged(&none, "10.0.0.7", &local), Err(403));
    }

    #[test]
    fn without_tokens_only_the_nodes_own_page_is_answered() {
        let none = Access::default();
        let page = |host, origin| judged(&none, "127.0.0.1", &[("host", host), ("origin", origin)]);
        assert_eq!(page("localhost:9100", "http://localhost:9100"), Ok(Role::Write));
        assert_eq!(page("localhost:9100", "http://evil.example"), Err(403));
        assert_eq!(page("localhost:9100", "null"), Err(403));
        // A name that was made to mean this machine.
        assert_eq!(page("evil.example:9100", "http://evil.example:9100"), Err(403));
        assert_eq!(judged(&none, "127.0.0.1", &[("host", "evil.example")]), Err(403));
        let fetched = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert_eq!(judged(&none, "127.0.0.1", &fetched), Err(403));
    }

    #[test]
    fn a_token_says_what_its_bearer_may_do_wherever_he_is() {
        let access = Access {
            read: vec!["r".repeat(32)],
            write: vec!["w".repeat(32), "short".to_owned()],
        };
        let with = |value| judged(&access, "10.0.0.7", &[("host", "node"), ("authorization", value)]);
        assert_eq!(with("Bearer rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr"), Ok(Role::Read));
        assert_eq!(with("bearer wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww"), Ok(Role::Write));
        assert_eq!(with("Bearer wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwx"), Err(401));
        assert_eq!(with("Bearer short"), Err(401));
        assert_eq!(with("Basic rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr"), Err(401));
        // Also on this machine.
        assert_eq!(judged(&access, "127.0.0.1", &[("host", "localhost")]), Err(401));
    }

    #[test]
    fn tokens_are_not_shown() {
        let access = Access {
            read: vec!["secret".repeat(6)],
            write: Vec::new(),
        };
        assert_eq!(format!("{access:?}"), "1 tokens to read, 0 to write");
    }

    #[test]
    fn comparing_looks_at_all_bytes() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"ab", b"abc"));
    }
}
