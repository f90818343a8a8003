//! What Prometheus sees of the broker. Handles are made once; nothing is looked up per message.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use mqtt_codec::QoS;

use crate::pass::Denied;
use crate::proxy_protocol::Rejection;

/// Why connections end, in the words of the metric.
pub(crate) const CLOSE_REASONS: [&str; 12] = [
    "client_disconnect",
    "keepalive_timeout",
    "takeover",
    "protocol_error",
    "administrative",
    "moved",
    "server_shutdown",
    "unavailable",
    "fenced",
    "access_revoked",
    "credentials_expired",
    "io_error",
];

/// A counter that `$SYS` reads, too.
pub(crate) struct Counted {
    counter: Counter,
    total: AtomicU64,
}

impl Counted {
    fn new(counter: Counter) -> Self {
        let total = AtomicU64::new(0);
        Self { counter, total }
    }

    pub(crate) fn increment(&self, count: u64) {
        self.counter.increment(count);
        self.total.fetch_add(count, Ordering::Relaxed);
    }

    /// What was counted since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// Handles of the broker's counters and gauges.
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) opened: Counter,
    closed: [Counter; CLOSE_REASONS.len()],
    pub(crate) rejected: Counter,
    proxy_rejected: [Counter; Rejection::REASONS.len()],
    denied: [Counter; Denied::WORDS.len()],
    pub(crate) received: [Counter; 3],
    pub(crate) sent: [Counter; 3],
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) packets_received: Counter,
    pub(crate) no_subscribers: Counter,
    pub(crate) dropped_congested: Counted,
    pub(crate) dropped_queue_full: Counted,
    pub(crate) dropped_expired: Counted,
    pub(crate) dropped_too_large: Counted,
    pub(crate) dropped_session_ended: Counted,
    pub(crate) dropped_peer_congested: Counted,
    pub(crate) forwarded_in: Counter,
    forwarded_out: Counter,
    announced: Counter,
    announce_failed: Counter,
    pub(crate) kicks: Counter,
    pub(crate) fences: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) sessions_expired: Counted,
    pub(crate) sessions: Gauge,
    pub(crate) subscriptions: Gauge,
    pub(crate) topic_filters: Gauge,
    pub(crate) retained_messages: Gauge,
    pub(crate) retained_bytes: Gauge,
    pub(crate) queued_messages: Gauge,
    pub(crate) queued_bytes: Gauge,
    pub(crate) draining: Gauge,
    pub(crate) drain_remaining: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        let dropped = |reason: &'static str| {
            Counted::new(counter!("flotilla_messages_dropped_total", "reason" => reason))
        };
        let by_qos = |name: &'static str| ["0", "1", "2"].map(|qos| counter!(name, "qos" => qos));
        Self {
            connections: gauge!("flotilla_connections"),
            opened: counter!("flotilla_connections_opened_total"),
            closed: CLOSE_REASONS
                .map(|reason| counter!("flotilla_connections_closed_total", "reason" => reason)),
            rejected: counter!("flotilla_connects_rejected_total"),
            proxy_rejected: Rejection::REASONS
                .map(|reason| counter!("flotilla_proxy_headers_rejected_total", "reason" => reason)),
            denied: Denied::WORDS.map(|action| counter!("flotilla_access_denied_total", "action" => action)),
            received: by_qos("flotilla_messages_received_total"),
            sent: by_qos("flotilla_messages_sent_total"),
            bytes_received: counter!("flotilla_bytes_received_total"),
            bytes_sent: counter!("flotilla_bytes_sent_total"),
            packets_received: counter!("flotilla_packets_received_total"),
            no_subscribers: counter!("flotilla_messages_dropped_total", "reason" => "no_subscribers"),
            dropped_congested: dropped("qos0_congested"),
            dropped_queue_full: dropped("queue_full"),
            dropped_expired: dropped("expired"),
            dropped_too_large: dropped("too_large"),
            dropped_session_ended: dropped("session_ended"),
            dropped_peer_congested: dropped("peer_congested"),
            forwarded_in: counter!("flotilla_forwarded_messages_total", "direction" => "in"),
            forwarded_out: counter!("flotilla_forwarded_messages_total", "direction" => "out"),
            announced: counter!("flotilla_subscribe_announcements_total", "outcome" => "announced"),
            announce_failed: counter!("flotilla_subscribe_announcements_total", "outcome" => "failed"),
            kicks: counter!("flotilla_session_kicks_total"),
            fences: counter!("flotilla_fences_total"),
            takeovers: counter!("flotilla_session_takeovers_total"),
            sessions_expired: Counted::new(counter!("flotilla_sessions_expired_total")),
            sessions: gauge!("flotilla_sessions"),
            subscriptions: gauge!("flotilla_subscriptions"),
            topic_filters: gauge!("flotilla_topic_filters"),
            retained_messages: gauge!("flotilla_retained_messages"),
            retained_bytes: gauge!("flotilla_retained_bytes"),
            queued_messages: gauge!("flotilla_queued_messages"),
            queued_bytes: gauge!("flotilla_queued_bytes"),
            draining: gauge!("flotilla_draining"),
            drain_remaining: gauge!("flotilla_drain_remaining_connections"),
        }
    }

    /// Messages that found no room, or no time, on their way to a subscriber.
    pub(crate) fn dropped_total(&self) -> u64 {
        let reasons = [
            &self.dropped_congested,
            &self.dropped_queue_full,
            &self.dropped_expired,
            &self.dropped_too_large,
            &self.dropped_session_ended,
            &self.dropped_peer_congested,
        ];
        reasons.into_iter().map(Counted::total).sum()
    }

    /// A connection has ended; the reason is one of `CLOSE_REASONS`.
    pub(crate) fn closed(&self, reason: &str) {
        let place = CLOSE_REASONS.iter().position(|known| *known == reason);
        self.closed[place.unwrap_or(CLOSE_REASONS.len() - 1)].increment(1);
    }

    /// Messages that left for another node; or were refused, and so many of them, with QoS 0, are lost by that.
    pub(crate) fn forwarded(&self, messages: u64, refused_qos_0: Option<u64>) {
        match refused_qos_0 {
            None => self.forwarded_out.increment(messages),
            Some(lost) => self.dropped_peer_congested.increment(lost),
        }
    }

    /// A SUBSCRIBE has waited for the other nodes.
    pub(crate) fn announced(&self, every_node_knows: bool) {
        match every_node_knows {
            true => self.announced.increment(1),
            false => self.announce_failed.increment(1),
        }
    }

    /// A rule, or the absence of one, has denied something.
    pub(crate) fn denied(&self, what: Denied) {
        self.denied[what as usize].increment(1);
    }

    /// A connection was closed for the sake of its PROXY protocol header.
    pub(crate) fn proxy_rejected(&self, rejection: Rejection) {
        self.proxy_rejected[rejection.place()].increment(1);
    }

    /// Messages a receiver was too far behind for.
    pub(crate) fn dropped(&self, qos: QoS, messages: usize) {
        let counter = if qos == QoS::AtMostOnce {
            &self.dropped_congested
        } else {
            &self.dropped_queue_full
        };
        counter.increment(messages as u64);
    }
}

