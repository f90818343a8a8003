//! What the API says and takes, as JSON. The names are those of the OpenAPI document; a key once given keeps its meaning.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::cluster::ClusterStatus;
use crate::encoding::Encoding;

/// Which node answered, and how much of the cluster's state it could read.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Covers {
    /// Its name.
    pub node: String,
    /// Shards of which a copy was read, here or at another node: the answer is about these.
    pub shards: u32,
    /// Shards that there are.
    pub of: u32,
}

/// A part of a list.
#[derive(Debug, Clone, Serialize)]
pub struct Page<T> {
    /// Whose words these are.
    pub covers: Covers,
    /// In order.
    pub items: Vec<T>,
    /// To be sent as `after` for the next part; none: this was the last.
    pub next: Option<String>,
    /// What the list leaves out, in words.
    pub notes: Vec<String>,
}

/// Everything at a glance.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// The node that answers.
    pub node: NodeView,
    /// Its cluster.
    pub cluster: ClusterStatus,
    /// What `totals` are about.
    pub covers: Covers,
    /// Sums.
    pub totals: Totals,
    /// What every node has counted.
    pub nodes: Vec<NodeNumbers>,
    /// Who leads which shard.
    pub shards: Vec<ShardView>,
    /// What asks for attention, the worst first.
    pub alarms: Vec<Alarm>,
}

/// One node's process.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// Its name, for people.
    pub name: String,
    /// Its identifier, in 16 hexadecimal digits.
    pub node_id: String,
    /// Of the program.
    pub version: String,
    /// It was built from.
    pub commit: String,
    /// Seconds since it began to start.
    pub uptime_s: u64,
    /// `ready`, `not ready`, `draining`, `drained` or `stopping`.
    pub state: String,
    /// How short memory is: 0 not at all, 1 heavy publishers are read more slowly, 2 new connections are refused, 3 QoS 0
    /// messages are dropped.
    pub overload_level: u8,
    /// How far it is out of service; none: it is not being taken out.
    pub drain: Option<DrainView>,
    /// Where clients connect.
    pub listeners: Vec<ListenerView>,
}

/// How far a node is out of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainView {
    /// `waiting` for load balancers, `handing over` what it leads, `asking` clients to leave, or `drained`.
    pub phase: String,
    /// Clients that are still connected.
    pub remaining_connections: u64,
}

/// A node that serves, and what becomes of its connections.
#[derive(Debug, Clone, Serialize)]
pub struct ShareView {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub node_id: String,
    /// Clients that are connected to it.
    pub connections: u64,
    /// Those of them that are being asked to go to other nodes.
    pub moving: u64,
}

/// A listener.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerView {
    /// Its name in the configuration.
    pub name: String,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub protocol: String,
    /// Where it listens.
    pub address: String,
}

/// Sums over shards.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Sessions, connected or not.
    pub sessions: u64,
    /// Those with a connection.
    pub connected: u64,
    /// Subscriptions that shards keep.
    pub subscriptions: u64,
    /// Messages that wait in sessions.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// Their bytes.
    pub retained_bytes: u64,
}

/// What a node has counted since it started.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NodeNumbers {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub node_id: String,
    /// False: it did not answer, and all numbers are 0.
    pub answered: bool,
    /// Clients connected to it.
    pub connections: u64,
    /// PUBLISH packets from clients.
    pub messages_received: u64,
    /// PUBLISH packets to clients.
    pub messages_sent: u64,
    /// Bytes from clients.
    pub bytes_received: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
    /// Messages that somebody was to get and did not.
    pub messages_dropped: u64,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Its memory.
    pub resident_bytes: u64,
}

/// A shard.
#[derive(Debug, Clone, Serialize)]
pub struct ShardView {
    /// Its number.
    pub shard: u32,
    /// The identifier of the node that leads it.
    pub leader: Option<String>,
    /// Those of the nodes that it is placed on.
    pub replicas: Vec<String>,
    /// Whether all of them take part.
    pub complete: bool,
}

/// How much an alarm matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Clients notice, or soon will.
    Critical,
    /// One more fault would be one too many.
    Warning,
}

