//! The `$SYS` topics that monitoring tools know from mosquitto: about this node, kept in memory, never replicated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use mqtt_codec::{Publication, QoS};
use mqtt_topic::{TopicFilter, TopicName};
use parking_lot::Mutex;

use crate::mailbox::LiveMessage;
use crate::overload::resident_bytes;
use crate::publisher::Publisher;
use crate::shared::Shared;
use crate::sys_load::Loads;

/// Totals that the `$SYS` topics show, since the start of the node.
#[derive(Default, Debug)]
pub(crate) struct Totals {
    pub(crate) packets_received: AtomicU64,
    pub(crate) packets_sent: AtomicU64,
    pub(crate) publishes_received: AtomicU64,
    pub(crate) publishes_sent: AtomicU64,
    pub(crate) payload_bytes_received: AtomicU64,
    pub(crate) payload_bytes_sent: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    connections: AtomicU64,
    /// The most clients that were connected at the same time.
    connected_max: AtomicU64,
    /// Subscriptions of sessions that end with their connection; the shards count those of the others.
    subscriptions: AtomicU64,
    /// The most resident memory that was seen here.
    resident_max: AtomicU64,
}

impl Totals {
    /// A connection was accepted; so many are there now.
    pub(crate) fn connected(&self, now: u64) {
        self.connections.fetch_add(1, Relaxed);
        self.connected_max.fetch_max(now, Relaxed);
    }

    /// A session in memory has one more subscription.
    pub(crate) fn subscribed(&self) {
        self.subscriptions.fetch_add(1, Relaxed);
    }

    /// A session in memory has one less.
    pub(crate) fn unsubscribed(&self) {
        self.subscriptions.fetch_sub(1, Relaxed);
    }
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
    let mut loads = Loads::default();
    let mut looked = started;
    let mut publisher: Publisher<()> = Publisher::new("".into());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stopping.cancelled() => return,
        }
        let now = Instant::now();
        loads.add(now - looked, sums(&shared));
        looked = now;
        let values = values(&shared, started).into_iter();
        let values = values
            .map(|(topic, value)| (topic.to_owned(), value))
            .chain(loads.values());
        for (topic, value) in values {
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

/// What loads are the growth of, by the names of mosquitto.
fn sums(shared: &Shared) -> [(&'static str, u64); 9] {
    let totals = &shared.sys.totals;
    [
        ("messages/received", totals.packets_received.load(Relaxed)),
        ("messages/sent", totals.packets_sent.load(Relaxed)),
        ("publish/received", totals.publishes_received.load(Relaxed)),
        ("publish/sent", totals.publishes_sent.load(Relaxed)),
        ("publish/dropped", shared.metrics.dropped_total()),
        ("bytes/received", totals.bytes_received.load(Relaxed)),
        ("bytes/sent", totals.bytes_sent.load(Relaxed)),
        ("connections", totals.connections.load(Relaxed)),
        ("sockets", totals.connections.load(Relaxed)),
    ]
}

fn values(shared: &Shared, started: Instant) -> Vec<(&'static str, String)> {
    let totals = shared.cluster.totals();
    let sums = &shared.sys.totals;
    let connected = shared.registry.len() as u64;
    let of = |sum: &AtomicU64| sum.load(Relaxed).to_string();
    let disconnected = totals.sessions.saturating_sub(connected);
    // As mosquitto counts: what is retained is in the store, too.
    let stored_messages = totals.queued_messages + totals.retained_messages;
    let stored_bytes = totals.queued_bytes + totals.retained_bytes;
    let mut values = vec![
        ("version", format!("Flotilla {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", started.elapsed().as_secs())),
        ("clients/total", (connected + disconnected).to_string()),
        ("clients/connected", connected.to_string()),
        ("clients/active", connected.to_string()),
        ("clients/disconnected", disconnected.to_string()),
        ("clients/inactive", disconnected.to_string()),
        ("clients/maximum", of(&sums.connected_max)),
        (
            "clients/expired",
            shared.metrics.sessions_expired.total().to_string(),
        ),
        ("messages/received", of(&sums.packets_received)),
        ("messages/sent", of(&sums.packets_sent)),
        ("publish/messages/received", of(&sums.publishes_received)),
        ("publish/messages/sent", of(&sums.publishes_sent)),
        (
            "publish/messages/dropped",
            shared.metrics.dropped_total().to_string(),
        ),
        ("publish/bytes/received", of(&sums.payload_bytes_received)),
        ("publish/bytes/sent", of(&sums.payload_bytes_sent)),
        ("bytes/received", of(&sums.bytes_received)),
        ("bytes/sent", of(&sums.bytes_sent)),
        ("retained messages/count", totals.retained_messages.to_string()),
        ("messages/stored", stored_messages.to_string()),
        ("store/messages/count", stored_messages.to_string()),
        ("store/messages/bytes", stored_bytes.to_string()),
        (
            "subscriptions/count",
            (totals.subscriptions + sums.subscriptions.load(Relaxed)).to_string(),
        ),
    ];
    // Of the heap alone nobody can tell; resident memory has it in it.
    if let Some(resident) = resident_bytes() {
        let max = sums.resident_max.fetch_max(resident, Relaxed).max(resident);
        values.push(("heap/current", resident.to_string()));
        values.push(("heap/maximum", max.to_string()));
    }
    values
}

/// Every sixth time each queue is looked at.
const LOOKS_PER_QUEUES: u64 = 6;

/// Refreshes the gauges that are too dear to keep up with every change.
pub(crate) async fn gauges(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(5));
    for look in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stopping.cancelled() => return,
        }
        let totals = shared.cluster.totals();
        let metrics = &shared.metrics;
        let away = totals.sessions.saturating_sub(totals.connected);
        metrics.sessions_connected.set(totals.connected as f64);
        metrics.sessions_disconnected.set(away as f64);
        metrics.subscriptions.set(totals.subscriptions as f64);
        metrics.topic_filters.set(shared.router.filters() as f64);
        metrics.shared_groups.set(shared.router.groups() as f64);
        metrics.retained_messages.set(totals.retained_messages as f64);
        metrics.retained_bytes.set(totals.retained_bytes as f64);
        metrics.inflight_messages.set(shared.registry.in_flight() as f64);
        metrics.queued_messages.set(totals.queued_messages as f64);
        metrics.queued_bytes.set(totals.queued_bytes as f64);
        if look % LOOKS_PER_QUEUES == 0 {
            let near = shared.cluster.queues_near_limit();
            metrics.queues_near_limit.set(near as f64);
        }
    }
}
