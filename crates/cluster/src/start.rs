//! Opening a node's files, starting its groups and tasks, and stopping them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_proto::{QueuesGrew, call_request, meta_command::Command, shard_command};
use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use storage::{DataDir, Identity, LogOptions, RaftLog, SharedKv, StorageError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use transport::{Channel, PeerService, Peers, Received};

use crate::announcer::Announcer;
use crate::barrier::Applied;
use crate::bodies::Bodies;
use crate::drain::Draining;
use crate::group::Group;
use crate::lease::{Heard, Lease};
use crate::meta::Meta;
use crate::node::{Inner, Tasks};
use crate::peer_service::Service;
use crate::proposer::Proposer;
use crate::raft::Network;
use crate::remote_queues::RemoteQueues;
use crate::shard::{FarOwners, Node, Shard};
use crate::slot::{self, ShardTarget, Slot};
use crate::{
    AckLevel, Clock, Cluster, ClusterClock, Config, Observer, ShardId, StartError, chance, keeper,
    meta_duties, shard_duties,
};

/// sled's page cache: it holds checkpoints, which are read at start and when bodies are not in memory.
pub(crate) const STATE_CACHE_BYTES: u64 = 64 << 20;
/// A node that stops hands its leaderships over within this time.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(4);
/// A bit longer than each proposal has once the node stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// Commands of the start of a cluster of one.
const FOUND_WITHIN: Duration = Duration::from_secs(30);

struct Files {
    data_dir: DataDir,
    identity: Identity,
    log: RaftLog,
    kv: SharedKv,
}

impl Cluster {
    /// Opens or creates the data directory and starts what is in it. A node without seeds, or with a cluster that it is
    /// the only member of, is ready when this returns; another one becomes ready when the cluster has taken it in.
    ///
    /// # Errors
    /// The files cannot be opened or do not fit the configuration, or the peers' address is taken.
    pub fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> BoxFuture<'static, Result<Cluster, StartError>> {
        // Boxed here, all that a node does is compiled in this crate, and not again in each that starts one.
        Box::pin(Self::open_and_start(config, clock, observer))
    }

    async fn open_and_start(
        config: Config,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Cluster, StartError> {
        let opening = config.clone();
        let files = chance::blocking(move || open_files(&opening)).await;
        let files = files.map_err(|error| StartError::Storage(error.to_string()))??;
        Self::start_on(files, config, clock, observer).await
    }

    async fn start_on(
        files: Files,
        config: Config,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Cluster, StartError> {
        let incoming = match &config.peers {
            Some(peers) => {
                let listening = peers.net.listen(&peers.listen).await;
                Some(listening.map_err(|error| StartError::Listen {
                    address: peers.listen.clone(),
                    reason: error.to_string(),
                })?)
            }
            None => None,
        };
        let clock = clock
            .clone()
            .of_cluster()
            .unwrap_or_else(|| Arc::new(ClusterClock::new(clock)));
        let late: Arc<LateNode> = Arc::default();
        let introduction = late.clone();
        let peers = config
            .peers
            .as_ref()
            .map(|peers| Peers::new(peers.net.clone(), Arc::new(move || introduction.introduction())));
        let Identity {
            node_id,
            incarnation,
            cluster_id,
            ..
        } = files.identity;
        let (life, born) = (incarnation << 20, incarnation);
        let incarnation = Arc::new(AtomicU64::new(incarnation));
        let routes_generation = Arc::new(AtomicU64::new(0));
        let shard_parts = Node {
            node_id,
            born,
            bodies: Arc::new(Bodies::new(
                config.queue_memory_bytes,
                config.queue_memory_elsewhere.clone(),
            )),
            observer: observer.clone(),
            routes_generation: routes_generation.clone(),
            kv: files.kv.clone(),
            far: late.clone(),
            runtime: tokio::runtime::Handle::current(),
            broken: config.broken,
        };
        let machine = Meta::open(
            files.kv.clone(),
            META_GROUP,
            node_id,
            observer.clone(),
            routes_generation,
        );
        let machine = Arc::new(machine.map_err(storage_failed)?);
        let log = files.log.group(META_GROUP).map_err(storage_failed)?;
        let network = Network::new(META_GROUP, peers.clone());
        let meta = Group::start(META_GROUP, node_id, log, machine, network, config.broken).await?;
        let was_founded = !meta.is_pristine().await?;
        let mut foreign = Vec::new();
        let slots: Vec<Arc<Slot>> = (0..config.shards)
            .map(|id| {
                let bytes_max = config.proposal_queue_bytes as usize;
                let proposer =
                    Proposer::new(node_id, life, bytes_max, config.propose_timeout).broken(config.broken);
                let (slot, received) = Slot::new(id, proposer);
                let slot = Arc::new(slot);
                foreign.push((slot.clone(), received));
                slot
            })
            .collect();
        let inner = Arc::new(Inner {
            config,
            node_id,
            incarnation,
            was_founded,
            cluster_id: Mutex::new(cluster_id.unwrap_or_default()),
            data_dir: Mutex::new(files.data_dir),
            clock: clock.clone(),
            observer,
            peers,
            meta: Arc::new(meta),
            slots: slots.into(),
            log: Arc::new(files.log),
            shard_parts,
            lease: Lease::new(),
            heard: Heard::default(),
            draining: Draining::default(),
            given_up: Mutex::default(),
            not_taken: Mutex::default(),
            announcer: Announcer::new(node_id),
            applied: Applied::default(),
            remote_queues: RemoteQueues::default(),
            received: Received::new(),
            meta_hint: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            strangers: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        late.set(&inner);
        if let Some(incoming) = incoming {
            let service: Arc<dyn PeerService> = Arc::new(Service(Arc::downgrade(&inner)));
            let serving = transport::serve(incoming, service, inner.received.clone(), inner.stop.clone());
            inner.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "peers are not served any more");
                }
            });
        }
        for (slot, received) in foreign {
            inner.spawn(slot::run_foreign(
                slot,
                clock.clone(),
                received,
                inner.stop.clone(),
            ));
        }
        let cluster = Cluster(inner.clone());
        let begun = inner.begin().await;
        if let Err(error) = begun {
            cluster.shutdown().await;
            return Err(error);
        }
        Ok(cluster)
    }

    /// Hands leaderships over, drains the proposals, writes a last checkpoint and closes the files.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.shut_down())
    }
}

