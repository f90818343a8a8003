//! The meta group's state on this node: who its members are. Placement and routes join it when there are peers.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cluster_proto::raft as proto;
use parking_lot::Mutex;
use prost::Message;
use storage::{GroupId, SledKv, StateStore, StorageError};

use crate::raft::{Applied, Machine, Responses};

/// How far the state of a checkpoint goes.
pub(crate) const APPLIED: &[u8] = b"a";

/// The meta group's machine.
pub(crate) struct Meta {
    applied: Mutex<proto::Applied>,
    checkpointed: Mutex<Option<proto::Applied>>,
    store: Mutex<StateStore<SledKv>>,
    kv: Arc<SledKv>,
}

impl Meta {
    /// Restores the last checkpoint.
    pub(crate) fn open(kv: Arc<SledKv>, group: GroupId) -> Result<Self, StorageError> {
        let store = StateStore::open(kv.clone(), group)?;
        let checkpointed = read_applied(&store)?;
        Ok(Self {
            applied: Mutex::new(checkpointed.clone().unwrap_or_default()),
            checkpointed: Mutex::new(checkpointed),
            store: Mutex::new(store),
            kv,
        })
    }

    /// The log up to the last checkpoint is not needed any more.
    pub(crate) fn purgeable(&self) -> u64 {
        self.checkpointed()
            .and_then(|applied| applied.log_id)
            .map_or(0, |id| id.index)
    }
}

impl Machine for Meta {
    fn apply(&self, entry: Applied, payload: Option<Bytes>) -> io::Result<Responses> {
        if payload.is_some() {
            return Err(io::Error::other(
                "a command of the meta group that this version does not know",
            ));
        }
        entry.note(&mut self.applied.lock());
        Ok(Responses::default())
    }

    fn applied(&self) -> proto::Applied {
        self.applied.lock().clone()
    }

    fn checkpoint(&self) -> Result<proto::Applied, StorageError> {
        let mut store = self.store.lock();
        let applied = self.applied();
        store.apply([(APPLIED.to_vec(), Some(applied.encode_to_vec()))])?;
        storage::Kv::checkpoint(self.kv.as_ref())?;
        *self.checkpointed.lock() = Some(applied.clone());
        Ok(applied)
    }

    fn checkpointed(&self) -> Option<proto::Applied> {
        self.checkpointed.lock().clone()
    }

    fn records(&self) -> Result<proto::Snapshot, StorageError> {
        read_records(&self.store.lock())
    }

    fn install(&self, snapshot: proto::Snapshot) -> Result<(), StorageError> {
        let mut store = self.store.lock();
        let applied = snapshot.applied.clone().unwrap_or_default();
        replace_records(&mut store, snapshot)?;
        storage::Kv::checkpoint(self.kv.as_ref())?;
        *self.applied.lock() = applied.clone();
        *self.checkpointed.lock() = Some(applied);
        Ok(())
    }
}

/// The point of the log a store's records belong to; none when there was no checkpoint.
pub(crate) fn read_applied(store: &StateStore<SledKv>) -> Result<Option<proto::Applied>, StorageError> {
    let Some(bytes) = store.get(APPLIED)? else {
        return Ok(None);
    };
    let damaged = |error: prost::DecodeError| StorageError::Damaged {
        what: "a checkpoint",
        detail: error.to_string(),
    };
    proto::Applied::decode(bytes.as_slice())
        .map(Some)
        .map_err(damaged)
}

/// All records of a store as a snapshot.
pub(crate) fn read_records(store: &StateStore<SledKv>) -> Result<proto::Snapshot, StorageError> {
    let mut snapshot = proto::Snapshot {
        applied: read_applied(store)?,
        records: Vec::new(),
    };
    store.scan(&[], &mut |key, value| {
        if key != APPLIED {
            snapshot.records.push(proto::Record {
                key: Bytes::copy_from_slice(key),
                value: value.into(),
            });
        }
        Ok(())
    })?;
    Ok(snapshot)
}

/// Replaces the records of a store by those of a snapshot.
pub(crate) fn replace_records(
    store: &mut StateStore<SledKv>,
    snapshot: proto::Snapshot,
) -> Result<(), StorageError> {
    let applied = snapshot.applied.unwrap_or_default();
    let records = snapshot
        .records
        .into_iter()
        .map(|record| (record.key.to_vec(), record.value.to_vec()));
    store.replace(records.chain([(APPLIED.to_vec(), applied.encode_to_vec())]))
}
