//! The network below gRPC as this crate sees it: something that connects and listens. Nothing else here knows sockets.

use std::io;
use std::sync::Arc;

pub use futures_util::future::BoxFuture;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What the other end of a connection has proved: that it has the key of a certificate of the cluster's authority. Nothing, where
/// nothing was asked for.
#[derive(Clone, Debug, Default)]
pub struct Proof(Option<Arc<CertificateDer<'static>>>);

impl Proof {
    /// Of a connection in the clear.
    pub fn none() -> Self {
        Self(None)
    }

    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Some(Arc::new(certificate.clone().into_owned())))
    }

    /// Whether it speaks for the host of an address (`host:port`): its certificate names it, as a server's has to. In the clear
    /// everybody speaks for everybody.
    pub fn covers(&self, address: &str) -> bool {
        let Some(certificate) = &self.0 else { return true };
        let Ok(host) = ServerName::try_from(host_of(address)) else {
            return false;
        };
        let certificate = ParsedCertificate::try_from(certificate.as_ref());
        certificate.is_ok_and(|certificate| verify_server_name(&certificate, &host).is_ok())
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A connection from somebody, where it is from, and what that has proved.
pub type Accepted = (Box<dyn Io>, String, Proof);

/// A way to reach other nodes.
pub trait Net: Send + Sync + 'static {
    /// Connects to an address (`host:port`). The caller bounds how long it waits.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>>;

    /// Listens at an address (`host:port`).
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Incoming>>>;
}

/// Connections from others.
pub trait Incoming: Send {
    /// The next connection, ready for use, and who is at its other end.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;

    /// Where others connect to.
    fn local_address(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_without_its_port() {
        assert_eq!(host_of("node-0.peers.local:7600"), "node-0.peers.local");
        assert_eq!(host_of("[::1]:7600"), "::1");
    }
}
