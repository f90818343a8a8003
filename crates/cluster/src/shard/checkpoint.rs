//! Checkpoints of a shard: what changed since the last one, in one batch, with the place in the log it belongs to.
//! Bodies follow one checkpoint later, when most of them are acknowledged already; only then their log may go. They lie
//! in a tree of their own, which a start does not read: the state tells which bodies are there.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cluster_proto::Publication;
use cluster_proto::raft as proto;
use cluster_state::{MessageId, ShardState};
use prost::Message;
use storage::{Change, GroupId, SharedKv, StateStore, StorageError};

use super::Shard;
use super::bodies::{BODY, DecodedEntry, body_key, split_key};
use super::spilled::Spilled;
use crate::meta::{APPLIED, read_records, replace_records};

/// Bodies are written in batches of about this size, and so many at the most: the store keeps what a batch replaces until
/// it is written.
const SPILL_BATCH_BYTES: usize = 4 << 20;
const BODIES_AT_ONCE: usize = 256;

/// The state store of a shard and what is known of it.
pub(super) struct Disk {
    store: StateStore,
    bodies: StateStore,
    spilled: BTreeSet<MessageId>,
    /// As the last record says.
    record: Spilled,
    /// The log up to here is not needed any more.
    purgeable: u64,
    /// What the next checkpoint writes. A snapshot that is installed in between takes its place.
    prepared: Option<Prepared>,
    /// A checkpoint was not written. Its changes are known to nobody: a later one would pretend to contain them.
    failed: bool,
}

/// What changed since a checkpoint, and how far the log was applied then.
struct Prepared {
    changes: Vec<Change>,
    applied: proto::Applied,
    /// Bodies up to here are written: they were in the last checkpoint's log.
    spill_to: u64,
    needed: BTreeSet<MessageId>,
}

impl Disk {
    pub(super) fn restore(store: StateStore, bodies: StateStore) -> Result<(ShardState, Self), StorageError> {
        let mut records = Vec::new();
        let mut record = Spilled::default();
        store.scan(&[], &mut |key, value| {
            match key {
                Spilled::KEY => record = Spilled::decode(&value)?,
                APPLIED => {}
                _ => records.push((key.to_vec(), value)),
            }
            Ok(())
        })?;
        let state = restore_state(records)?;
        let spilled = state.live_messages_up_to(record.up_to).collect();
        Ok((
            state,
            Self {
                store,
                bodies,
                spilled,
                record,
                purgeable: 0,
                prepared: None,
                failed: false,
            },
        ))
    }

    /// Notes bodies before they are written: if the checkpoint that is to refer to them never comes, the next one
    /// removes them.
    fn announce(&mut self, ids: impl IntoIterator<Item = MessageId>) -> Result<(), StorageError> {
        self.record.loose.extend(ids);
        self.store.apply([self.record.change()])
    }