fn describe() {
    describe_gauge!("flotilla_connections", "Client connections that are open");
    describe_counter!(
        "flotilla_connections_opened_total",
        "Connections whose CONNECT was accepted"
    );
    describe_counter!(
        "flotilla_connections_closed_total",
        "Accepted connections that have ended, by reason"
    );
    describe_counter!(
        "flotilla_connects_rejected_total",
        "Connections refused before or with CONNACK"
    );
    describe_counter!(
        "flotilla_proxy_headers_rejected_total",
        "Connections closed because their PROXY protocol header was missing, malformed, late, or of somebody not trusted"
    );
    describe_counter!(
        "flotilla_access_denied_total",
        "What clients were not allowed to do, by action: messages they published, filters they subscribed to or that their \
         session brought along, wills, messages that waited for them"
    );
    describe_counter!(
        "flotilla_messages_received_total",
        "PUBLISH packets from clients, by QoS"
    );
    describe_counter!(
        "flotilla_messages_sent_total",
        "PUBLISH packets to clients, by QoS"
    );
    describe_counter!(
        "flotilla_bytes_received_total",
        "Bytes read from clients, after TLS"
    );
    describe_counter!(
        "flotilla_bytes_sent_total",
        "Bytes written to clients, before TLS"
    );
    describe_counter!("flotilla_packets_received_total", "MQTT packets from clients");
    describe_counter!(
        "flotilla_messages_dropped_total",
        "Messages that did not reach a receiver, by reason"
    );
    describe_counter!(
        "flotilla_session_takeovers_total",
        "Connections closed because their client id connected again"
    );
    describe_counter!(
        "flotilla_sessions_expired_total",
        "Sessions that ended because their expiry interval passed"
    );
    describe_counter!(
        "flotilla_forwarded_messages_total",
        "Messages to and from other nodes, by direction"
    );
    describe_counter!(
        "flotilla_subscribe_announcements_total",
        "Subscriptions whose answer waited for the other nodes to route by them, by outcome"
    );
    describe_counter!(
        "flotilla_session_kicks_total",
        "Connections closed because their client id connected to another node"
    );
    describe_counter!(
        "flotilla_fences_total",
        "Times the node closed its connections because it may have been cut off"
    );
    describe_gauge!("flotilla_sessions", "Sessions, connected or not");
    describe_gauge!("flotilla_subscriptions", "Subscriptions of durable sessions");
    describe_gauge!(
        "flotilla_topic_filters",
        "Topic filters with a connected subscriber"
    );
    describe_gauge!("flotilla_retained_messages", "Retained messages");
    describe_gauge!("flotilla_retained_bytes", "Bytes of retained messages");
    describe_gauge!("flotilla_queued_messages", "Messages waiting in durable sessions");
    describe_gauge!(
        "flotilla_queued_bytes",
        "Bytes of messages waiting in durable sessions"
    );
    describe_gauge!(
        "flotilla_draining",
        "1 while the node is being taken out of service, and while it is out of it"
    );
    describe_gauge!(
        "flotilla_drain_remaining_connections",
        "Client connections that a drain has still to end"
    );
}
