//! Everything between a client's socket and the replicated state: listeners, connections, routing.

pub mod auth;
mod author;
pub mod config;
mod connection;
mod debts;
mod drain;
mod forward;
#[doc(hidden)]
pub mod fuzz;
pub mod gate;
mod handover;
mod handshakes;
mod http_client;
mod incoming;
mod listener;
mod log_limit;
mod mailbox;
mod message;
mod meter;
mod metrics;
mod observer;
pub mod operator;
mod outbox;
mod overload;
mod pass;
mod peer_net;
mod places;
mod proposal;
pub mod proxy_protocol;
mod publisher;
mod queue_memory;
mod rebalance;
mod refusal;
mod refusals;
mod registry;
mod retained_room;
mod router;
mod run;
mod session_room;
mod share;
mod shared;
mod sources;
mod sys_load;
mod sys_topics;
mod tenants;
#[cfg(test)]
mod testing;
mod tls;
mod trace;
mod websocket;
mod websocket_frames;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster::{Clock, Cluster, ClusterClock, Observer, SystemClock};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::auth::Authenticator;
use crate::config::{AckLevel, Config};
use crate::drain::DrainPhase;
use crate::gate::Gate;
use crate::mailbox::Close;
use crate::metrics::Metrics;
use crate::observer::{NodeObserver, OutboxSignal};
use crate::queue_memory::QueueMemory;
use crate::registry::Registry;
use crate::router::Router;
use crate::shared::Shared;
use crate::tls::ListenerTls;

