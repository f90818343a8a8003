//! What may change while the node runs: users, keys, rules and certificates in their files, and the level of the log in the
//! configuration. All of it is read again on SIGHUP, when the API asks, and when a file changes; one mistake, and all stays.

mod stamps;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

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
use stamps::Stamps;

/// The one key of the configuration that takes effect at once.
const LOG_LEVEL: &str = "log.level";

/// Reads again what may change.
pub(crate) struct Reloader {
    flags: ConfigFlags,
    broker: SharedBroker,
    log: Arc<LogControl>,
    state: Mutex<State>,
    metrics: Metrics,
}

struct State {
    /// What the node runs with.
    config: Config,
    settings: Vec<Setting>,
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
    ) -> Self {
        let metrics = Metrics::new();
        metrics.succeeded(&config, now_s(&broker));
        let read = Stamps::of(flags.config.as_deref(), &config);
        Self {
            flags,
            broker,
            log,
            state: Mutex::new(State {
                config,
                settings,
                read,
                failed: None,
            }),
            metrics,
        }
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
        let (flags, config) = (self.flags.clone(), state.config.clone());
        let loading = tokio::task::spawn_blocking(move || {
            // Looked at before they are read: what changes in between is read once more.
            let stamps = Stamps::of(flags.config.as_deref(), &config);
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
        let reload = {
            let broker = self.broker.read().unwrap_or_else(PoisonError::into_inner);
            broker.as_ref().map(Broker::reload)
        };
        reload.ok_or("the node is stopping")?.await?;
        let mut view = ReloadView::default();
        for key in changed_keys(state, &loaded) {
            match key == LOG_LEVEL {
                true => view.changed.push(key),
                false => view.needs_restart.push(key),
            }
        }
        if !view.changed.is_empty() {
            let level = loaded.config.log.level.clone();
            self.log.set(&level)?;
            state.config.log.level = level;
            // Other keys keep what the node runs with, so that the next answer names them again.
            let is_level = |setting: &Setting| path(setting) == LOG_LEVEL;
            let new = loaded.settings().into_iter().find(is_level);
            let known = state.settings.iter_mut().find(|setting| is_level(setting));
            if let (Some(known), Some(new)) = (known, new) {
                *known = new;
            }
        }
        Ok(view)
    }

    /// Looks at the files every so often, until the process ends. What has changed and then stayed the same for one look is
    /// read again: certificate and key come one after the other.
    pub(crate) async fn watch(self: Arc<Self>, every: Duration) {
        let mut last = None;
        while !every.is_zero() {
            tokio::time::sleep(every).await;
            let (config, flags) = (self.state.lock().await.config.clone(), self.flags.clone());
            let looking = tokio::task::spawn_blocking(move || Stamps::of(flags.config.as_deref(), &config));
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
fn changed_keys(state: &State, loaded: &Loaded) -> Vec<String> {
    let settings = loaded.settings();
    let known = |setting: &Setting| {
        let same = |one: &&Setting| path(one) == path(setting);
        state.settings.iter().find(same).map(|known| &known.value)
    };
    let is_new = |setting: &&Setting| known(setting) != Some(&setting.value);
    let mut changed: Vec<String> = settings.iter().filter(is_new).map(path).collect();
    let gone = |setting: &&Setting| !settings.iter().any(|one| path(one) == path(setting));
    changed.extend(state.settings.iter().filter(gone).map(path));
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
