//! One group's part of the log: what it holds as seen by its Raft, before and after it reaches the disk.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cluster_proto::raft::{Entry, LogId, Vote};
use parking_lot::{Mutex, MutexGuard};
use prost::Message;

use super::writer::{END, Kind, Operation, PURGED, Queued, VOTE, Writer};
use super::{Flushed, GroupId, LogEngine, payload};
use crate::StorageError;

/// The ends of a group's log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogState {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry, or the last purged one when there is none after it.
    pub last: Option<LogId>,
}

/// The handle of one group's log. Changes are readable at once and on disk when their callback runs.
#[derive(Clone)]
pub struct GroupLog {
    group: Arc<Group>,
    engine: Arc<LogEngine>,
    writer: Arc<Writer>,
}

pub(super) struct Group {
    id: GroupId,
    /// Of each group, as of now.
    cache_bytes_max: Arc<AtomicUsize>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    state: LogState,
    /// The newest entries, without gaps, up to `state.last`.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// The engine has all entries below this index that are still valid.
    flushed_next: u64,
    /// Counts truncations: a flush of entries from before one says nothing about those after it.
    generation: u64,
    /// The group was removed from this node: nothing may be written for it.
    removed: bool,
}

impl GroupLog {
    pub(super) fn new(group: Arc<Group>, engine: Arc<LogEngine>, writer: Arc<Writer>) -> Self {
        Self {
            group,
            engine,
            writer,
        }
    }

    /// The ends of the log.
    pub fn state(&self) -> LogState {
        self.group.memory.lock().state.clone()
    }

    /// The saved vote.
    pub fn vote(&self) -> Option<Vote> {
        self.group.memory.lock().vote
    }

    /// Saves the vote.
    pub fn save_vote(&self, vote: Vote, flushed: Flushed) {
        let mut memory = self.group.memory.lock();
        memory.vote = Some(vote);
        self.push(memory, Kind::SaveVote(self.group.id, vote), flushed);
    }

    /// Syncs the log, also one whose entries are not synced: all that was appended before is on the disk then.
    pub fn sync(&self, flushed: Flushed) {
        let memory = self.group.memory.lock();
        match memory.vote {
            // Votes are always synced, and written in their turn.
            Some(vote) => self.push(memory, Kind::SaveVote(self.group.id, vote), flushed),
            None => {
                drop(memory);
                flushed(Ok(()));
            }
        }
    }

    /// Appends entries, which must continue the log.
    pub fn append(&self, entries: Vec<Entry>, flushed: Flushed) {
        let mut memory = self.group.memory.lock();
        let Some(last) = entries.last().and_then(|entry| entry.log_id) else {
            drop(memory);
            return flushed(Ok(()));
        };
        memory.state.last = Some(last);
        for entry in &entries {
            memory.cache_bytes += entry.encoded_len();
            memory.cache.push_back(entry.clone());
        }
        let kind = Kind::Append {
            group: self.group.clone(),
            entries,
            generation: memory.generation,
        };
        self.push(memory, kind, flushed);
    }

    /// Removes the entries after `last`; all of them if it is none, nothing if the log ends before it.
    pub fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) {
        let mut memory = self.group.memory.lock();
        let next_index = last.as_ref().map_or(0, |last| last.index + 1);
        if next_index >= memory.state.next_index() {
            drop(memory);
            return flushed(Ok(()));
        }
        while memory
            .cache
            .back()
            .is_some_and(|entry| payload::index(entry) >= next_index)
        {
            if let Some(entry) = memory.cache.pop_back() {
                memory.cache_bytes -= entry.encoded_len();
            }
        }
        memory.state.last = last;
        memory.flushed_next = memory.flushed_next.min(next_index);
        memory.generation += 1;
        let kind = Kind::Truncate {
            group: self.group.id,
            next_index,
        };
        self.push(memory, kind, flushed);
    }

    /// Removes the entries up to and including `upto`, which may be beyond the last one.
    pub fn purge(&self, upto: LogId, flushed: Flushed) {
        let mut memory = self.group.memory.lock();
        while memory
            .cache
            .front()
            .is_some_and(|entry| payload::index(entry) <= upto.index)
        {
            memory.evict_oldest();
        }
        if memory
            .state
            .last
            .as_ref()
            .is_none_or(|last| last.index <= upto.index)
        {
            memory.state.last = Some(upto);
        }
        memory.state.purged = Some(upto);
        let kind = Kind::Purge {
            group: self.group.id,
            upto,
            next_index: memory.state.next_index(),
        };
        self.push(memory, kind, flushed);
    }

    /// The entries of a range that are there. May read from disk.
    pub fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, StorageError> {
        let (on_disk, cached) = self.split(range);
        let mut entries = self.read(on_disk)?;
        entries.extend(cached);
        Ok(entries)
    }

    /// The indexes to read from disk, and the entries after them that are in memory.
    fn split(&self, range: Range<u64>) -> (Range<u64>, Vec<Entry>) {
        let memory = self.group.memory.lock();
        let first = memory.state.purged.as_ref().map_or(0, |purged| purged.index + 1);
        let next = memory.state.next_index();
        let range = range.start.max(first)..range.end.min(next);
        let cache_first = memory.cache.front().map_or(next, payload::index);
        let cached = range.start.max(cache_first)..range.end;
        let entries = match cached.is_empty() {
            true => Vec::new(),
            false => {
                let positions = (cached.start - cache_first) as usize..(cached.end - cache_first) as usize;
                memory.cache.range(positions).cloned().collect()
            }
        };
        (range.start..range.end.min(cache_first), entries)
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, StorageError> {
        let Some(first) = self.engine.first_index(self.group.id) else {
            return Ok(Vec::new());
        };
        let (start, end) = (range.start.max(first), range.end);
        if start >= end {
            return Ok(Vec::new());
        }
        let read = || {
            let mut found = Vec::new();
            let group = self.group.id;
            self.engine
                .fetch_entries_to::<payload::Payload>(group, start, end, None, &mut found)?;
            Ok::<_, StorageError>(found)
        };
        let found = apart(self.writer.is_simulated(), read)?;
        found.into_iter().map(payload::decode).collect()
    }

    fn push(&self, memory: MutexGuard<'_, Memory>, kind: Kind, flushed: Flushed) {
        let queued = match memory.removed {
            true => Queued::Refused(flushed, "the group was removed from this node"),
            false => self.writer.push(Operation { kind, flushed }),
        };
        drop(memory);
        self.writer.settle(queued);
    }
}

