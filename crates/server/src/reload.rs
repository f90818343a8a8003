//! What may change while the node runs: users, keys, rules, tokens and certificates in their files, and of the configuration
//! the keys that are marked so: nearly all limits, the bounds of queues, the memory budget, tokens, the level of the log. All of it is read again on SIGHUP, when the API asks, and when a file changes; one mistake, and all stays.

mod stamps;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use admin::Tokens;
use admin::views::{ReloadView, Setting};
use broker::Broker;
use broker::config::Config;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::arguments::ConfigFlags;
use crate::cluster_admin::SharedBroker;
use crate::config::{self, Loaded};
use crate::log::LogControl;
use crate::operations::certificates;
use crate::{files_limit, start};
use stamps::{Stamps, files};

/// Reads again what may change.
pub(crate) struct Reloader {
    flags: ConfigFlags,
    broker: SharedBroker,
    log: Arc<LogControl>,
    tokens: Tokens,
    state: Mutex<State>,
    /// What the node runs with, to be shown.
    settings: RwLock<Vec<Setting>>,
    metrics: Metrics,
}

struct State {
    /// What the node runs with.
    config: Config,
    files: Arc<[PathBuf]>,
    /// Of the files as they were read with success, and as they were when they could not be.
    read: Stamps,
    failed: Option<Stamps>,
}

struct Metrics {
    done: Counter,
    failed: Counter,
    successful: Gauge,
    succeeded_at: Gauge,
}

impl Reloader {
    /// What was read at the start counts as the first success. Blocks for the files.
    pub(crate) fn new(
        flags: ConfigFlags,
        (config, settings): (Config, Vec<Setting>),
        broker: SharedBroker,
        log: Arc<LogControl>,
        tokens: Tokens,
    ) -> Self {
        let metrics = Metrics::new();
        metrics.succeeded(&config, now_s(&broker));
        let files = files(flags.config.as_deref(), &config);
        let read = Stamps::of(&files);
        Self {
            flags,
            broker,
            log,
            tokens,
            state: Mutex::new(State {
                config,
                files,
                read,
                failed: None,
            }),
            settings: RwLock::new(settings),
            metrics,
        }
    }

    /// Every key with what the node runs with.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        self.settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads all of it again. `why` is for the log.
    ///
    /// # Errors
    /// Every mistake; nothing has changed.
    pub(crate) async fn reload(&self, why: &'static str) -> Result<ReloadView, String> {
        let mut state = self.state.lock().await;
        let outcome = self.read_again(&mut state).await;
        match &outcome {
            Ok(view) => {
                self.metrics.done.increment(1);
                info!(target: "audit", event = "reload", why, changed = ?view.changed, needs_restart = ?view.needs_restart,
                    "users, keys and rules were read again, and certificates");
            }
            Err(problems) => {
                self.metrics.failed.increment(1);
                self.metrics.successful.set(0.0);
                warn!(target: "audit", event = "reload failed", why, problems, "all stays as it was");
            }
        }
        outcome
    }

    async fn read_again(&self, state: &mut State) -> Result<ReloadView, String> {
        let (flags, files) = (self.flags.clone(), Arc::clone(&state.files));
        let loading = tokio::task::spawn_blocking(move || {
            // Looked at before they are read: what changes in between is read once more.
            let stamps = Stamps::of(&files);
            (stamps, config::load(&flags))
        });
        let (stamps, loaded) = loading.await.map_err(|error| error.to_string())?;
        let outcome = self
            .take_over(state, loaded.map_err(|mistakes| mistakes.to_string()))
            .await;
        match outcome {
            Ok(mut view) => {
                view.changed.splice(0..0, stamps.changed_since(&state.read));
                (state.read, state.failed) = (stamps, None);
                self.look_at_other_files(state).await;
                self.metrics.succeeded(&state.config, now_s(&self.broker));
                Ok(view)
            }
            Err(problems) => {
                state.failed = Some(stamps);
                Err(problems)
            }
        }
    }

    async fn take_over(
        &self,
        state: &mut State,
        loaded: Result<Loaded, String>,
    ) -> Result<ReloadView, String> {
        let loaded = loaded?;
        let admin = loaded.config.admin.clone();
        let access = tokio::task::spawn_blocking(move || start::access(&admin));
        let access = access.await.map_err(|error| error.to_string())?;
        let access = access.map_err(|error| format!("{error:#}"))?;
        if self.tokens.are_asked_for() && !access.has_tokens() {
            return Err(
                "no token is left, and without any this machine may do everything: that takes a restart"
                    .to_owned(),
            );
        }
        let reload = {
            let broker = self.broker.read().unwrap_or_else(PoisonError::into_inner);
            broker.as_ref().map(Broker::reload)
        };
        reload.ok_or("the node is stopping")?.await?;
        // Nothing of what follows can be refused.
        let (changed, needs_restart) = changed_keys(&self.settings(), state, &loaded)
            .into_iter()
            .partition(|key| counts_at_once(key));
        let view = ReloadView {
            changed,
            needs_restart,
        };
        self.put_in_force(state, &loaded, &view.changed)?;
        self.tokens.set(access);
        Ok(view)
    }

