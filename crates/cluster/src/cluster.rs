//! The handle the broker holds: proposing to shards and reading their state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_proto::{NodeDown, Publication, ShardCommand, ShardResponse, shard_command::Command};
use cluster_state::shard_of;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use storage::{DataDir, Identity, LogOptions, RaftLog, SledKv, StorageError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bodies::Bodies;
use crate::group::Group;
use crate::keeper::{self, ShardGroup};
use crate::meta::Meta;
use crate::proposer::{BatchDone, Proposer};
use crate::shard::{Node, Shard};
use crate::{
    AckLevel, Clock, Config, Fetch, Observer, ProposeError, SessionInfo, SessionWaker, ShardId, StartError,
    Totals,
};

/// Called once with the response of a command, after commit on disk and apply.
pub type Done = Box<dyn FnOnce(Result<ShardResponse, ProposeError>) + Send>;

/// sled's page cache: it holds checkpoints, which are read at start and when bodies are not in memory.
const STATE_CACHE_BYTES: u64 = 64 << 20;

/// The groups of this node. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    identity: Identity,
    clock: Arc<dyn Clock>,
    routes_generation: Arc<AtomicU64>,
    meta: Arc<Group<Meta>>,
    shards: Arc<[ShardGroup]>,
    log: Arc<RaftLog>,
    stopping: AtomicBool,
    stop: watch::Sender<bool>,
    tasks: Mutex<Tasks>,
    /// Held as long as anything of this node is open.
    _data_dir: DataDir,
}

#[derive(Default)]
struct Tasks {
    proposers: Vec<JoinHandle<()>>,
    keepers: Vec<JoinHandle<()>>,
}

struct Files {
    data_dir: DataDir,
    identity: Identity,
    log: RaftLog,
    kv: Arc<SledKv>,
}

impl Cluster {
    /// Opens or creates the data directory, replays, becomes the leader of every group of a cluster of one, and
    /// returns when all of them are ready.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Cluster, StartError> {
        let opening = config.clone();
        let files = tokio::task::spawn_blocking(move || open_files(&opening)).await;
        let files = files.map_err(|error| StartError::Storage(error.to_string()))??;
        let node = Node {
            node_id: files.identity.node_id,
            incarnation: files.identity.incarnation,
            bodies: Arc::new(Bodies::new(config.queue_memory_bytes)),
            observer,
            routes_generation: Arc::new(AtomicU64::new(0)),
            kv: files.kv.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let meta = start_meta(&files).await?;
        let shards =
            try_join_all((0..config.shards).map(|id| start_shard(id, &files, &node, &config))).await?;
        let (stop, stopped) = watch::channel(false);
        let shards: Arc<[ShardGroup]> = shards.into();
        let (meta, log) = (Arc::new(meta), Arc::new(files.log));
        let inner = Inner {
            identity: files.identity,
            clock: clock.clone(),
            routes_generation: node.routes_generation.clone(),
            meta: meta.clone(),
            shards: shards.clone(),
            log: log.clone(),
            stopping: AtomicBool::new(false),
            stop,
            tasks: Mutex::default(),
            _data_dir: files.data_dir,
        };
        let proposers = shards.iter().map(|shard| {
            tokio::spawn(
                shard
                    .proposer
                    .clone()
                    .run(shard.group.raft.clone(), clock.clone()),
            )
        });
        *inner.tasks.lock() = Tasks {
            proposers: proposers.collect(),
            keepers: Vec::new(),
        };
        let cluster = Cluster(Arc::new(inner));
        cluster.disconnect_earlier_incarnations().await?;
        for shard in shards.iter() {
            shard.group.machine.go_live();
        }
        cluster.0.tasks.lock().keepers = vec![
            tokio::spawn(keeper::run_ticks(shards.clone(), clock, stopped.clone())),
            tokio::spawn(keeper::run_checkpoints(meta, shards, log, config, stopped)),
        ];
        Ok(cluster)
    }

    /// What was connected to this node before it started is not any more: wills and expiry start now.
    async fn disconnect_earlier_incarnations(&self) -> Result<(), StartError> {
        let Identity {
            node_id: node,
            incarnation,
            ..
        } = self.0.identity;
        if incarnation <= 1 {
            return Ok(());
        }
        let down = NodeDown {
            node,
            incarnation: incarnation - 1,
        };
        let proposals = (0..self.shards()).map(|shard| async move {
            let command = ShardCommand {
                command: Some(Command::NodeDown(down)),
            };
            self.request(shard, command)
                .await
                .map_err(|error| StartError::Group {
                    group: group_of(shard),
                    reason: error.to_string(),
                })
        });
        try_join_all(proposals).await.map(drop)
    }

