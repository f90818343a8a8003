//! What all parts of this node's share of the cluster hold together, and what they ask of the meta group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_proto::{
    Failed, Member, MetaCommand, MetaResponse, Propose, call_request, call_response, failed::Reason,
    meta_command::Command,
};
use foldhash::HashMap;
use openraft::errors::ClientWriteError;
use parking_lot::Mutex;
use prost::Message;
use storage::{DataDir, RaftLog};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use transport::{Channel, PeerError, Peers, Received};

use crate::announcer::Announcer;
use crate::barrier::Applied;
use crate::drain::Draining;
use crate::group::Group;
use crate::lease::{Heard, Lease};
use crate::meta::Meta;
use crate::raft::Payload;
use crate::remote_queues::RemoteQueues;
use crate::said::Said;
use crate::shard::Node;
use crate::slot::Slot;
use crate::{ClusterClock, Config, Observer, PeerConfig, ProposeError, ShardId};

/// One try to reach the leader of the meta group.
const META_WITHIN: Duration = Duration::from_secs(2);
const META_PAUSE: Duration = Duration::from_millis(50);

/// This node.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) node_id: u64,
    pub(crate) incarnation: Arc<AtomicU64>,
    /// The node had a log of the meta group when it started: what the group tells of itself may be late.
    pub(crate) was_founded: bool,
    /// Empty until the node belongs to a cluster.
    pub(crate) cluster_id: Mutex<String>,
    pub(crate) data_dir: Mutex<DataDir>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) peers: Option<Peers>,
    pub(crate) meta: Arc<Group<Meta>>,
    pub(crate) slots: Arc<[Arc<Slot>]>,
    pub(crate) log: Arc<RaftLog>,
    pub(crate) shard_parts: Node,
    pub(crate) lease: Lease,
    pub(crate) heard: Heard,
    pub(crate) draining: Draining,
    /// Lives that were declared down and are not waited for any more.
    pub(crate) given_up: Mutex<BTreeSet<(u64, u64)>>,
    /// Why the cluster does not take this node.
    pub(crate) not_taken: Mutex<Said>,
    pub(crate) announcer: Announcer,
    pub(crate) applied: Applied,
    pub(crate) remote_queues: RemoteQueues,
    /// What other nodes' lanes have brought.
    pub(crate) received: Arc<Received>,
    /// Who led the meta group when somebody last said so; 0: not known.
    pub(crate) meta_hint: AtomicU64,
    pub(crate) stopping: AtomicBool,
    pub(crate) retired: AtomicBool,
    /// That peers come with others' certificates.
    pub(crate) strangers: Mutex<Said>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: Mutex<Tasks>,
}

#[derive(Default)]
pub(crate) struct Tasks {
    pub(crate) proposers: Vec<JoinHandle<()>>,
    pub(crate) others: Vec<JoinHandle<()>>,
}

impl Inner {
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    pub(crate) fn cluster_id(&self) -> String {
        self.cluster_id.lock().clone()
    }

    pub(crate) fn peer_config(&self) -> Option<&PeerConfig> {
        self.config.peers.as_ref()
    }

