//! A certificate for `localhost`, made anew for each broker that a test starts with TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// A self-signed certificate on disk; clients trust it by its own file.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate in PEM form: the chain for the broker, the trusted root for clients.
    pub chain_path: PathBuf,
    /// The private key in PEM form.
    pub key_path: PathBuf,
}

impl Certificate {
    /// Makes a key and a certificate for `localhost` and 127.0.0.1 in `directory`.
    pub fn create(directory: &Path) -> Result<Certificate> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
        let certificate = Certificate {
            chain_path: directory.join("cert.pem"),
            key_path: directory.join("key.pem"),
        };
        std::fs::write(&certificate.chain_path, made.cert.pem())?;
        std::fs::write(&certificate.key_path, made.signing_key.serialize_pem())?;
        Ok(certificate)
    }

    /// TLS for clients that trust this certificate and nothing else.
    pub fn connector(&self) -> Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.chain_path)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// The section of a node's configuration for what `write_peer_certificate` puts into a folder.
pub fn peer_keys(directory: &Path) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    format!(
        "[cluster.tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
        path("ca.pem"),
        path("node.pem"),
        path("node.key")
    )
}

/// Writes what the nodes of a cluster need to prove themselves to each other into a folder: `ca.pem`, and `node.pem` with `node.key`,
/// which names these hosts.
pub fn write_peer_certificate(directory: &Path, hosts: &[String]) -> Result<()> {
    let node = rcgen::CertificateParams::new(hosts.to_vec())?;
    write_signed(directory, "ca.pem", "node", node)
}

/// Writes a client's certificate of this common name into a folder: `clients.ca.pem`, and `client.pem` with `client.key`.
pub fn write_client_certificate(directory: &Path, common_name: &str) -> Result<()> {
    let mut client = rcgen::CertificateParams::default();
    client
        .distinguished_name
        .push(rcgen::DnType::CommonName, common_name);
    write_signed(directory, "clients.ca.pem", "client", client)
}

/// A certificate with its key, and that of an authority of its own, which signs it.
fn write_signed(directory: &Path, ca: &str, name: &str, params: rcgen::CertificateParams) -> Result<()> {
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    std::fs::write(directory.join(ca), root.pem())?;
    std::fs::write(directory.join(format!("{name}.pem")), certificate.pem())?;
    std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(())
}