/// Connections have this long to end when the node stops.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// An address could not be bound.
    #[error("listener `{listener}`: cannot listen on {address}: {error}")]
    Bind {
        /// Its name.
        listener: String,
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// Certificates or keys are not usable.
    #[error("listener `{listener}`: {reason}")]
    Tls {
        /// Its name.
        listener: String,
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// A file of users, keys or rules is not usable.
    #[error("{0}")]
    Access(String),
    /// Certificates or keys for the connections between nodes are not usable.
    #[error("cluster.tls: {0}")]
    PeerTls(std::io::Error),
    /// The replicated state could not be opened.
    #[error(transparent)]
    Cluster(#[from] cluster::StartError),
}

/// A running broker.
pub struct Broker {
    shared: Arc<Shared>,
    addresses: Vec<(String, SocketAddr)>,
    tls: Vec<Arc<ListenerTls>>,
    tasks: JoinSet<()>,
}

/// Starts the groups of a node, given their configuration, the clock, and who is told what they do.
pub type Open<'a> = Box<
    dyn FnOnce(
            cluster::Config,
            Arc<dyn Clock>,
            Arc<dyn Observer>,
        ) -> BoxFuture<'static, Result<Cluster, cluster::StartError>>
        + Send
        + 'a,
>;

impl Broker {
    /// Opens the data directory, binds every listener and serves. Clients are let in as `[auth]` and the listeners permit.
    ///
    /// # Errors
    /// A listener, the data directory or a file of users, keys or rules cannot be opened; nothing is left running.
    pub fn start(config: Config) -> BoxFuture<'static, Result<Self, BrokerError>> {
        // Who comes in is judged by the same time.
        let clock: Arc<dyn Clock> = Arc::new(ClusterClock::new(Arc::new(SystemClock::default())));
        let gate = Gate::open(&config, Arc::clone(&clock)).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            BrokerError::Access(problems.join("; "))
        });
        match gate {
            Ok(gate) => Self::start_on(config, Arc::new(gate), clock, Box::new(Cluster::start)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// As `start`, with somebody who judges logins.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with(
        config: Config,
        authenticator: Arc<dyn Authenticator>,
    ) -> BoxFuture<'static, Result<Self, BrokerError>> {
        let clock = Arc::new(SystemClock::default());
        Self::start_on(config, authenticator, clock, Box::new(Cluster::start))
    }

    /// As `start_with`, on groups that `open` starts: over another network, or by another clock.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_on<'a>(
        config: Config,
        authenticator: Arc<dyn Authenticator>,
        clock: Arc<dyn Clock>,
        open: Open<'a>,
    ) -> BoxFuture<'a, Result<Self, BrokerError>> {
        // Boxed here, all that a broker does is compiled in this crate, and not again in each that starts one.
        Box::pin(Self::open_and_start(config, authenticator, clock, open))
    }

    async fn open_and_start(
        config: Config,
        authenticator: Arc<dyn Authenticator>,
        clock: Arc<dyn Clock>,
        open: Open<'_>,
    ) -> Result<Self, BrokerError> {
        // Sockets first: a port that is taken is noticed before the log is opened.
        let mut bound = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            bound.push(listener::bind(listener)?);
        }
        let outboxes = Arc::new(OutboxSignal::new(config.storage.shards));
        let shared = open_shared(config, authenticator, clock, &outboxes, open).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(outbox::run(Arc::clone(&shared), outboxes));
        tasks.spawn(drain::run(Arc::clone(&shared)));
        tasks.spawn(sys_topics::run(Arc::clone(&shared)));
        tasks.spawn(sys_topics::gauges(Arc::clone(&shared)));
        tasks.spawn(overload::run(Arc::clone(&shared)));
        tasks.spawn({
            let (upkeep, shared) = (shared.authenticator.upkeep(), Arc::clone(&shared));
            async move {
                tokio::select! {
                    () = upkeep => {}
                    () = shared.stopping.cancelled() => {}
                }
            }
        });
        let mut addresses = Vec::with_capacity(bound.len());
        let tls = bound.iter().filter_map(|bound| bound.tls.clone()).collect();
        for (bound, listener) in bound.into_iter().zip(&shared.config.listeners) {
            addresses.push((listener.name.clone(), bound.address));
            tasks.spawn(listener::run(Arc::clone(&shared), bound));
        }
        Ok(Self {
            shared,
            addresses,
            tls,
            tasks,
        })
    }

    /// Serves a client on a stream that was accepted elsewhere, by the rules of the listener of that name. Where there is
    /// none, the client has to name a user. It returns at once; the connection ends as any other does.
    pub fn serve_stream<S>(&self, stream: S, peer: SocketAddr, listener: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        let mut known = self.shared.config.listeners.iter();
        let known = known.find(|known| known.name == listener);
        let transport = known.map_or(config::Protocol::Tcp, |listener| listener.protocol);
        let origin = connection::Origin {
            peer,
            listener: listener.into(),
            transport,
            permits_anonymous: known
                .is_some_and(|listener| listener.permits_anonymous(&self.shared.config.auth)),
            certificate: None,
        };
        self.serve_boxed(Box::new(stream), origin);
    }

    fn serve_boxed(&self, stream: Box<dyn connection::Stream + Sync>, origin: connection::Origin) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let within = shared.live().limits.connect_timeout.get();
            if let Some(accepted) = connection::accept(&shared, stream, origin, within).await {
                connection::serve(shared, accepted).await;
            }
        });
    }

    /// Reads the files of users, keys and rules again, and the listeners' certificates and lists of revoked ones. What the
    /// former say holds for everybody who is connected, too, within the next turn of each connection; certificates are for
    /// those who come.
    ///
    /// # Errors
    /// A file cannot be read, or a key does not belong to its certificate: all stays as it was.
    pub fn reload(&self) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        async move {
            let authenticator = Arc::clone(&shared.authenticator);
            let reloaded = tokio::task::spawn_blocking(move || {
                let read: Result<Vec<_>, _> = tls.iter().map(|tls| tls.read_again()).collect();
                let read = read.map_err(|error| error.to_string())?;
                authenticator.reload()?;
                tls.iter().zip(read).for_each(|(tls, config)| tls.set(config));
                Ok::<_, String>(())
            });
            reloaded.await.map_err(|error| error.to_string())??;
            shared.registry.recheck_all();
            Ok(())
        }
    }

    /// From now on the limits of another configuration count, as far as `Config::counts_at_once` says so: for those who come, and
    /// rates, retained messages and subscriptions for those who are here, too. It cannot fail; `reload` is to follow.
    pub fn set_limits(&self, config: &Config) {
        self.shared.set_limits(config);
        self.shared.registry.recheck_all();
    }

    /// The name and the true address of each listener, in the order of the configuration.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// Whether clients should come: every shard has a leader, and the node is not being taken out of service.
    pub fn is_ready(&self) -> bool {
        self.shared.cluster.is_ready() && !self.is_draining()
    }

    /// Whether the node is being taken out of service, or is out of it.
    pub fn is_draining(&self) -> bool {
        self.shared.drain.phase() != DrainPhase::Serving
    }

    /// The drain that a stop begins with: over when all clients are gone, or were asked to go as fast as `node.stop_timeout`
    /// wants it. It cannot be taken back.
    pub fn drain_to_stop(&self) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { drain::to_stop(&shared).await })
    }

    /// How short memory is: 0 not at all, 1 heavy publishers are read more slowly, 2 new connections are refused, 3 QoS 0 messages
    /// are dropped.
    pub fn overload_level(&self) -> u8 {
        self.shared.overload.level() as u8
    }

    /// The node's identifier, for as long as its data directory exists.
    pub fn node_id(&self) -> u64 {
        self.shared.cluster.node_id()
    }

    /// The identifier of the cluster that the node belongs to.
    pub fn cluster_id(&self) -> String {
        self.shared.cluster.cluster_id()
    }

    /// The groups of this node: for operators, who see the cluster and change who belongs to it.
    pub fn cluster(&self) -> Cluster {
        self.shared.cluster.clone()
    }

    /// Looks into the node and acts on it, for operators.
    pub fn operator(&self) -> operator::Operator {
        operator::Operator::new(Arc::clone(&self.shared))
    }

    /// How many shards the sessions and retained messages are spread over.
    pub fn shards(&self) -> u16 {
        self.shared.cluster.shards()
    }

    /// Drains the node, unless that was done, lets the last connections go for a few seconds, and closes the data directory.
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        Box::pin(self.shut_down())
    }

    async fn shut_down(mut self) {
        drain::to_stop(&self.shared).await;
        self.shared.stopping.cancel();
        self.shared.registry.close_all(Close::ShuttingDown);
        let deadline = tokio::time::Instant::now() + STOP_WAIT;
        let has_some = || {
            self.shared.registry.len() > 0
                || self.shared.farewells.load(std::sync::atomic::Ordering::Relaxed) > 0
        };
        while has_some() && tokio::time::Instant::now() < deadline {
            self.shared.registry.close_all(Close::ShuttingDown);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = self.shared.registry.len();
        if left > 0 {
            info!(left, "some connections did not end in time");
        }
        while self.tasks.join_next().await.is_some() {}
        debug!("the connections are closed");
        self.shared.cluster.shutdown().await;
    }
}

