//! What Prometheus sees of the broker. Handles are made once; nothing is looked up per message.

use std::sync::atomic::{AtomicU64, Ordering};

use cluster::ProposeError;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use mqtt_codec::{Limit, PacketCounts, PacketType, ProtocolVersion, QoS};

use crate::config::Protocol;
use crate::pass::Denied;
use crate::proxy_protocol::Rejection;
use crate::refusal::{Limited, Rejected};

/// Why connections end, in the words of the metric.
pub(crate) const CLOSE_REASONS: [&str; 13] = [
    "client_disconnect",
    "keepalive_timeout",
    "takeover",
    "protocol_error",
    "limit_exceeded",
    "administrative",
    "moved",
    "server_shutdown",
    "unavailable",
    "fenced",
    "access_revoked",
    "credentials_expired",
    "io_error",
];

/// In the order of `Protocol`.
const TRANSPORTS: [&str; 4] = ["tcp", "tls", "ws", "wss"];
/// In the order of `ProtocolVersion`.
const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5.0"];

/// What clients send.
const RECEIVED_TYPES: [PacketType; 11] = [
    PacketType::Connect,
    PacketType::Publish,
    PacketType::PubAck,
    PacketType::PubRec,
    PacketType::PubRel,
    PacketType::PubComp,
    PacketType::Subscribe,
    PacketType::Unsubscribe,
    PacketType::PingReq,
    PacketType::Disconnect,
    PacketType::Auth,
];
/// What a server sends.
const SENT_TYPES: [PacketType; 11] = [
    PacketType::ConnAck,
    PacketType::Publish,
    PacketType::PubAck,
    PacketType::PubRec,
    PacketType::PubRel,
    PacketType::PubComp,
    PacketType::SubAck,
    PacketType::UnsubAck,
    PacketType::PingResp,
    PacketType::Disconnect,
    PacketType::Auth,
];

/// A counter for each type of packet that there can be, by number.
type ByType = [Option<Counter>; 16];

fn by_type(name: &'static str, types: &[PacketType]) -> ByType {
    let mut counters = ByType::default();
    for packet_type in types {
        let word = packet_type.name().to_ascii_lowercase();
        counters[*packet_type as usize] = Some(counter!(name, "type" => word));
    }
    counters
}

