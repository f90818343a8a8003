//! What the files say: users, keys and rules, all of one moment.

use std::path::Path;
use std::sync::Arc;

use access::password::PasswordFile;
use access::rules::Rules;
use access::{LineError, jwt};

use crate::config::{Access, Auth, Problem};

/// Lines of a file that are named when it cannot be read.
const LINES_NAMED_MAX: usize = 5;

pub(super) struct Policy {
    pub(super) passwords: Option<Arc<PasswordFile>>,
    pub(super) tokens: Option<Tokens>,
    pub(super) rules: Option<Rules>,
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
        let tokens = match auth.jwt_keys.is_empty() {
            true => None,
            false => tokens(auth)
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
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            passwords: passwords.map(Arc::new),
            tokens,
            rules,
        })
    }
}

fn tokens(auth: &Auth) -> Result<Tokens, String> {
    let mut keys = jwt::KeySet::default();
    for path in &auth.jwt_keys {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
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
    if !keys
        .algorithms()
        .any(|algorithm| policy.algorithms.contains(&algorithm))
    {
        return Err("none of the keys is for one of `jwt_algorithms`".to_owned());
    }
    Ok(Tokens { policy, keys })
}

fn lines<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, Vec<LineError>>) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
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
