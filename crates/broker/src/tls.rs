//! Certificates and keys of the listeners: TLS 1.2 and 1.3 by rustls with aws-lc-rs. Their files may be read again.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::BrokerError;
use crate::config::Listener;

/// The TLS side of a listener: new connections are shown what was read last. Where clients are asked for certificates no session is
/// resumed: who resumes one shows none, and nobody would notice that it has ended, or that the list it is not on has.
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
            let roots = Arc::new(read_roots(path).map_err(wrong)?);
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if let Some(path) = &listener.client_crl {
                // Of every certificate on the way; one of which nothing is known, or nothing new, counts as revoked.
                verifier = verifier
                    .with_crls(read_revocations(path).map_err(wrong)?)
                    .enforce_revocation_expiration();
            }
            if !listener.demands_certificates() {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build();
            let verifier = verifier.map_err(|error| match &listener.client_crl {
                Some(path) => wrong(format!("{}: {error}", path.display())),
                None => wrong(error.to_string()),
            });
            builder.with_client_cert_verifier(verifier?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| wrong(error.to_string()))?;
    if listener.client_ca.is_some() {
        // By number (TLS 1.2), and by ticket (1.3); tickets of 1.2 are not made at all.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = if listener.protocol.is_websocket() {
        vec![b"http/1.1".to_vec()]
    } else {
        Vec::new()
    };
    Ok(Arc::new(config))
}

/// The client's side of a connection to a service whose certificate is signed by somebody in this file.
///
/// # Errors
/// It is missing, or is not PEM.
pub(crate) fn client_config(ca: &Path) -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(read_roots(ca)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// If a handshake failed by the client's certificate: what is wrong with that.
pub(crate) fn refused_certificate(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::InvalidCertificate(error) => Some(error.to_string()),
        rustls::Error::NoCertificatesPresented => Some("the client shows no certificate".to_owned()),
        _ => None,
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

fn read_revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let name = path.display();
    let lists =
        CertificateRevocationListDer::pem_file_iter(path).map_err(|error| format!("{name}: {error}"))?;
    let lists: Result<Vec<_>, _> = lists.collect();
    match lists {
        Ok(lists) if lists.is_empty() => Err(format!(
            "{name}: there is no list in it: expected `-----BEGIN X509 CRL-----`"
        )),
        Ok(lists) => Ok(lists),
        Err(error) => Err(format!("{name}: {error}")),
    }
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
