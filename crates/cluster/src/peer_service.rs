//! What this node answers to its peers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{
    AdoptRequest, AdoptResponse, Barrier, BarrierAnswer, Empty, Failed, ForwardMessage, HelloRequest,
    HelloResponse, Introduction, Kicked, Opening, Proposed, SnapshotAnswer, SnapshotHeader,
    TransferLeaderAnswer, call_request, call_response, failed::Reason, kick,
};
use futures_util::future::BoxFuture;
use metrics::counter;
use openraft::Raft;
use tracing::{debug, warn};
use transport::{PeerService, Proof, Reply};

use crate::KickedBy;
use crate::formation::PROTOCOL;
use crate::group::Group;
use crate::node::Inner;
use crate::raft::convert::{self, rpc};
use crate::raft::{Machine, StateMachine, TypeConfig, received_snapshot};
use crate::shard::Shard;
use crate::slot::failed;

/// How long a node that asks for a barrier is kept waiting before it has to ask again.
const BARRIER_WITHIN: Duration = Duration::from_millis(900);
/// Between two looks at whether the routes of a node that was alone are known to all.
const GROWN_PAUSE: Duration = Duration::from_millis(10);
/// A connection that was kicked has this long to end.
const KICK_WITHIN: Duration = Duration::from_secs(1);

/// Answers for a node, for as long as it lives.
pub(crate) struct Service(pub(crate) Weak<Inner>);

impl Service {
    fn node(&self) -> Result<Arc<Inner>, Failed> {
        self.0
            .upgrade()
            .filter(|node| !node.stop.is_cancelled())
            .ok_or(Failed {
                reason: Reason::Stopping.into(),
                ..Failed::default()
            })
    }
}

fn refused(detail: impl Into<String>) -> Failed {
    Failed {
        reason: Reason::Refused.into(),
        leader: 0,
        detail: detail.into(),
    }
}

impl Inner {
    /// A peer's certificate has to be for the host by which the members know the node it says it is, and for the one it announces:
    /// one that was stolen speaks for its own node alone.
    fn judge_proof(&self, from: &Introduction, proof: &Proof) -> Result<(), Failed> {
        let known = self.meta.machine.read(|state| {
            let member = state.member(from.node);
            member.map(|member| member.address.clone())
        });
        let known = known.filter(|address| !address.is_empty());
        let mut addresses = known.iter().chain([&from.address]);
        let Some(address) = addresses.find(|address| !proof.covers(address)) else {
            return Ok(());
        };
        counter!("flotilla_cluster_peers_refused_total").increment(1);
        // Whoever it is: a peer that is refused tries again and again.
        if self.strangers.lock().is_news("a certificate of another node") {
            warn!(
                target: "audit",
                event = "peer refused",
                node = format!("{:016x}", from.node),
                name = from.name,
                address,
                "a peer is refused: its certificate is not for the host of this address. Give each node one for the host of \
                 its cluster.advertise; if they are, somebody has taken one"
            );
        }
        Err(refused(format!(
            "the certificate is not for the host of {address}, where this node is known to be: see cluster.tls and cluster.advertise"
        )))
    }
}

