//! openraft's types from and to the messages on our disk, which outlive any version of openraft.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use cluster_proto::raft as proto;
use openraft::entry::RaftEntry;
use openraft::impls::{BasicNode, leader_id_std};
use openraft::vote::RaftLeaderIdExt;
use openraft::{EntryPayload, RaftTypeConfig};

use super::types::{Entry, LogId, Membership, Payload, StoredMembership, TypeConfig, VoteOf};

type LeaderId = <TypeConfig as RaftTypeConfig>::LeaderId;

pub(crate) fn log_id(id: &proto::LogId) -> LogId {
    let leader = id.leader.unwrap_or_default();
    LogId::new(
        leader_id_std::LeaderId::new_committed(leader.term, leader.node),
        id.index,
    )
}

pub(crate) fn log_id_to_proto(id: &LogId) -> proto::LogId {
    // A committed leader id of standard Raft is the term alone.
    proto::LogId {
        leader: Some(proto::LeaderId {
            term: id.leader_id.term,
            node: 0,
        }),
        index: id.index,
    }
}

pub(crate) fn vote(vote: &proto::Vote) -> VoteOf {
    let leader = vote.leader.unwrap_or_default();
    match vote.committed {
        true => VoteOf::new_committed(leader.term, leader.node),
        false => VoteOf::new(leader.term, leader.node),
    }
}

pub(crate) fn vote_to_proto(vote: &VoteOf) -> proto::Vote {
    let LeaderId { term, voted_for, .. } = vote.leader_id;
    proto::Vote {
        leader: Some(proto::LeaderId {
            term,
            node: voted_for,
        }),
        committed: vote.committed,
    }
}

pub(crate) fn membership(membership: &proto::Membership) -> Membership {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .iter()
        .map(|voters| voters.ids.iter().copied().collect())
        .collect();
    let nodes: BTreeMap<u64, BasicNode> = membership
        .nodes
        .iter()
        .map(|node| (node.id, BasicNode::new(&node.address)))
        .collect();
    // Only the membership of a group that was never initialized is not valid: it is empty.
    Membership::new(configs, nodes).unwrap_or_default()
}

pub(crate) fn membership_to_proto(membership: &Membership) -> proto::Membership {
    let configs = membership.get_joint_config().iter();
    proto::Membership {
        configs: configs
            .map(|voters| proto::Voters {
                ids: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| proto::Node {
                id: *id,
                address: node.addr.clone(),
            })
            .collect(),
    }
}

pub(crate) fn stored_membership(stored: &proto::StoredMembership) -> StoredMembership {
    let members = stored.membership.as_ref().map(membership).unwrap_or_default();
    StoredMembership::new(stored.log_id.as_ref().map(log_id), members)
}

pub(crate) fn entry(entry: proto::Entry) -> io::Result<Entry> {
    let id = entry
        .log_id
        .as_ref()
        .map(log_id)
        .ok_or_else(|| io::Error::other("an entry without a log id"))?;
    let payload = match entry.payload {
        Some(proto::entry::Payload::Normal(bytes)) => EntryPayload::Normal(Payload(bytes)),
        Some(proto::entry::Payload::Membership(members)) => EntryPayload::Membership(membership(&members)),
        Some(proto::entry::Payload::Blank(_)) => EntryPayload::Blank,
        // A kind that this version does not know must stop the group: skipping it would make replicas differ.
        None => {
            return Err(io::Error::other(format!(
                "an entry of an unknown kind at {}",
                id.index
            )));
        }
    };
    Ok(Entry::new(id, payload))
}

pub(crate) fn entry_to_proto(entry: Entry) -> proto::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => proto::entry::Payload::Blank(proto::Blank {}),
        EntryPayload::Normal(Payload(bytes)) => proto::entry::Payload::Normal(bytes),
        EntryPayload::Membership(members) => proto::entry::Payload::Membership(membership_to_proto(&members)),
    };
    proto::Entry {
        log_id: Some(log_id_to_proto(&entry.log_id)),
        payload: Some(payload),
    }
}

/// Requests and answers between replicas.
pub(crate) mod rpc {
    use std::io;

