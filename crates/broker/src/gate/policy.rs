//! What the files say: users, keys and rules, all of one moment.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use access::password::PasswordFile;
use access::rules::Rules;
use access::{LineError, jwt};

use super::{key_sets, service};
use crate::config::{Access, Auth, Problem};
use crate::http_client::HttpClient;

const FILE_BYTES_MAX: u64 = 64 << 20;
/// Lines of a file that are named when it cannot be read.
const LINES_NAMED_MAX: usize = 5;

pub(super) struct Policy {
    pub(super) passwords: Option<Arc<PasswordFile>>,
    pub(super) tokens: Option<Tokens>,
    pub(super) rules: Option<Rules>,
    /// The ways to what `[auth.http]` and `jwt_keys_url` name.
    pub(super) service: Option<HttpClient>,
    pub(super) key_sets: Option<HttpClient>,
}

pub(super) struct Tokens {
    pub(super) policy: jwt::Policy,
    pub(super) keys: jwt::KeySet,
}

impl Policy {
    /// Reads every file that is named.
    pub(super) fn load(auth: &Auth, access: &Access, secret: [u8; 32]) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut note = |key: &str, message: String| problems.push(Problem::new(key, message));
        let passwords = auth.password_file.as_deref().and_then(|path| {
            let read = lines(path, |text| PasswordFile::parse(text, secret));
            read.map_err(|message| note("auth.password_file", message)).ok()
        });
        let tokens = match auth.has_tokens() {
            false => None,
            true => tokens(auth)
                .map_err(|message| note("auth.jwt_keys", message))
                .ok(),
        };
        let rules = match (&access.rules, &access.mosquitto_acl) {
            (Some(path), _) => lines(path, Rules::parse)
                .map_err(|message| note("access.rules", message))
                .ok(),
            (None, Some(path)) => lines(path, Rules::parse_mosquitto)
                .map_err(|message| note("access.mosquitto_acl", message))
                .ok(),
            (None, None) => None,
        };
        let service = service::client(&auth.http)
            .map_err(|message| note("auth.http.ca", message))
            .unwrap_or_default();
        let key_sets = key_sets::client(auth)
            .map_err(|message| note("auth.jwt_keys_ca", message))
            .unwrap_or_default();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            passwords: passwords.map(Arc::new),
            tokens,
            rules,
            service,
            key_sets,
        })
    }
}

/// A plain file up to 64 MiB, nothing that never ends.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> std::io::Result<Vec<u8>> {
        // Looked at before it is opened: opening a pipe waits for somebody who writes.
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("is not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)?;
        match bytes.len() as u64 > FILE_BYTES_MAX {
            true => Err(std::io::Error::other("is larger than 64 MiB")),
            false => Ok(bytes),
        }
    };
    read().map_err(|error| format!("{}: {error}", path.display()))
}

fn tokens(auth: &Auth) -> Result<Tokens, String> {
    let mut keys = jwt::KeySet::default();
    for path in &auth.jwt_keys {
        let bytes = read(path)?;
        keys.add_any(&bytes)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let policy = jwt::Policy {
        algorithms: auth.jwt_algorithms.iter().map(|name| (*name).into()).collect(),
        leeway_seconds: auth.jwt_leeway.get().as_secs(),
        issuer: auth.jwt_issuer.clone(),
        audience: auth.jwt_audience.clone(),
        user_claim: auth.jwt_user_claim.clone(),
        groups_claim: auth.jwt_groups_claim.clone(),
    };
    let has_useful = keys
        .algorithms()
        .any(|algorithm| policy.algorithms.contains(&algorithm));
    if !auth.jwt_keys.is_empty() && !has_useful {
        return Err("none of the keys is for one of `jwt_algorithms`".to_owned());
    }
    Ok(Tokens { policy, keys })
}

fn lines<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, Vec<LineError>>) -> Result<T, String> {
    let text = String::from_utf8(read(path)?).map_err(|_| format!("{}: is not UTF-8", path.display()))?;
    parse(&text).map_err(|errors| {
        let more = errors.len().saturating_sub(LINES_NAMED_MAX);
        let mut told: Vec<String> = errors
            .iter()
            .take(LINES_NAMED_MAX)
            .map(LineError::to_string)
            .collect();
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        format!("{}: {}", path.display(), told.join("; "))
    })
}