/// Something that asks for attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// How much it matters.
    pub severity: Severity,
    /// Its name, for programs.
    pub name: &'static str,
    /// What is the matter.
    pub title: String,
    /// What it means and what to do.
    pub text: String,
}

/// A session in a list.
#[derive(Debug, Clone, Serialize)]
pub struct ClientView {
    /// Whose it is.
    pub client_id: String,
    /// Whether a connection owns it.
    pub connected: bool,
    /// The name of the node it is connected to.
    pub node: Option<String>,
    /// That node's identifier.
    pub node_id: Option<String>,
    /// The number of its last accepted CONNECT; as text, since it has 64 bits.
    pub epoch: String,
    /// The shard that has it.
    pub shard: u32,
    /// The user name it came with; empty: none.
    pub user: String,
    /// Subscriptions that its shard keeps.
    pub subscriptions: u64,
    /// Messages that wait for it.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Seconds until it ends, while away. None: it is connected, or never ends.
    pub expires_in_s: Option<u64>,
    /// Where it connects from, if that is known to the node that answers.
    pub address: Option<String>,
}

/// A session in full.
#[derive(Debug, Clone, Serialize)]
pub struct ClientDetail {
    /// Whose words these are.
    pub covers: Covers,
    /// As in the list.
    pub session: ClientView,
    /// As the node tells that it is connected to. None: it is away, or that node did not answer.
    pub connection: Option<ConnectionView>,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionView>,
    /// The first messages that wait for it or for its acknowledgement.
    pub queue: Vec<QueuedView>,
    /// What is left out, in words.
    pub notes: Vec<String>,
}

/// A connection.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionView {
    /// Where the client is.
    pub address: String,
    /// The listener it came through.
    pub listener: String,
    /// As `MQTT 5.0`.
    pub protocol: String,
    /// 0: none.
    pub keep_alive_s: u32,
    /// Seconds.
    pub connected_for_s: u64,
    /// Its session outlives the connection.
    pub persistent: bool,
    /// Deliveries that it has not acknowledged.
    pub in_flight: u32,
}

/// A subscription.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionView {
    /// Whose it is.
    pub client_id: String,
    /// As the client sent it, `$share/…` included.
    pub filter: String,
    /// The highest it gets.
    pub qos: u8,
    /// It does not get its own messages.
    pub no_local: bool,
    /// It sees RETAIN as the publisher set it.
    pub retain_as_published: bool,
    /// 0: none.
    pub subscription_id: u32,
    /// A shard keeps it; otherwise it ends with the connection.
    pub kept: bool,
    /// Of one that ends with the connection: where that is.
    pub node: Option<String>,
}

/// A message that waits.
#[derive(Debug, Clone, Serialize)]
pub struct QueuedView {
    /// Its number among the session's deliveries; its packet id follows from it.
    pub sequence: u64,
    /// 1 or 2.
    pub qos: u8,
    /// It was retained.
    pub retain: bool,
    /// The client has it, and its PUBREL is to come.
    pub received: bool,
    /// It may have been sent before.
    pub sent_before: bool,
    /// Seconds until it is not sent any more. None: never.
    pub expires_in_s: Option<u64>,
}

/// A filter and where its messages go.
#[derive(Debug, Clone, Serialize)]
pub struct RouteView {
    /// The topic filter, or a whole `$share/…`.
    pub filter: String,
    /// Nodes with connected subscribers.
    pub nodes: Vec<RouteNode>,
    /// Shards with sessions that keep them.
    pub shards: Vec<u32>,
    /// Connections of the answering node that subscribe to it.
    pub connections_here: u64,
    /// Of a shared subscription: its members in the cluster.
    pub members: u64,
}

/// A node that a filter is routed to.
#[derive(Debug, Clone, Serialize)]
pub struct RouteNode {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub node_id: String,
    /// What is above QoS 0 reaches its sessions through their shards.
    pub qos_0_only: bool,
}

