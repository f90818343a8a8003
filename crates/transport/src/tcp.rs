//! The real network: TCP, in the clear or with TLS on both sides.

use std::io;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::limits::{HANDSHAKE_WITHIN, HANDSHAKES_MAX};
use crate::net::{Accepted, BoxFuture, Incoming, Io, Net, Proof, host_of};
use crate::tls::{Certificates, TlsFiles};

/// TCP. Names are resolved at each connect, so that a peer may move.
#[derive(Clone)]
pub struct TcpNet {
    certificates: Option<Arc<Certificates>>,
}

impl TcpNet {
    /// In the clear: for loopback, or for networks that protect themselves.
    pub fn plain() -> Self {
        Self { certificates: None }
    }

    /// With TLS 1.3 and certificates on both sides. A server's certificate has to name the host that was dialled.
    ///
    /// # Errors
    /// A file cannot be read, is not PEM, or certificate and key do not belong together.
    pub fn tls(files: TlsFiles) -> io::Result<Self> {
        Ok(Self {
            certificates: Some(Arc::new(Certificates::open(files)?)),
        })
    }

    /// Connects to an address where a node is expected that others know by another one (`host:port` both): its certificate
    /// has to name the host of that.
    ///
    /// # Errors
    /// There is nobody, or somebody else.
    pub async fn connect_as(&self, address: &str, known_as: &str) -> io::Result<Box<dyn Io>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(certificates) = &self.certificates else {
            return Ok(Box::new(stream) as Box<dyn Io>);
        };
        let host = ServerName::try_from(host_of(known_as).to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(certificates.current().await.client);
        let handshake = timeout(HANDSHAKE_WITHIN, connector.connect(host, stream));
        Ok(Box::new(handshake.await??) as Box<dyn Io>)
    }

    /// Looks at the certificates now, instead of at one of the next connections. Connections stay as they are. True: there were
    /// new ones.
    ///
    /// # Errors
    /// They are of no use; those in force stay.
    pub fn reload(&self) -> io::Result<bool> {
        self.certificates
            .as_ref()
            .map_or(Ok(false), |certificates| certificates.reload())
    }
}

impl Net for TcpNet {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(self.connect_as(address, address))
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Incoming>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(TcpIncoming {
                address: listener.local_addr()?.to_string(),
                listener,
                certificates: self.certificates.clone(),
                handshakes: JoinSet::new(),
            }) as Box<dyn Incoming>)
        })
    }
}

struct TcpIncoming {
    address: String,
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
    /// Each on its own, so that a slow one delays nobody. It ends by itself after its deadline.
    handshakes: JoinSet<io::Result<Accepted>>,
}

impl TcpIncoming {
    async fn next(&mut self) -> io::Result<Accepted> {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(accepted)) => return Ok(accepted),
                    Ok(Err(error)) => tracing::debug!(%error, "a connection to the peers' port came to nothing"),
                    Err(error) => tracing::warn!(%error, "a TLS handshake ended badly"),
                },
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    let (stream, from) = accepted?;
                    // The connection may be gone already; then the first use says so.
                    let _ = stream.set_nodelay(true);
                    let Some(certificates) = self.certificates.clone() else {
                        return Ok((Box::new(stream), from.to_string(), Proof::none()));
                    };
                    self.handshakes.spawn(handshake(certificates, stream, from.to_string()));
                }
            }
        }
    }
}

impl Incoming for TcpIncoming {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(self.next())
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

async fn handshake(certificates: Arc<Certificates>, stream: TcpStream, from: String) -> io::Result<Accepted> {
    let acceptor = TlsAcceptor::from(certificates.current().await.server);
    let stream = timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await;
    match stream {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates();
            let certificate = chain.and_then(<[_]>::first);
            let proof = certificate.map(Proof::of);
            let proof = proof.ok_or_else(|| io::Error::other(format!("{from}: no certificate")))?;
            Ok((Box::new(stream), from, proof))
        }
        Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("{from}: {error}"))),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{from}: no TLS handshake in time"),
        )),
    }
}