impl Group {
    /// Reads the ends of the group's log from the engine.
    pub(super) fn open(
        engine: &LogEngine,
        id: GroupId,
        cache_bytes_max: &Arc<AtomicUsize>,
        is_simulated: bool,
    ) -> Result<Self, StorageError> {
        let vote = engine
            .get(id, VOTE)
            .map(|bytes| decode::<Vote>("a vote", &bytes))
            .transpose()?;
        let purged = engine
            .get(id, PURGED)
            .map(|bytes| decode::<LogId>("a log id", &bytes))
            .transpose()?;
        let first = purged.as_ref().map_or(0, |purged| purged.index + 1);
        // Compactions are not always found again by the engine's recovery.
        engine.compact_to(id, first);
        let next = read_end(engine, id, first)?;
        let last = match next > first {
            true => Some(apart(is_simulated, || last_log_id(engine, id, next - 1))?),
            false => purged,
        };
        let memory = Memory {
            vote,
            flushed_next: last.as_ref().map_or(0, |last| last.index + 1),
            state: LogState { purged, last },
            ..Memory::default()
        };
        Ok(Self {
            id,
            cache_bytes_max: Arc::clone(cache_bytes_max),
            memory: Mutex::new(memory),
        })
    }

    pub(super) fn id(&self) -> GroupId {
        self.id
    }

    /// Nothing of it is left, and nothing more is accepted.
    pub(super) fn remove(&self) {
        *self.memory.lock() = Memory {
            removed: true,
            ..Memory::default()
        };
    }

    /// The writer has handed the entries up to `index` to the engine.
    pub(super) fn flushed_to(&self, index: u64, generation: u64) {
        let mut memory = self.memory.lock();
        if memory.generation == generation {
            memory.flushed_next = memory.flushed_next.max(index + 1);
        }
        memory.evict_to(self.cache_bytes_max.load(Ordering::Relaxed));
    }

    /// Bytes of entries in memory.
    pub(super) fn cached_bytes(&self) -> usize {
        self.memory.lock().cache_bytes
    }

    /// The bound on those is another one now.
    pub(super) fn evict(&self) {
        let bytes_max = self.cache_bytes_max.load(Ordering::Relaxed);
        self.memory.lock().evict_to(bytes_max);
    }
}

impl LogState {
    fn next_index(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.index + 1)
    }
}

impl Memory {
    /// What the engine does not have yet stays.
    fn evict_to(&mut self, bytes_max: usize) {
        let flushed_next = self.flushed_next;
        while self.cache_bytes > bytes_max
            && let Some(oldest) = self.cache.front()
            && payload::index(oldest) < flushed_next
        {
            self.evict_oldest();
        }
    }

    fn evict_oldest(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry.encoded_len();
        }
    }
}

/// The first index that a truncation removed, in logs from before their end was kept; such a log has either.
const TRUNCATED: &[u8] = b"t";

/// The index after the last entry. The engine may have more entries, but never less.
fn read_end(engine: &LogEngine, id: GroupId, first: u64) -> Result<u64, StorageError> {
    let index = |key| {
        let value = engine.get(id, key)?;
        value.first_chunk().map(|index| u64::from_be_bytes(*index))
    };
    let found = engine.last_index(id).map_or(0, |last| last + 1);
    let Some(end) = index(END) else {
        return Ok(found.min(index(TRUNCATED).unwrap_or(u64::MAX)));
    };
    match end <= found.max(first) {
        true => Ok(end),
        false => Err(StorageError::Damaged {
            what: "the Raft log",
            detail: format!("group {id} ends before {found} and should end before {end}"),
        }),
    }
}

/// The engine remembers the block of entries that a thread has read last, by its place in a file. The nodes of a simulation are
/// one thread, and their blocks are in the same places of their files: there each read has a thread of its own.
fn apart<T: Send>(is_simulated: bool, read: impl FnOnce() -> T + Send) -> T {
    if !is_simulated {
        return read();
    }
    let read = thread::scope(|scope| scope.spawn(read).join());
    read.unwrap_or_else(|panic| resume_unwind(panic))
}

fn last_log_id(engine: &LogEngine, id: GroupId, index: u64) -> Result<LogId, StorageError> {
    let entry = engine.get_entry::<payload::Payload>(id, index)?;
    let entry = entry.map(payload::decode).transpose()?;
    entry
        .and_then(|entry| entry.log_id)
        .ok_or_else(|| StorageError::Damaged {
            what: "the last entry",
            detail: format!("group {id} has none at {index}"),
        })
}

fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, StorageError> {
    M::decode(bytes).map_err(|error| StorageError::Damaged {
        what,
        detail: error.to_string(),
    })
}
