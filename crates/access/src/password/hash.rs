//! One stored password: argon2id as a PHC string, the two forms of `mosquitto_passwd`, or a SCRAM verifier.

use std::fmt;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, pbkdf2};

use crate::base64::{decode, decode_bare, encode, encode_bare};
use crate::scram::Verifier;

/// Bounds of what a file may ask for, so that no line makes a login cost gigabytes or minutes.
const ARGON_MEMORY_MAX_KIB: u32 = 1 << 20;
const ARGON_PASSES_MAX: u32 = 64;
const ARGON_LANES_MAX: u32 = 16;
const PBKDF2_ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES_MAX: usize = 64;

/// What argon2id costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgonCost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// 19 MiB and two passes: the least that OWASP's guide to storing passwords names for argon2id.
impl Default for ArgonCost {
    fn default() -> Self {
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
            lanes: 1,
        }
    }
}

/// A password as it is stored. `Debug` shows the kind alone.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// `$argon2id$v=19$m=..,t=..,p=..$salt$hash`.
    Argon2id {
        /// What it costs.
        cost: ArgonCost,
        /// 8 to 64 bytes.
        salt: Vec<u8>,
        /// 16 to 64 bytes.
        hash: Vec<u8>,
    },
    /// `$7$iterations$salt$hash`: PBKDF2 with SHA-512, by `mosquitto_passwd`.
    Pbkdf2Sha512 {
        /// At least one.
        iterations: NonZeroU32,
        /// Not empty.
        salt: Vec<u8>,
        /// 64 bytes.
        hash: Vec<u8>,
    },
    /// `$6$salt$hash`: SHA-512 of password and salt, by old versions of `mosquitto_passwd`. One round: replace it.
    Sha512 {
        /// Not empty.
        salt: Vec<u8>,
        /// 64 bytes.
        hash: Vec<u8>,
    },
    /// `SCRAM-SHA-256$iterations:salt$stored key:server key`. Judges a password, too.
    Scram(Verifier),
}

impl PasswordHash {
    /// Hashes a password with argon2id; 32 bytes come out.
    pub fn argon2id(password: &[u8], salt: [u8; 16], cost: ArgonCost) -> Self {
        let mut hash = vec![0; 32];
        // Cannot fail for a cost that `Params` accepts; if it does, nobody comes in with it: random salt, zero hash.
        let made = argon2_into(password, &salt, cost, &mut hash);
        debug_assert!(made, "the cost is within bounds");
        Self::Argon2id {
            cost,
            salt: salt.to_vec(),
            hash,
        }
    }

    /// Reads any of the four forms.
    ///
    /// # Errors
    /// Not one of them, or it asks for more than the bounds allow. The message does not show the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(rest) = text.strip_prefix("$argon2id$") {
            return parse_argon2id(rest).ok_or("this argon2id hash is damaged or costs too much");
        }
        if let Some(rest) = text.strip_prefix("$7$") {
            return parse_pbkdf2(rest).ok_or("this $7$ hash is damaged or costs too much");
        }
        if let Some(rest) = text.strip_prefix("$6$") {
            return parse_sha512(rest).ok_or("this $6$ hash is damaged");
        }
        if text.starts_with(crate::scram::METHOD) {
            return Verifier::parse(text)
                .map(Self::Scram)
                .ok_or("this SCRAM-SHA-256 verifier is damaged or costs too much");
        }
        Err("no known hash: make one with `flotilla passwd`")
    }

    /// Whether a password is the stored one. Costs what the hash says: for a pool of its own, never for an I/O thread.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2id { cost, salt, hash } => {
                let mut found = vec![0; hash.len()];
                argon2_into(password, salt, *cost, &mut found)
                    && verify_slices_are_equal(&found, hash).is_ok()
            }
            Self::Pbkdf2Sha512 {
                iterations,
                salt,
                hash,
            } => pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, hash).is_ok(),
            Self::Sha512 { salt, hash } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                verify_slices_are_equal(context.finish().as_ref(), hash).is_ok()
            }
            Self::Scram(verifier) => verifier.verify(password),
        }
    }
}

impl fmt::Display for PasswordHash {
    /// The text as a password file has it: not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argon2id { cost, salt, hash } => write!(
                f,
                "$argon2id$v=19$m={},t={},p={}${}${}",
                cost.memory_kib,
                cost.passes,
                cost.lanes,
                encode_bare(salt),
                encode_bare(hash)
            ),
            Self::Pbkdf2Sha512 {
                iterations,
                salt,
                hash,
            } => write!(f, "$7${iterations}${}${}", encode(salt), encode(hash)),
            Self::Sha512 { salt, hash } => write!(f, "$6${}${}", encode(salt), encode(hash)),
            Self::Scram(verifier) => verifier.fmt(f),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Argon2id { .. } => "argon2id",
            Self::Pbkdf2Sha512 { .. } => "$7$",
            Self::Sha512 { .. } => "$6$",
            Self::Scram(_) => "SCRAM-SHA-256",
        })
    }
}

fn argon2_into(password: &[u8], salt: &[u8], cost: ArgonCost, out: &mut [u8]) -> bool {
    let Ok(params) = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(out.len())) else {
        return false;
    };
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, out)
        .is_ok()
}