impl PeerService for Service {
    fn hello(&self, request: HelloRequest, proof: Proof) -> BoxFuture<'_, HelloResponse> {
        Box::pin(async move {
            let Ok(node) = self.node() else {
                return HelloResponse::default();
            };
            if let (Some(peers), Some(other)) = (&node.peers, request.introduction)
                && other.node != node.node_id
            {
                debug!(address = other.address, name = other.name, "hello");
                let own = node.cluster_id();
                if !own.is_empty() && other.cluster_id == own && node.judge_proof(&other, &proof).is_ok() {
                    peers.set_address(other.node, &other.address);
                }
            }
            HelloResponse {
                introduction: Some(node.introduction()),
                meta_leader: node.meta_leader().unwrap_or(0),
                members: node.meta.machine.read(|state| state.members().cloned().collect()),
            }
        })
    }

    fn adopt(&self, request: AdoptRequest, proof: Proof) -> BoxFuture<'_, AdoptResponse> {
        Box::pin(async move {
            let judged = match self.node() {
                Ok(node) => match request.members.first() {
                    Some(founder) if !proof.covers(&founder.address) => {
                        Err("the founder's certificate is not for its host".to_owned())
                    }
                    _ => node.judge_adoption(&request),
                },
                Err(_) => Err("this node is stopping".to_owned()),
            };
            AdoptResponse {
                accepted: judged.is_ok(),
                reason: judged.err().unwrap_or_default(),
            }
        })
    }

    fn admit(&self, opening: &Opening, proof: &Proof) -> Result<(), Failed> {
        let node = self.node()?;
        let from = opening.from.as_ref().ok_or_else(|| refused("who is it?"))?;
        if opening.to != node.node_id {
            return Err(refused(format!(
                "node {:016x} was meant, this is {:016x}",
                opening.to, node.node_id
            )));
        }
        if from.protocol_min > PROTOCOL || from.protocol_max < PROTOCOL {
            return Err(refused(format!(
                "this node speaks version {PROTOCOL} of the peers' protocol, not {} to {}",
                from.protocol_min, from.protocol_max
            )));
        }
        let own = node.cluster_id();
        if own.is_empty() || from.cluster_id != own {
            return Err(refused("not of this cluster"));
        }
        if node.meta.machine.read(|state| state.is_retired(from.node)) {
            return Err(Failed {
                reason: Reason::Retired.into(),
                leader: 0,
                detail: "this node's id was retired: wipe its data directory".to_owned(),
            });
        }
        node.judge_proof(from, proof)?;
        if let Some(peers) = &node.peers {
            peers.set_address(from.node, &from.address);
        }
        Ok(())
    }

    fn call(&self, from: &Introduction, body: call_request::Body, reply: Reply) {
        match self.node() {
            Ok(node) => node.answer(from, body, reply),
            Err(stopping) => reply.send(call_response::Body::Failed(stopping)),
        }
    }

    fn forward(&self, from: &Introduction, messages: Vec<ForwardMessage>) {
        if let Ok(node) = self.node() {
            node.observer.forwarded(from.node, messages);
        }
    }

    fn snapshot(&self, header: SnapshotHeader, data: Bytes) -> BoxFuture<'_, Result<SnapshotAnswer, Failed>> {
        Box::pin(async move {
            let node = self.node()?;
            if header.group == 0 {
                return install(&node.meta.raft, &header, data).await;
            }
            let slot = node.slot((header.group - 1) as u16);
            let Some(group) = slot.and_then(|slot| slot.replica()) else {
                return Err(Failed {
                    reason: Reason::NoReplica.into(),
                    ..Failed::default()
                });
            };
            install(&group.raft, &header, data).await
        })
    }
}

async fn install<M: Machine>(
    raft: &Raft<TypeConfig, StateMachine<M>>,
    header: &SnapshotHeader,
    data: Bytes,
) -> Result<SnapshotAnswer, Failed> {
    let vote = convert::vote(&header.vote.unwrap_or_default());
    let snapshot = received_snapshot(header.applied.as_ref().unwrap_or(&Default::default()), data);
    match raft.install_full_snapshot(vote, snapshot).await {
        Ok(response) => Ok(SnapshotAnswer {
            vote: Some(convert::vote_to_proto(&response.vote)),
        }),
        Err(error) => Err(Failed {
            reason: Reason::Unknown.into(),
            leader: 0,
            detail: error.to_string(),
        }),
    }
}