    /// Whether this node has left its cluster for good.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether clients are served.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_stopping() && self.lease.serves()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn slot(&self, shard: ShardId) -> Option<&Arc<Slot>> {
        self.slots.get(usize::from(shard))
    }

    pub(crate) fn slot_with(&self, client: &str) -> Option<&Arc<Slot>> {
        self.slot(cluster_state::shard_of(client, self.slots.len() as u16))
    }

    pub(crate) fn meta_applied(&self) -> u64 {
        use crate::raft::Machine;
        self.meta.machine.applied_index()
    }

    /// Members other than this one that were not declared down.
    pub(crate) fn live_members(&self) -> Vec<u64> {
        let live = |member: &&Member| !member.down && member.node != self.node_id;
        self.meta
            .machine
            .read(|state| state.members().filter(live).map(|member| member.node).collect())
    }

    pub(crate) fn is_live(&self, node: u64) -> bool {
        self.meta
            .machine
            .read(|state| state.member(node).is_some_and(|member| !member.down))
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.lease.is_alone()
    }

    /// Who leads the meta group, as far as it is known.
    pub(crate) fn meta_leader(&self) -> Option<u64> {
        let known = self.meta.leader();
        known.or_else(|| Some(self.meta_hint.load(Ordering::Relaxed)).filter(|hint| *hint != 0))
    }

    /// Commits a command of the meta group; tries again until `within` is over. Commands may be applied twice.
    pub(crate) async fn meta_propose(
        &self,
        command: Command,
        within: Duration,
    ) -> Result<(u64, MetaResponse), ProposeError> {
        let entry = MetaCommand {
            command: Some(command),
        };
        let entry = bytes::Bytes::from(entry.encode_to_vec());
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.meta_propose_once(entry.clone()).await {
                return Ok(answer);
            }
            if self.is_stopping() {
                return Err(ProposeError::Stopping);
            }
            if begun.elapsed() > within {
                return Err(ProposeError::NoQuorum);
            }
            sleep(META_PAUSE).await;
        }
    }

    async fn meta_propose_once(&self, entry: bytes::Bytes) -> Option<(u64, MetaResponse)> {
        if self.meta.leads() {
            return self.meta_write(entry).await.ok();
        }
        let leader = self.meta_leader().filter(|leader| *leader != self.node_id)?;
        let body = call_request::Body::Propose(Propose { group: 0, entry });
        let peers = self.peers.as_ref()?;
        match peers.call(leader, Channel::Data, body, META_WITHIN).await {
            Ok(call_response::Body::Proposed(proposed)) => Some((proposed.index, proposed.meta?)),
            Err(PeerError::Failed(failed)) => {
                self.meta_hint.store(failed.leader, Ordering::Relaxed);
                None
            }
            _ => {
                self.meta_hint.store(0, Ordering::Relaxed);
                None
            }
        }
    }

    /// Commits an encoded command, if this node leads the meta group.
    pub(crate) async fn meta_write(&self, entry: bytes::Bytes) -> Result<(u64, MetaResponse), Failed> {
        let write = self.meta.raft.client_write(Payload(entry));
        let refused = |reason: Reason, leader: Option<u64>| Failed {
            reason: reason.into(),
            leader: leader.unwrap_or(0),
            detail: String::new(),
        };
        match tokio::time::timeout(META_WITHIN, write).await {
            Ok(Ok(response)) => Ok((response.log_id.index, response.data.meta.unwrap_or_default())),
            Ok(Err(error)) => match error.api_error() {
                Some(ClientWriteError::ForwardToLeader(forward)) => {
                    Err(refused(Reason::NotLeader, forward.leader_id))
                }
                _ => Err(refused(Reason::NoQuorum, None)),
            },
            Err(_) => Err(refused(Reason::NoQuorum, None)),
        }
    }

    /// Waits until this node has applied the meta group's log up to an index.
    pub(crate) async fn wait_meta(&self, index: u64, within: Duration) -> bool {
        let mut applied = self.meta.machine.watch_applied();
        let reached = applied.wait_for(|applied| *applied >= index);
        matches!(tokio::time::timeout(within, reached).await, Ok(Ok(_)))
    }

    /// The members' addresses, for the peers' directory. After a crash of all nodes nobody has applied who joined, until
    /// there is a leader, and there is no leader until they reach each other: till then the log's membership says where.
    pub(crate) fn addresses(&self) -> HashMap<u64, String> {
        let replicas = self.meta.addresses();
        self.meta.machine.read(|state| {
            let replicas = replicas.into_iter().filter(|(node, _)| !state.is_retired(*node));
            let members = state
                .members()
                .map(|member| (member.node, member.address.clone()));
            replicas.chain(members).collect()
        })
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().others.push(tokio::spawn(task));
    }
}
