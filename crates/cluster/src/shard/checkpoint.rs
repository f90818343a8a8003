//! Checkpoints of a shard: what changed since the last one, in one batch, with the place in the log it belongs to.
//! Bodies follow one checkpoint later, when most of them are acknowledged already; only then their log may go.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cluster_proto::Publication;
use cluster_proto::raft as proto;
use cluster_state::{MessageId, ShardState};
use prost::Message;
use storage::{Change, StateStore, StorageError};

use super::Shard;
use super::bodies::{BODY, DecodedEntry, body_key, split_key};
use crate::meta::{APPLIED, read_records, replace_records};

/// Bodies are spilled in batches of about this size: a batch is held in memory.
const SPILL_BATCH_BYTES: usize = 4 << 20;

/// The state store of a shard and what is known of it.
pub(super) struct Disk {
    store: StateStore,
    spilled: BTreeSet<MessageId>,
    /// The log up to here is not needed any more.
    purgeable: u64,
    /// A checkpoint was not written. Its changes are known to nobody: a later one would pretend to contain them.
    failed: bool,
}

impl Disk {
    pub(super) fn restore(store: StateStore) -> Result<(ShardState, Self), StorageError> {
        let mut records = Vec::new();
        let mut spilled = BTreeSet::new();
        store.scan(&[], &mut |key, value| {
            match key.first() {
                Some(&BODY) => spilled.extend(split_key(key)),
                _ if key == APPLIED => {}
                _ => records.push((key.to_vec(), value)),
            }
            Ok(())
        })?;
        let state = restore_state(records)?;
        Ok((
            state,
            Self {
                store,
                spilled,
                purgeable: 0,
                failed: false,
            },
        ))
    }
}

fn restore_state(records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<ShardState, StorageError> {
    ShardState::restore(records).map_err(|error| StorageError::Damaged {
        what: "a shard's checkpoint",
        detail: error.to_string(),
    })
}

impl Shard {
    /// The log up to here is not needed any more, not even for bodies.
    pub(crate) fn purgeable(&self) -> u64 {
        self.disk.lock().purgeable
    }

    pub(super) fn write_checkpoint(&self) -> Result<proto::Applied, StorageError> {
        let mut disk = self.disk.lock();
        if disk.failed {
            return Err(StorageError::Damaged {
                what: "the state store",
                detail: "an earlier checkpoint failed".into(),
            });
        }
        let before = self.checkpointed.lock().clone();
        let spill_to = before.and_then(|applied| applied.log_id).map_or(0, |id| id.index);
        let (changes, applied, needed) = {
            let mut memory = self.memory.lock();
            let changes = memory.state.take_dirty();
            let needed: BTreeSet<MessageId> = memory.state.live_messages_up_to(spill_to).collect();
            (changes, memory.applied.clone(), needed)
        };
        self.log_bytes.store(0, Ordering::Relaxed);
        disk.failed = true;
        self.write(&mut disk, changes, &applied, &needed)?;
        disk.failed = false;
        disk.purgeable = spill_to;
        *self.checkpointed.lock() = Some(applied.clone());
        Ok(applied)
    }

    fn write(
        &self,
        disk: &mut Disk,
        changes: impl IntoIterator<Item = Change>,
        applied: &proto::Applied,
        needed: &BTreeSet<MessageId>,
    ) -> Result<(), StorageError> {
        let missing: Vec<MessageId> = needed.difference(&disk.spilled).copied().collect();
        self.spill(disk, &missing)?;
        let released: Vec<MessageId> = disk.spilled.difference(needed).copied().collect();
        let removed = released.iter().map(|id| (body_key(*id), None));
        let place = (APPLIED.to_vec(), Some(applied.encode_to_vec()));
        disk.store
            .apply(changes.into_iter().chain(removed).chain([place]))?;
        for id in &released {
            disk.spilled.remove(id);
        }
        self.node.kv.checkpoint()
    }

    /// Writes bodies ahead of the checkpoint that lets their log go. One that a crash leaves behind is removed by
    /// the next checkpoint.
    fn spill(&self, disk: &mut Disk, ids: &[MessageId]) -> Result<(), StorageError> {
        let mut entry = DecodedEntry::default();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for id in ids {
            let Some(body) = self.body(*id, &mut entry)? else {
                // Released since the checkpoint was taken, or the log is damaged; reading it will tell.
                continue;
            };
            let body = body.encode_to_vec();
            bytes += body.len();
            batch.push((body_key(*id), Some(body)));
            disk.spilled.insert(*id);
            if bytes >= SPILL_BATCH_BYTES {
                disk.store.apply(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        disk.store.apply(batch)
    }

    fn body(&self, id: MessageId, entry: &mut DecodedEntry) -> Result<Option<Publication>, StorageError> {
        match self.node.bodies.get(self.id, std::iter::once(id)).pop().flatten() {
            Some(body) => Ok(Some(body.as_ref().clone())),
            None => self.bodies.read(id, entry),
        }
    }

    /// All records of the last checkpoint, with the bodies that are still in the log.
    pub(super) fn read_snapshot(&self) -> Result<proto::Snapshot, StorageError> {
        let disk = self.disk.lock();
        let mut snapshot = read_records(&disk.store)?;
        let records = snapshot
            .records
            .iter()
            .filter(|record| record.key.first() == Some(&MESSAGE));
        let named: Vec<MessageId> = records.filter_map(|record| split_key(&record.key)).collect();
        let mut entry = DecodedEntry::default();
        for id in named.into_iter().filter(|id| !disk.spilled.contains(id)) {
            if let Some(body) = self.body(id, &mut entry)? {
                snapshot.records.push(proto::Record {
                    key: Bytes::from(body_key(id)),
                    value: Bytes::from(body.encode_to_vec()),
                });
            }
        }
        Ok(snapshot)
    }

    pub(super) fn install_snapshot(&self, snapshot: proto::Snapshot) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        let applied = snapshot.applied.clone().unwrap_or_default();
        replace_records(&mut disk.store, snapshot)?;
        self.node.kv.checkpoint()?;
        let store = StateStore::open(self.node.kv.clone(), u64::from(self.id) + 1)?;
        let (state, mut restored) = Disk::restore(store)?;
        restored.purgeable = applied.log_id.as_ref().map_or(0, |id| id.index);
        *disk = restored;
        let mut memory = self.memory.lock();
        memory.state = state;
        memory.applied = applied.clone();
        drop(memory);
        *self.checkpointed.lock() = Some(applied);
        drop(disk);
        self.node.bodies.clear(self.id);
        self.node.routes_generation.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
        Ok(())
    }

    fn wake_all(&self) {
        let mut wakers: Vec<_> = {
            let wakers = self.wakers.lock();
            wakers
                .iter()
                .map(|(client, (_, waker))| (client.clone(), waker.clone()))
                .collect()
        };
        wakers.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (_, waker) in wakers {
            waker.queue_grew();
        }
    }
}

/// The state's own records of messages, whose keys are built like those of bodies.
const MESSAGE: u8 = b'i';
