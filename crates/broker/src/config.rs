//! The configuration tree: every key, its default, its bounds and its meaning. Files, environment and flags are merged by
//! the `flotilla` binary; the reference in `docs/configuration.md` is generated from the comments here.

#[macro_use]
mod section;
mod auth;
mod auth_http;
mod choices;
mod cluster;
mod listener;
mod overload;
mod tenants;
mod token;
mod units;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use ::access::{Cidr, CidrError};
pub use auth::{Access, Auth};
pub use auth_http::AuthHttp;
pub use choices::{
    AckLevel, AuthMethod, CertificateName, ClientCertificate, ClientIds, JwtAlgorithm, LogFormat, Protocol,
    ProxyProtocol, SharedStrategy, TenantSource, WhenFull, WithoutTenant,
};
pub use cluster::{Cluster, ClusterTls, PEER_PORT};
pub use listener::Listener;
pub use overload::Overload;
pub use section::{Key, Problem, Section, SectionReference};
pub use tenants::{TenantQuotas, Tenants};
pub use token::Token;
pub use units::{ByteSize, TimeSpan, UnitError};

/// Everything a node is told at start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this node is and where it keeps its data.
    pub node: Node,
    /// Taking this node out of service.
    pub drain: Drain,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// How clients show who they are.
    pub auth: Auth,
    /// What clients may publish and subscribe.
    pub access: Access,
    /// What one client, one packet and one node may use.
    pub limits: Limits,
    /// Who belongs to whom.
    pub tenants: Tenants,
    /// Messages waiting for their receivers.
    pub queues: Queues,
    /// What the node does when its memory runs short.
    pub overload: Overload,
    /// Features of MQTT, and how the open points of the standard are answered.
    pub mqtt: Mqtt,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// How the replicated state is kept on disk.
    pub storage: Storage,
    /// Health, metrics, the API and the dashboard over HTTP.
    pub admin: Admin,
    /// What the node writes about itself.
    pub log: Log,
    /// Other nodes.
    pub cluster: Cluster,
}

section! {
    /// Who this node is and where it keeps its data.
    pub struct Node {
        /// A name for people, in logs, on pages and for `flotilla ctl`. Empty: the name of the host.
        name: String = String::new();
        /// Directory of the node's log and checkpoints; made when missing. One process uses it at a time.
        data_dir: PathBuf = PathBuf::from("./flotilla-data");
        /// Threads that serve connections. 0: one per core.
        worker_threads: u16 = 0, 0 => 1024;
        /// How often the files with users, keys, rules, tokens, certificates and this configuration are looked at; what has
        /// changed, and is the same at the next look, is read again, as on SIGHUP. 0s: only on SIGHUP and by `flotilla ctl config reload`.
        watch_files: TimeSpan = TimeSpan::from_millis(400), TimeSpan::ZERO => TimeSpan::from_secs(3600);
        /// Time a stop on SIGTERM may take, with the drain that it begins with. Then the process ends as it is; nothing
        /// acknowledged is lost by that.
        stop_timeout: TimeSpan = TimeSpan::from_secs(15), TimeSpan::from_secs(1) => TimeSpan::from_secs(3600);
    }
}

section! {
    /// Taking the node out of service, on SIGTERM or by `flotilla ctl drain`: it is not ready any more, load balancers notice,
    /// other nodes take over what it leads, and its clients are asked to leave (MQTT 5.0: DISCONNECT with 0x9C, use another
    /// server, where another node serves, and otherwise with 0x8B, server shutting down). The node stays a member.
    pub struct Drain {
        /// Time between being not ready and the first goodbye, for load balancers to send clients elsewhere. Clients that come
        /// meanwhile are let in, and none afterwards. Less than `node.stop_timeout`, which it is a part of.
        load_balancer_wait: TimeSpan = TimeSpan::ZERO, TimeSpan::ZERO => TimeSpan::from_secs(600);
        /// Clients that are asked to leave in a second, so that the other nodes can take them. A stop on SIGTERM goes faster
        /// where not all could be asked within `node.stop_timeout`, less half of it or ten seconds for the rest of the stop.
        connections_per_second: u32 = 500, 1 => 1_000_000;
    }
}

