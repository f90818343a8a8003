//! What all connections of a node hold together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytestring::ByteString;
use cluster::{Clock, Cluster};
use mqtt_codec::{Publication, QoS};
use mqtt_session::ServerLimits;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::config::{Config, WhenFull};
use crate::drain::Drain;
use crate::incoming::Incoming;
use crate::log_limit::LogLimit;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::overload::Overload;
use crate::places::Places;
use crate::queue_memory::QueueMemory;
use crate::refusal::Limited;
use crate::refusals::Refusals;
use crate::registry::Registry;
use crate::retained_room::{Owner, RetainedRoom};
use crate::router::Router;
use crate::sources::Sources;
use crate::sys_topics::SysTopics;
use crate::tenants::{Tenants, TopicBounds};

/// Denials are told one by one this often.
const DENIALS_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) limits: Arc<ServerLimits>,
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
    /// For operators who wonder why.
    pub(crate) refusals: Refusals,
    pub(crate) sys: SysTopics,
    pub(crate) incoming: Incoming,
    pub(crate) sources: Sources,
    pub(crate) overload: Overload,
    pub(crate) retained_room: RetainedRoom,
    pub(crate) tenants: Tenants,
    /// Of the connections that all listeners accept.
    pub(crate) accepts: Mutex<Meter>,
    pub(crate) drain: Drain,
    /// Connections that are closed and whose last packets have not left.
    pub(crate) farewells: AtomicUsize,
    /// Cancelled when the node stops.
    pub(crate) stopping: CancellationToken,
    /// Milliseconds since the Unix epoch.
    pub(crate) started_ms: u64,
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
            limits: Arc::new(server_limits(&config)),
            overload: Overload::default(),
            retained_room: RetainedRoom::default(),
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
            sys: SysTopics::default(),
            incoming: Incoming::default(),
            drain: Drain::default(),
            farewells: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            started_ms,
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            moves: Arc::new(Semaphore::new(1)),
            next_connection: AtomicU64::new(1),
        }
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
        room.admits(&self.cluster, &self.config.limits, publication, owner)
    }

    /// Of topics and filters, with a tenant's name in front.
    pub(crate) fn topic_bounds(&self) -> TopicBounds {
        TopicBounds {
            bytes_max: self.limits.topic_bytes_max,
            levels_max: self.limits.topic_levels_max,
        }
    }

    /// A number no other connection of this process has had.
    pub(crate) fn next_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
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