    /// The new values of these keys count from here on. Other keys keep what the node runs with, so that the next answer names
    /// them again.
    fn put_in_force(&self, state: &mut State, loaded: &Loaded, changed: &[String]) -> Result<(), String> {
        if changed.is_empty() {
            return Ok(());
        }
        let new = &loaded.config;
        if new.log.level != state.config.log.level {
            self.log.set(&new.log.level)?;
        }
        if new.limits.connections_max > state.config.limits.connections_max {
            files_limit::raise(new.limits.connections_max);
        }
        state.config.adopt(new);
        if let Some(broker) = self
            .broker
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            broker.set_limits(new);
        }
        let in_force = |setting: &Setting| changed.contains(&path(setting));
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        for new in loaded.settings().into_iter().filter(in_force) {
            match settings.iter_mut().find(|known| path(known) == path(&new)) {
                Some(known) => *known = new,
                None => settings.push(new),
            }
        }
        Ok(())
    }

    /// Other files may be named now. What is in them was read a moment ago.
    async fn look_at_other_files(&self, state: &mut State) {
        let now = files(self.flags.config.as_deref(), &state.config);
        if now == state.files {
            return;
        }
        let looked_at = Arc::clone(&now);
        if let Ok(read) = tokio::task::spawn_blocking(move || Stamps::of(&looked_at)).await {
            (state.files, state.read) = (now, read);
        }
    }

    /// Looks at the files every so often, until the process ends. What has changed and then stayed the same for one look is
    /// read again: certificate and key come one after the other.
    pub(crate) async fn watch(self: Arc<Self>, every: Duration) {
        let mut last = None;
        while !every.is_zero() {
            tokio::time::sleep(every).await;
            let files = Arc::clone(&self.state.lock().await.files);
            let looking = tokio::task::spawn_blocking(move || Stamps::of(&files));
            let Ok(now) = looking.await else { continue };
            let settled = last.as_ref() == Some(&now);
            let is_news = {
                let state = self.state.lock().await;
                now != state.read && state.failed.as_ref() != Some(&now)
            };
            if settled && is_news {
                // Whatever comes of it is logged and counted.
                let _ = self.reload("a file has changed").await;
            }
            last = Some(now);
        }
    }
}

/// Keys with other values than the node runs with, as `limits.connections_max`. Secrets are compared, and not shown.
fn changed_keys(shown: &[Setting], state: &State, loaded: &Loaded) -> Vec<String> {
    let settings = loaded.settings();
    let known = |setting: &Setting| {
        let same = |one: &&Setting| path(one) == path(setting);
        shown.iter().find(same).map(|known| &known.value)
    };
    let is_new = |setting: &&Setting| known(setting) != Some(&setting.value);
    let mut changed: Vec<String> = settings.iter().filter(is_new).map(path).collect();
    let gone = |setting: &&Setting| !settings.iter().any(|one| path(one) == path(setting));
    changed.extend(shown.iter().filter(gone).map(path));
    let (old, new) = (&state.config.admin, &loaded.config.admin);
    for (key, differ) in [
        ("admin.read_tokens", old.read_tokens != new.read_tokens),
        ("admin.write_tokens", old.write_tokens != new.write_tokens),
    ] {
        if differ && !changed.iter().any(|known| known == key) {
            changed.push(key.to_owned());
        }
    }
    changed
}

/// Whether a key's new value, as `limits.connections_max`, needs no restart.
fn counts_at_once(key: &str) -> bool {
    key.rsplit_once('.')
        .is_some_and(|(section, key)| Config::counts_at_once(section, key))
}

/// Seconds since the Unix epoch, by the node's clock; 0 when the node has stopped.
fn now_s(broker: &SharedBroker) -> u64 {
    let broker = broker.read().unwrap_or_else(PoisonError::into_inner);
    broker
        .as_ref()
        .map_or(0, |broker| broker.operator().now_ms() / 1000)
}

fn path(setting: &Setting) -> String {
    format!("{}.{}", setting.section, setting.key)
}

impl Metrics {
    fn new() -> Self {
        describe_counter!(
            "flotilla_config_reload_total",
            "Times that users, keys, rules, certificates and configuration were read again, by result"
        );
        describe_gauge!(
            "flotilla_config_last_reload_successful",
            "1 if what was read last took effect, 0 if it had mistakes and all stayed as it was"
        );
        describe_gauge!(
            "flotilla_config_last_reload_success_timestamp_seconds",
            "When what is in force was read"
        );
        describe_gauge!(
            "flotilla_certificate_not_after_timestamp_seconds",
            "When the certificate of a listener ends; that of the connections between nodes is called `peers`"
        );
        let reloads = |result: &'static str| counter!("flotilla_config_reload_total", "result" => result);
        Self {
            done: reloads("done"),
            failed: reloads("failed"),
            successful: gauge!("flotilla_config_last_reload_successful"),
            succeeded_at: gauge!("flotilla_config_last_reload_success_timestamp_seconds"),
        }
    }

    fn succeeded(&self, config: &Config, now_s: u64) {
        self.successful.set(1.0);
        self.succeeded_at.set(now_s as f64);
        for (listener, not_after_s) in certificates::ends(config) {
            let ends = gauge!("flotilla_certificate_not_after_timestamp_seconds", "listener" => listener);
            ends.set(not_after_s as f64);
        }
    }
}
