//! One shard as this node sees it: the queue of its proposals always, a replica if the shard is placed here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use cluster_proto::{Failed, Propose, Proposed, call_request, call_response, failed::Reason};
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use transport::{Channel, PeerError, Peers, Reply};

use crate::group::Group;
use crate::proposer::{Number, Proposer, Target, stamped};
use crate::raft::{Callback, Payload, Responses, TypeConfig};
use crate::shard::Shard;
use crate::{Clock, ClusterClock, ShardId};

/// A leader answers an entry within this time, or it is proposed again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
/// A connection is not opened later than that because this node's replica is behind.
const APPLY_WITHIN: Duration = Duration::from_secs(2);
/// Entries of other nodes that wait to be proposed here.
const FOREIGN_MAX: usize = 256;

/// A shard.
pub(crate) struct Slot {
    pub(crate) id: ShardId,
    pub(crate) proposer: Arc<Proposer>,
    /// This node's replica, if it has one.
    replica: ArcSwapOption<Group<Shard>>,
    /// Who leads, as somebody said; 0: nobody known.
    hint: AtomicU64,
    /// Other live nodes with a replica, who are asked in turn when nobody knows who leads.
    others: Mutex<Vec<u64>>,
    turn: AtomicUsize,
    foreign: mpsc::Sender<Foreign>,
}

/// An entry of another node.
pub(crate) struct Foreign {
    entry: Bytes,
    reply: Reply,
}

impl Slot {
    pub(crate) fn new(id: ShardId, proposer: Proposer) -> (Self, mpsc::Receiver<Foreign>) {
        let (foreign, received) = mpsc::channel(FOREIGN_MAX);
        let slot = Self {
            id,
            proposer: Arc::new(proposer),
            replica: ArcSwapOption::empty(),
            hint: AtomicU64::new(0),
            others: Mutex::default(),
            turn: AtomicUsize::new(0),
            foreign,
        };
        (slot, received)
    }

    pub(crate) fn replica(&self) -> Option<Arc<Group<Shard>>> {
        self.replica.load_full()
    }

    pub(crate) fn set_replica(&self, replica: Option<Arc<Group<Shard>>>) {
        self.replica.store(replica);
    }

    /// This node's replica, if it leads the shard.
    pub(crate) fn led_here(&self) -> Option<Arc<Group<Shard>>> {
        self.replica().filter(|group| group.leads())
    }

    /// Who leads the shard, as this node's replica says; without one, who is asked.
    pub(crate) fn known_leader(&self) -> Option<u64> {
        match self.replica() {
            Some(group) => group.leader(),
            None => self.leader(),
        }
    }

    /// Who leads the shard, as far as it is known here; else somebody who may know.
    pub(crate) fn leader(&self) -> Option<u64> {
        let known = self.replica().and_then(|group| group.leader());
        known.or_else(|| match self.hint.load(Ordering::Relaxed) {
            0 => self.somebody(),
            hint => Some(hint),
        })
    }

    fn somebody(&self) -> Option<u64> {
        let others = self.others.lock();
        let turn = self.turn.load(Ordering::Relaxed);
        others.get(turn.checked_rem(others.len())?).copied()
    }