impl Inner {
    async fn shut_down(self: &Arc<Self>) {
        let inner = self;
        if inner.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        inner.hand_over().await;
        tracing::debug!("no group is led that another node could lead");
        for slot in inner.slots.iter() {
            slot.proposer.stop();
        }
        let Tasks { proposers, others } = std::mem::take(&mut *inner.tasks.lock());
        drain(proposers).await;
        inner.stop.cancel();
        tracing::debug!("every proposal is answered");
        join(others).await;
        tracing::debug!("the duties are laid down");
        keeper::checkpoint_all(inner).await;
        tracing::debug!("the last checkpoint is written");
        for slot in inner.slots.iter() {
            if let Some(replica) = slot.replica() {
                replica.stop().await;
            }
        }
        inner.meta.stop().await;
        tracing::debug!("the groups are stopped");
        let log = inner.log.clone();
        if let Err(error) = chance::blocking(move || log.close()).await {
            tracing::error!(%error, "closing the log ended badly");
        }
    }
}

impl Inner {
    /// From opened files to running tasks.
    async fn begin(self: &Arc<Self>) -> Result<(), StartError> {
        let seeds = self.peer_config().is_some_and(|peers| !peers.seeds.is_empty());
        if !self.is_founded() && !seeds {
            self.found_alone().await?;
        }
        self.meta.lead_if_alone().await?;
        let alone = self.meta.is_only_replica().await?;
        let proposers = self.slots.iter().map(|slot| {
            let target = ShardTarget {
                node: self.node_id,
                slot: slot.clone(),
                clock: self.clock.clone(),
                peers: self.peers.clone(),
            };
            tokio::spawn(slot.proposer.clone().run(Arc::new(target)))
        });
        self.tasks.lock().proposers = proposers.collect();
        if alone {
            self.begin_alone().await?;
        } else {
            for slot in self.slots.iter().filter(|slot| self.is_placed_here(slot.id)) {
                self.start_replica(slot).await?;
            }
        }
        if seeds {
            self.spawn(self.clone().run_formation());
        }
        if !self.is_alone() {
            self.announcer.announce_all();
        }
        self.spawn(self.clone().run_lease());
        self.spawn(self.clone().run_fence());
        self.spawn(self.clone().run_measure());
        self.spawn(self.clone().run_announcer());
        self.spawn(self.clone().run_remote_queues());
        self.spawn(meta_duties::run(self.clone()));
        self.spawn(shard_duties::run(self.clone()));
        self.spawn(keeper::run_checkpoints(self.clone()));
        Ok(())
    }

