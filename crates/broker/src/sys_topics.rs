//! The `$SYS` topics that monitoring tools know from mosquitto: about this node, kept in memory, never replicated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mqtt_codec::{Publication, QoS};
use mqtt_topic::{TopicFilter, TopicName};
use parking_lot::Mutex;

use crate::mailbox::LiveMessage;
use crate::publisher::Publisher;
use crate::shared::Shared;

/// Totals that the `$SYS` topics show.
#[derive(Default, Debug)]
pub(crate) struct Totals {
    pub(crate) messages_received: std::sync::atomic::AtomicU64,
    pub(crate) messages_sent: std::sync::atomic::AtomicU64,
    pub(crate) bytes_received: std::sync::atomic::AtomicU64,
    pub(crate) bytes_sent: std::sync::atomic::AtomicU64,
    pub(crate) connected_ever: std::sync::atomic::AtomicU64,
}

#[derive(Default, Debug)]
pub(crate) struct SysTopics {
    pub(crate) totals: Totals,
    latest: Mutex<BTreeMap<TopicName, LiveMessage>>,
}

impl SysTopics {
    /// The latest values under a filter, as retained messages.
    pub(crate) fn matching(&self, filter: &TopicFilter) -> Vec<LiveMessage> {
        if !filter.as_str().starts_with("$SYS") {
            return Vec::new();
        }
        let latest = self.latest.lock();
        latest
            .iter()
            .filter(|(topic, _)| filter.matches(topic))
            .map(|(_, message)| message.clone())
            .collect()
    }

    fn replace(&self, message: &LiveMessage) {
        self.latest
            .lock()
            .insert(message.publication.topic().clone(), message.clone());
    }
}

/// Publishes the values for as long as the node runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let interval = shared.config.mqtt.sys_interval.get();
    if interval.is_zero() {
        return;
    }
    let started = Instant::now();
    let mut ticks = tokio::time::interval(interval);
    let mut publisher: Publisher<()> = Publisher::new("".into());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stopping.cancelled() => return,
        }
        for (topic, value) in values(&shared, started) {
            let Ok(topic) = TopicName::parse(format!("$SYS/broker/{topic}").into()) else {
                continue;
            };
            let publication = Publication::new(topic, Bytes::from(value));
            let message = LiveMessage {
                publication,
                qos: QoS::AtMostOnce,
                retain: true,
                expires_at: None,
            };
            shared.sys.replace(&message);
            publisher.publish(&shared, message, (), None);
        }
        // Other nodes have values of their own; only what a shared subscription chose a member for leaves this one.
        for mut batch in publisher.flush(&shared).forwards {
            batch.messages.retain(|message| !message.only_client.is_empty());
            batch.send(&shared, publisher.lane(), |_, _| {});
        }
    }
}

fn values(shared: &Shared, started: Instant) -> Vec<(&'static str, String)> {
    use std::sync::atomic::Ordering::Relaxed;
    let totals = shared.cluster.totals();
    let sums = &shared.sys.totals;
    let connected = shared.registry.len() as u64;
    let disconnected = totals.sessions.saturating_sub(connected);
    vec![
        ("version", format!("Flotilla {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", started.elapsed().as_secs())),
        ("clients/total", (connected + disconnected).to_string()),
        ("clients/connected", connected.to_string()),
        ("clients/active", connected.to_string()),
        ("clients/disconnected", disconnected.to_string()),
        ("clients/inactive", disconnected.to_string()),
        (
            "messages/received",
            sums.messages_received.load(Relaxed).to_string(),
        ),
        ("messages/sent", sums.messages_sent.load(Relaxed).to_string()),
        (
            "publish/messages/received",
            sums.messages_received.load(Relaxed).to_string(),
        ),
        (
            "publish/messages/sent",
            sums.messages_sent.load(Relaxed).to_string(),
        ),
        ("bytes/received", sums.bytes_received.load(Relaxed).to_string()),
        ("bytes/sent", sums.bytes_sent.load(Relaxed).to_string()),
        ("retained messages/count", totals.retained_messages.to_string()),
        ("store/messages/count", totals.queued_messages.to_string()),
        ("store/messages/bytes", totals.queued_bytes.to_string()),
        (
            "subscriptions/count",
            (totals.subscriptions + shared.router.filters() as u64).to_string(),
        ),
    ]
}

/// Refreshes the gauges that are too dear to keep up with every change.
pub(crate) async fn gauges(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(5));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stopping.cancelled() => return,
        }
        let totals = shared.cluster.totals();
        let metrics = &shared.metrics;
        metrics.sessions.set(totals.sessions as f64);
        metrics.subscriptions.set(totals.subscriptions as f64);
        metrics.topic_filters.set(shared.router.filters() as f64);
        metrics.retained_messages.set(totals.retained_messages as f64);
        metrics.retained_bytes.set(totals.retained_bytes as f64);
        metrics.queued_messages.set(totals.queued_messages as f64);
        metrics.queued_bytes.set(totals.queued_bytes as f64);
    }
}