    /// Another node is to be asked; 0: the one that was asked neither leads nor knows who does.
    pub(crate) fn learn_leader(&self, leader: u64) {
        self.hint.store(leader, Ordering::Relaxed);
        if leader == 0 {
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The other nodes that have the shard and live. A hint at one that died, or left, is none.
    pub(crate) fn set_others(&self, others: Vec<u64>, is_live: impl FnOnce(u64) -> bool) {
        *self.others.lock() = others;
        let hint = self.hint.load(Ordering::Relaxed);
        if hint != 0 && !is_live(hint) {
            // A newer one stays.
            let _ = self
                .hint
                .compare_exchange(hint, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The other live nodes that have the shard.
    pub(crate) fn others(&self) -> Vec<u64> {
        self.others.lock().clone()
    }

    /// Queues another node's entry behind those it sent before.
    pub(crate) fn propose_foreign(&self, entry: Bytes, reply: Reply) {
        if let Err(refused) = self.foreign.try_send(Foreign { entry, reply }) {
            refused.into_inner().reply.send(failed(Reason::Busy, None));
        }
    }
}

/// Proposes other nodes' entries in the order in which they came.
pub(crate) async fn run_foreign(
    slot: Arc<Slot>,
    clock: Arc<ClusterClock>,
    mut received: mpsc::Receiver<Foreign>,
    stop: CancellationToken,
) {
    while let Some(Some(Foreign { entry, reply })) = stop.run_until_cancelled(received.recv()).await {
        let Some(group) = slot.replica() else {
            reply.send(failed(Reason::NoReplica, slot.leader()));
            continue;
        };
        if !group.leads() {
            reply.send(failed(Reason::NotLeader, group.leader()));
            continue;
        }
        if !clock.is_known() {
            // A moment after the start: who asked asks again.
            reply.send(failed(Reason::NoQuorum, slot.leader()));
            continue;
        }
        let slot = slot.clone();
        propose_here(&group, &entry, clock.now_ms(), move |result| {
            reply.send(match result {
                Ok(responses) if responses.is_gap => failed(Reason::Unknown, None),
                Ok(responses) => call_response::Body::Proposed(Proposed {
                    index: responses.index,
                    responses: responses.shard,
                    meta: responses.meta,
                }),
                Err(()) => failed(Reason::NoQuorum, slot.leader()),
            });
        })
        .await;
    }
}

pub(crate) fn failed(reason: Reason, leader: Option<u64>) -> call_response::Body {
    call_response::Body::Failed(Failed {
        reason: reason.into(),
        leader: leader.unwrap_or(0),
        detail: String::new(),
    })
}

/// Gives an entry to this node's replica. The closure is called once, whatever happens.
async fn propose_here(
    group: &Group<Shard>,
    entry: &Bytes,
    now_ms: u64,
    ended: impl FnOnce(Result<Responses, ()>) + Send + 'static,
) {
    let ending = Ending(Some(Box::new(ended)));
    let callback = Callback(Box::new(move |result: ClientWriteResult<TypeConfig>| {
        ending.end(result.map(|response| response.data).map_err(drop));
    }));
    let payload = Payload(stamped(entry, now_ms));
    if let Err(error) = group.raft.client_write_ff(payload, Some(callback)).await {
        // The callback was dropped, which has told those who wait.
        tracing::warn!(%error, group = group.id, "a shard's group does not take proposals");
    }
}

/// Tells how an entry ended, also when openraft drops the callback.
struct Ending(Option<Ended>);

type Ended = Box<dyn FnOnce(Result<Responses, ()>) + Send>;

impl Ending {
    fn end(mut self, result: Result<Responses, ()>) {
        if let Some(ended) = self.0.take() {
            ended(result);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            ended(Err(()));
        }
    }
}

/// Sends this node's entries to whoever leads the shard.
pub(crate) struct ShardTarget {
    pub(crate) node: u64,
    pub(crate) slot: Arc<Slot>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) peers: Option<Peers>,
}

impl Target for ShardTarget {
    async fn send(self: Arc<Self>, proposer: Arc<Proposer>, number: Number, entry: Bytes) {
        if let Some(group) = self.slot.led_here() {
            if !self.clock.is_known() {
                return proposer.finished(number, Err(()));
            }
            let now_ms = self.clock.now_ms();
            return propose_here(&group, &entry, now_ms, move |result| {
                let applied = result.ok().filter(|responses| !responses.is_gap);
                proposer.finished(number, applied.map(|responses| responses.shard).ok_or(()));
            })
            .await;
        }
        let leader = self.slot.leader().filter(|leader| *leader != self.node);
        let (Some(leader), Some(peers)) = (leader, &self.peers) else {
            return proposer.finished(number, Err(()));
        };
        let propose = Propose {
            group: u64::from(self.slot.id) + 1,
            entry,
        };
        let body = call_request::Body::Propose(propose);
        // It is on its way when `call` returns: entries arrive in the order of their numbers.
        let call = peers.call(leader, Channel::Data, body, PROPOSE_WITHIN);
        let slot = self.slot.clone();
        tokio::spawn(async move {
            let result = match call.await {
                Ok(call_response::Body::Proposed(proposed)) => {
                    if number.connects
                        && let Some(replica) = slot.replica()
                    {
                        replica.wait_applied(proposed.index, APPLY_WITHIN).await;
                    }
                    Ok(proposed.responses)
                }
                Ok(_) => Err(()),
                Err(PeerError::Failed(failed)) => {
                    slot.learn_leader(failed.leader);
                    Err(())
                }
                Err(_) => {
                    slot.learn_leader(0);
                    Err(())
                }
            };
            proposer.finished(number, result);
        });
    }
}