    /// Drains the proposals, writes a last checkpoint and closes the files.
    pub async fn shutdown(&self) {
        if self.0.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        for shard in self.0.shards.iter() {
            shard.proposer.stop();
        }
        let Tasks { proposers, keepers } = std::mem::take(&mut *self.0.tasks.lock());
        join(proposers).await;
        // Its receivers may be gone already.
        let _ = self.0.stop.send(true);
        join(keepers).await;
        keeper::checkpoint_all(&self.0.meta, &self.0.shards).await;
        for shard in self.0.shards.iter() {
            shard.group.stop().await;
        }
        self.0.meta.stop().await;
        let log = self.0.log.clone();
        join(vec![tokio::task::spawn_blocking(move || log.close())]).await;
    }

    /// This node's random identity.
    pub fn node_id(&self) -> u64 {
        self.0.identity.node_id
    }

    /// How often this node was started.
    pub fn incarnation(&self) -> u64 {
        self.0.identity.incarnation
    }

    /// The cluster this node belongs to.
    pub fn cluster_id(&self) -> String {
        self.0.identity.cluster_id.clone()
    }

    /// The number of shards.
    pub fn shards(&self) -> u16 {
        self.0.identity.shards
    }

    /// Whether every group has a leader and this node is not stopping.
    pub fn is_ready(&self) -> bool {
        !self.0.stopping.load(Ordering::Acquire)
            && self.0.meta.leads()
            && self.0.shards.iter().all(|shard| shard.group.leads())
    }

    /// The shard of a client's session.
    pub fn shard_of_client(&self, client: &str) -> ShardId {
        shard_of(client, self.shards())
    }

    /// The shard of a topic's retained message.
    pub fn shard_of_topic(&self, topic: &str) -> ShardId {
        shard_of(topic, self.shards())
    }

    /// Proposes a command. `done` runs after commit on disk and apply, or at once when it is refused; the caller is
    /// never blocked, and `done` must not block either.
    pub fn propose(&self, shard: ShardId, command: ShardCommand, done: Done) {
        self.propose_batch(
            shard,
            vec![command],
            Box::new(move |responses| {
                done(
                    responses
                        .and_then(|responses| responses.into_iter().next().ok_or(ProposeError::NoQuorum)),
                );
            }),
        );
    }

    /// Proposes a command that nobody waits for, behind those proposed before. It may wait `within` that time for others
    /// to share an entry with. It is never refused for lack of room, so callers propose few; a node that stops drops it.
    pub fn propose_soon(&self, shard: ShardId, command: ShardCommand, within: Duration) {
        if let Some(shard) = self.0.shards.get(usize::from(shard)) {
            shard.proposer.propose_soon(command, within);
        }
    }

    /// Proposes commands that are applied in this order, in one entry.
    pub fn propose_batch(&self, shard: ShardId, commands: Vec<ShardCommand>, done: BatchDone) {
        match self.0.shards.get(usize::from(shard)) {
            Some(shard) => shard.proposer.propose(commands, done),
            None => done(Err(ProposeError::NoQuorum)),
        }
    }

