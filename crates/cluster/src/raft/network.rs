//! The way to a group's replicas on other nodes: openraft's requests over the peers' calls. Whatever cannot be asked
//! answers that the peer is not reachable, which Raft retries.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{SnapshotHeader, call_request, call_response};
use openraft::BasicNode;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;
use storage::GroupId;
use tokio::time::Instant;
use transport::{Channel, PeerError, Peers};

use super::SnapshotData;
use super::convert::{self, rpc};
use super::types::{Snapshot, TypeConfig, VoteOf};
use crate::chance;
use crate::measure::{self, Snapshotting};

/// Entries that wait for a slow disk are not given up as early as a heartbeat is.
const APPEND_WITHIN: Duration = Duration::from_secs(3);
/// The longest that a whole snapshot may take to arrive and to be installed.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(300);

/// Makes connections of one group to its replicas.
#[derive(Clone)]
pub(crate) struct Network {
    group: GroupId,
    /// Absent on a node that has no peers.
    peers: Option<Peers>,
}

impl Network {
    pub(crate) fn new(group: GroupId, peers: Option<Peers>) -> Self {
        Self { group, peers }
    }
}

/// A replica on another node.
pub(crate) struct Replica {
    target: u64,
    network: Network,
}

impl Replica {
    async fn call(
        &self,
        body: call_request::Body,
        within: Duration,
    ) -> Result<call_response::Body, RPCError<TypeConfig>> {
        let Some(peers) = &self.network.peers else {
            return Err(unreachable("this node has no peers").into());
        };
        let answer = peers.call(self.target, Channel::Raft, body, within).await;
        answer.map_err(|error| match error {
            // Reached, and it said no, or too late: the next try comes at once.
            PeerError::Failed(_) | PeerError::Late => RPCError::Network(NetworkError::new(&error)),
            _ => unreachable(&error.to_string()).into(),
        })
    }
}

fn unreachable(reason: &str) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason.to_owned())
}

fn unexpected() -> RPCError<TypeConfig> {
    unreachable("the peer answered something else").into()
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Replica;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Replica {
        Replica {
            target,
            network: self.clone(),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Replica {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let within = match request.entries.is_empty() {
            true => option.soft_ttl(),
            false => APPEND_WITHIN,
        };
        let body = call_request::Body::AppendEntries(rpc::append_to_proto(self.network.group, request));
        match self.call(body, within).await? {
            call_response::Body::AppendEntries(answer) => rpc::appended(&answer).ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = call_request::Body::Vote(rpc::vote_request_to_proto(self.network.group, &request));
        match self.call(body, option.soft_ttl()).await? {
            call_response::Body::Vote(answer) => Ok(rpc::voted(&answer)),
            _ => Err(unexpected()),
        }
    }

    // The default grants: an isolated node would believe that it has a quorum.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = call_request::Body::PreVote(rpc::vote_request_to_proto(self.network.group, &request));
        match self.call(body, option.soft_ttl()).await? {
            call_response::Body::Vote(answer) => Ok(rpc::voted(&answer)),
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Some(peers) = self.network.peers.clone() else {
            return Err(unreachable("this node has no peers").into());
        };
        let (target, group) = (self.target, self.network.group);
        let send = async move {
            let began = Instant::now();
            let read = chance::blocking(move || snapshot.snapshot.read());
            let records = read.await.map_err(|error| error.to_string())?;
            let records = records.map_err(|error| error.to_string())?;
            // A newer checkpoint may be there than the one that openraft meant: what is read says which it is.
            let header = SnapshotHeader {
                opening: None,
                group,
                vote: Some(convert::vote_to_proto(&vote)),
                applied: records.applied.clone(),
            };
            let data = Bytes::from(records.encode_to_vec());
            let sent = peers.snapshot(target, header, data, SNAPSHOT_WITHIN).await;
            let sent = sent.map_err(|error| error.to_string())?;
            measure::snapshot(Snapshotting::Send, began.elapsed());
            Ok::<_, String>(sent)
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => match sent {
                Ok(answer) => Ok(SnapshotResponse::new(convert::vote(&answer.vote.unwrap_or_default()))),
                Err(reason) => Err(unreachable(&reason).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = call_request::Body::TransferLeader(rpc::transfer_to_proto(self.network.group, &request));
        match self.call(body, option.soft_ttl()).await? {
            call_response::Body::TransferLeader(answer) if answer.accepted => Ok(Ok(())),
            call_response::Body::TransferLeader(answer) => Err(unreachable(&answer.reason).into()),
            _ => Err(unexpected()),
        }
    }
}
