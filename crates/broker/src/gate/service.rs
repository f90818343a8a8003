//! A service that is asked over HTTP who a client is: `[auth.http]`. Nobody waits for it longer than configured, and while it
//! does not answer it is left alone.

use std::collections::HashMap;
use std::sync::Arc;

use access::inquiry::{ANSWER_BYTES_MAX, Answer, Breaker, Cache, Names, Question};
use bytes::Bytes;
use cluster::Clock;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::auth::Login;
use crate::config::{AuthHttp, Config, Protocol};
use crate::http_client::HttpClient;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Every place was taken for as long as one waits: nothing was asked, and nothing is known of the service.
    Busy,
    /// The service was asked in vain, or is left alone.
    Unavailable,
}

/// What is known of the service; how to reach it is in `Policy`.
pub(super) struct Service {
    settings: AuthHttp,
    protocols: HashMap<String, Protocol>,
    cache: Mutex<Cache>,
    breaker: Mutex<Breaker>,
    places: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    from_cache: Counter,
}

/// The way to the service, with the file that it takes. `None`: there is no service.
pub(super) fn client(settings: &AuthHttp) -> Result<Option<HttpClient>, String> {
    let Some(url) = &settings.url else { return Ok(None) };
    HttpClient::new(url, settings.ca.as_deref(), ANSWER_BYTES_MAX).map(Some)
}

impl Service {
    /// `None`: there is no service.
    pub(super) fn new(config: &Config, clock: Arc<dyn Clock>, from_cache: &Counter) -> Option<Arc<Self>> {
        let settings = config.auth.http.clone();
        settings.url.as_ref()?;
        let milliseconds = |span: crate::config::TimeSpan| span.get().as_millis() as u64;
        let (allow_ms, deny_ms) = (milliseconds(settings.allow_for), milliseconds(settings.deny_for));
        let cache = Cache::new(rand::random(), settings.cache_max as usize, allow_ms, deny_ms);
        let breaker = Breaker::new(settings.failures_max, milliseconds(settings.pause));
        let listeners = config.listeners.iter();
        Some(Arc::new(Self {
            protocols: listeners
                .map(|listener| (listener.name.clone(), listener.protocol))
                .collect(),
            cache: Mutex::new(cache),
            breaker: Mutex::new(breaker),
            places: Arc::new(Semaphore::new(settings.requests_max as usize)),
            clock,
            from_cache: from_cache.clone(),
            settings,
        }))
    }

    /// Answers are asked for anew from now on.
    pub(super) fn forget(&self) {
        self.cache.lock().clear();
    }

    /// Takes every place until the permit is dropped.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::SemaphorePermit<'_> {
        let all = self.settings.requests_max;
        self.places.acquire_many(all).await.expect("it is never closed")
    }

    /// Asks, unless the answer is known. What was begun is finished even if the client leaves meanwhile.
    pub(super) async fn ask(
        self: &Arc<Self>,
        client: &HttpClient,
        login: &Login,
    ) -> Result<Answer, Unanswered> {
        let Some(question) = self.question(login) else {
            return Ok(Answer::Ignore);
        };
        let (key, now_ms) = {
            let cache = self.cache.lock();
            let (key, now_ms) = (cache.key(&question), self.clock.now_ms());
            if let Some(answer) = cache.get(&key, now_ms) {
                self.from_cache.increment(1);
                return Ok(answer);
            }
            (key, now_ms)
        };
        if self.breaker.lock().is_open(now_ms) {
            return Err(Unanswered::Unavailable);
        }
        let place = timeout(
            self.settings.timeout.get(),
            Arc::clone(&self.places).acquire_owned(),
        );
        let Ok(Ok(place)) = place.await else {
            return Err(Unanswered::Busy);
        };
        if !self.breaker.lock().may_ask(self.clock.now_ms()) {
            return Err(Unanswered::Unavailable);
        }
        let (service, client) = (Arc::clone(self), client.clone());
        let asked = tokio::spawn(async move {
            let answer = service.fetch(&client, question.into()).await?;
            drop(place);
            let now_ms = service.clock.now_ms();
            service.cache.lock().put(key, answer.clone(), now_ms);
            Ok(answer)
        });
        asked.await.unwrap_or(Err(Unanswered::Unavailable))
    }

    /// `None`: there is nothing to ask, or a password that JSON cannot hold, which the service cannot know.
    fn question(&self, login: &Login) -> Option<Vec<u8>> {
        let password = login.password.as_ref().map(|password| &*password.0);
        let question = Question {
            client_id: &login.client_id,
            user: login.username.as_deref(),
            password: password.map(std::str::from_utf8).transpose().ok()?,
            address: login.address.ip().to_canonical().to_string(),
            listener: &login.listener,
            protocol: self
                .protocols
                .get(&*login.listener)
                .map(|protocol| protocol.as_str()),
            certificate: login.certificate.as_deref().map(Names::from),
        };
        Some(question.to_json())
    }

    /// A question has its whole time, however long its place was waited for: else it says nothing of the service.
    async fn fetch(&self, client: &HttpClient, question: Bytes) -> Result<Answer, Unanswered> {
        let asked = timeout(self.settings.timeout.get(), async {
            let answer = client.post(question).await.map_err(|error| error.to_string())?;
            Answer::parse(&answer, self.clock.now_ms()).map_err(|error| error.to_string())
        });
        let problem = match asked.await {
            Ok(Ok(answer)) => {
                if self.breaker.lock().succeeded() {
                    info!("the service of auth.http answers again");
                }
                return Ok(answer);
            }
            Ok(Err(problem)) => problem,
            Err(_) => "no answer within auth.http.timeout".to_owned(),
        };
        if self.breaker.lock().failed(self.clock.now_ms()) {
            warn!(problem, pause = %self.settings.pause,
                "the service of auth.http fails: it is left alone, and clients that it has to judge are refused");
        }
        Err(Unanswered::Unavailable)
    }
}
