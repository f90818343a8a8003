//! What all connections of a node hold together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, Guard};
use bytestring::ByteString;
use cluster::{Clock, Cluster};
use mqtt_codec::{Publication, QoS};
use mqtt_session::ServerLimits;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::config::{ByteSize, Config, Limits, Queues, WhenFull};
use crate::debts::Debts;
use crate::drain::Drain;
use crate::incoming::Incoming;
use crate::log_limit::LogLimit;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::overload::Overload;
use crate::places::Places;
use crate::queue_memory::QueueMemory;
use crate::refusal::Limited;
use crate::refusals::{Refusals, Refused};
use crate::registry::Registry;
use crate::retained_room::{Owner, RetainedRoom};
use crate::router::Router;
use crate::session_room::SessionRoom;
use crate::sources::Sources;
use crate::sys_topics::SysTopics;
use crate::tenants::{Tenants, TopicBounds};
use crate::trace::Traces;

/// Denials are told one by one this often.
const DENIALS_EVERY: std::time::Duration = std::time::Duration::from_millis(100);
/// The same for connections that are refused.
const CONNECT_REFUSALS_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// What a reload may change.
#[derive(Debug)]
pub(crate) struct Live {
    /// All but `handshakes_max`.
    pub(crate) limits: Limits,
    /// All but `node_bytes_max`.
    pub(crate) queues: Queues,
    /// Of the memory that the node keeps to.
    pub(crate) memory_max: ByteSize,
    /// Of a drain.
    pub(crate) connections_per_second: u32,
    /// What a session is held to, from its connection on.
    pub(crate) session: Arc<ServerLimits>,
}

pub(crate) struct Shared {
    /// As at the start. What a reload may change is asked of `live`.
    pub(crate) config: Config,
    live: ArcSwap<Live>,
    /// Of sessions that end with their connection.
    pub(crate) memory: Arc<QueueMemory>,
    pub(crate) cluster: Cluster,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) router: Arc<Router>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) places: Arc<Places>,
    /// Denials are told one by one up to this rate; the rest is counted.
    pub(crate) denials: LogLimit,
    /// The same of connections that are refused for another reason than who their clients are.
    pub(crate) connect_refusals: LogLimit,
    /// For operators who wonder why.
    refusals: Refusals,
    /// For operators who look on as packets pass.
    pub(crate) traces: Traces,
    pub(crate) trace_places: Arc<Semaphore>,
    pub(crate) sys: SysTopics,
    pub(crate) incoming: Incoming,
    pub(crate) sources: Sources,
    pub(crate) overload: Overload,
    pub(crate) retained_room: RetainedRoom,
    pub(crate) session_room: SessionRoom,
    pub(crate) tenants: Tenants,
    pub(crate) debts: Debts,
    /// Of the connections that all listeners accept.
    pub(crate) accepts: Mutex<Meter>,
    pub(crate) drain: Drain,
    /// Connections that are closed and whose last packets have not left.
    pub(crate) farewells: AtomicUsize,
    /// Cancelled when the node stops.
    pub(crate) stopping: CancellationToken,
    /// Milliseconds since the Unix epoch.
    pub(crate) started_ms: u64,
    /// When the node started, for what is measured and not dated.
    started: Instant,
    /// For operators who look on as messages pass.
    pub(crate) watches: Arc<Semaphore>,
    /// For the one task that moves clients elsewhere.
    pub(crate) moves: Arc<Semaphore>,
    next_connection: AtomicU64,
}