    /// A cluster of one is ready without waiting for anybody.
    async fn begin_alone(self: &Arc<Self>) -> Result<(), StartError> {
        self.meta.wait_for_lead().await?;
        let propose = async |command: Command| {
            let proposed = self.meta_propose(command, FOUND_WITHIN).await;
            proposed.map(drop).map_err(|error| StartError::Group {
                group: META_GROUP,
                reason: error.to_string(),
            })
        };
        if self.meta.machine.read(|state| state.cluster_id().is_empty()) {
            let found = cluster_proto::Found {
                cluster_id: self.cluster_id(),
                shards: u32::from(self.config.shards),
            };
            propose(Command::Found(found)).await?;
        }
        let join = cluster_proto::Join {
            member: Some(self.myself()),
        };
        propose(Command::Join(join)).await?;
        for slot in self.slots.iter().filter(|slot| !self.is_placed_here(slot.id)) {
            let place = cluster_proto::Place {
                shard: u32::from(slot.id),
                nodes: vec![self.node_id],
            };
            propose(Command::Place(place)).await?;
        }
        let members = self.meta.machine.read(|state| state.members().count());
        self.lease.set_alone(members == 1);
        self.clock.go_by_own();
        let starting = self.slots.iter().map(|slot| self.begin_replica_alone(slot));
        for started in join_all(starting).await {
            started?;
        }
        self.give_up_own_past().await;
        if members == 1 {
            self.lease.set_ready(true);
        }
        Ok(())
    }

    /// What was connected to this node before it started is not any more: wills and expiry start now.
    async fn give_up_own_past(&self) {
        let past = self.incarnation() - 1;
        let giving_up = self.slots.iter().filter_map(|slot| {
            let replica = slot.led_here()?;
            let any = replica
                .machine
                .read(|state| state.connected_nodes().next().is_some());
            any.then(|| {
                let down = cluster_proto::NodeDown {
                    node: self.node_id,
                    incarnation: past,
                    ..cluster_proto::NodeDown::default()
                };
                self.shard_request(
                    slot.id,
                    shard_duties::command(shard_command::Command::NodeDown(down)),
                )
            })
        });
        // Should one fail, the shard's duties make up for it.
        join_all(giving_up).await;
    }

    async fn begin_replica_alone(&self, slot: &Arc<Slot>) -> Result<(), StartError> {
        let group = self.start_replica(slot).await?;
        if group.is_pristine().await? {
            group
                .initialize([(self.node_id, String::new())].into_iter().collect())
                .await?;
        }
        group.lead_if_alone().await?;
        match group.is_only_replica().await? {
            true => group.wait_for_lead().await,
            // It has a replica on a node that has left since.
            false => Ok(()),
        }
    }