section! {
    /// What one client, one packet and one node may use. What MQTT 5.0 can say about a limit, CONNACK says. What is refused or held up by
    /// one of them is counted: `docs/security.md` has the counter of each.
    pub struct Limits {
        /// Client connections of this node at the same time. One more is closed after accept, MQTT clients with reason
        /// code 0x97 (quota exceeded).
        connections_max: u32 = 100_000, 1 => 10_000_000;
        /// Connections of one address on this node, as a trusted proxy tells it; of IPv6, of one block of 64 bits. One more is refused
        /// with 0x97 (quota exceeded). Of those that have not finished CONNECT, too, a listener has no more: one more takes the place
        /// of one that is silent, or is closed. 0: no limit, since a whole fleet may come from one address.
        connections_per_address_max: u32 = 0, 0 => 10_000_000;
        /// Connections of one user, whose name is proved, on this node. One more is refused with 0x97 (quota exceeded).
        /// 0: no limit.
        connections_per_user_max: u32 = 0, 0 => 10_000_000;
        /// Messages a client may publish in a second. Beyond a second's worth nothing more is read from it until they are
        /// paid for, also by a later connection to this node. 0: no limit.
        publish_messages_per_second_max: u32 = 0, 0 => 10_000_000;
        /// Bytes of messages a client may publish in a second, in the same way. 0B: no limit.
        publish_bytes_per_second_max: ByteSize = ByteSize::from_bytes(0), ByteSize::from_bytes(0) => ByteSize::from_gib(64);
        /// Messages a client is sent in a second. Beyond a second's worth those above QoS 0 wait in its queue, with the bounds of
        /// `[queues]`, and QoS 0 messages are dropped and counted; nobody else waits. 0: no limit.
        deliver_messages_per_second_max: u32 = 0, 0 => 10_000_000;
        /// Bytes of messages a client is sent in a second, in the same way. 0B: no limit.
        deliver_bytes_per_second_max: ByteSize = ByteSize::from_bytes(0), ByteSize::from_bytes(0) => ByteSize::from_gib(64);
        /// Time from accept to a complete CONNECT, TLS and WebSocket handshakes included. Then the connection is closed.
        connect_timeout: TimeSpan = TimeSpan::from_secs(10), TimeSpan::from_millis(10) => TimeSpan::from_secs(600);
        /// Largest packet accepted from a client (Maximum Packet Size in CONNACK). A larger one ends the connection with
        /// reason code 0x95 (packet too large). A message goes through the log of a shard as a whole.
        packet_size_max: ByteSize = ByteSize::from_mib(1), ByteSize::from_bytes(128) => ByteSize::from_mib(16);
        /// Largest first packet, read before the client is known. Has to hold the will message; at most `packet_size_max`. A larger
        /// one is closed without an answer: its version is not known.
        packet_size_before_connect: ByteSize = ByteSize::from_kib(64),
            ByteSize::from_bytes(128) => ByteSize::from_mib(16);
        /// Levels of a topic name or topic filter. Deeper ones are refused with 0x90 (topic name invalid) or 0x8F (topic
        /// filter invalid).
        topic_levels_max: u16 = 128, 1 => 65_535;
        /// Length of a topic name or topic filter in bytes. Longer ones are refused like deeper ones.
        topic_bytes_max: u16 = 1024, 1 => 65_535;
        /// Subscriptions one session holds. One more is refused with 0x97 (quota exceeded) in SUBACK.
        subscriptions_per_client_max: u32 = 1000, 1 => 1_000_000;
        /// Sessions in the whole cluster, those of connected clients and those that are kept for clients that are away. A client for which none is kept is refused with 0x97 (quota exceeded) then; those that return are welcome. 0: no limit.
        sessions_max: u32 = 1_000_000, 0 => 100_000_000;
        /// Retained messages in the whole cluster; counted ten times a second. One more is refused with 0x97 (quota exceeded),
        /// a will at CONNECT, and its connection is closed where MQTT cannot say so (QoS 1 and 2 before 5.0); one that replaces another and is no
        /// larger is welcome. 0: no limit.
        retained_messages_max: u32 = 1_000_000, 0 => 100_000_000;
        /// Bytes of retained messages in the whole cluster, in the same way. They are in the memory of each node that has a
        /// replica. 0B: no limit.
        retained_bytes_max: ByteSize = ByteSize::from_gib(1), ByteSize::from_bytes(0) => ByteSize::from_gib(1024);
        /// Retained messages in the whole cluster that one user has set, whose name is proved; clients without a name count as
        /// one user. Counted and refused in the same way; one that replaces another of the same user and is no larger is
        /// welcome. What an operator retains counts for nobody. 0: no limit.
        retained_messages_per_user_max: u32 = 0, 0 => 100_000_000;
        /// Bytes of retained messages of one user, in the same way. 0B: no limit.
        retained_bytes_per_user_max: ByteSize = ByteSize::from_bytes(0), ByteSize::from_bytes(0) => ByteSize::from_gib(1024);
        /// Topic filters in one SUBSCRIBE or UNSUBSCRIBE. More end the connection with 0x97 (quota exceeded).
        filters_per_packet_max: u32 = 100, 1 => 65_535;
        /// Messages with QoS 1 and 2 a client may have under way to the broker (Receive Maximum in CONNACK). One more
        /// ends the connection with 0x93 (receive maximum exceeded).
        receive_maximum: u16 = 32, 1 => 65_535;
        /// Messages with QoS 1 and 2 under way to a client that allows more. The rest waits in the queue.
        in_flight_max: u16 = 1024, 1 => 65_535;
        /// Topic aliases a client may set up (Topic Alias Maximum in CONNACK), and at most used towards it. 0: none.
        topic_alias_maximum: u16 = 32, 0 => 65_535;
        /// User properties in one packet. More end the connection with 0x97 (quota exceeded).
        user_properties_max: u16 = 64, 0 => 65_535;
        /// Length of a client identifier in bytes. Longer ones are refused with 0x85 (client identifier not valid).
        client_id_bytes_max: u16 = 256, 23 => 65_535;
        /// Longest time a session outlives its connection. Longer wishes are cut to this, as CONNACK says.
        session_expiry_max: TimeSpan = TimeSpan::from_days(7), TimeSpan::ZERO => TimeSpan::from_secs(4_294_967_294);
        /// Longest delay of a will message. Longer wishes are cut to this.
        will_delay_max: TimeSpan = TimeSpan::from_days(1), TimeSpan::ZERO => TimeSpan::from_secs(4_294_967_294);
        /// Longest keep alive, whole seconds (Server Keep Alive in CONNACK). 0s: what the client asks for, none included.
        keep_alive_max: TimeSpan = TimeSpan::ZERO, TimeSpan::ZERO => TimeSpan::from_secs(65_535);
        /// Connections of one listener that have not finished CONNECT, at the same time. One more takes the place of the one that has
        /// been silent for the longest: for 100 ms without a word, or a second after one. While there is none, it waits in the kernel;
        /// those of other listeners do not wait for it.
        handshakes_max: u32 = 1000, 1 => 1_000_000;
        /// Connections this node accepts in a second, on all listeners together. Beyond a second's worth they wait in the
        /// kernel, so that a whole fleet that comes at once does not slow down those who are served. 0: no limit.
        connects_per_second_max: u32 = 0, 0 => 1_000_000;
    }
}

