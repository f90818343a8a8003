//! Keys that tokens are checked with: a shared secret, public keys in PEM, a key set in JSON (RFC 7517). Each key serves
//! one algorithm alone, so that a public key is never taken for a secret.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use super::Algorithm;
use crate::base64::{decode, decode_url};
use crate::der::{Elements, INTEGER, SEQUENCE};

/// Shortest secret for HS256, in bytes: that of the hash. RFC 7518 section 3.2
const SECRET_BYTES_MIN: usize = 32;
const KEYS_MAX: usize = 1000;
/// What some editors put before a text.
const UTF_8_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// One key. `Debug` shows none of it.
pub struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// Why keys cannot be read. Shows nothing of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Fewer than 32 bytes.
    #[error("a secret for HS256 has at least 32 bytes")]
    ShortSecret,
    /// No block `PUBLIC KEY`, or one with a key that serves none of the algorithms.
    #[error(
        "expected one or more blocks `-----BEGIN PUBLIC KEY-----` of RSA (2048 bits or more), P-256 or Ed25519"
    )]
    Pem,
    /// Not a key set, or none of its keys can be used.
    #[error("expected a key set in JSON with a key for RS256, ES256, EdDSA or HS256")]
    Jwks,
    /// What looks like something that is public, and whose bytes everybody may know.
    #[error(
        "this is no secret but looks like a public key or a key set: write public keys in PEM as `-----BEGIN PUBLIC KEY-----`, a \
         key set as {{\"keys\": [...]}} in UTF-8, and a secret as 32 random bytes or more"
    )]
    NotSecret,
    /// More than 1000.
    #[error("more than 1000 keys")]
    TooMany,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {:?}", self.algorithm, self.id)
    }
}