    /// Starts this node's replica of a shard, as it is on the disk.
    pub(crate) async fn start_replica(&self, slot: &Arc<Slot>) -> Result<Arc<Group<Shard>>, StartError> {
        let id = group_of(slot.id);
        let log = self.log.group(id).map_err(storage_failed)?;
        let (shard, parts, bodies_log) = (slot.id, self.shard_parts.clone(), log.clone());
        let machine = chance::blocking(move || Shard::open(shard, id, parts, bodies_log)).await;
        let machine = machine.map_err(|error| StartError::Storage(error.to_string()))?;
        let machine = Arc::new(machine.map_err(storage_failed)?);
        let network = Network::new(id, self.peers.clone());
        let group =
            Arc::new(Group::start(id, self.node_id, log, machine, network, self.config.broken).await?);
        slot.set_replica(Some(group.clone()));
        let here =
            |client: &str| cluster_state::placement::shard_of(client, self.slots.len() as u16) == slot.id;
        for (client, epoch, waker) in self.remote_queues.wakers(here) {
            group.machine.attach(&client, epoch, waker);
        }
        group.machine.go_live(self.is_alone());
        Ok(group)
    }

    /// Removes what a replica that has moved away left on the disk.
    pub(crate) async fn remove_replica(&self, shard: ShardId) {
        let (log, kv) = (self.log.clone(), self.shard_parts.kv.clone());
        let id = group_of(shard);
        let (sender, removed) = tokio::sync::oneshot::channel();
        log.remove_group(id, Box::new(move |result| drop(sender.send(result))));
        if !matches!(removed.await, Ok(Ok(()))) {
            return tracing::error!(shard, "the log of a replica that has moved away was not removed");
        }
        let finished = chance::blocking(move || storage::finish_removals(&log, kv.as_ref()));
        match finished.await {
            Ok(Ok(_)) => self.shard_parts.bodies.clear(shard),
            Ok(Err(error)) => tracing::error!(%error, shard, "a replica that has moved away was not removed"),
            Err(error) => tracing::error!(%error, shard, "removing a replica failed"),
        }
    }

    /// Gives leaderships to others before this node stops, or while it is out of service.
    pub(crate) async fn hand_over(&self) {
        if self.is_alone() || self.peers.is_none() {
            return;
        }
        let begun = Instant::now();
        while begun.elapsed() < HAND_OVER_WITHIN {
            let mut leading = 0;
            let live = self.successors();
            for slot in self.slots.iter() {
                if let Some(group) = slot.led_here() {
                    leading += usize::from(give_lead_away(&group, &live).await);
                }
            }
            if self.meta.leads() {
                leading += usize::from(give_lead_away(&self.meta, &live).await);
            }
            if leading == 0 {
                return;
            }
            sleep(PAUSE * 4).await;
        }
    }

    /// Takes what this node's clients want to the meta group's table, as long as the node is not alone.
    async fn run_announcer(self: Arc<Self>) {
        loop {
            if self.lease.is_growing() && self.announce_shards().await {
                self.lease.has_grown();
            }
            let batch = match self.is_alone() || self.cluster_id.lock().is_empty() {
                true => None,
                false => self.announcer.next(),
            };
            let Some(batch) = batch else {
                let due = self.announcer.next_due();
                let later = Instant::now() + Duration::from_secs(1);
                let mut due = due.map_or(later, |due| due.clamp(Instant::now() + PAUSE, later));
                if self.lease.is_growing() {
                    due = Instant::now() + PAUSE;
                }
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return,
                    () = self.announcer.changed.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                }
                continue;
            };
            if batch.changes.is_empty() {
                let index = self.meta_applied();
                self.announcer.committed(batch, index);
                continue;
            }
            let change = cluster_proto::ChangeRoutes {
                changes: batch.changes.clone(),
                node: self.node_id,
                incarnation: self.incarnation(),
            };
            match self
                .meta_propose(Command::ChangeRoutes(change), FOUND_WITHIN)
                .await
            {
                Ok((index, response)) if response.accepted => self.announcer.committed(batch, index),
                _ => {
                    self.announcer.failed(batch);
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return,
                        () = sleep(PAUSE * 4) => {}
                    }
                }
            }
        }
    }

    async fn run_remote_queues(self: Arc<Self>) {
        for part in 0.. {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(Duration::from_secs(1)) => self.remote_queues.wake_part(part),
            }
        }
    }
}