impl Inner {
    fn answer(self: Arc<Self>, from: &Introduction, body: call_request::Body, reply: Reply) {
        use call_request::Body;
        match body {
            Body::AppendEntries(request) => self.raft_call(request.group, RaftCall::Append(request), reply),
            Body::Vote(request) => self.raft_call(request.group, RaftCall::Vote(request), reply),
            Body::PreVote(request) => self.raft_call(request.group, RaftCall::PreVote(request), reply),
            Body::TransferLeader(_) if self.is_stopping() => {
                reply.send(call_response::Body::TransferLeader(TransferLeaderAnswer {
                    accepted: false,
                    reason: "this node is stopping".to_owned(),
                }));
            }
            Body::TransferLeader(request) => {
                self.raft_call(request.group, RaftCall::Transfer(request), reply);
            }
            Body::Propose(propose) if propose.group == 0 => {
                tokio::spawn(async move {
                    reply.send(match self.meta_write(propose.entry).await {
                        Ok((index, meta)) => call_response::Body::Proposed(Proposed {
                            index,
                            responses: Vec::new(),
                            meta: Some(meta),
                        }),
                        Err(failed) => call_response::Body::Failed(failed),
                    });
                });
            }
            Body::Propose(propose) => match self.slot((propose.group - 1) as u16) {
                Some(slot) => slot.propose_foreign(propose.entry, reply),
                None => reply.send(failed(Reason::NoReplica, None)),
            },
            Body::ReadIndex(request) => {
                tokio::spawn(async move { reply.send(self.answer_read_index(request.group).await) });
            }
            Body::ReadRetained(request) => {
                tokio::spawn(async move { reply.send(self.answer_retained(request).await) });
            }
            Body::ReadSessions(request) => {
                tokio::spawn(async move { reply.send(self.answer_sessions(request).await) });
            }
            Body::Inspect(request) => {
                tokio::spawn(async move { reply.send(self.answer_inspect(request).await) });
            }
            Body::FetchQueue(request) => {
                tokio::spawn(async move { reply.send(self.answer_fetch(request).await) });
            }
            Body::QueuesGrew(grew) => {
                self.queues_grew(&grew);
                reply.send(call_response::Body::Done(Empty {}));
            }
            Body::Kick(kick) => {
                let is_told = kick.by.is_some();
                let by = match kick.by {
                    Some(kick::By::Operator(_)) => KickedBy::Operator,
                    Some(kick::By::Address(address)) => KickedBy::Connection(Some(address)),
                    None => KickedBy::Connection(None),
                };
                let kicked = self.observer.kick(&kick.client, kick.epoch, by);
                tokio::spawn(async move {
                    let gone = async {
                        if let Some(kicked) = &kicked {
                            kicked.ended.wait().await;
                        }
                        // Also of one that had ended before: its last acknowledgements may be under way.
                        if let Some(slot) = self.slot_with(&kick.client) {
                            let _ = slot.proposer.flushed().await;
                        }
                    };
                    // Whichever comes first; the caller does not wait longer either.
                    let _ = tokio::time::timeout(KICK_WITHIN, gone).await;
                    let address = kicked.map(|kicked| kicked.address).unwrap_or_default();
                    reply.send(match is_told {
                        true => call_response::Body::Kicked(Kicked { address }),
                        false => call_response::Body::Done(Empty {}),
                    });
                });
            }
            Body::AskNumbers(_) => reply.send(call_response::Body::Numbers(self.observer.numbers())),
            Body::AskToMove(asked) => {
                reply.send(match self.observer.move_clients(asked.count, asked.per_second) {
                    true => call_response::Body::Done(Empty {}),
                    false => call_response::Body::Failed(refused("it does so already")),
                });
            }
            Body::AskConnection(asked) => {
                let facts = self.observer.connection(&asked.client);
                reply.send(call_response::Body::Connection(facts));
            }
            Body::Barrier(barrier) => {
                tokio::spawn(async move { reply.send(self.answer_barrier(barrier).await) });
            }
            Body::RenewLease(request) if request.node == from.node => {
                reply.send(match self.judge_lease(&request) {
                    Some(lease) => call_response::Body::Lease(lease),
                    None => failed(Reason::NotLeader, self.meta_leader()),
                });
            }
            // For itself, and where it has proved that it is.
            Body::JoinCluster(join)
                if join
                    .member
                    .as_ref()
                    .is_some_and(|member| (member.node, &member.address) != (from.node, &from.address)) =>
            {
                reply.send(call_response::Body::Failed(refused("not for another node")));
            }
            Body::JoinCluster(join) => {
                tokio::spawn(async move {
                    let leads = self.meta.leads();
                    let answer = match join.member {
                        Some(member) if leads => self.admit_member(member).await,
                        _ => None,
                    };
                    reply.send(match answer {
                        Some(answer) => call_response::Body::Join(answer),
                        None => failed(Reason::NotLeader, self.meta_leader()),
                    });
                });
            }
            Body::Opening(_) | Body::RenewLease(_) => {
                reply.send(call_response::Body::Failed(refused("not at this place")))
            }
        }
    }

