//! The meta group's state on this node: members, placement, and who wants which topics. Its log is the same on every
//! node, so each routes by its own copy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cluster_proto::raft as proto;
use cluster_proto::{MetaCommand, ShareMember};
use cluster_state::meta::Destination;
use cluster_state::{ApplyContext, MetaEffect, MetaState};
use foldhash::HashMap;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use storage::{GroupId, SharedKv, StateStore, StorageError};
use tokio::sync::{Notify, watch};

use crate::raft::{Applied, Machine, Responses};
use crate::{NodeRoute, Observer, ShardId};

/// How far the state of a checkpoint goes.
pub(crate) const APPLIED: &[u8] = b"a";

/// The meta group's machine.
pub(crate) struct Meta {
    node: u64,
    memory: RwLock<Memory>,
    checkpointed: Mutex<Option<proto::Applied>>,
    store: Mutex<StateStore>,
    kv: SharedKv,
    observer: Arc<dyn Observer>,
    /// Counts changes of what `destinations` answers; shared with the shards.
    routes_generation: Arc<AtomicU64>,
    /// The index of the last entry that was applied.
    applied: watch::Sender<u64>,
    /// Woken when members or the placement change.
    pub(crate) changed: Notify,
}

struct Memory {
    state: MetaState,
    applied: proto::Applied,
}

impl Meta {
    /// Restores the last checkpoint.
    pub(crate) fn open(
        kv: SharedKv,
        group: GroupId,
        node: u64,
        observer: Arc<dyn Observer>,
        routes_generation: Arc<AtomicU64>,
    ) -> Result<Self, StorageError> {
        let store = StateStore::open(kv.clone(), group)?;
        let checkpointed = read_applied(&store)?;
        let memory = Memory {
            state: restore(&store)?,
            applied: checkpointed.clone().unwrap_or_default(),
        };
        let applied = index_of(&memory.applied);
        for (filter, member) in memory.state.share_members() {
            observer.share_member(filter, member, true);
        }
        Ok(Self {
            node,
            memory: RwLock::new(memory),
            checkpointed: Mutex::new(checkpointed),
            store: Mutex::new(store),
            kv,
            observer,
            routes_generation,
            applied: watch::Sender::new(applied),
            changed: Notify::new(),
        })
    }

    /// The log up to the last checkpoint is not needed any more.
    pub(crate) fn purgeable(&self) -> u64 {
        self.checkpointed().as_ref().map_or(0, index_of)
    }