    use cluster_proto::{
        AppendEntries, AppendEntriesAnswer, Empty, RequestVote, TransferLeader, VoteAnswer,
        append_entries_answer::Answer,
    };
    use openraft::raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
    };

    use super::super::types::TypeConfig;
    use super::{entry, entry_to_proto, log_id, log_id_to_proto, vote, vote_to_proto};

    pub(crate) fn append_to_proto(group: u64, request: AppendEntriesRequest<TypeConfig>) -> AppendEntries {
        AppendEntries {
            group,
            vote: Some(vote_to_proto(&request.vote)),
            previous: request.prev_log_id.as_ref().map(log_id_to_proto),
            entries: request.entries.into_iter().map(entry_to_proto).collect(),
            leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
        }
    }

    pub(crate) fn append(request: AppendEntries) -> io::Result<AppendEntriesRequest<TypeConfig>> {
        let entries: io::Result<Vec<_>> = request.entries.into_iter().map(entry).collect();
        Ok(AppendEntriesRequest {
            vote: vote(&request.vote.unwrap_or_default()),
            prev_log_id: request.previous.as_ref().map(log_id),
            entries: entries?,
            leader_commit: request.leader_commit.as_ref().map(log_id),
        })
    }

    pub(crate) fn appended_to_proto(response: &AppendEntriesResponse<TypeConfig>) -> AppendEntriesAnswer {
        let answer = match response {
            AppendEntriesResponse::Success => Answer::Success(Empty {}),
            // A partial success that begins nowhere is no success.
            AppendEntriesResponse::PartialSuccess(None) | AppendEntriesResponse::Conflict => {
                Answer::Conflict(Empty {})
            }
            AppendEntriesResponse::PartialSuccess(Some(id)) => Answer::Partial(log_id_to_proto(id)),
            AppendEntriesResponse::HigherVote(higher) => Answer::HigherVote(vote_to_proto(higher)),
        };
        AppendEntriesAnswer { answer: Some(answer) }
    }

    pub(crate) fn appended(answer: &AppendEntriesAnswer) -> Option<AppendEntriesResponse<TypeConfig>> {
        Some(match answer.answer.as_ref()? {
            Answer::Success(_) => AppendEntriesResponse::Success,
            Answer::Partial(id) => AppendEntriesResponse::PartialSuccess(Some(log_id(id))),
            Answer::Conflict(_) => AppendEntriesResponse::Conflict,
            Answer::HigherVote(higher) => AppendEntriesResponse::HigherVote(vote(higher)),
        })
    }

    pub(crate) fn vote_request_to_proto(group: u64, request: &VoteRequest<TypeConfig>) -> RequestVote {
        RequestVote {
            group,
            vote: Some(vote_to_proto(&request.vote)),
            last: request.last_log_id.as_ref().map(log_id_to_proto),
            leadership_transfer: request.leadership_transfer,
        }
    }

    pub(crate) fn vote_request(request: &RequestVote) -> VoteRequest<TypeConfig> {
        VoteRequest {
            vote: vote(&request.vote.unwrap_or_default()),
            last_log_id: request.last.as_ref().map(log_id),
            leadership_transfer: request.leadership_transfer,
        }
    }

    pub(crate) fn voted_to_proto(response: &VoteResponse<TypeConfig>) -> VoteAnswer {
        VoteAnswer {
            vote: Some(vote_to_proto(&response.vote)),
            last: response.last_log_id.as_ref().map(log_id_to_proto),
            granted: response.vote_granted,
        }
    }

    pub(crate) fn voted(answer: &VoteAnswer) -> VoteResponse<TypeConfig> {
        VoteResponse {
            vote: vote(&answer.vote.unwrap_or_default()),
            vote_granted: answer.granted,
            last_log_id: answer.last.as_ref().map(log_id),
        }
    }

    pub(crate) fn transfer_to_proto(
        group: u64,
        request: &TransferLeaderRequest<TypeConfig>,
    ) -> TransferLeader {
        TransferLeader {
            group,
            from: Some(vote_to_proto(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_proto),
        }
    }

    pub(crate) fn transfer(request: &TransferLeader) -> TransferLeaderRequest<TypeConfig> {
        TransferLeaderRequest::new(
            vote(&request.from.unwrap_or_default()),
            request.to,
            request.last.as_ref().map(log_id),
        )
    }
}
