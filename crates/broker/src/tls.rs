//! Certificates and keys of the listeners: TLS 1.2 and 1.3 by rustls with aws-lc-rs. Their files may be read again.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::BrokerError;
use crate::config::Listener;

/// The TLS side of a listener: new connections are shown what was read last.
pub(crate) struct ListenerTls {
    listener: Listener,
    current: ArcSwap<rustls::ServerConfig>,
}

impl ListenerTls {
    /// Reads the files for the first time.
    pub(crate) fn open(listener: &Listener) -> Result<Self, BrokerError> {
        Ok(Self {
            current: ArcSwap::from(server_config(listener)?),
            listener: listener.clone(),
        })
    }

    /// For one handshake.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again, for `set`; nothing changes by that alone.
    pub(crate) fn read_again(&self) -> Result<Arc<rustls::ServerConfig>, BrokerError> {
        server_config(&self.listener)
    }

    pub(crate) fn set(&self, config: Arc<rustls::ServerConfig>) {
        self.current.store(config);
    }
}

/// # Errors
/// A file is missing, is not PEM, or certificate and key do not belong together.
fn server_config(listener: &Listener) -> Result<Arc<rustls::ServerConfig>, BrokerError> {
    let wrong = |reason: String| BrokerError::Tls {
        listener: listener.name.clone(),
        reason,
    };
    let (Some(cert), Some(key)) = (&listener.cert, &listener.key) else {
        return Err(wrong("needs `cert` and `key`".to_owned()));
    };
    let certificates = read_certificates(cert).map_err(wrong)?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(format!("{}: {error}", key.display())))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let builder = match &listener.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(path).map_err(wrong)? {
                roots
                    .add(certificate)
                    .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(error.to_string()))?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| wrong(error.to_string()))?;
    config.alpn_protocols = if listener.protocol.is_websocket() {
        vec![b"http/1.1".to_vec()]
    } else {
        Vec::new()
    };
    Ok(Arc::new(config))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let name = path.display();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| format!("{name}: {error}"))?;
    let certificates: Result<Vec<_>, _> = certificates.collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(format!("{name}: there is no certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