section! {
    /// Messages waiting for their receivers. Bodies beyond the memory of the node are read back from disk.
    pub struct Queues {
        /// Messages waiting for one session.
        messages_max: u32 = 10_000, 1 => 100_000_000;
        /// Bytes of messages waiting for one session.
        bytes_max: ByteSize = ByteSize::from_mib(64), ByteSize::from_kib(1) => ByteSize::from_gib(1024);
        /// Memory for waiting messages of all sessions of this node. Of sessions that are kept, what exceeds it stays on disk
        /// only. Sessions that end with their connection take three quarters of it at the most: what exceeds that is dropped
        /// and counted. Both take less while memory is short: see `[overload]`.
        node_bytes_max: ByteSize = ByteSize::from_mib(256), ByteSize::from_mib(1) => ByteSize::from_gib(1024);
        /// What gives way when a session's queue is full: the oldest waiting message or the new one. Both are counted.
        /// Who publishes a message that no queue has room for is told 0x97 (quota exceeded), in MQTT 5.0.
        when_full: WhenFull = WhenFull::DropOldest;
        /// Bytes waiting for one connection that are not kept over a restart (QoS 0, and sessions that end with the
        /// connection). Beyond it QoS 0 messages are dropped and counted.
        live_bytes_max: ByteSize = ByteSize::from_mib(1), ByteSize::from_kib(1) => ByteSize::from_gib(1);
    }
}