    /// Looks at the state. Short: applying waits.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&MetaState) -> T) -> T {
        look(&self.memory.read().state)
    }

    /// The last entry applied, and a digest of the state after it.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let memory = self.memory.read();
        (index_of(&memory.applied), memory.state.digest())
    }

    /// Adds where a topic's messages go: other nodes and shards, each once.
    pub(crate) fn destinations(&self, topic: &str, nodes: &mut Vec<NodeRoute>, shards: &mut Vec<ShardId>) {
        self.read(|state| {
            state.for_each_destination(topic, |destination| match destination {
                Destination::Node { node, qos_0_only } if node != self.node => {
                    match nodes.iter_mut().find(|known| known.node == node) {
                        Some(known) => known.qos_0_only &= qos_0_only,
                        None => nodes.push(NodeRoute { node, qos_0_only }),
                    }
                }
                Destination::Node { .. } => {}
                Destination::Shard(shard) if shards.contains(&shard) => {}
                Destination::Shard(shard) => shards.push(shard),
            });
        });
    }

    /// Follows the index of the last entry applied.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn tell(&self, effects: Vec<MetaEffect>) {
        let mut changed = false;
        for effect in effects {
            match effect {
                MetaEffect::RoutesChanged { .. } => {
                    self.routes_generation.fetch_add(1, Ordering::AcqRel);
                }
                MetaEffect::ShareMember {
                    filter,
                    member,
                    added,
                } => self.observer.share_member(&filter, &member, added),
                MetaEffect::MemberJoined { .. }
                | MetaEffect::MemberDown { .. }
                | MetaEffect::MemberLeaving { .. }
                | MetaEffect::MemberRetired { .. }
                | MetaEffect::ShardPlaced { .. } => changed = true,
            }
        }
        if changed {
            self.changed.notify_waiters();
        }
    }

    /// After the state was replaced: what is gone and what is there.
    fn tell_replaced(&self, before: Vec<(String, ShareMember)>) {
        let after = self.read(members_of_shares);
        let kept: HashMap<(&str, &str), ()> = after
            .iter()
            .map(|(filter, member)| ((filter.as_str(), member.client.as_str()), ()))
            .collect();
        for (filter, member) in &before {
            if !kept.contains_key(&(filter.as_str(), member.client.as_str())) {
                self.observer.share_member(filter, member, false);
            }
        }
        for (filter, member) in &after {
            self.observer.share_member(filter, member, true);
        }
        self.routes_generation.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

fn members_of_shares(state: &MetaState) -> Vec<(String, ShareMember)> {
    state
        .share_members()
        .map(|(filter, member)| (filter.to_string(), member.clone()))
        .collect()
}

pub(crate) fn restore(store: &StateStore) -> Result<MetaState, StorageError> {
    let mut records = Vec::new();
    store.scan(&[], &mut |key, value| {
        if key != APPLIED {
            records.push((key.to_vec(), value));
        }
        Ok(())
    })?;
    MetaState::restore(records).map_err(|error| StorageError::Damaged {
        what: "the meta group's checkpoint",
        detail: error.to_string(),
    })
}

pub(crate) fn index_of(applied: &proto::Applied) -> u64 {
    applied.log_id.as_ref().map_or(0, |id| id.index)
}

impl Machine for Meta {
    fn apply(&self, entry: Applied, payload: Option<Bytes>) -> io::Result<Responses> {
        let index = entry.log_id.index;
        let mut effects = Vec::new();
        let mut memory = self.memory.write();
        let meta = match payload {
            None => None,
            Some(payload) => {
                let command = MetaCommand::decode(payload).map_err(io::Error::other)?;
                if command.command.is_none() {
                    return Err(io::Error::other(
                        "a command of the meta group that this version does not know",
                    ));
                }
                let context = ApplyContext {
                    index,
                    command: 0,
                    now_ms: 0,
                    shard: 0,
                };
                Some(memory.state.apply(&context, command, &mut effects))
            }
        };
        entry.note(&mut memory.applied);
        drop(memory);
        self.tell(effects);
        // Who waits for this index finds its effects done.
        self.applied.send_replace(index);
        Ok(Responses {
            index,
            meta,
            ..Responses::default()
        })
    }

    fn applied(&self) -> proto::Applied {
        self.memory.read().applied.clone()
    }

    fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    fn checkpoint(&self) -> Result<proto::Applied, StorageError> {
        let mut store = self.store.lock();
        let (changes, applied) = {
            let mut memory = self.memory.write();
            (memory.state.take_dirty(), memory.applied.clone())
        };
        let place = (APPLIED.to_vec(), Some(applied.encode_to_vec()));
        store.apply(changes.into_iter().chain([place]))?;
        self.kv.checkpoint()?;
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
        self.kv.checkpoint()?;
        let before = self.read(members_of_shares);
        let memory = Memory {
            state: restore(&store)?,
            applied: applied.clone(),
        };
        *self.memory.write() = memory;
        let index = index_of(&applied);
        *self.checkpointed.lock() = Some(applied);
        drop(store);
        self.tell_replaced(before);
        self.applied.send_replace(index);
        Ok(())
    }
}

/// The point of the log a store's records belong to; none when there was no checkpoint.
pub(crate) fn read_applied(store: &StateStore) -> Result<Option<proto::Applied>, StorageError> {
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
pub(crate) fn read_records(store: &StateStore) -> Result<proto::Snapshot, StorageError> {
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
pub(crate) fn replace_records(store: &mut StateStore, snapshot: proto::Snapshot) -> Result<(), StorageError> {
    let applied = snapshot.applied.unwrap_or_default();
    let records = snapshot
        .records
        .into_iter()
        .map(|record| (record.key.to_vec(), record.value.to_vec()));
    store.replace(records.chain([(APPLIED.to_vec(), applied.encode_to_vec())]))
}