    /// Proposes a command and waits for its response.
    pub async fn request(
        &self,
        shard: ShardId,
        command: ShardCommand,
    ) -> Result<ShardResponse, ProposeError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // Nobody may be waiting any more.
        self.propose(
            shard,
            command,
            Box::new(move |response| drop(sender.send(response))),
        );
        receiver.await.unwrap_or(Err(ProposeError::Stopping))
    }

    /// Whether the shard's queue of proposals is above its limit: the caller stops reading its socket until its own
    /// proposals are complete.
    pub fn is_congested(&self, shard: ShardId) -> bool {
        self.0
            .shards
            .get(usize::from(shard))
            .is_some_and(|shard| shard.proposer.is_congested())
    }

    /// From now on `waker` is told when the client's queue grows.
    pub fn attach(&self, client: &str, epoch: u64, waker: Arc<dyn SessionWaker>) {
        if let Some(shard) = self.shard_with(client) {
            shard.attach(client, epoch, waker);
        }
    }

    /// Ends what `attach` with this epoch began.
    pub fn detach(&self, client: &str, epoch: u64) {
        if let Some(shard) = self.shard_with(client) {
            shard.detach(client, epoch);
        }
    }

    /// The session's queue from a sequence number on, oldest first, without what is acknowledged.
    pub fn fetch(
        &self,
        client: &str,
        epoch: u64,
        from_sequence: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> Fetch {
        match self.shard_with(client) {
            Some(shard) => shard.fetch(client, epoch, from_sequence, messages_max, bytes_max),
            None => Fetch::Gone,
        }
    }

    /// Adds the shards with a matching durable plain subscription.
    pub fn matching_shards(&self, topic: &str, out: &mut Vec<ShardId>) {
        for (id, shard) in (0..).zip(self.0.shards.iter()) {
            if shard.group.machine.read(|state| state.has_route_for(topic)) {
                out.push(id);
            }
        }
    }

    /// Changes whenever the answer of `matching_shards` may have changed.
    pub fn durable_routes_generation(&self) -> u64 {
        self.0.routes_generation.load(Ordering::Acquire)
    }

    /// Messages of the shard's outbox that are not done, oldest first, with their numbers. May read from disk.
    pub fn outbox(&self, shard: ShardId, max: usize) -> Vec<(u64, Publication)> {
        self.0
            .shards
            .get(usize::from(shard))
            .map_or_else(Vec::new, |shard| shard.group.machine.outbox(max))
    }

    /// Visits the retained messages that match and have not expired; a filter without wildcards asks one shard.
    pub fn retained_local(&self, filter: &str, limit: usize, visit: &mut dyn FnMut(&Publication)) {
        let now_ms = self.0.clock.now_ms();
        let mut left = limit;
        for (id, shard) in (0..).zip(self.0.shards.iter()) {
            if filter.contains(['+', '#']) || id == self.shard_of_topic(filter) {
                shard.group.machine.retained(filter, now_ms, &mut left, visit);
            }
        }
    }

    /// What is known of a client's session.
    pub fn session_info(&self, client: &str) -> Option<SessionInfo> {
        self.shard_with(client)?.session_info(client)
    }

    /// Sums over all shards.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in self.0.shards.iter() {
            shard.group.machine.add_totals(&mut totals);
        }
        totals
    }

    fn shard_with(&self, client: &str) -> Option<&Arc<Shard>> {
        self.0
            .shards
            .get(usize::from(self.shard_of_client(client)))
            .map(|shard| &shard.group.machine)
    }
}

fn open_files(config: &Config) -> Result<Files, StartError> {
    let data_dir = DataDir::open(&config.data_dir).map_err(storage_failed)?;
    let identity = data_dir.start_identity(config.shards).map_err(storage_failed)?;
    if identity.shards != config.shards {
        return Err(StartError::ShardsDiffer {
            found: identity.shards,
            configured: config.shards,
        });
    }
    let options = LogOptions {
        sync: config.ack == AckLevel::QuorumSynced,
        ..LogOptions::default()
    };
    let log = RaftLog::open(&data_dir.path().join("log"), options).map_err(storage_failed)?;
    let kv = SledKv::open(&data_dir.path().join("state"), STATE_CACHE_BYTES).map_err(storage_failed)?;
    Ok(Files {
        data_dir,
        identity,
        log,
        kv: Arc::new(kv),
    })
}

fn storage_failed(error: StorageError) -> StartError {
    StartError::Storage(error.to_string())
}

const META_GROUP: u64 = 0;

fn group_of(shard: ShardId) -> u64 {
    u64::from(shard) + 1
}

async fn start_meta(files: &Files) -> Result<Group<Meta>, StartError> {
    let machine = Meta::open(files.kv.clone(), META_GROUP).map_err(storage_failed)?;
    let log = files.log.group(META_GROUP).map_err(storage_failed)?;
    Group::start(META_GROUP, files.identity.node_id, log, Arc::new(machine)).await
}

async fn start_shard(
    id: ShardId,
    files: &Files,
    node: &Node,
    config: &Config,
) -> Result<ShardGroup, StartError> {
    let group = group_of(id);
    let log = files.log.group(group).map_err(storage_failed)?;
    let (opening, opening_log) = (node.clone(), log.clone());
    let machine = tokio::task::spawn_blocking(move || Shard::open(id, group, opening, opening_log)).await;
    let machine = machine
        .map_err(|error| StartError::Storage(error.to_string()))?
        .map_err(storage_failed)?;
    let group = Group::start(group, node.node_id, log, Arc::new(machine)).await?;
    let proposer = Proposer::new(usize::try_from(config.proposal_queue_bytes).unwrap_or(usize::MAX / 4));
    Ok(ShardGroup {
        group,
        proposer: Arc::new(proposer),
    })
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the cluster failed");
        }
    }
}