/// Where a message would go.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Explanation {
    /// As asked.
    pub topic: String,
    /// As asked.
    pub qos: u8,
    /// Why there cannot be such a message; then the rest is empty.
    pub problem: Option<String>,
    /// From where: the name of the node that answers.
    pub node: String,
    /// Whether anybody wants it.
    pub matched: bool,
    /// Connections of this node.
    pub here: Here,
    /// Other nodes.
    pub nodes: Vec<ExplainedNode>,
    /// Shards.
    pub shards: Vec<ExplainedShard>,
    /// Shared subscriptions.
    pub groups: Vec<ExplainedGroup>,
    /// The shard of the topic's retained message.
    pub retained_shard: u32,
    /// What the access rules say, if it was asked who publishes.
    pub access: Option<AccessView>,
}

/// What the access rules say of a publish.
#[derive(Debug, Clone, Serialize)]
pub struct AccessView {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The line of the rule that decides, if one does.
    pub rule_line: Option<u32>,
    /// False: rules that ask for a certificate, a token or an address were passed over, since they are not known.
    pub exact: bool,
    /// The same in words.
    pub reason: String,
}

/// Connections of the answering node that get a message at once.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Here {
    /// All of them.
    pub count: u64,
    /// The first.
    pub items: Vec<Receiver>,
}

/// A connection that gets a message.
#[derive(Debug, Clone, Serialize)]
pub struct Receiver {
    /// Its client id.
    pub client_id: String,
    /// The QoS it gets it with.
    pub qos: u8,
    /// Its session is kept in a shard.
    pub persistent: bool,
}

/// Another node, and whether it gets a message.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainedNode {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub node_id: String,
    /// Only QoS 0 goes there directly.
    pub qos_0_only: bool,
    /// So this message does not.
    pub skipped: bool,
}

/// A shard, and whether it gets a message.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainedShard {
    /// Its number.
    pub shard: u32,
    /// The identifier of the node that leads it.
    pub leader: Option<String>,
    /// Sessions that keep it. None: no node with a copy of the shard answered.
    pub sessions: Option<u64>,
    /// The first of them.
    pub items: Vec<String>,
    /// QoS 0 is not kept.
    pub skipped: bool,
}

/// A shared subscription of which one member gets a message.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainedGroup {
    /// The whole `$share/name/filter`.
    pub filter: String,
    /// How a member is chosen.
    pub strategy: String,
    /// The first of them.
    pub members: Vec<ExplainedMember>,
}

/// A member of a shared subscription.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainedMember {
    /// Its client id.
    pub client_id: String,
    /// The name of the node it is connected to.
    pub node: Option<String>,
    /// A shard keeps its session.
    pub kept: bool,
}

/// A retained message.
#[derive(Debug, Clone, Serialize)]
pub struct RetainedView {
    /// Its topic.
    pub topic: String,
    /// As published.
    pub qos: u8,
    /// Of the whole payload.
    pub bytes: u64,
    /// The payload, in lists its beginning.
    pub payload: String,
    /// How it is written.
    pub encoding: Encoding,
    /// Whether it is only the beginning.
    pub truncated: bool,
    /// Its MQTT 5 properties, in base64, as a backup takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub properties: Option<String>,
    /// Seconds until it is gone. None: never.
    pub expires_in_s: Option<u64>,
    /// The client id of its publisher.
    pub publisher: String,
    /// The shard that has it.
    pub shard: u32,
}

/// A message to be published or retained.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Where.
    pub topic: String,
    /// What.
    #[serde(default)]
    pub payload: String,
    /// How it is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// 0, 1 or 2.
    #[serde(default)]
    pub qos: u8,
    /// Whether it is kept for those who subscribe later.
    #[serde(default)]
    pub retain: bool,
    /// Seconds until it is not delivered any more.
    pub expires_in_s: Option<u32>,
    /// MQTT 5: a description of the payload.
    pub content_type: Option<String>,
    /// MQTT 5: where an answer goes.
    pub response_topic: Option<String>,
    /// MQTT 5: what an answer carries.
    pub correlation_data: Option<String>,
    /// MQTT 5: names and values, in order.
    #[serde(default)]
    pub user_properties: Vec<(String, String)>,
    /// MQTT 5, instead of the ones before: in base64, as a backup has them.
    pub properties: Option<String>,
}