/// Opens the replicated state, and ties what it tells to what connections hold together.
async fn open_shared(
    config: Config,
    authenticator: Arc<dyn Authenticator>,
    clock: Arc<dyn Clock>,
    outboxes: &Arc<OutboxSignal>,
    open: Open<'_>,
) -> Result<Arc<Shared>, BrokerError> {
    let (router, registry, metrics) = (
        Arc::new(Router::new()),
        Arc::new(Registry::default()),
        Arc::new(Metrics::new()),
    );
    let late = Arc::new(OnceLock::new());
    let observer = Arc::new(NodeObserver {
        router: Arc::clone(&router),
        registry: Arc::clone(&registry),
        metrics: Arc::clone(&metrics),
        outboxes: Arc::clone(outboxes),
        shared: Arc::clone(&late),
    });
    let opened = cluster_config(&config)?;
    let memory = QueueMemory::new(
        opened.queue_memory_bytes,
        Arc::clone(&opened.queue_memory_elsewhere),
    );
    let cluster = open(opened, clock, observer).await?;
    let clock = cluster.clock();
    let shared = Arc::new(Shared::new(
        config,
        memory,
        cluster,
        clock,
        router,
        registry,
        metrics,
        authenticator,
    ));
    // Nothing else sets it.
    let _ = late.set(Arc::downgrade(&shared));
    Ok(shared)
}

fn cluster_config(config: &Config) -> Result<cluster::Config, BrokerError> {
    Ok(cluster::Config {
        data_dir: config.node.data_dir.clone(),
        shards: config.storage.shards,
        queue_memory_bytes: config.queues.node_bytes_max.get(),
        checkpoint_interval: config.storage.checkpoint_interval.get(),
        checkpoint_log_bytes: config.storage.checkpoint_log_bytes.get(),
        ack: match config.durability.ack {
            AckLevel::QuorumSynced => cluster::AckLevel::QuorumSynced,
            AckLevel::Quorum => cluster::AckLevel::Quorum,
            AckLevel::Received => cluster::AckLevel::Received,
        },
        name: config.node.shown_name(),
        zone: config.cluster.zone.clone(),
        peers: peer_net::peer_config(config).map_err(BrokerError::PeerTls)?,
        ..cluster::Config::default()
    })
}