section! {
    /// Features of MQTT, and how the open points of the standard are answered.
    pub struct Mqtt {
        /// Highest QoS accepted and granted (Maximum QoS in CONNACK).
        maximum_qos: u8 = 2, 0 => 2;
        /// Whether messages may be retained.
        retain_available: bool = true;
        /// Whether topic filters may hold `+` and `#`.
        wildcard_subscription_available: bool = true;
        /// Whether `$share/...` filters are accepted.
        shared_subscription_available: bool = true;
        /// Whether subscriptions may carry an identifier.
        subscription_identifiers_available: bool = true;
        /// Whether a payload marked as UTF-8 is checked; when it is not, 0x99 (payload format invalid) answers.
        validate_payload_format: bool = false;
        /// Which member of a shared subscription gets the next message. `sticky` stays with one as long as it can;
        /// `hash-client` and `hash-topic` pick by the publisher or by the topic.
        shared_strategy: SharedStrategy = SharedStrategy::RoundRobin;
        /// Whether members of a shared subscription that are connected come before those that are away.
        shared_prefer_connected: bool = true;
        /// Whether members connected to the publisher's node come first, which saves a way between nodes and spreads the
        /// messages less evenly.
        shared_prefer_local: bool = false;
        /// How often the `$SYS` topics are published. 0s: never.
        sys_interval: TimeSpan = TimeSpan::from_secs(10), TimeSpan::ZERO => TimeSpan::from_days(1);
    }
}

section! {
    /// What an acknowledgement promises.
    pub struct Durability {
        /// When PUBACK and PUBREC leave for messages that sessions keep: synced to the disks of a majority, held by a
        /// majority, or received by this node.
        ack: AckLevel = AckLevel::QuorumSynced;
    }
}

section! {
    /// How the replicated state is kept on disk.
    pub struct Storage {
        /// Longest time between two checkpoints of a shard that changes. Shorter means less to replay at start.
        checkpoint_interval: TimeSpan = TimeSpan::from_secs(60), TimeSpan::from_secs(1) => TimeSpan::from_days(1);
        /// A checkpoint is also taken when the log of a shard has grown by this much.
        checkpoint_log_bytes: ByteSize = ByteSize::from_mib(64), ByteSize::from_mib(1) => ByteSize::from_gib(64);
        /// Raft groups that sessions and retained messages are spread over. Decided when the data directory is made.
        shards: u16 = 16, 1 => 256;
    }
}

section! {
    /// HTTP for operators: health (`/livez`, `/readyz`, `/startupz`) and metrics (`/metrics`), which tell no client data and
    /// answer everybody who reaches the address; the API (`/api/v1`) and the dashboard (`/`), which ask for a token. Without
    /// any token they answer this machine alone, and let it do everything.
    pub struct Admin {
        /// Address and port. Port 0: any free one, printed at start.
        bind: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9100));
        /// Tokens that permit to look, each of at least 32 characters, as `openssl rand -hex 32` makes them.
        read_tokens: Vec<Token> = Vec::new();
        /// Tokens that permit to look and to change.
        write_tokens: Vec<Token> = Vec::new();
        /// File with more tokens that permit to look, one a line.
        read_token_file: Option<PathBuf> = None;
        /// File with more tokens that permit to look and to change, one a line.
        write_token_file: Option<PathBuf> = None;
    }
}

section! {
    /// What the node writes about itself, to standard error.
    pub struct Log {
        /// Lines for people or JSON for machines.
        format: LogFormat = LogFormat::Text;
        /// `error`, `warn`, `info`, `debug` or `trace`, also per part: `info,broker=debug`. The store (`sled`) says `info` at the most:
        /// beyond that it would write what clients have published.
        level: String = String::from("info");
    }
}

