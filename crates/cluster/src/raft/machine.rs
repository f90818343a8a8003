//! A group's state machine as openraft sees it. What the entries mean is the `Machine`'s business; a snapshot in
//! openraft's sense is a checkpoint in the state store.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cluster_proto::raft as proto;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use prost::Message;
use storage::{GroupLog, StorageError};
use tokio::time::Instant;

use super::convert;
use super::log_store::LogStore;
use super::types::{LogId, Payload, Responses, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::chance;
use crate::measure::{self, Snapshotting};

/// The replicated state of a group on this node.
pub(crate) trait Machine: Send + Sync + 'static {
    /// Applies one entry. A blank entry or a membership has no payload; a membership comes with `applied`.
    fn apply(&self, entry: Applied, payload: Option<Bytes>) -> io::Result<Responses>;
    /// After the last entry of a round.
    fn round_applied(&self) {}
    /// How far the state has come.
    fn applied(&self) -> proto::Applied;
    /// The index of the last entry applied.
    fn applied_index(&self) -> u64 {
        self.applied().log_id.map_or(0, |id| id.index)
    }
    /// Takes what changed since the last checkpoint, for the next one. Blocks.
    fn prepare_checkpoint(&self) -> Result<(), StorageError> {
        Ok(())
    }
    /// The log that has to be on the disk up to what was prepared before the checkpoint is: the state refers to it. openraft
    /// applies what a quorum has, and that need not be this node.
    fn log(&self) -> Option<&GroupLog> {
        None
    }
    /// Writes what was prepared to the state store and returns when it is durable. Blocks.
    fn checkpoint(&self) -> Result<proto::Applied, StorageError>;
    /// How far the last durable checkpoint goes; none when there is no checkpoint.
    fn checkpointed(&self) -> Option<proto::Applied>;
    /// All records of the last checkpoint. Blocks.
    fn records(&self) -> Result<proto::Snapshot, StorageError>;
    /// Replaces the state by a peer's and returns when that is durable. Blocks.
    fn install(&self, snapshot: proto::Snapshot) -> Result<(), StorageError>;
}

/// The place of an entry in the log, and the membership if it is one.
pub(crate) struct Applied {
    pub(crate) log_id: proto::LogId,
    pub(crate) membership: Option<proto::Membership>,
}

impl Applied {
    /// Moves a machine's place in the log to this entry.
    pub(crate) fn note(self, applied: &mut proto::Applied) {
        if let Some(membership) = self.membership {
            applied.membership = Some(proto::StoredMembership {
                log_id: Some(self.log_id),
                membership: Some(membership),
            });
        }
        applied.log_id = Some(self.log_id);
    }
}

/// The records of a checkpoint. They are read when they are sent, so that building one costs no memory.
pub(crate) enum SnapshotData {
    /// A checkpoint in this node's state store.
    Stored(Arc<dyn Machine>),
    /// An encoded `Snapshot`, as it comes from a peer.
    Encoded(Bytes),
}

impl SnapshotData {
    /// The records, with the point of the log they belong to. Blocks.
    pub(crate) fn read(self) -> Result<proto::Snapshot, StorageError> {
        match self {
            Self::Stored(machine) => machine.records(),
            Self::Encoded(bytes) => proto::Snapshot::decode(bytes).map_err(|error| StorageError::Damaged {
                what: "a snapshot",
                detail: error.to_string(),
            }),
        }
    }
}

/// Adapts a machine to openraft.
pub(crate) struct StateMachine<M>(pub(crate) Arc<M>);

impl<M: Machine> StateMachine<M> {
    fn snapshot(&self, applied: &proto::Applied) -> Snapshot {
        let (last_log_id, last_membership) = state(applied);
        Snapshot {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: SnapshotData::Stored(self.0.clone()),
        }
    }
}

/// A snapshot that came from a peer.
pub(crate) fn received_snapshot(applied: &proto::Applied, data: Bytes) -> Snapshot {
    let (last_log_id, last_membership) = state(applied);
    Snapshot {
        meta: SnapshotMeta {
            last_log_id,
            last_membership,
        },
        snapshot: SnapshotData::Encoded(data),
    }
}

fn state(applied: &proto::Applied) -> (Option<LogId>, StoredMembership) {
    let membership = applied
        .membership
        .as_ref()
        .map(convert::stored_membership)
        .unwrap_or_default();
    (applied.log_id.as_ref().map(convert::log_id), membership)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> io::Result<T> {
    Ok(chance::blocking(work).await.map_err(io::Error::other)??)
}

impl<M: Machine> RaftStateMachine<TypeConfig> for StateMachine<M> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(state(&self.0.applied()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let log_id = convert::log_id_to_proto(&entry.log_id);
            let (membership, payload) = match entry.payload {
                EntryPayload::Blank => (None, None),
                EntryPayload::Normal(Payload(bytes)) => (None, Some(bytes)),
                EntryPayload::Membership(members) => (Some(convert::membership_to_proto(&members)), None),
            };
            let responses = self.0.apply(Applied { log_id, membership }, payload)?;
            if let Some(responder) = responder {
                responder.send(responses);
            }
        }
        self.0.round_applied();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        Self(self.0.clone())
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let machine = self.0.clone();
        let began = Instant::now();
        blocking(move || machine.install(snapshot.read()?)).await?;
        measure::snapshot(Snapshotting::Install, began.elapsed());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.0.checkpointed().map(|applied| self.snapshot(&applied)))
    }
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for StateMachine<M> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let machine = self.0.clone();
        blocking(move || machine.prepare_checkpoint()).await?;
        if let Some(log) = self.0.log() {
            LogStore::new(log.clone()).synced().await?;
        }
        let machine = self.0.clone();
        let began = Instant::now();
        let applied = blocking(move || machine.checkpoint()).await?;
        measure::snapshot(Snapshotting::Write, began.elapsed());
        Ok(self.snapshot(&applied))
    }
}
