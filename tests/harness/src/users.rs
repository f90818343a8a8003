//! Users of a broker: the file that knows them, and how one of them proves a password without showing it.

use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::process::program;

/// `flotilla passwd` with a password on standard input.
pub fn passwd(file: &Path, user: &str, password: &str, flags: &[&str]) -> Result<()> {
    let mut child = Command::new(program()?)
        .arg("passwd")
        .arg(file)
        .arg(user)
        .args(flags)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().context("stdin is a pipe")?;
    std::io::Write::write_all(&mut input, password.as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "flotilla passwd failed");
    Ok(())
}

/// The client's side of SCRAM-SHA-256. (RFC 7677)
#[derive(Debug)]
pub struct Scram {
    password: String,
    first: String,
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
        .as_ref()
        .to_vec()
}

impl Scram {
    /// For a user with this password.
    pub fn new((user, password): (&str, &str)) -> Self {
        Self {
            password: password.to_owned(),
            first: format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL"),
        }
    }

    /// What the client says first.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first).into_bytes()
    }

    /// The answer to a challenge: the proof, and the server's signature that has to follow.
    pub fn last(&self, challenge: &[u8]) -> Result<(Vec<u8>, String)> {
        let challenge = std::str::from_utf8(challenge)?;
        let part = |name: &str| {
            challenge
                .split(',')
                .find_map(|part| part.strip_prefix(name))
                .context("a part")
        };
        let salt = STANDARD.decode(part("s=")?)?;
        let rounds = NonZeroU32::new(part("i=")?.parse()?).context("rounds")?;
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            rounds,
            &salt,
            self.password.as_bytes(),
            &mut salted,
        );
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let bare = format!("c=biws,r={}", part("r=")?);
        let signed = format!("{},{challenge},{bare}", self.first);
        let signature = sign(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(key, mask)| key ^ mask)
            .collect();
        let server = sign(&sign(&salted, b"Server Key"), signed.as_bytes());
        let last = format!("{bare},p={}", STANDARD.encode(proof));
        Ok((last.into_bytes(), format!("v={}", STANDARD.encode(server))))
    }
}