/// One message, or many under `messages`; in their order.
#[derive(Debug, Clone)]
pub struct Messages(pub Vec<Message>);

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Many {
            messages: Vec<Message>,
        }
        // Told apart here, so that a mistake is named and not only that neither form fits.
        let value = serde_json::Value::deserialize(deserializer)?;
        let read = match value.get("messages") {
            Some(_) => serde_json::from_value(value).map(|Many { messages }| messages),
            None => serde_json::from_value(value).map(|message| vec![message]),
        };
        read.map(Self).map_err(D::Error::custom)
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its topic.
    pub topic: String,
    /// Every destination has it: as a PUBACK says.
    pub done: bool,
    /// Whether anybody was there to get it.
    pub matched: bool,
    /// Why it is not done.
    pub reason: Option<String>,
    /// It broke a rule: trying again does not help.
    pub refused: bool,
}

/// A key of the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// As `limits`, `cluster.tls` or `listeners[0]`.
    pub section: String,
    /// Its name.
    pub key: String,
    /// As in TOML. None: not set. Secrets are masked.
    pub value: Option<String>,
    /// Where it was said.
    pub origin: String,
}

/// What came of reading files again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReloadView {
    /// Files that had changed and were read again, and keys whose new values are in force.
    pub changed: Vec<String>,
    /// Keys whose new values count from the next start.
    pub needs_restart: Vec<String>,
}

/// A certificate in use.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateView {
    /// A listener, or the cluster.
    pub used_by: String,
    /// Its file.
    pub file: String,
    /// Whose it is.
    pub subject: String,
    /// Seconds since 1970.
    pub not_after_s: i64,
    /// Seconds; negative: it has expired.
    pub expires_in_s: i64,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// What nodes refused lately.
#[derive(Debug, Clone, Serialize)]
pub struct Refusals {
    /// The node that answers.
    pub node: String,
    /// The newest first.
    pub items: Vec<RefusalView>,
    /// What is not among them, and why.
    pub notes: Vec<String>,
}

/// Something that was refused: a connection, or what access rules deny.
#[derive(Debug, Clone, Serialize)]
pub struct RefusalView {
    /// The node that refused it.
    pub node: String,
    /// Seconds since the last time.
    pub ago_s: u64,
    /// How many times, one after the other.
    pub count: u64,
    /// `connect`, `publish`, `subscribe`, `will`, `deliver` or `resume`.
    pub action: String,
    /// As far as it was known.
    pub client_id: String,
    /// For `connect`, who it said it was; else who it is. Empty: nobody.
    pub user: String,
    /// Without the port.
    pub address: String,
    /// Topic or topic filter; none for `connect`.
    pub topic: Option<String>,
    /// The reason code of MQTT 5.0; none where the connection ended before one could be sent.
    pub reason_code: Option<u8>,
    /// Why.
    pub reason: String,
    /// The line of the rule that decided, counted from 1; none: no rule did.
    pub rule_line: Option<u32>,
}

/// What the log tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// As `log.level` of the configuration.
    pub level: String,
}

/// A line of a trace. What does not belong to its event is left out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TraceLine {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The node that tells it.
    pub node: String,
    /// `received` and `sent`: a packet; `connected`, `closed`; `refused`: a connection; `denied`: by rules; `place`: where the
    /// client is, at the beginning and when that changes; `end`: the trace is over.
    pub event: String,
    /// Whom it happened to; none at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Lines that were dropped before this one, because they were not read in time. Left out if none were.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// Its type, as `PUBLISH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
    /// Of the whole packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// Of the payload of a PUBLISH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<usize>,
    /// Its identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_id: Option<u16>,
    /// Of a PUBLISH, also where an alias stands for it; of a will; of what was denied, where it may be a filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Of a PUBLISH or a will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// `dup`, `retain`, `clean_start`, `will`, `session_present`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The first 16 of a SUBSCRIBE or UNSUBSCRIBE.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// The first 16 of a packet; of a refusal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reason_codes: Vec<u8>,
    /// Of the client: with the port when it connects, without it when it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Which one it came by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// What was denied: `publish`, `subscribe`, `will`, `deliver` or `resume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Why it was closed, refused or denied, or the trace ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The line of the rule that denies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_line: Option<u32>,
    /// Of `place`: the node that has the connection; null: the client is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Option<String>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A message that passed.