/// Microseconds' worth of connections that may come at once.
const ACCEPTS_BURST_US: u64 = 1_000_000;
/// Operators who look on at the same time.
const WATCHES_MAX: usize = 16;
/// Traces at the same time: each looks at every packet of those it is about.
const TRACES_MAX: usize = 8;

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "each is a part, and it is called once")]
    pub(crate) fn new(
        config: Config,
        memory: Arc<QueueMemory>,
        cluster: Cluster,
        clock: Arc<dyn Clock>,
        router: Arc<Router>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        authenticator: Arc<dyn Authenticator>,
    ) -> Self {
        let started_ms = clock.now_ms();
        Self {
            refusals: Refusals::new(Arc::clone(&clock)),
            traces: Traces::new(metrics.trace_lines_lost.clone()),
            trace_places: Arc::new(Semaphore::new(TRACES_MAX)),
            live: ArcSwap::from_pointee(Live::of(&config)),
            overload: Overload::default(),
            retained_room: RetainedRoom::default(),
            session_room: SessionRoom::default(),
            debts: Debts::default(),
            tenants: Tenants::new(&config.tenants),
            accepts: Mutex::new(Meter::new(
                config.limits.connects_per_second_max.into(),
                ACCEPTS_BURST_US,
            )),
            sources: Sources::new(config.storage.shards),
            config,
            memory,
            cluster,
            clock,
            router,
            registry,
            metrics,
            authenticator,
            places: Arc::default(),
            denials: LogLimit::new(DENIALS_EVERY),
            connect_refusals: LogLimit::new(CONNECT_REFUSALS_EVERY),
            sys: SysTopics::default(),
            incoming: Incoming::default(),
            drain: Drain::default(),
            farewells: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            started_ms,
            started: Instant::now(),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            moves: Arc::new(Semaphore::new(1)),
            next_connection: AtomicU64::new(1),
        }
    }

    /// What counts now.
    pub(crate) fn live(&self) -> Guard<Arc<Live>> {
        self.live.load()
    }

    /// From now on other limits count. Connections learn of the rates when they are told to look at themselves.
    pub(crate) fn set_limits(&self, new: &Config) {
        let mut config = self.config.clone();
        config.adopt(new);
        let per_second = config.limits.connects_per_second_max.into();
        self.accepts.lock().change(per_second, self.steady_ms() * 1000);
        self.live.store(Arc::new(Live::of(&config)));
    }

    /// Where clients are sent when this node cannot serve them.
    pub(crate) fn server_reference(&self) -> Option<ByteString> {
        let reference = &self.config.cluster.server_reference;
        (!reference.is_empty()).then(|| reference.as_str().into())
    }

    /// Whether a message may be retained, or the limit that is against it. An empty one removes what is retained, and is
    /// always welcome. [MQTT-3.3.1-6]
    pub(crate) fn may_retain(&self, publication: &Publication, owner: &Owner) -> Result<(), Limited> {
        if publication.payload_len() == 0 {
            return Ok(());
        }
        let room = &self.retained_room;
        if self.overload.keeps_no_more() && !room.replaces(&self.cluster, publication) {
            return Err(Limited::Overload);
        }
        room.admits(&self.cluster, &self.live().limits, publication, owner)
    }

    /// Of topics and filters, with a tenant's name in front.
    pub(crate) fn topic_bounds(&self) -> TopicBounds {
        let live = self.live();
        TopicBounds {
            bytes_max: live.session.topic_bytes_max,
            levels_max: live.session.topic_levels_max,
        }
    }

    /// Remembers what was refused, and tells those who trace it.
    pub(crate) fn refused(&self, refused: Refused) {
        self.traces.refused(&refused, self.clock.now_ms());
        self.refusals.note(refused);
    }

    /// What was refused lately.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Milliseconds since the node started. Setting the wall clock changes nothing here.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A number no other connection of this process has had.
    pub(crate) fn next_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }
}

impl Live {
    fn of(config: &Config) -> Self {
        Self {
            limits: config.limits.clone(),
            queues: config.queues.clone(),
            memory_max: config.overload.memory_max,
            connections_per_second: config.drain.connections_per_second,
            session: Arc::new(server_limits(config)),
        }
    }
}

fn server_limits(config: &Config) -> ServerLimits {
    let (limits, queues, mqtt) = (&config.limits, &config.queues, &config.mqtt);
    ServerLimits {
        receive_maximum: limits.receive_maximum,
        in_flight_max: limits.in_flight_max,
        packet_size_max: limits.packet_size_max.as_u32(),
        topic_alias_maximum: limits.topic_alias_maximum,
        topic_levels_max: usize::from(limits.topic_levels_max),
        topic_bytes_max: usize::from(limits.topic_bytes_max),
        client_id_bytes_max: usize::from(limits.client_id_bytes_max),
        session_expiry_max: limits.session_expiry_max.as_secs_u32(),
        will_delay_max: limits.will_delay_max.as_secs_u32(),
        keep_alive_max: limits.keep_alive_max.as_secs_u32() as u16,
        maximum_qos: QoS::try_from(mqtt.maximum_qos).unwrap_or(QoS::ExactlyOnce),
        retain_available: mqtt.retain_available,
        wildcard_subscription_available: mqtt.wildcard_subscription_available,
        shared_subscription_available: mqtt.shared_subscription_available,
        subscription_identifiers_available: mqtt.subscription_identifiers_available,
        queue_messages_max: queues.messages_max as usize,
        queue_bytes_max: queues.bytes_max.as_usize(),
        drop_oldest: queues.when_full == WhenFull::DropOldest,
        validate_payload_format: mqtt.validate_payload_format,
    }
}