/// Whether somebody else could lead and does not yet.
pub(crate) async fn give_lead_away<M: crate::raft::Machine>(group: &Group<M>, live: &[u64]) -> bool {
    let members = group.members();
    let successor = live
        .iter()
        .find(|node| members.voters.contains(node) && group.is_caught_up(**node));
    let Some(successor) = successor else { return false };
    if let Err(error) = group.raft.trigger().transfer_leader(*successor).await {
        tracing::debug!(%error, group = group.id, "the leadership was not handed over");
    }
    true
}

/// The node, for parts that are made before it.
#[derive(Default)]
struct LateNode(std::sync::OnceLock<std::sync::Weak<Inner>>);

impl LateNode {
    fn set(&self, inner: &Arc<Inner>) {
        // Set once, a few lines after it was made.
        let _ = self.0.set(Arc::downgrade(inner));
    }

    fn get(&self) -> Option<Arc<Inner>> {
        self.0.get()?.upgrade()
    }

    fn introduction(&self) -> cluster_proto::Introduction {
        self.get().map(|inner| inner.introduction()).unwrap_or_default()
    }
}

impl FarOwners for LateNode {
    fn queues_grew(&self, shard: ShardId, sessions: Vec<(u64, Arc<str>)>) {
        let Some(inner) = self.get() else { return };
        let Some(peers) = &inner.peers else { return };
        let placed = inner.meta.machine.read(|state| state.replicas(shard).to_vec());
        let mut by_node: std::collections::BTreeMap<u64, Vec<String>> = std::collections::BTreeMap::new();
        for (node, client) in sessions {
            if !placed.contains(&node) {
                by_node.entry(node).or_default().push(client.to_string());
            }
        }
        for (node, clients) in by_node {
            let grew = call_request::Body::QueuesGrew(QueuesGrew {
                shard: u32::from(shard),
                clients,
            });
            let call = peers.call(node, Channel::Data, grew, Duration::from_secs(1));
            // A lost notice is made up for within a second.
            tokio::spawn(async move { drop(call.await) });
        }
    }

    fn is_alone(&self) -> bool {
        self.get().is_none_or(|inner| inner.is_alone())
    }
}

fn open_files(config: &Config) -> Result<Files, StartError> {
    let data_dir = DataDir::open_on(&config.files, &config.data_dir).map_err(storage_failed)?;
    let identity = data_dir.start_identity(config.shards).map_err(storage_failed)?;
    if identity.shards != config.shards {
        return Err(StartError::ShardsDiffer {
            found: identity.shards,
            configured: config.shards,
        });
    }
    let options = LogOptions {
        sync: config.ack == AckLevel::QuorumSynced,
        writing: config.writing.clone(),
        on_fatal: config.on_fatal.clone(),
        ..LogOptions::default()
    };
    let log =
        RaftLog::open_on(&config.files, &data_dir.path().join("log"), options).map_err(storage_failed)?;
    let kv = config
        .files
        .open_kv(&data_dir.path().join("state"), STATE_CACHE_BYTES);
    let kv = kv.map_err(storage_failed)?;
    storage::finish_removals(&log, kv.as_ref()).map_err(storage_failed)?;
    Ok(Files {
        data_dir,
        identity,
        log,
        kv,
    })
}

pub(crate) fn storage_failed(error: StorageError) -> StartError {
    StartError::Storage(error.to_string())
}

pub(crate) const META_GROUP: u64 = 0;

pub(crate) fn group_of(shard: ShardId) -> u64 {
    u64::from(shard) + 1
}

/// A leader without a quorum never hears what became of its entries: the last of the nodes that stop does not wait for
/// those that are gone.
async fn drain(proposers: Vec<JoinHandle<()>>) {
    let tasks: Vec<_> = proposers.iter().map(JoinHandle::abort_handle).collect();
    if tokio::time::timeout(DRAIN_WITHIN, join(proposers)).await.is_err() {
        tracing::warn!("some proposals were left without an answer: there is no quorum");
        tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the cluster ended badly");
        }
    }
}