    /// Removes the bodies that no record refers to. If a crash undoes it, the record still names them.
    fn remove_loose(&mut self) -> Result<(), StorageError> {
        let loose: Vec<MessageId> = std::mem::take(&mut self.record.loose).into_iter().collect();
        for part in loose.chunks(BODIES_AT_ONCE) {
            self.bodies.apply(part.iter().map(|id| (body_key(*id), None)))?;
        }
        Ok(())
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

    pub(super) fn prepare(&self) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        if disk.failed || disk.prepared.is_some() {
            return Err(StorageError::Damaged {
                what: "the state store",
                detail: "an earlier checkpoint failed".into(),
            });
        }
        let before = self.checkpointed.lock().clone();
        let spill_to = before.and_then(|applied| applied.log_id).map_or(0, |id| id.index);
        let mut memory = self.memory.lock();
        disk.prepared = Some(Prepared {
            changes: memory.state.take_dirty().into_iter().collect(),
            applied: memory.applied.clone(),
            spill_to,
            needed: memory.state.live_messages_up_to(spill_to).collect(),
        });
        self.log_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn write_checkpoint(&self) -> Result<proto::Applied, StorageError> {
        let mut disk = self.disk.lock();
        let Some(prepared) = disk.prepared.take() else {
            return Ok(self.checkpointed.lock().clone().unwrap_or_default());
        };
        let Prepared {
            changes,
            applied,
            spill_to,
            needed,
        } = prepared;
        disk.failed = true;
        self.write(&mut disk, changes, &applied, spill_to, &needed)?;
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
        spill_to: u64,
        needed: &BTreeSet<MessageId>,
    ) -> Result<(), StorageError> {
        let missing: Vec<MessageId> = needed.difference(&disk.spilled).copied().collect();
        if !missing.is_empty() {
            disk.announce(missing.iter().copied())?;
            self.spill(disk, &missing)?;
        }
        let present = disk.spilled.union(&disk.record.loose);
        let record = Spilled {
            up_to: spill_to,
            loose: present.filter(|id| !needed.contains(id)).copied().collect(),
        };
        let place = (APPLIED.to_vec(), Some(applied.encode_to_vec()));
        disk.store
            .apply(changes.into_iter().chain([record.change(), place]))?;
        self.node.kv.checkpoint()?;
        disk.spilled.retain(|id| needed.contains(id));
        disk.record = record;
        disk.remove_loose()
    }

    /// Writes bodies ahead of the checkpoint that lets their log go.
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
            if bytes >= SPILL_BATCH_BYTES || batch.len() >= BODIES_AT_ONCE {
                disk.bodies.apply(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        disk.bodies.apply(batch)
    }

    pub(super) fn body(
        &self,
        id: MessageId,
        entry: &mut DecodedEntry,
    ) -> Result<Option<Publication>, StorageError> {
        match self.node.bodies.get(self.id, std::iter::once(id)).pop().flatten() {
            Some(body) => Ok(Some(body.as_ref().clone())),
            None => self.bodies.read(id, entry),
        }
    }

    /// All records of the last checkpoint, with the bodies that are still in the log.
    pub(super) fn read_snapshot(&self) -> Result<proto::Snapshot, StorageError> {
        let disk = self.disk.lock();
        let mut snapshot = read_records(&disk.store)?;
        snapshot.records.retain(|record| record.key != Spilled::KEY);
        let records = snapshot
            .records
            .iter()
            .filter(|record| record.key.first() == Some(&MESSAGE));
        let named: Vec<MessageId> = records.filter_map(|record| split_key(&record.key)).collect();
        disk.bodies.scan(&[BODY], &mut |key, value| {
            if split_key(key).is_some_and(|id| disk.spilled.contains(&id)) {
                let (key, value) = (Bytes::copy_from_slice(key), value.into());
                snapshot.records.push(proto::Record { key, value });
            }
            Ok(())
        })?;
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

    pub(super) fn install_snapshot(&self, mut snapshot: proto::Snapshot) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        let applied = snapshot.applied.clone().unwrap_or_default();
        let up_to = applied.log_id.as_ref().map_or(0, |id| id.index);
        let is_body = |record: &mut proto::Record| record.key.first() == Some(&BODY);
        let bodies: Vec<proto::Record> = snapshot.records.extract_if(.., is_body).collect();
        // Bodies first and what was there before last: whenever a crash comes, those of the state on the disk are there.
        let ids: BTreeSet<MessageId> = bodies.iter().filter_map(|body| split_key(&body.key)).collect();
        disk.announce(ids.iter().copied())?;
        write_bodies(&mut disk.bodies, bodies)?;
        let present = disk.spilled.union(&disk.record.loose);
        let record = Spilled {
            up_to,
            loose: present.filter(|id| !ids.contains(id)).copied().collect(),
        };
        let (key, value) = record.record();
        let (key, value) = (key.into(), value.into());
        snapshot.records.push(proto::Record { key, value });
        replace_records(&mut disk.store, snapshot)?;
        self.node.kv.checkpoint()?;
        let (store, bodies) = open_stores(&self.node.kv, u64::from(self.id) + 1)?;
        let (state, mut restored) = Disk::restore(store, bodies)?;
        restored.remove_loose()?;
        restored.purgeable = up_to;
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

/// The stores of a shard: of its state, and of its bodies.
pub(super) fn open_stores(kv: &SharedKv, group: GroupId) -> Result<(StateStore, StateStore), StorageError> {
    let store = StateStore::open(kv.clone(), group)?;
    let bodies = StateStore::open_bodies(kv.clone(), group)?;
    Ok((store, bodies))
}

fn write_bodies(store: &mut StateStore, bodies: Vec<proto::Record>) -> Result<(), StorageError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for body in bodies {
        bytes += body.value.len();
        batch.push((body.key.to_vec(), Some(body.value.to_vec())));
        if bytes >= SPILL_BATCH_BYTES || batch.len() >= BODIES_AT_ONCE {
            store.apply(std::mem::take(&mut batch))?;
            bytes = 0;
        }
    }
    store.apply(batch)
}

/// The state's own records of messages, whose keys are built like those of bodies.
const MESSAGE: u8 = b'i';
