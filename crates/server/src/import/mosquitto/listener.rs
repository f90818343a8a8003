//! A listener of mosquitto, and the same here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::super::Note;
use super::super::output::Lines;

#[derive(Debug, Default)]
pub(super) struct Listener {
    /// 0: it is the default one, and no line says so.
    pub(super) line: usize,
    pub(super) port: u16,
    /// Address or name; empty: every address.
    pub(super) host: String,
    pub(super) is_websocket: bool,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    pub(super) crl: Option<(usize, PathBuf)>,
    pub(super) requires_certificate: bool,
    pub(super) allow_anonymous: Option<bool>,
    /// `None`: as many as there come.
    pub(super) connections_max: Option<u32>,
    /// Why there can be no such listener here. What is said of it goes with it.
    pub(super) left_out: Option<String>,
}

impl Listener {
    /// `listener PORT [ADDRESS]`.
    pub(super) fn begin(line: usize, value: &str) -> Self {
        let (port, host) = value.split_once([' ', '\t']).unwrap_or((value, ""));
        let (port, left_out) = match port.parse() {
            Ok(0) => (
                0,
                Some("sockets of the file system are not listened to here: use a port"),
            ),
            Ok(port) => (port, None),
            Err(_) => (0, Some("there is no port")),
        };
        Self {
            line,
            port,
            host: host.trim().to_owned(),
            left_out: left_out
                .map(|reason| format!("`listener {value}`: {reason}; this listener is left out")),
            ..Self::default()
        }
    }

    /// Whether a line is about it.
    pub(super) fn is_said(&self) -> bool {
        self.line > 0 || self.port > 0 || !self.host.is_empty() || self.cert.is_some() || self.is_websocket
    }

    /// The block of a configuration, or why there can be none.
    pub(super) fn lines(
        &self,
        allow_anonymous: bool,
        has_users: bool,
        notes: &mut Vec<Note>,
    ) -> Result<Lines, String> {
        if let Some(reason) = &self.left_out {
            return Err(reason.clone());
        }
        let mut note = |line, text: &str| {
            notes.push(Note {
                line,
                text: text.to_owned(),
            });
        };
        let is_encrypted = self.cert.is_some();
        let protocol = match (is_encrypted, self.is_websocket) {
            (false, false) => "tcp",
            (true, false) => "tls",
            (false, true) => "ws",
            (true, true) => "wss",
        };
        let address = self.address()?;
        let mut lines = Lines::default();
        lines.set("protocol", protocol);
        lines.set("bind", address.to_string());
        if self.is_websocket {
            lines.set("path", "/");
            note(
                self.line,
                "mosquitto takes a WebSocket on any path, here it is one: `path` is \"/\"; `/mqtt` is what many clients ask for",
            );
        }
        if let (true, Some(cert)) = (is_encrypted, &self.cert) {
            lines.path("cert", cert);
        }
        if let (true, Some(key)) = (is_encrypted, &self.key) {
            lines.path("key", key);
        }
        let asks_for_certificates = is_encrypted && self.requires_certificate;
        match (&self.ca, asks_for_certificates) {
            (Some(ca), true) => lines.path("client_ca", ca),
            (None, true) => note(
                self.line,
                "`require_certificate` without `cafile`: say in `client_ca` who signs the clients' certificates",
            ),
            (_, false) => {}
        }
        match &self.crl {
            Some((_, path)) if asks_for_certificates && self.ca.is_some() => lines.path("client_crl", path),
            Some((line, _)) => note(
                *line,
                "`crlfile` without `require_certificate` and `cafile` has nobody to judge: it is left out",
            ),
            None => {}
        }
        lines.set("allow_anonymous", allow_anonymous);
        let is_open = !address.ip().is_loopback();
        let nobody_is_known = !has_users && !allow_anonymous && !asks_for_certificates;
        if is_open && !is_encrypted {
            note(
                self.line,
                "plain text on the network, as it was: better a certificate and a key, and without `insecure`",
            );
        }
        if nobody_is_known {
            note(
                self.line,
                "nobody can come in here, as it was: there are no users, and `allow_anonymous` is false",
            );
        }
        if is_open && (!is_encrypted || nobody_is_known) {
            lines.set("insecure", true);
        }
        Ok(lines)
    }

    fn address(&self) -> Result<SocketAddr, String> {
        if self.host.is_empty() {
            return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port)));
        }
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, self.port));
        }
        let found = (self.host.as_str(), self.port).to_socket_addrs().ok();
        // What a name means today is written down: the first in IPv4, if there is one.
        let mut found: Vec<SocketAddr> = found.into_iter().flatten().collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        found.first().copied().ok_or_else(|| {
            format!(
                "`{}` is not an address, and cannot be looked up: this listener is left out; write its block by hand",
                self.host
            )
        })
    }
}
