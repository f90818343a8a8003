//! JSON Web Tokens as passwords (RFC 7519): signed by a key that is known beforehand, with an algorithm that was allowed
//! beforehand. A token chooses neither: its header can only pick among them.

pub(crate) mod claims;
mod keys;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::base64::decode_url;

pub use keys::{Key, KeySet, KeysError};

/// Longest token accepted, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Ways to sign. `none` is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
    /// RSA (PKCS #1 version 1.5) with SHA-256, 2048 bits at least.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// As a header names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which tokens are accepted, and what their claims mean.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Ways of signing that are accepted. A key for another one is not used.
    pub algorithms: Vec<Algorithm>,
    /// Seconds by which the clocks of issuer and broker may differ.
    pub leeway_seconds: u64,
    /// If given, `iss` has to be this.
    pub issuer: Option<String>,
    /// If given, `aud` has to be this, or hold it.
    pub audience: Option<String>,
    /// The claim with the user name.
    pub user_claim: String,
    /// The claim with the groups: a list, or words separated by spaces.
    pub groups_claim: String,
}

/// What an accepted token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Who its bearer is.
    pub user: String,
    /// The groups it names.
    pub groups: Vec<String>,
    /// Its claims as text: what is a text, a number, a truth value or a list of these.
    pub claims: BTreeMap<String, Vec<String>>,
    /// Seconds since 1970 from which on it is worth nothing any more, leeway included.
    pub expires_at: u64,
}

/// Why a token is not accepted. For logs: shows nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not three parts of base64 with JSON objects in them, or too long.
    #[error("not a token")]
    Malformed,
    /// The header asks for an algorithm that is not allowed, or for an extension.
    #[error("the algorithm is not allowed")]
    Algorithm,
    /// No key for it.
    #[error("no key for it")]
    NoKey,
    /// Signed by somebody else, or changed.
    #[error("the signature is wrong")]
    Signature,
    /// `exp` is past.
    #[error("expired")]
    Expired,
    /// `nbf` is yet to come.
    #[error("not valid yet")]
    NotYet,
    /// `exp`, the user name or another claim that is asked for is missing or of the wrong type.
    #[error("a claim is missing or wrong")]
    Claim,
    /// Meant for others, or made by others.
    #[error("not for this audience or not of this issuer")]
    Audience,
}

/// Judges a token at a time, in seconds since 1970.
///
/// # Errors
/// It is not accepted.
pub fn verify(token: &str, policy: &Policy, keys: &KeySet, now: u64) -> Result<Accepted, Refusal> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed)?;
    let header = object(header)?;
    let signature = decode_url(signature).ok_or(Refusal::Malformed)?;
    verify_signature(&header, policy, keys, signed.as_bytes(), &signature)?;
    claims::judge(&object(claims)?, policy, now)
}

fn verify_signature(
    header: &Map<String, Value>,
    policy: &Policy,
    keys: &KeySet,
    signed: &[u8],
    signature: &[u8],
) -> Result<(), Refusal> {
    let name = header.get("alg").and_then(Value::as_str);
    let algorithm = policy
        .algorithms
        .iter()
        .find(|allowed| Some(allowed.as_str()) == name)
        .ok_or(Refusal::Algorithm)?;
    // What has to be understood is not. RFC 7515 section 4.1.11
    if header.contains_key("crit") {
        return Err(Refusal::Algorithm);
    }
    let id = match header.get("kid") {
        None => None,
        Some(id) => Some(id.as_str().ok_or(Refusal::Malformed)?),
    };
    let mut is_any = false;
    for key in keys.candidates(*algorithm, id) {
        is_any = true;
        if key.verify(signed, signature) {
            return Ok(());
        }
    }
    Err(if is_any {
        Refusal::Signature
    } else {
        Refusal::NoKey
    })
}

fn object(part: &str) -> Result<Map<String, Value>, Refusal> {
    let bytes = decode_url(part).ok_or(Refusal::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
mod tests;