/// Adds them up; and all of them together.
fn count(counters: &ByType, packets: &PacketCounts) -> u64 {
    let mut all = 0;
    packets.for_each(|number, count| {
        if let Some(counter) = &counters[number] {
            counter.increment(count);
        }
        all += count;
    });
    all
}

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
    /// By transport and protocol.
    connections: [[Gauge; 3]; 4],
    opened: [Counter; 4],
    closed: [Counter; CLOSE_REASONS.len()],
    rejected: [Counter; Rejected::WORDS.len()],
    limited: [Counter; Limited::WORDS.len()],
    exceeded: [Counter; Limit::ALL.len()],
    pub(crate) tls_done: Counter,
    pub(crate) tls_failed: Counter,
    pub(crate) tls_late: Counter,
    pub(crate) tls_duration: Histogram,
    /// Of QoS 1, and of QoS 2.
    pub(crate) ack_duration: [Histogram; 2],
    pub(crate) delivery_duration: Histogram,
    proxy_rejected: [Counter; Rejection::REASONS.len()],
    denied: [Counter; Denied::WORDS.len()],
    pub(crate) received: [Counter; 3],
    pub(crate) sent: [Counter; 3],
    /// By transport.
    bytes_received: [Counter; TRANSPORTS.len()],
    bytes_sent: [Counter; TRANSPORTS.len()],
    packets_received: ByType,
    packets_sent: ByType,
    pub(crate) trace_lines_lost: Counter,
    pub(crate) no_subscribers: Counter,
    pub(crate) dropped_congested: Counted,
    pub(crate) dropped_queue_full: Counted,
    pub(crate) dropped_expired: Counted,
    pub(crate) dropped_too_large: Counted,
    pub(crate) dropped_session_ended: Counted,
    pub(crate) dropped_peer_congested: Counted,
    pub(crate) dropped_overload: Counted,
    pub(crate) dropped_rate_limited: Counted,
    pub(crate) forwarded_in: Counter,
    forwarded_out: Counter,
    forward_refused: Counter,
    forward_gone: Counter,
    forward_unknown: Counter,
    announced: Counter,
    announce_failed: Counter,
    pub(crate) kicks: Counter,
    pub(crate) fences: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) sessions_expired: Counted,
    pub(crate) sessions_connected: Gauge,
    pub(crate) sessions_disconnected: Gauge,
    pub(crate) subscriptions: Gauge,
    pub(crate) topic_filters: Gauge,
    pub(crate) shared_groups: Gauge,
    pub(crate) retained_messages: Gauge,
    pub(crate) retained_bytes: Gauge,
    pub(crate) inflight_messages: Gauge,
    pub(crate) queued_messages: Gauge,
    pub(crate) queued_bytes: Gauge,
    pub(crate) queues_near_limit: Gauge,
    pub(crate) overload_level: Gauge,
    pub(crate) memory_budget: Gauge,
    pub(crate) draining: Gauge,
    pub(crate) drain_remaining: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        let dropped = |reason: &'static str| {
            Counted::new(counter!("flotilla_messages_dropped_total", "reason" => reason))
        };
        let handshakes = |result: &'static str| counter!("flotilla_tls_handshakes_total", "result" => result);
        let forward_errors =
            |reason: &'static str| counter!("flotilla_forward_errors_total", "reason" => reason);
        let by_transport =
            |name: &'static str| TRANSPORTS.map(|transport| counter!(name, "transport" => transport));
        let by_qos = |name: &'static str| ["0", "1", "2"].map(|qos| counter!(name, "qos" => qos));
        Self {
            connections: TRANSPORTS.map(|transport| {
                VERSIONS.map(|protocol| {
                    gauge!("flotilla_connections", "transport" => transport, "protocol" => protocol)
                })
            }),
            opened: TRANSPORTS
                .map(|transport| counter!("flotilla_connections_opened_total", "transport" => transport)),
            closed: CLOSE_REASONS
                .map(|reason| counter!("flotilla_connections_closed_total", "reason" => reason)),
            rejected: Rejected::WORDS
                .map(|reason| counter!("flotilla_connects_rejected_total", "reason" => reason)),
            limited: Limited::WORDS.map(|kind| counter!("flotilla_rate_limited_total", "kind" => kind)),
            exceeded: Limit::ALL
                .map(|limit| counter!("flotilla_limit_exceeded_total", "limit" => limit.as_str())),
            tls_done: handshakes("done"),
            tls_failed: handshakes("failed"),
            tls_late: handshakes("late"),
            tls_duration: histogram!("flotilla_tls_handshake_duration_seconds"),
            ack_duration: ["1", "2"]
                .map(|qos| histogram!("flotilla_publish_ack_duration_seconds", "qos" => qos)),
            delivery_duration: histogram!("flotilla_message_delivery_duration_seconds"),
            proxy_rejected: Rejection::REASONS
                .map(|reason| counter!("flotilla_proxy_headers_rejected_total", "reason" => reason)),
            denied: Denied::WORDS.map(|action| counter!("flotilla_access_denied_total", "action" => action)),
            received: by_qos("flotilla_messages_received_total"),
            sent: by_qos("flotilla_messages_sent_total"),
            bytes_received: by_transport("flotilla_bytes_received_total"),
            bytes_sent: by_transport("flotilla_bytes_sent_total"),
            packets_received: by_type("flotilla_packets_received_total", &RECEIVED_TYPES),
            packets_sent: by_type("flotilla_packets_sent_total", &SENT_TYPES),
            trace_lines_lost: counter!("flotilla_trace_lines_lost_total"),
            no_subscribers: counter!("flotilla_messages_dropped_total", "reason" => "no_subscribers"),
            dropped_congested: dropped("qos0_congested"),
            dropped_queue_full: dropped("queue_full"),
            dropped_expired: dropped("expired"),
            dropped_too_large: dropped("too_large"),
            dropped_session_ended: dropped("session_ended"),
            dropped_peer_congested: dropped("peer_congested"),
            dropped_overload: dropped("overload"),
            dropped_rate_limited: dropped("rate_limited"),
            forwarded_in: counter!("flotilla_forwarded_messages_total", "direction" => "in"),
            forwarded_out: counter!("flotilla_forwarded_messages_total", "direction" => "out"),
            forward_refused: forward_errors("congested"),
            forward_gone: forward_errors("node_gone"),
            forward_unknown: forward_errors("unanswered"),
            announced: counter!("flotilla_subscribe_announcements_total", "outcome" => "announced"),
            announce_failed: counter!("flotilla_subscribe_announcements_total", "outcome" => "failed"),
            kicks: counter!("flotilla_session_kicks_total"),
            fences: counter!("flotilla_fences_total"),
            takeovers: counter!("flotilla_session_takeovers_total"),
            sessions_expired: Counted::new(counter!("flotilla_sessions_expired_total")),
            sessions_connected: gauge!("flotilla_sessions", "state" => "connected"),
            sessions_disconnected: gauge!("flotilla_sessions", "state" => "disconnected"),
            subscriptions: gauge!("flotilla_subscriptions"),
            topic_filters: gauge!("flotilla_topic_filters"),
            shared_groups: gauge!("flotilla_shared_subscription_groups"),
            retained_messages: gauge!("flotilla_retained_messages"),
            retained_bytes: gauge!("flotilla_retained_bytes"),
            inflight_messages: gauge!("flotilla_inflight_messages"),
            queued_messages: gauge!("flotilla_queued_messages"),
            queued_bytes: gauge!("flotilla_queued_bytes"),
            queues_near_limit: gauge!("flotilla_queues_near_limit"),
            overload_level: gauge!("flotilla_overload_level"),
            memory_budget: gauge!("flotilla_memory_budget_bytes"),
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
            &self.dropped_overload,
            &self.dropped_rate_limited,
        ];
        reasons.into_iter().map(Counted::total).sum()
    }

    /// The connections that are open by one transport with one protocol.
    pub(crate) fn connections(&self, transport: Protocol, version: ProtocolVersion) -> &Gauge {
        &self.connections[transport as usize][version as usize]
    }

    /// Bytes from clients.
    pub(crate) fn bytes_received(&self, transport: Protocol) -> &Counter {
        &self.bytes_received[transport as usize]
    }

    /// Bytes to clients.
    pub(crate) fn bytes_sent(&self, transport: Protocol) -> &Counter {
        &self.bytes_sent[transport as usize]
    }

    /// A CONNECT was accepted.
    pub(crate) fn opened(&self, transport: Protocol) {
        self.opened[transport as usize].increment(1);
    }

    /// Packets have come; how many they are together.
    pub(crate) fn packets_received(&self, packets: &PacketCounts) -> u64 {
        count(&self.packets_received, packets)
    }

    /// Packets were made ready to be written; how many they are together.
    pub(crate) fn packets_sent(&self, packets: &PacketCounts) -> u64 {
        count(&self.packets_sent, packets)
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
            Some(lost) => {
                self.dropped_peer_congested.increment(lost);
                self.forward_refused.increment(1);
            }
        }
    }

    /// Messages that were sent to another node were not answered as they should.
    pub(crate) fn not_forwarded(&self, error: &ProposeError) {
        match error {
            ProposeError::Gone => self.forward_gone.increment(1),
            ProposeError::Busy => self.forward_refused.increment(1),
            _ => self.forward_unknown.increment(1),
        }
    }

    /// A SUBSCRIBE has waited for the other nodes.
    pub(crate) fn announced(&self, every_node_knows: bool) {
        match every_node_knows {
            true => self.announced.increment(1),
            false => self.announce_failed.increment(1),
        }
    }

    /// A connection was refused.
    pub(crate) fn rejected(&self, why: Rejected) {
        self.rejected[why as usize].increment(1);
    }

    /// A limit has begun to hold somebody up, or has refused something.
    pub(crate) fn limited(&self, by: Limited) {
        self.limited[by as usize].increment(1);
    }

    /// A client has gone beyond a limit of what it may send or have.
    pub(crate) fn exceeded(&self, limit: Limit) {
        self.exceeded[limit as usize].increment(1);
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
    describe_gauge!(
        "flotilla_connections",
        "Client connections that are open, by transport and version of MQTT"
    );
    describe_counter!(
        "flotilla_connections_opened_total",
        "Connections whose CONNECT was accepted, by transport"
    );
    describe_counter!(
        "flotilla_tls_handshakes_total",
        "TLS handshakes with clients, by result"
    );
    describe_histogram!(
        "flotilla_tls_handshake_duration_seconds",
        "Duration of a TLS handshake that was completed"
    );
    describe_histogram!(
        "flotilla_publish_ack_duration_seconds",
        "From the reading of PUBLISH packets above QoS 0 until a shard or another node has them, which their acknowledgement waits for; by the QoS of the first \
         of those that go together"
    );
    describe_histogram!(
        "flotilla_message_delivery_duration_seconds",
        "From the arrival of messages at this node, from their publisher or from another node, until they are ready to be written to a \
         connected subscriber; one batch of 64 is measured, and not those that a kept session fetches from its queue"
    );
    describe_counter!(
        "flotilla_connections_closed_total",
        "Accepted connections that have ended, by reason"
    );
    describe_counter!(
        "flotilla_connects_rejected_total",
        "Connections refused before or with CONNACK, by reason"
    );
    describe_counter!(
        "flotilla_rate_limited_total",
        "Times a limit began to hold a client or a listener up, or refused a subscription or a retained message, by kind"
    );
    describe_counter!(
        "flotilla_limit_exceeded_total",
        "Times a client went beyond what one packet or one client may hold, by the key in [limits] that says how much that is: a topic \
         filter was refused, or the connection"
    );
    describe_gauge!(
        "flotilla_overload_level",
        "How short memory is: 0 not at all, 1 heavy publishers are read more slowly, 2 new connections are refused, 3 QoS 0 \
         messages are dropped"
    );
    describe_gauge!(
        "flotilla_memory_budget_bytes",
        "Resident memory that the node keeps to"
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
        "Bytes read from clients, after TLS, by transport"
    );
    describe_counter!(
        "flotilla_bytes_sent_total",
        "Bytes written to clients, before TLS, by transport"
    );
    describe_counter!(
        "flotilla_packets_received_total",
        "MQTT packets from clients, by type"
    );
    describe_counter!("flotilla_packets_sent_total", "MQTT packets to clients, by type");
    describe_counter!(
        "flotilla_trace_lines_lost_total",
        "Lines of traces that were dropped because the one who looks on reads too slowly"
    );
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
        "flotilla_forward_errors_total",
        "Batches of messages for another node that did not go as they should, by reason: it was too far behind, it was declared \
         down (members of shared subscriptions elsewhere get theirs), or it has not answered"
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
    describe_gauge!(
        "flotilla_sessions",
        "Sessions of the shards that the node leads, by state"
    );
    describe_gauge!("flotilla_subscriptions", "Subscriptions of durable sessions");
    describe_gauge!(
        "flotilla_topic_filters",
        "Topic filters with a connected subscriber"
    );
    describe_gauge!(
        "flotilla_shared_subscription_groups",
        "Shared subscriptions with members, on whatever node"
    );
    describe_gauge!("flotilla_retained_messages", "Retained messages");
    describe_gauge!("flotilla_retained_bytes", "Bytes of retained messages");
    describe_gauge!(
        "flotilla_inflight_messages",
        "Messages with QoS 1 and 2 on their way to clients, not acknowledged"
    );
    describe_gauge!("flotilla_queued_messages", "Messages waiting in durable sessions");
    describe_gauge!(
        "flotilla_queued_bytes",
        "Bytes of messages waiting in durable sessions"
    );
    describe_gauge!(
        "flotilla_queues_near_limit",
        "Durable sessions whose queue holds more than four fifths of the messages or bytes that it may; looked at twice a minute"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_in_the_order_of_what_they_name() {
        let transports = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];
        let versions = [
            ProtocolVersion::V3_1,
            ProtocolVersion::V3_1_1,
            ProtocolVersion::V5,
        ];
        assert_eq!(transports.map(|transport| transport.to_string()), TRANSPORTS);
        assert_eq!(transports.map(|transport| transport as usize), [0, 1, 2, 3]);
        assert_eq!(versions.map(|version| version.to_string()), VERSIONS);
        assert_eq!(versions.map(|version| version as usize), [0, 1, 2]);
    }
}