impl Admin {
    /// The tokens that permit to look, and those that permit to change, with those of the files. Blocks.
    ///
    /// # Errors
    /// A file cannot be read, or has a token that is too short.
    pub fn tokens(&self) -> Result<(Vec<Token>, Vec<Token>), String> {
        let all = |tokens: &[Token], file: &Option<PathBuf>| {
            let mut all = tokens.to_vec();
            if let Some(file) = file {
                all.append(&mut Token::read(file)?);
            }
            Ok::<_, String>(all)
        };
        Ok((
            all(&self.read_tokens, &self.read_token_file)?,
            all(&self.write_tokens, &self.write_token_file)?,
        ))
    }

    /// What about it deserves a warning at each start.
    pub fn risks(&self) -> Vec<&'static str> {
        let mut risks = Vec::new();
        if self.bind.ip().is_loopback() {
            return risks;
        }
        risks.push("metrics can be read by everyone who reaches this address");
        let tokens = self.read_tokens.len() + self.write_tokens.len();
        if tokens > 0 || self.read_token_file.is_some() || self.write_token_file.is_some() {
            risks.push(
                "tokens of the API travel as plain text: who is on the way can use them; use it within a network of your own alone, \
                 or bind to 127.0.0.1 behind a proxy that speaks TLS",
            );
        }
        risks
    }

    fn check(&self, problems: &mut Vec<Problem>) {
        for (key, tokens) in [
            ("read_tokens", &self.read_tokens),
            ("write_tokens", &self.write_tokens),
        ] {
            for (index, token) in tokens.iter().enumerate() {
                if let Some(problem) = token.problem() {
                    problems.push(Problem::new(format!("admin.{key}[{index}]"), problem));
                }
            }
        }
    }
}

impl Node {
    /// The name that people see: the configured one, or that of the host.
    pub fn shown_name(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = if self.name.is_empty() {
            host()
        } else {
            self.name.clone()
        };
        match name.trim() {
            "" => "flotilla".to_owned(),
            name => name.to_owned(),
        }
    }
}

impl Default for Config {
    /// A broker for the machine it runs on: MQTT on port 1883 and WebSocket on port 8083 of the loopback address.
    fn default() -> Self {
        Self {
            node: Node::default(),
            drain: Drain::default(),
            listeners: Listener::defaults(),
            auth: Auth::default(),
            access: Access::default(),
            limits: Limits::default(),
            tenants: Tenants::default(),
            queues: Queues::default(),
            overload: Overload::default(),
            mqtt: Mqtt::default(),
            durability: Durability::default(),
            storage: Storage::default(),
            admin: Admin::default(),
            log: Log::default(),
            cluster: Cluster::default(),
        }
    }
}

impl Config {
    /// Every section with its keys, in the order of the reference.
    pub fn reference() -> Vec<SectionReference> {
        vec![
            Node::reference("node"),
            Drain::reference("drain"),
            Listener::reference("listeners"),
            Auth::reference("auth"),
            AuthHttp::reference("auth.http"),
            Access::reference("access"),
            Limits::reference("limits"),
            Tenants::reference("tenants"),
            Queues::reference("queues"),
            Overload::reference("overload"),
            Mqtt::reference("mqtt"),
            Durability::reference("durability"),
            Storage::reference("storage"),
            Admin::reference("admin"),
            Log::reference("log"),
            Cluster::reference("cluster"),
            ClusterTls::reference("cluster.tls"),
        ]
    }

    /// Fills in what follows from other keys: names of listeners that have none, limits that others cut.
    pub fn complete(&mut self) {
        listener::name_all(&mut self.listeners);
        let limits = &mut self.limits;
        limits.packet_size_before_connect = limits.packet_size_before_connect.min(limits.packet_size_max);
    }

    /// Whether a new value of a key counts when files are read again; else it counts from the next start.
    pub fn counts_at_once(section: &str, key: &str) -> bool {
        match (section, key) {
            ("limits", "handshakes_max") | ("queues", "node_bytes_max") => false,
            ("limits" | "queues" | "overload", _) => true,
            ("drain", "connections_per_second") | ("log", "level") => true,
            ("admin", "read_tokens" | "write_tokens" | "read_token_file" | "write_token_file") => true,
            _ => false,
        }
    }

