//! What the server keeps of a password: enough to check a proof, not enough to make one.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, pbkdf2};

use super::METHOD;
use crate::base64::{decode, encode};

/// RFC 7677 section 4 asks for 4096 at least.
const ITERATIONS_MIN: u32 = 4096;
const ITERATIONS_MAX: u32 = 10_000_000;

/// Salt, iterations, stored key and server key of one password. `Debug` shows none of the keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl Verifier {
    /// Derives it from a password. Costs `iterations` (at least 4096 are taken) of HMAC.
    pub fn derive(password: &[u8], salt: Vec<u8>, iterations: u32) -> Self {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let iterations = NonZeroU32::new(iterations).expect("clamped above zero");
        let (stored_key, server_key) = keys(password, &salt, iterations);
        Self {
            iterations,
            salt,
            stored_key,
            server_key,
        }
    }

    /// Reads `SCRAM-SHA-256$iterations:salt$stored key:server key`, each in base64. `None`: it is not that.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(METHOD)?.strip_prefix('$')?;
        let (first, last) = rest.split_once('$')?;
        let (iterations, salt) = first.split_once(':')?;
        let (stored_key, server_key) = last.split_once(':')?;
        let is_digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
        let iterations: u32 = is_digits.then(|| iterations.parse().ok()).flatten()?;
        let is_fit = (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations);
        let salt = decode(salt).filter(|salt| (1..=64).contains(&salt.len()))?;
        Some(Self {
            iterations: NonZeroU32::new(iterations).filter(|_| is_fit)?,
            salt,
            stored_key: decode(stored_key)?.try_into().ok()?,
            server_key: decode(server_key)?.try_into().ok()?,
        })
    }

    /// For somebody unknown: a salt, and keys that no proof fits.
    pub(crate) fn decoy(salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        Self {
            iterations: NonZeroU32::new(iterations).expect("clamped above zero"),
            salt: salt.to_vec(),
            stored_key: [0; 32],
            server_key: [0; 32],
        }
    }

    /// Rounds of HMAC.
    pub fn iterations(&self) -> u32 {
        self.iterations.get()
    }

    /// What the client is told to mix in.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Whether a password in plain text is the one this was made from. Costs its iterations.
    pub fn verify(&self, password: &[u8]) -> bool {
        let (stored_key, _) = keys(password, &self.salt, self.iterations);
        verify_slices_are_equal(&stored_key, &self.stored_key).is_ok()
    }

    /// Whether a client's proof over a message is right (RFC 5802 section 3).
    pub(super) fn accepts(&self, proof: &[u8; 32], message: &[u8]) -> bool {
        let signature = sign(&self.stored_key, message);
        let mut client_key = [0; 32];
        for (key, (proof, signature)) in client_key.iter_mut().zip(proof.iter().zip(signature)) {
            *key = proof ^ signature;
        }
        let found = sha256(&client_key);
        verify_slices_are_equal(&found, &self.stored_key).is_ok()
    }

    /// What shows the client that the server knows the password, too.
    pub(super) fn server_signature(&self, message: &[u8]) -> [u8; 32] {
        sign(&self.server_key, message)
    }
}

impl fmt::Display for Verifier {
    /// The text as a password file has it: not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{METHOD}${}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&self.stored_key),
            encode(&self.server_key)
        )
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{METHOD} with {} iterations", self.iterations)
    }
}

/// Stored key and server key.
fn keys(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> ([u8; 32], [u8; 32]) {
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        password,
        &mut salted,
    );
    let client_key = sign(&salted, b"Client Key");
    (sha256(&client_key), sign(&salted, b"Server Key"))
}

pub(super) fn sign(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let found = digest::digest(&digest::SHA256, bytes);
    found.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
