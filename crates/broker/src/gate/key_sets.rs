//! Keys for tokens that are fetched from where the issuer publishes them: at the start, again and again, and when a token
//! names a key that is not known.

use std::sync::Arc;
use std::time::Duration;

use access::jwt::KeySet;
use arc_swap::ArcSwap;
use cluster::Clock;
use metrics::Counter;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::config::Auth;
use crate::http_client::HttpClient;

/// Largest key set that is read.
const SET_BYTES_MAX: usize = 1 << 20;
/// Time for one fetch.
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// No fetch within this time after another, whoever asks for it.
const SOONEST: Duration = Duration::from_secs(10);

pub(super) struct KeySets {
    interval: Duration,
    soonest: Duration,
    clock: Arc<dyn Clock>,
    keys: ArcSwap<KeySet>,
    wanted: Notify,
    fetches: watch::Sender<Fetches>,
    /// Good fetches, and others.
    counted: [Counter; 2],
}

#[derive(Clone, Copy, Default)]
struct Fetches {
    /// Whether there has been a good one.
    any: bool,
    /// Milliseconds since 1970 before which there is no other.
    not_before_ms: u64,
}

/// The way to the keys, with the file that it takes. `None`: they are not fetched.
pub(super) fn client(auth: &Auth) -> Result<Option<HttpClient>, String> {
    let Some(url) = &auth.jwt_keys_url else {
        return Ok(None);
    };
    HttpClient::new(url, auth.jwt_keys_ca.as_deref(), SET_BYTES_MAX).map(Some)
}

impl KeySets {
    /// `None`: keys are not fetched.
    pub(super) fn new(auth: &Auth, clock: Arc<dyn Clock>, counted: &[Counter; 2]) -> Option<Arc<Self>> {
        auth.jwt_keys_url.as_ref()?;
        Some(Arc::new(Self::with(
            auth.jwt_keys_interval.get(),
            SOONEST,
            clock,
            counted.clone(),
        )))
    }

    pub(super) fn with(
        interval: Duration,
        soonest: Duration,
        clock: Arc<dyn Clock>,
        counted: [Counter; 2],
    ) -> Self {
        Self {
            interval,
            soonest,
            clock,
            keys: ArcSwap::default(),
            wanted: Notify::new(),
            fetches: watch::Sender::new(Fetches::default()),
            counted,
        }
    }

    /// The newest keys; none before the first good fetch.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    /// Whether there has been a good fetch.
    pub(super) fn are_known(&self) -> bool {
        self.fetches.borrow().any
    }

    /// Asks for a fetch as soon as one is due.
    pub(super) fn refresh(&self) {
        self.wanted.notify_one();
    }

    /// A token names a key that is not known: waits for a fetch, if one is due or under way.
    pub(super) async fn look_again(&self) {
        let mut fetches = self.fetches.subscribe();
        if self.clock.now_ms() < fetches.borrow_and_update().not_before_ms {
            return;
        }
        self.refresh();
        // Without an answer in time the keys are what they were.
        let _ = tokio::time::timeout(FETCH_LIMIT, fetches.changed()).await;
    }

    /// Fetches until it is dropped, by the way that is the newest each time.
    pub(super) async fn run(&self, way: impl Fn() -> Option<HttpClient> + Send) {
        loop {
            let Some(client) = way() else { return };
            let is_good = self.fetch(&client).await;
            tokio::time::sleep(self.soonest).await;
            if is_good {
                let rest = self.interval.saturating_sub(self.soonest);
                // Either way it is time.
                let _ = tokio::time::timeout(rest, self.wanted.notified()).await;
            }
        }
    }

    async fn fetch(&self, client: &HttpClient) -> bool {
        let problem = match tokio::time::timeout(FETCH_LIMIT, client.get()).await {
            Ok(Ok(bytes)) => match read(&bytes) {
                Ok(keys) => {
                    self.keys.store(Arc::new(keys));
                    None
                }
                Err(problem) => Some(problem),
            },
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer within 5 seconds".to_owned()),
        };
        let was_known = self.are_known();
        self.fetches.send_modify(|fetches| {
            fetches.any |= problem.is_none();
            fetches.not_before_ms = self.clock.now_ms() + self.soonest.as_millis() as u64;
        });
        match problem {
            None => {
                self.counted[0].increment(1);
                if !was_known {
                    info!("the keys of auth.jwt_keys_url were fetched");
                }
                true
            }
            Some(problem) => {
                self.counted[1].increment(1);
                let consequence = match was_known {
                    true => "the last ones stay",
                    false => "tokens are refused until they are known",
                };
                warn!(
                    problem,
                    "the keys of auth.jwt_keys_url were not fetched: {consequence}"
                );
                false
            }
        }
    }
}

fn read(bytes: &[u8]) -> Result<KeySet, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the answer is not text".to_owned())?;
    let mut keys = KeySet::default();
    keys.add_jwks(text).map_err(|error| error.to_string())?;
    Ok(keys)
}