fn parse_argon2id(rest: &str) -> Option<PasswordHash> {
    let [version, parameters, salt, hash] = split(rest)?;
    if version != "v=19" {
        return None;
    }
    let mut values = [None; 3];
    for parameter in parameters.split(',') {
        let (key, value) = parameter.split_once('=')?;
        let slot = ["m", "t", "p"].iter().position(|name| *name == key)?;
        if values[slot].replace(number(value)?).is_some() {
            return None;
        }
    }
    let cost = ArgonCost {
        memory_kib: values[0].filter(|value| *value <= ARGON_MEMORY_MAX_KIB)?,
        passes: values[1].filter(|value| *value <= ARGON_PASSES_MAX)?,
        lanes: values[2].filter(|value| *value <= ARGON_LANES_MAX)?,
    };
    let (salt, hash) = (decode_bare(salt)?, decode_bare(hash)?);
    let is_fit = (8..=SALT_BYTES_MAX).contains(&salt.len()) && (16..=64).contains(&hash.len());
    Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(hash.len())).ok()?;
    is_fit.then_some(PasswordHash::Argon2id { cost, salt, hash })
}

fn parse_pbkdf2(rest: &str) -> Option<PasswordHash> {
    let [iterations, salt, hash] = split(rest)?;
    let iterations = number(iterations).filter(|count| *count <= PBKDF2_ITERATIONS_MAX)?;
    let (salt, hash) = salt_and_sha512(salt, hash)?;
    Some(PasswordHash::Pbkdf2Sha512 {
        iterations: NonZeroU32::new(iterations)?,
        salt,
        hash,
    })
}

fn parse_sha512(rest: &str) -> Option<PasswordHash> {
    let [salt, hash] = split(rest)?;
    let (salt, hash) = salt_and_sha512(salt, hash)?;
    Some(PasswordHash::Sha512 { salt, hash })
}

fn salt_and_sha512(salt: &str, hash: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (salt, hash) = (decode(salt)?, decode(hash)?);
    ((1..=SALT_BYTES_MAX).contains(&salt.len()) && hash.len() == 64).then_some((salt, hash))
}

/// Exactly so many parts between `$`.
fn split<const PARTS: usize>(text: &str) -> Option<[&str; PARTS]> {
    let parts: Vec<&str> = text.split('$').collect();
    parts.try_into().ok()
}

/// Digits alone: `parse` would take a sign, too.
fn number(text: &str) -> Option<u32> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: ArgonCost = ArgonCost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    #[test]
    fn a_hash_judges_its_own_password_alone_and_survives_the_file() {
        let hash = PasswordHash::argon2id(b"secret", [7; 16], CHEAP);
        let read = PasswordHash::parse(&hash.to_string()).unwrap();
        assert_eq!(read, hash);
        assert!(read.verify(b"secret"));
        assert!(!read.verify(b"secret "));
        assert!(!read.verify(b""));
    }

    #[test]
    fn what_mosquitto_passwd_2_0_wrote_is_understood() {
        for (text, password) in [
            (
                "$7$101$/evfF8eWboPjHHTX$kZe1ssrM3EWuYAc8NF9uohrDuohuslz60oGvw4nGESDJ7C0y6s1Hjk5jtgPYgOjbqJh1C0dQftq7mE35BCXRjw==",
                "secret-a",
            ),
            (
                "$6$EtOKQG+hLfdaUgA7$Uxa74lkshBw6Xa970ujLqXd64f/TZ5+u1MJQ/H2APzDb8yVXLabPqO/FyVxS3rbzCtaev0wpWnAxojbrwvP1lg==",
                "secret-c",
            ),
        ] {
            let hash = PasswordHash::parse(text).unwrap();
            assert!(hash.verify(password.as_bytes()), "{hash:?}");
            assert!(!hash.verify(b"secret"), "{hash:?}");
            assert_eq!(hash.to_string(), text);
        }
    }

    #[test]
    fn the_test_vector_of_rfc_9106_with_its_own_parameters_is_argon2id() {
        // RFC 9106 section 5.3 uses a secret and associated data, which no password file has; this one was made with the
        // reference implementation's command line: printf password | argon2 somesalt -id -t 2 -k 65536 -p 1.
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(PasswordHash::parse(text).unwrap().verify(b"password"));
    }

    #[test]
    fn damaged_and_greedy_hashes_are_refused_without_being_shown() {
        for text in [
            "",
            "plain",
            "$1$abc$def",
            "$argon2id$v=16$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=8,t=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=8,m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$",
            "$7$0$/evfF8eWboPjHHTX$kZe1ssrM",
            "$7$+1$/evfF8eWboPjHHTX$kZe1ssrM3EWuYAc8NF9uohrDuohuslz60oGvw4nGESDJ7C0y6s1Hjk5jtgPYgOjbqJh1C0dQftq7mE35BCXRjw==",
            "$7$101$/evfF8eWboPjHHTX$AAAA",
            "$6$$AAAA",
            "SCRAM-SHA-256$1:AA==$AA==:AA==",
        ] {
            let error = PasswordHash::parse(text).expect_err(text);
            assert!(text.len() < 20 || !error.contains(&text[4..]), "{error}");
        }
        let hash = PasswordHash::argon2id(b"secret", [7; 16], CHEAP);
        assert_eq!(format!("{hash:?}"), "argon2id");
    }
}
