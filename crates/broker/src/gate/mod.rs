//! The judge that the configuration describes: files of users, keys and rules, asked in the configured order. Whatever
//! cannot be judged is refused.

mod exchange;
mod hashing;
mod key_sets;
mod login;
mod policy;
mod service;
mod turns;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access::backoff::{Key, Patience};
use access::rules::Permissions;
use access::{ClientIdRule, Principal, scram};
use arc_swap::ArcSwap;
use cluster::Clock;
use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};
use mqtt_codec::ReasonCode;
use mqtt_topic::TopicName;
use tracing::info;

use crate::auth::{Admission, Authenticator, Exchange, Judgement, Login};
use crate::config::{Auth, AuthMethod, Config, Problem};
use crate::log_limit::LogLimit;
use exchange::ScramExchange;
use hashing::Hashing;
use key_sets::KeySets;
use policy::Policy;
use service::Service;
use turns::{TooSoon, Turns};

/// Addresses and user names whose failures are remembered.
const FAILING_MAX: usize = 100_000;
/// Refused logins are told one by one this often; the rest is counted.
const REFUSALS_EVERY: Duration = Duration::from_millis(100);

/// Every file that `[auth]` and `[access]` name, looked at as a start would.
pub fn file_problems(config: &Config) -> Vec<Problem> {
    match Policy::load(&config.auth, &config.access, [0; 32]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    }
}

/// The judge of a node.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    auth: Auth,
    access: crate::config::Access,
    policy: ArcSwap<Policy>,
    generation: AtomicU64,
    hashing: Hashing,
    service: Option<Arc<Service>>,
    key_sets: Option<Arc<KeySets>>,
    turns: Turns,
    clock: Arc<dyn Clock>,
    /// Decides what unknown users are measured against; the same for the life of the process.
    secret: [u8; 32],
    refusals: LogLimit,
    metrics: Metrics,
}

/// Why a login is refused: the client's reason code, and a word for logs and metrics.
struct Refusal {
    reason_code: ReasonCode,
    result: Outcome,
}

/// The results of logins, as the metric has them.
#[derive(Clone, Copy)]
enum Outcome {
    Accepted,
    Refused,
    BackedOff,
    Busy,
    Unavailable,
}

/// Those who can be asked, in the order of `AuthMethod`.
const BACKENDS: [AuthMethod; 4] = [
    AuthMethod::Certificate,
    AuthMethod::Password,
    AuthMethod::Jwt,
    AuthMethod::Http,
];

/// What one of them says, as the metric has it.
#[derive(Clone, Copy)]
enum Said {
    Allow,
    Deny,
    Ignore,
    Unavailable,
}

impl Said {
    const WORDS: [&'static str; 4] = ["allow", "deny", "ignore", "unavailable"];
}

struct Metrics {
    /// In the order of `Outcome`.
    logins: [Counter; 5],
    /// In the order of `AuthMethod` and of `Said`.
    asked: [[Counter; 4]; 4],
    durations: [Histogram; 4],
    from_cache: Counter,
    /// Good ones, and others.
    key_fetches: [Counter; 2],
}

impl Gate {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them, each with its key.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, Vec<Problem>> {
        let (auth, access, secret) = (config.auth.clone(), config.access.clone(), rand::random());
        let policy = Policy::load(&auth, &access, secret)?;
        let longest_wait = auth.failure_wait_max.get();
        let patience = Patience {
            free_failures: auth.failures_free,
            first_wait: Duration::from_secs(1),
            longest_wait,
            forget_after: longest_wait * 10,
            keys_max: FAILING_MAX,
        };
        let metrics = Metrics::new();
        let inner = Inner {
            policy: ArcSwap::from_pointee(policy),
            generation: AtomicU64::new(1),
            service: Service::new(config, Arc::clone(&clock), &metrics.from_cache),
            key_sets: KeySets::new(&auth, Arc::clone(&clock), &metrics.key_fetches),
            hashing: Hashing::new(auth.hashing_threads, auth.hashing_waiting_max),
            turns: Turns::new(patience, Arc::clone(&clock)),
            clock,
            secret,
            refusals: LogLimit::new(REFUSALS_EVERY),
            metrics,
            auth,
            access,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Authenticator for Gate {
    fn login(&self, login: Login) -> Pin<Box<dyn Future<Output = Judgement> + Send + '_>> {
        Box::pin(self.inner.login(login))
    }

    fn exchange(&self, method: &str, login: &Login) -> Option<Box<dyn Exchange>> {
        let policy = self.inner.policy.load();
        let passwords = policy.passwords.as_ref()?;
        if !self.inner.auth.scram || method != scram::METHOD {
            return None;
        }
        let exchange = ScramExchange::new(Arc::clone(&self.inner), Arc::clone(passwords), login.clone());
        Some(Box::new(exchange))
    }

    fn permissions(&self, principal: &Principal) -> Option<Permissions> {
        let policy = self.inner.policy.load();
        policy.rules.as_ref().map(|rules| rules.permissions(principal))
    }

    fn has_rules(&self) -> bool {
        self.inner.access.has_rules()
    }

    fn might_publish(&self, principal: &Principal, topic: &TopicName) -> bool {
        let policy = self.inner.policy.load();
        policy
            .rules
            .as_ref()
            .is_none_or(|rules| rules.might_publish(principal, topic))
    }

    fn still_admits(&self, admission: &Admission) -> bool {
        let Some(mark) = admission.mark else { return true };
        let policy = self.inner.policy.load();
        let user = admission.principal.user.as_deref().unwrap_or_default();
        policy.passwords.as_ref().and_then(|file| file.mark(user)) == Some(mark)
    }

    fn upkeep(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            if let Some(key_sets) = &inner.key_sets {
                key_sets.run(|| inner.policy.load().key_sets.clone()).await;
            }
        })
    }

    fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    fn reload(&self) -> Result<(), String> {
        let inner = &self.inner;
        match Policy::load(&inner.auth, &inner.access, inner.secret) {
            Ok(policy) => {
                inner.policy.store(Arc::new(policy));
                if let Some(service) = &inner.service {
                    service.forget();
                }
                if let Some(key_sets) = &inner.key_sets {
                    key_sets.refresh();
                }
                inner.generation.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
                Err(problems.join("; "))
            }
        }
    }
}

impl Inner {
    fn now(&self) -> Duration {
        Duration::from_millis(self.clock.now_ms())
    }

    /// Whether the client id is the one of the certificate, or may be this user's.
    fn check_client_id(&self, admission: &Admission) -> Result<(), Refusal> {
        let principal = &admission.principal;
        let rule = ClientIdRule::from(self.auth.client_ids);
        let policy = self.policy.load();
        let is_known = |name: &str| policy.passwords.as_ref().is_some_and(|file| file.knows(name));
        let is_permitted = match self.auth.client_id_by(principal.certificate.as_deref()) {
            Some(name) => name == Some(&principal.client_id),
            None => rule.permits(principal.user.as_deref(), &principal.client_id, is_known),
        };
        match is_permitted {
            true => Ok(()),
            false => Err(Refusal {
                reason_code: ReasonCode::ClientIdentifierNotValid,
                result: Outcome::Refused,
            }),
        }
    }

    /// Counts a result, and tells of a refusal.
    fn note(&self, login: &Login, user: Option<&str>, result: &Result<Admission, Refusal>) {
        let outcome = result
            .as_ref()
            .map_or_else(|refusal| refusal.result, |_| Outcome::Accepted);
        self.metrics.logins[outcome as usize].increment(1);
        let Err(refusal) = result else { return };
        if let Some(left_out) = self.refusals.line() {
            let Login {
                client_id,
                address,
                listener,
                ..
            } = login;
            info!(target: "audit", event = "login refused", result = outcome.as_str(), reason_code = ?refusal.reason_code,
                ?client_id, user = ?user.unwrap_or_default(), %address, %listener, left_out);
        }
    }
}

/// What the failures of a login are counted by: its address, which others may share, and the name that it tries. Who guesses from
/// an address from which others come in, too, is held up by the name.
fn keys(login: &Login, user: Option<&str>) -> Vec<Key> {
    let address = Key::address(login.address.ip());
    std::iter::once(address).chain(user.map(Key::user)).collect()
}

impl From<TooSoon> for Refusal {
    fn from(_: TooSoon) -> Self {
        Self {
            reason_code: ReasonCode::ConnectionRateExceeded,
            result: Outcome::BackedOff,
        }
    }
}

impl Outcome {
    fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    const WORDS: [&'static str; 5] = ["accepted", "refused", "backed_off", "busy", "unavailable"];
}

impl Metrics {
    fn new() -> Self {
        describe_counter!("flotilla_logins_total", "Logins, by result");
        describe_counter!(
            "flotilla_auth_total",
            "Answers of those who were asked for a client, by who it was and what it said"
        );
        describe_histogram!(
            "flotilla_auth_duration_seconds",
            "How long they took to answer, waits included"
        );
        describe_counter!(
            "flotilla_auth_http_cached_total",
            "Logins judged by an answer that the service of auth.http had given before"
        );
        describe_counter!(
            "flotilla_jwt_key_fetches_total",
            "Times that auth.jwt_keys_url was fetched, by result"
        );
        let asked = |backend: AuthMethod| {
            Said::WORDS.map(
                |result| counter!("flotilla_auth_total", "backend" => backend.as_str(), "result" => result),
            )
        };
        let duration =
            |backend: AuthMethod| histogram!("flotilla_auth_duration_seconds", "backend" => backend.as_str());
        Self {
            from_cache: counter!("flotilla_auth_http_cached_total"),
            key_fetches: ["done", "failed"]
                .map(|result| counter!("flotilla_jwt_key_fetches_total", "result" => result)),
            asked: BACKENDS.map(asked),
            durations: BACKENDS.map(duration),
            logins: Outcome::WORDS.map(|result| counter!("flotilla_logins_total", "result" => result)),
        }
    }
}

#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;
