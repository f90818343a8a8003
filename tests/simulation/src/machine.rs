//! One simulated machine: a disk, a clock, and the node that runs there until it crashes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use broker::Broker;
use broker::auth::Anonymous;
use broker::config;
use cluster::proto::{ForwardMessage, ShareMember};
use cluster::{Clock, Cluster, Kicked, KickedBy, Observer, PeerConfig, ShardId};
use parking_lot::Mutex;
use storage::{Files, OnFatal, SimulatedDisk, Turn, Writing};
use tokio::sync::Notify;
use turmoil::net::TcpListener;

use crate::clock::SimulatedClock;
use crate::net::SimulatedNet;
use crate::simulation::Options;

/// Where clients connect.
pub(crate) const MQTT_PORT: u16 = 1883;
const PEER_PORT: u16 = 7883;
/// A quick disk's sync.
const SYNC: Duration = Duration::from_micros(300);
const LOOK: Duration = Duration::from_millis(10);

pub(crate) fn name(number: usize) -> String {
    format!("node-{number}")
}

fn peer_address(number: usize) -> String {
    format!("{}:{PEER_PORT}", name(number))
}

/// What of a node outlives its crashes, and what the outside sees of it.
pub(crate) struct Machine {
    pub(crate) number: usize,
    options: Options,
    disk: Mutex<SimulatedDisk>,
    pub(crate) clock: Arc<SimulatedClock>,
    /// How long a sync takes.
    pub(crate) sync_us: Arc<AtomicU64>,
    pub(crate) ready: AtomicBool,
    pub(crate) cluster: Mutex<Option<Cluster>>,
    /// The node's identity, once it has run; 0 before.
    pub(crate) id: AtomicU64,
    /// Asks the node to stop in order.
    pub(crate) stop: Notify,
    wipes: AtomicU64,
    /// Why the node stopped by itself, which no fault excuses.
    pub(crate) failure: Arc<Mutex<Option<String>>>,
}

impl Machine {
    pub(crate) fn new(number: usize, options: &Options, elapsed_ms: Arc<AtomicU64>) -> Self {
        let machine = Self {
            number,
            options: options.clone(),
            disk: Mutex::new(SimulatedDisk::new(0)),
            clock: Arc::new(SimulatedClock {
                elapsed_ms,
                ahead_ms: AtomicI64::new(0),
            }),
            sync_us: Arc::new(AtomicU64::new(SYNC.as_micros() as u64)),
            ready: AtomicBool::new(false),
            cluster: Mutex::new(None),
            id: AtomicU64::new(0),
            stop: Notify::new(),
            wipes: AtomicU64::new(0),
            failure: Arc::default(),
        };
        machine.wipe();
        machine
    }

    /// A new disk in the place of the old one.
    pub(crate) fn wipe(&self) {
        let wipes = self.wipes.fetch_add(1, Ordering::Relaxed);
        let disk = SimulatedDisk::new(self.options.seed ^ (self.number as u64) << 32 ^ wipes << 48);
        disk.set_forgetful(self.options.forgetful_disks);
        *self.disk.lock() = disk;
    }

    /// The power goes. The node's tasks are to be dropped after this.
    pub(crate) fn lose_power(&self) {
        self.disk.lock().crash();
        self.gone();
    }

    fn gone(&self) {
        self.ready.store(false, Ordering::Relaxed);
        *self.cluster.lock() = None;
    }

    pub(crate) fn slow_disk(&self, sync: Option<Duration>) {
        let sync = sync.unwrap_or(SYNC);
        self.sync_us.store(sync.as_micros() as u64, Ordering::Relaxed);
    }

    /// The node, from its start to its end.
    pub(crate) async fn run(self: Arc<Self>) -> turmoil::Result {
        let started = self.start().await;
        let broker = started.map_err(|error| format!("{} did not start: {error}", name(self.number)))?;
        *self.cluster.lock() = Some(broker.cluster());
        self.id.store(broker.node_id(), Ordering::Relaxed);
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), MQTT_PORT)).await?;
        loop {
            self.ready.store(broker.is_ready(), Ordering::Relaxed);
            tokio::select! {
                biased;
                accepted = listener.accept() => {
                    let (stream, peer) = accepted?;
                    broker.serve_stream(stream, peer, "simulated");
                }
                () = tokio::time::sleep(LOOK) => {}
                () = self.stop.notified() => {
                    self.gone();
                    broker.shutdown().await;
                    return Ok(());
                }
            }
        }
    }

    async fn start(&self) -> Result<Broker, broker::BrokerError> {
        let mut config = config::Config::default();
        config.listeners.clear();
        config.node.name = name(self.number);
        config.node.data_dir = PathBuf::from("/data");
        config.storage.shards = self.options.shards;
        config.durability.ack = self.options.ack;
        let authenticator = Arc::new(Anonymous);
        let clock = self.clock.clone();
        let open = |config, clock: Arc<dyn Clock>, observer: Arc<dyn Observer>| {
            let observer: Arc<dyn Observer> = match self.options.deaf {
                true => Arc::new(Deaf(observer)),
                false => observer,
            };
            Cluster::start(self.cluster_config(config), clock, observer)
        };
        Broker::start_on(config, authenticator, clock, Box::new(open)).await
    }

    fn cluster_config(&self, config: cluster::Config) -> cluster::Config {
        let own = peer_address(self.number);
        let seeds: Vec<String> = (1..=self.options.nodes).map(peer_address).collect();
        let failure = self.failure.clone();
        let sync_us = self.sync_us.clone();
        cluster::Config {
            files: Files::Simulated(self.disk.lock().clone()),
            writing: Writing::Turns(Arc::new(move |turn: Turn| {
                let sync = Duration::from_micros(sync_us.load(Ordering::Relaxed));
                tokio::spawn(async move {
                    tokio::time::sleep(sync).await;
                    turn.write();
                });
            })),
            on_fatal: OnFatal::call(move |reason| {
                failure.lock().get_or_insert_with(|| reason.to_owned());
            }),
            peers: Some(PeerConfig {
                expect: seeds.len(),
                seeds,
                lease: self.options.lease,
                down_after: self.options.down_after,
                replace_after: self.options.replace_after,
                ..PeerConfig::new(Arc::new(SimulatedNet), &own)
            }),
            broken: self.options.broken,
            checkpoint_interval: self.options.checkpoint_interval,
            ..config
        }
    }
}

/// Hears nothing of owners that lost their session: a broken node, for a test that has to notice.
struct Deaf(Arc<dyn Observer>);

impl Observer for Deaf {
    fn outbox_ready(&self, shard: ShardId) {
        self.0.outbox_ready(shard);
    }
    fn share_member(&self, filter: &str, member: &ShareMember, added: bool) {
        self.0.share_member(filter, member, added);
    }
    fn owner_lost(&self, _: &str, _: u64) {}
    fn session_ended(&self, client: &str, reason: &'static str) {
        self.0.session_ended(client, reason);
    }
    fn dropped(&self, reason: &'static str, count: u64) {
        self.0.dropped(reason, count);
    }
    fn forwarded(&self, from: u64, messages: Vec<ForwardMessage>) {
        self.0.forwarded(from, messages);
    }
    fn kick(&self, _: &str, _: u64, _: KickedBy) -> Option<Kicked> {
        None
    }
    fn fenced(&self) {
        self.0.fenced();
    }
}