#[derive(Debug, Clone, Serialize)]
pub struct Watched {
    /// Its topic.
    pub topic: String,
    /// As published.
    pub qos: u8,
    /// As published.
    pub retain: bool,
    /// Its payload.
    pub payload: String,
    /// How it is written.
    pub encoding: Encoding,
}

/// A line of a backup of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionLine {
    /// A session. Its messages follow.
    Session(SavedSession),
    /// A message of its queue.
    Message(SavedMessage),
}

/// A session, as a backup has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSession {
    /// Whose it is.
    pub client_id: String,
    /// The user name it authenticated with.
    #[serde(default)]
    pub user: String,
    /// Seconds that it outlives its connection; 4294967295: for ever.
    pub session_expiry_s: u32,
    /// Seconds that were left of them.
    pub expires_in_s: u32,
    /// The number of the next message: packet ids follow from these.
    pub next_sequence: u64,
    /// Messages with lower numbers may have been sent.
    pub sent_before: u64,
    /// In the order of filters.
    pub subscriptions: Vec<SavedSubscription>,
}

/// A subscription, as a backup has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSubscription {
    /// As the client sent it, `$share/…` included.
    pub filter: String,
    /// The highest it gets.
    pub qos: u8,
    /// It does not get its own messages.
    #[serde(default)]
    pub no_local: bool,
    /// It sees RETAIN as the publisher set it.
    #[serde(default)]
    pub retain_as_published: bool,
    /// When retained messages are sent: 0, 1 or 2.
    #[serde(default)]
    pub retain_handling: u8,
    /// 0: none.
    #[serde(default)]
    pub subscription_id: u32,
}

/// A message of a session's queue, as a backup has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedMessage {
    /// Whose it is.
    pub client_id: String,
    /// Its number.
    pub sequence: u64,
    /// Its topic.
    pub topic: String,
    /// The payload.
    pub payload: String,
    /// How it is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// As published.
    pub published_qos: u8,
    /// As published.
    #[serde(default)]
    pub published_retain: bool,
    /// The client id of its publisher.
    #[serde(default)]
    pub publisher: String,
    /// Its MQTT 5 properties, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<String>,
    /// Seconds until it is not delivered any more. None: never.
    #[serde(default)]
    pub expires_in_s: Option<u32>,
    /// It is delivered with: 1 or 2.
    pub qos: u8,
    /// The RETAIN flag it is delivered with.
    #[serde(default)]
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    #[serde(default)]
    pub subscription_ids: Vec<u32>,
    /// The shared subscription that chose the session.
    #[serde(default)]
    pub share: Option<String>,
    /// The client has it: only PUBREL is to be sent.
    #[serde(default)]
    pub received: bool,
}

/// A part of a backup of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLines {
    /// In order.
    pub items: Vec<SessionLine>,
    /// To be sent as `after` for the next part; none: this was the last.
    pub next: Option<String>,
}

/// A part of a backup of sessions, to be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Of the backup, 16 hexadecimal digits: what it has brought before is told from what is newer.
    pub backup: String,
    /// In order.
    pub items: Vec<SessionLine>,
}

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOutcome {
    /// Whose it is.
    pub client_id: String,
    /// Of a message: its number.
    pub sequence: Option<u64>,
    /// What became of it.
    pub outcome: RestoreResult,
    /// Why it failed.
    pub reason: Option<String>,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestoreResult {
    /// It is there now.
    Restored,
    /// It had been restored before, or has expired.
    Known,
    /// What is there is newer: the session, or the connection of its client.
    Newer,
    /// The session's queue has no room for the message.
    Full,
    /// It breaks a rule: trying again does not help.
    Refused,
    /// Whether it was done is not known: to be tried again.
    Failed,
}
