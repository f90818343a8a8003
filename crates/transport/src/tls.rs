//! The certificates of peers: their own authority, proof from both sides, and files that are read again when they change.

use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;

use crate::limits::CERTIFICATES_INTERVAL;

/// Where the certificates are: PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority of the cluster, and no other: who has a certificate of it is a peer.
    pub ca: PathBuf,
    /// This node's certificate, with the chain to the authority. It serves both as a server's and as a client's, and names
    /// the host that others dial.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Both sides of TLS, made from one state of the files.
#[derive(Clone)]
pub(crate) struct TlsConfigs {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

/// The configuration in force, and what is known of its files.
pub(crate) struct Certificates {
    files: TlsFiles,
    state: Mutex<State>,
}

struct State {
    configs: TlsConfigs,
    /// Of the files when they were last looked at, whether they were of use or not.
    seen: u64,
    next_look: Instant,
}

impl Certificates {
    /// Reads the files for the first time.
    pub(crate) fn open(files: TlsFiles) -> io::Result<Self> {
        let contents = Contents::read(&files)?;
        let state = State {
            configs: contents.configs(&files)?,
            seen: contents.fingerprint(),
            next_look: Instant::now() + CERTIFICATES_INTERVAL,
        };
        Ok(Self {
            files,
            state: Mutex::new(state),
        })
    }

    /// The configuration for a new connection. Looks at the files if that was not done lately.
    pub(crate) async fn current(self: &Arc<Self>) -> TlsConfigs {
        let due = {
            let mut state = self.state.lock();
            let now = Instant::now();
            let due = state.next_look <= now;
            if due {
                state.next_look = now + CERTIFICATES_INTERVAL;
            }
            due
        };
        if due {
            let certificates = Arc::clone(self);
            let looked = tokio::task::spawn_blocking(move || certificates.reload()).await;
            if let Ok(Err(error)) = looked {
                tracing::warn!(
                    target: "audit",
                    event = "certificates failed",
                    %error,
                    "the peers' certificates cannot be read again; those in use stay"
                );
            }
        }
        self.state.lock().configs.clone()
    }

    /// Reads the files. True: they had changed, and are in force. Files that are of no use are reported once and change nothing.
    pub(crate) fn reload(&self) -> io::Result<bool> {
        let contents = Contents::read(&self.files)?;
        let fingerprint = contents.fingerprint();
        if std::mem::replace(&mut self.state.lock().seen, fingerprint) == fingerprint {
            return Ok(false);
        }
        let configs = contents.configs(&self.files)?;
        self.state.lock().configs = configs;
        tracing::info!(target: "audit", event = "certificates", "the peers' certificates were read again");
        Ok(true)
    }
}

struct Contents {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    fn read(files: &TlsFiles) -> io::Result<Self> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| wrong(path, &error));
        Ok(Self {
            ca: read(&files.ca)?,
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
        })
    }

    fn fingerprint(&self) -> u64 {
        // Compared within this process only. A key is not kept in memory for that.
        foldhash::fast::FixedState::default().hash_one((&self.ca, &self.certificate, &self.key))
    }

    fn configs(&self, files: &TlsFiles) -> io::Result<TlsConfigs> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca, &self.ca)? {
            roots.add(certificate).map_err(|error| wrong(&files.ca, &error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| wrong(&files.key, &error))?;

        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier.map_err(|error| wrong(&files.ca, &error))?)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| wrong(&files.certificate, &error))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| wrong(&files.certificate, &error))?;
        // Who resumes a session shows no certificate, and nobody would notice that it has ended.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![b"h2".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConfigs {
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

fn certificates(path: &Path, pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| wrong(path, &error))?;
    if found.is_empty() {
        return Err(wrong(path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
}