    async fn answer_barrier(&self, barrier: Barrier) -> call_response::Body {
        let answer = |meta_index| call_response::Body::Barrier(BarrierAnswer { meta_index });
        if !barrier.announced && self.lease.promise(barrier.meta_index) {
            return answer(barrier.meta_index);
        }
        if !self.wait_meta(barrier.meta_index, BARRIER_WITHIN).await {
            return failed(Reason::Unknown, None);
        }
        if !barrier.announced {
            return answer(self.meta_applied());
        }
        // The one who asks may be the reason why this node is not alone any more.
        self.refresh_members();
        let announced = async {
            while self.lease.is_growing() {
                tokio::time::sleep(GROWN_PAUSE).await;
            }
            self.announcer.announced().await
        };
        match tokio::time::timeout(BARRIER_WITHIN, announced).await {
            Ok(index) => answer(index.max(barrier.meta_index)),
            Err(_) => failed(Reason::Unknown, None),
        }
    }

    fn raft_call(self: Arc<Self>, group: u64, call: RaftCall, reply: Reply) {
        if group == 0 {
            let raft = self.meta.raft.clone();
            tokio::spawn(async move { reply.send(call.make(&raft).await) });
            return;
        }
        match self.slot((group - 1) as u16).and_then(|slot| slot.replica()) {
            Some(replica) if call.asks_for_a_vote() && self.has_forgotten(&replica) => {
                reply.send(failed(Reason::NoReplica, None));
            }
            Some(replica) => {
                tokio::spawn(async move { reply.send(call.make(&replica.raft).await) });
            }
            None => reply.send(failed(Reason::NoReplica, None)),
        }
    }

    /// Whether a replica was here before and was removed, with all it had accepted. By an old membership it may be a voter still:
    /// until it has the log again, it must not help one into the lead that has not got what this one has forgotten.
    fn has_forgotten(&self, replica: &Group<Shard>) -> bool {
        replica.is_empty() && self.log.was_removed(replica.id) && !self.config.broken.founds_again
    }
}

/// A request of Raft itself.
enum RaftCall {
    Append(cluster_proto::AppendEntries),
    Vote(cluster_proto::RequestVote),
    PreVote(cluster_proto::RequestVote),
    Transfer(cluster_proto::TransferLeader),
}

impl RaftCall {
    fn asks_for_a_vote(&self) -> bool {
        matches!(self, Self::Vote(_) | Self::PreVote(_))
    }

    async fn make<M: Machine>(self, raft: &Raft<TypeConfig, StateMachine<M>>) -> call_response::Body {
        let made = match self {
            RaftCall::Append(request) => match rpc::append(request) {
                Ok(request) => raft
                    .append_entries(request)
                    .await
                    .map(|answer| call_response::Body::AppendEntries(rpc::appended_to_proto(&answer)))
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            RaftCall::Vote(request) => raft
                .vote(rpc::vote_request(&request))
                .await
                .map(|answer| call_response::Body::Vote(rpc::voted_to_proto(&answer)))
                .map_err(|error| error.to_string()),
            RaftCall::PreVote(request) => raft
                .pre_vote(rpc::vote_request(&request))
                .await
                .map(|answer| call_response::Body::Vote(rpc::voted_to_proto(&answer)))
                .map_err(|error| error.to_string()),
            RaftCall::Transfer(request) => raft
                .handle_transfer_leader(rpc::transfer(&request))
                .await
                .map(|answer| {
                    call_response::Body::TransferLeader(TransferLeaderAnswer {
                        accepted: answer.is_ok(),
                        reason: answer.err().map(|error| error.to_string()).unwrap_or_default(),
                    })
                })
                .map_err(|error| error.to_string()),
        };
        made.unwrap_or_else(|detail| {
            warn!(detail, "a request of a replica failed");
            call_response::Body::Failed(Failed {
                reason: Reason::Unknown.into(),
                leader: 0,
                detail,
            })
        })
    }
}