    /// Takes over from another configuration what counts at once.
    pub fn adopt(&mut self, new: &Self) {
        self.limits = Limits {
            handshakes_max: self.limits.handshakes_max,
            ..new.limits.clone()
        };
        self.queues = Queues {
            node_bytes_max: self.queues.node_bytes_max,
            ..new.queues.clone()
        };
        self.overload = new.overload.clone();
        self.drain.connections_per_second = new.drain.connections_per_second;
        self.log.level.clone_from(&new.log.level);
        self.admin = Admin {
            bind: self.admin.bind,
            ..new.admin.clone()
        };
    }

    /// All mistakes that can be seen without touching files or sockets: bounds, contradictions, unsafe listeners.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.node.check_bounds("node", &mut problems);
        self.drain.check_bounds("drain", &mut problems);
        self.auth.check("auth", &mut problems);
        self.access.check("access", &mut problems);
        self.limits.check_bounds("limits", &mut problems);
        self.tenants
            .check("tenants", self.access.has_rules(), &mut problems);
        self.queues.check_bounds("queues", &mut problems);
        self.overload.check_bounds("overload", &mut problems);
        self.mqtt.check_bounds("mqtt", &mut problems);
        self.durability.check_bounds("durability", &mut problems);
        self.storage.check_bounds("storage", &mut problems);
        self.admin.check_bounds("admin", &mut problems);
        self.log.check_bounds("log", &mut problems);
        self.cluster.check_bounds("cluster", &mut problems);
        listener::check_all(&self.listeners, &self.auth, &mut problems);
        self.check_relations(&mut problems);
        problems
    }

    fn check_relations(&self, problems: &mut Vec<Problem>) {
        if self.limits.keep_alive_max.get().subsec_nanos() != 0 {
            problems.push(Problem::new(
                "limits.keep_alive_max",
                "has to be whole seconds".to_owned(),
            ));
        }
        if self.drain.load_balancer_wait >= self.node.stop_timeout {
            let message = format!(
                "{} leaves nothing of the {} of `node.stop_timeout`, which it is a part of: raise that",
                self.drain.load_balancer_wait, self.node.stop_timeout
            );
            problems.push(Problem::new("drain.load_balancer_wait", message));
        }
        self.admin.check(problems);
        self.cluster.check(problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        config.problems().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn defaults_are_without_mistakes() {
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn each_value_out_of_bounds_is_reported() {
        let problems = problems_of(|config| {
            config.limits.receive_maximum = 0;
            config.limits.connect_timeout = TimeSpan::ZERO;
            config.mqtt.maximum_qos = 3;
        });
        assert_eq!(
            problems,
            [
                "limits.connect_timeout: 0s is not within 10ms and 10m",
                "limits.receive_maximum: 0 is not within 1 and 65535",
                "mqtt.maximum_qos: 3 is not within 0 and 2",
            ]
        );
    }

    #[test]
    fn tokens_beyond_loopback_are_warned_of() {
        let mut admin = Admin {
            read_token_file: Some("tokens".into()),
            ..Admin::default()
        };
        assert_eq!(admin.risks(), [""; 0]);
        admin.bind.set_ip(Ipv4Addr::UNSPECIFIED.into());
        assert!(admin.risks()[1].starts_with("tokens of the API travel as plain text"));
        admin.read_token_file = None;
        assert_eq!(admin.risks().len(), 1);
    }

    #[test]
    fn the_wait_for_load_balancers_is_a_part_of_the_stop() {
        let problems = problems_of(|config| config.drain.load_balancer_wait = TimeSpan::from_secs(15));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("drain.load_balancer_wait: 15s leaves nothing"),
            "{problems:?}"
        );
        let problems = problems_of(|config| config.drain.load_balancer_wait = TimeSpan::from_secs(14));
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn every_key_of_the_reference_says_what_it_is_for() {
        for section in Config::reference() {
            assert!(!section.documentation.is_empty(), "{}", section.name);
            for key in section.keys {
                assert!(key.documentation.len() > 10, "{}.{}", section.name, key.name);
            }
        }
    }
}