impl Key {
    /// What it can check.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A shared secret for HS256.
    ///
    /// # Errors
    /// It is too short.
    pub fn secret(bytes: &[u8]) -> Result<Self, KeysError> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(KeysError::ShortSecret);
        }
        Ok(Self {
            id: None,
            algorithm: Algorithm::Hs256,
            material: Material::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
        })
    }

    /// Whether a signature over a message was made with its counterpart.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }

    /// A public key in DER, as PEM wraps it: which algorithm it serves is found by trying.
    fn public(der: &[u8]) -> Option<Self> {
        let kinds: [(Algorithm, &'static dyn VerificationAlgorithm); 3] = [
            (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
            (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
            (Algorithm::EdDsa, &ED25519),
        ];
        kinds.into_iter().find_map(|(algorithm, kind)| {
            let key = ParsedPublicKey::new(kind, der).ok()?;
            Some(Self {
                id: None,
                algorithm,
                material: Material::Public(key),
            })
        })
    }

    /// One key of a set. `None`: not one that can be used here; sets hold others, too.
    fn of_set(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| text(name).and_then(decode_url);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let (algorithm, material) = match (text("kty")?, text("crv")) {
            ("oct", _) => (Algorithm::Hs256, Self::secret(&bytes("k")?).ok()?.material),
            ("RSA", _) => {
                let components = PublicKeyComponents {
                    n: bytes("n")?,
                    e: bytes("e")?,
                };
                let key = components
                    .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
                    .ok()?;
                (Algorithm::Rs256, Material::Public(key))
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                let point = (x.len() == 32 && y.len() == 32).then(|| [&[4][..], &x, &y].concat())?;
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
                (Algorithm::Es256, Material::Public(key))
            }
            ("OKP", Some("Ed25519")) => {
                let key = ParsedPublicKey::new(&ED25519, bytes("x")?).ok()?;
                (Algorithm::EdDsa, Material::Public(key))
            }
            _ => return None,
        };
        if text("alg").is_some_and(|name| name != algorithm.as_str()) {
            return None;
        }
        Some(Self {
            id: text("kid").map(str::to_owned),
            algorithm,
            material,
        })
    }
}

/// All keys that tokens may be signed for.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Adds a secret as it is, without a line feed at its end.
    ///
    /// # Errors
    /// It is too short, or looks like something that is no secret.
    pub fn add_secret(&mut self, bytes: &[u8]) -> Result<(), KeysError> {
        if looks_public(bytes) {
            return Err(KeysError::NotSecret);
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        self.push(Key::secret(bytes.strip_suffix(b"\r").unwrap_or(bytes))?)
    }

    /// Adds every public key of a text in PEM.
    ///
    /// # Errors
    /// There is none, or one that cannot be used.
    pub fn add_pem(&mut self, text: &str) -> Result<(), KeysError> {
        let mut blocks = text.split("-----BEGIN PUBLIC KEY-----").skip(1).peekable();
        if blocks.peek().is_none() {
            return Err(KeysError::Pem);
        }
        for block in blocks {
            let (body, _) = block
                .split_once("-----END PUBLIC KEY-----")
                .ok_or(KeysError::Pem)?;
            let body: String = body.split_whitespace().collect();
            let key = decode(&body).and_then(|der| Key::public(&der));
            self.push(key.ok_or(KeysError::Pem)?)?;
        }
        Ok(())
    }

    /// Adds the keys of a set in JSON that can be used; others are left out, as RFC 7517 section 5 wants.
    ///
    /// # Errors
    /// It is not a set, or none can be used.
    pub fn add_jwks(&mut self, text: &str) -> Result<(), KeysError> {
        let set: Map<String, Value> = serde_json::from_str(text).map_err(|_| KeysError::Jwks)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeysError::Jwks)?;
        let mut usable = keys
            .iter()
            .filter_map(Value::as_object)
            .filter_map(Key::of_set)
            .peekable();
        if usable.peek().is_none() {
            return Err(KeysError::Jwks);
        }
        usable.try_for_each(|key| self.push(key))
    }

    /// Adds what a text holds, whichever of the three it is: JSON, PEM, or else a secret.
    ///
    /// # Errors
    /// As the three say.
    pub fn add_any(&mut self, bytes: &[u8]) -> Result<(), KeysError> {
        let text = bytes.strip_prefix(UTF_8_MARK).unwrap_or(bytes);
        match std::str::from_utf8(text) {
            Ok(text) if text.trim_start().starts_with('{') => self.add_jwks(text),
            // Never as a secret: public keys are public.
            Ok(text) if text.contains("-----BEGIN ") => self.add_pem(text),
            _ => self.add_secret(bytes),
        }
    }

    /// What the keys can check.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> + '_ {
        self.keys.iter().map(Key::algorithm)
    }

    /// Keys for an algorithm: those with the id that the token names, and those without an id.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| {
            key.algorithm == algorithm && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        })
    }

    fn push(&mut self, key: Key) -> Result<(), KeysError> {
        if self.keys.len() >= KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        self.keys.push(key);
        Ok(())
    }
}

/// Whether bytes are JSON, a text in UTF-16, or a public key as PEM, SSH or DER has it. A good secret is none of it by chance.
fn looks_public(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(UTF_8_MARK).unwrap_or(bytes).trim_ascii_start();
    let begins: [&[u8]; 6] = [b"{", b"[", b"ssh-", b"ecdsa-", &[0xFE, 0xFF], &[0xFF, 0xFE]];
    let mark = b"-----BEGIN ";
    let is_pem = || bytes.windows(mark.len()).any(|window| window == mark);
    begins.iter().any(|begin| text.starts_with(begin)) || is_pem() || is_der(bytes)
}

/// Whether bytes begin as a key in DER: a SEQUENCE that fills them, with a SEQUENCE or a number at its beginning.
fn is_der(bytes: &[u8]) -> bool {
    let mut elements = Elements::new(bytes);
    let Some(content) = elements.expect(SEQUENCE) else {
        return false;
    };
    let is_whole = elements.is_empty() || !bytes.is_ascii();
    is_whole && matches!(Elements::new(content).next(), Some((SEQUENCE | INTEGER, _)))
}
