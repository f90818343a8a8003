//! Reading what is committed: by a read index of each shard's leader, from this node's replica where there is one.

use std::sync::Arc;
use std::time::Duration;

use cluster_proto::{
    FetchQueue, Fetched, Publication, QueuedMessage, QueuesGrew, ReadIndex, ReadIndexAnswer, ReadRetained,
    Retained, ShardCommand, ShardResponse, call_request, call_response, failed::Reason,
};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};
use transport::{Channel, PeerError};

use crate::group::Group;
use crate::node::Inner;
use crate::shard::Shard;
use crate::slot::{Slot, failed};
use crate::{Clock, Fetch, ProposeError, Queued, ShardId};

const ASK_WITHIN: Duration = Duration::from_secs(1);
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(10);
pub(crate) const PAUSE: Duration = Duration::from_millis(30);
/// Retained messages read between two looks at other work.
const SLICE: usize = 1000;
/// Bytes of retained messages in one answer.
const PAGE_BYTES: usize = 2 << 20;

impl Inner {
    /// An index up to which everything that was acknowledged before this call is committed.
    pub(crate) async fn read_index(&self, shard: ShardId, within: Duration) -> Result<u64, ProposeError> {
        let slot = self.slot(shard).ok_or(ProposeError::NoQuorum)?;
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.ask_read_index(slot).await {
                return Ok(answer.index);
            }
            if begun.elapsed() > within {
                return Err(ProposeError::NoQuorum);
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask_read_index(&self, slot: &Slot) -> Option<ReadIndexAnswer> {
        if slot.led_here().is_some() {
            return match self.answer_for(slot).await {
                call_response::Body::ReadIndex(answer) => Some(answer),
                _ => None,
            };
        }
        let leader = slot.leader().filter(|leader| *leader != self.node_id)?;
        let body = call_request::Body::ReadIndex(ReadIndex {
            group: u64::from(slot.id) + 1,
        });
        match self
            .peers
            .as_ref()?
            .call(leader, Channel::Data, body, ASK_WITHIN)
            .await
        {
            Ok(call_response::Body::ReadIndex(answer)) => Some(answer),
            Err(PeerError::Failed(failed)) => {
                slot.learn_leader(failed.leader);
                None
            }
            _ => {
                slot.learn_leader(0);
                None
            }
        }
    }

    async fn answer_for(&self, slot: &Slot) -> call_response::Body {
        let Some(replica) = slot.replica() else {
            return failed(Reason::NoReplica, None);
        };
        let members = replica.members();
        match replica.read_index().await {
            Ok(index) => call_response::Body::ReadIndex(ReadIndexAnswer {
                index,
                replicas: members.voters.into_iter().chain(members.learners).collect(),
                is_changing: members.is_joint,
            }),
            Err(leader) => failed(Reason::NotLeader, leader),
        }
    }

    /// As another node asks.
    pub(crate) async fn answer_read_index(&self, group: u64) -> call_response::Body {
        match group.checked_sub(1).and_then(|shard| self.slot(shard as u16)) {
            Some(slot) => self.answer_for(slot).await,
            None => failed(Reason::NoReplica, None),
        }
    }

    /// Who has the shard, if its leader says so and no change is under way.
    pub(crate) async fn replicas_by_leader(&self, slot: &Slot) -> Option<Vec<u64>> {
        let leader = self.ask_read_index(slot).await;
        if let Some(answer) = leader {
            return (!answer.is_changing).then_some(answer.replicas);
        }
        // This node's replica may not know the leader any more: those who have the shard do.
        let placed = self.meta.machine.read(|state| state.replicas(slot.id).to_vec());
        for node in placed.into_iter().filter(|node| *node != self.node_id) {
            let body = call_request::Body::ReadIndex(ReadIndex {
                group: u64::from(slot.id) + 1,
            });
            let answer = self
                .peers
                .as_ref()?
                .call(node, Channel::Data, body, ASK_WITHIN)
                .await;
            if let Ok(call_response::Body::ReadIndex(answer)) = answer {
                return (!answer.is_changing).then_some(answer.replicas);
            }
        }
        None
    }

    /// Retained messages of one shard behind a topic, as they are acknowledged now.
    pub(crate) async fn read_retained(
        &self,
        shard: ShardId,
        filter: &str,
        behind: &str,
        limit: usize,
    ) -> Result<Vec<Publication>, ProposeError> {
        let slot = self.slot(shard).ok_or(ProposeError::NoQuorum)?;
        let index = self.read_index(shard, READ_WITHIN).await?;
        let Some(replica) = slot.replica() else {
            return self.read_retained_there(slot, filter, behind, limit).await;
        };
        if !replica.wait_applied(index, READ_WITHIN).await {
            return Err(ProposeError::NoQuorum);
        }
        let mut found: Vec<Publication> = Vec::new();
        let now_ms = self.clock.now_ms();
        while found.len() < limit {
            let after = found.last().map_or(behind, |last| &last.topic).to_owned();
            let more = replica.machine.retained_after(
                filter,
                Some(&after),
                now_ms,
                SLICE.min(limit - found.len()),
                &mut found,
            );
            if !more {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(found)
    }

    async fn read_retained_there(
        &self,
        slot: &Slot,
        filter: &str,
        behind: &str,
        limit: usize,
    ) -> Result<Vec<Publication>, ProposeError> {
        let peers = self.peers.as_ref().ok_or(ProposeError::NoQuorum)?;
        let mut found: Vec<Publication> = Vec::new();
        let begun = Instant::now();
        loop {
            let body = call_request::Body::ReadRetained(ReadRetained {
                shard: u32::from(slot.id),
                filter: filter.to_owned(),
                limit: (limit - found.len()) as u64,
                after_topic: found.last().map_or(behind, |last| &last.topic).to_owned(),
            });
            let leader = slot.leader().unwrap_or(0);
            match peers.call(leader, Channel::Data, body, READ_WITHIN).await {
                Ok(call_response::Body::Retained(page)) => {
                    found.extend(page.publications);
                    if !page.more || found.len() >= limit {
                        return Ok(found);
                    }
                }
                Err(PeerError::Failed(failed)) => slot.learn_leader(failed.leader),
                _ => slot.learn_leader(0),
            }
            if begun.elapsed() > READ_WITHIN {
                return Err(ProposeError::NoQuorum);
            }
            sleep(PAUSE).await;
        }
    }

    /// The shard's group, which is led here and has applied all that was committed before the question; or the answer, if not.
    pub(crate) async fn readable_leader(&self, shard: u32) -> Result<Arc<Group<Shard>>, call_response::Body> {
        let shard = u16::try_from(shard).ok();
        let slot = shard.and_then(|shard| self.slot(shard));
        let Some(group) = slot.and_then(|slot| slot.led_here()) else {
            return Err(failed(Reason::NotLeader, slot.and_then(|slot| slot.leader())));
        };
        let index = group.read_index().await;
        let index = index.map_err(|leader| failed(Reason::NotLeader, leader))?;
        match group.wait_applied(index, ASK_WITHIN).await {
            true => Ok(group),
            false => Err(failed(Reason::NoQuorum, None)),
        }
    }

    /// As the leader of a shard.
    pub(crate) async fn answer_retained(&self, request: ReadRetained) -> call_response::Body {
        let group = match self.readable_leader(request.shard).await {
            Ok(group) => group,
            Err(refusal) => return refusal,
        };
        let after = Some(request.after_topic.as_str()).filter(|after| !after.is_empty());
        let mut page: Vec<Publication> = Vec::new();
        let limit = SLICE.min(usize::try_from(request.limit).unwrap_or(SLICE));
        let mut more =
            group
                .machine
                .retained_after(&request.filter, after, self.clock.now_ms(), limit, &mut page);
        let mut bytes = 0;
        let fits = page
            .iter()
            .take_while(|one| {
                let first = bytes == 0;
                bytes += one.payload.len() + one.properties.len() + one.topic.len() + 64;
                first || bytes <= PAGE_BYTES
            })
            .count();
        more |= fits < page.len();
        page.truncate(fits);
        call_response::Body::Retained(Retained {
            publications: page,
            more,
        })
    }

    /// A command of a shard and its response.
    pub(crate) async fn shard_request(
        &self,
        shard: ShardId,
        command: ShardCommand,
    ) -> Result<ShardResponse, ProposeError> {
        let Some(slot) = self.slot(shard) else {
            return Err(ProposeError::NoQuorum);
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        slot.proposer.propose(
            vec![command],
            // Nobody may be waiting any more.
            Box::new(move |responses| drop(sender.send(responses))),
        );
        let responses = receiver.await.unwrap_or(Err(ProposeError::Stopping))?;
        responses.into_iter().next().ok_or(ProposeError::NoQuorum)
    }

    /// All shards that a filter may have retained messages in, each from behind a topic on.
    pub(crate) async fn read_all_retained(
        &self,
        shards: Vec<ShardId>,
        filter: &str,
        behind: &str,
        limit: usize,
    ) -> Result<Vec<Publication>, ProposeError> {
        let reading = shards
            .into_iter()
            .map(|shard| self.read_retained(shard, filter, behind, limit));
        Ok(try_join_all(reading).await?.into_iter().flatten().collect())
    }

    /// As the leader of a shard: a session's queue for the node that owns the session.
    pub(crate) async fn answer_fetch(self: &Arc<Self>, request: FetchQueue) -> call_response::Body {
        let slot = u16::try_from(request.shard)
            .ok()
            .and_then(|shard| self.slot(shard));
        let Some(group) = slot.and_then(|slot| slot.led_here()) else {
            return failed(Reason::NotLeader, slot.and_then(|slot| slot.leader()));
        };
        let begun = Instant::now();
        let mut is_sure = false;
        loop {
            let fetched = group.machine.fetch(
                &request.client,
                request.epoch,
                request.from_sequence,
                request.messages_max as usize,
                usize::try_from(request.bytes_max).unwrap_or(usize::MAX),
            );
            match fetched {
                Fetch::Gone if is_sure => return call_response::Body::Fetched(Fetched::default()),
                // A new leader may not have applied yet who owns the session.
                Fetch::Gone => match group.read_index().await {
                    Ok(index) => is_sure = group.wait_applied(index, ASK_WITHIN).await,
                    Err(leader) => return failed(Reason::NotLeader, leader),
                },
                Fetch::Ready {
                    messages,
                    next_sequence,
                } => {
                    return call_response::Body::Fetched(Fetched {
                        owned: true,
                        messages: messages.into_iter().map(to_proto).collect(),
                        next_sequence,
                    });
                }
                Fetch::Loading if begun.elapsed() > ASK_WITHIN => return failed(Reason::Busy, None),
                Fetch::Loading => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// The leader of a shard without a replica here has more for these clients.
    pub(crate) fn queues_grew(&self, grew: &QueuesGrew) {
        for client in &grew.clients {
            self.remote_queues.wake(client);
        }
    }
}

fn to_proto(queued: Queued) -> QueuedMessage {
    QueuedMessage {
        sequence: queued.sequence,
        publication: Some(queued.publication.as_ref().clone()),
        qos: u32::from(queued.qos),
        retain: queued.retain,
        subscription_ids: queued.subscription_ids,
        received: queued.received,
        from_share: queued.from_share,
    }
}
