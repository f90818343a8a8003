//! A certificate for `localhost`, made anew for each broker that a test starts with TLS.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

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
}
