//! The one place that writes the log: everything that waits, in order, in one synced write. Usually it is a thread.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Instant;

use cluster_proto::raft::{Entry, LogId, Vote};
use parking_lot::{Condvar, Mutex};
use prost::Message;
use raft_engine::{Command, LogBatch};

use super::files::LogFiles;
use super::group::Group;
use super::measure::Measure;
use super::removal::{self, Removal};
use super::watermark::Watermark;
use super::{Flushed, GroupId, LogEngine, LogOptions, OnFatal, Writing, payload};
use crate::StorageError;

/// The group's vote.
pub(super) const VOTE: &[u8] = b"v";
/// The log id of the last purged entry.
pub(super) const PURGED: &[u8] = b"p";
/// The index after the last entry. The engine may find entries again that were truncated and then purged, because
/// their records are in older files than those that took them back.
pub(super) const END: &[u8] = b"e";

/// One change of a group's log, in the order in which its memory was changed.
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) flushed: Flushed,
}

pub(super) enum Kind {
    Append {
        group: Arc<Group>,
        entries: Vec<Entry>,
        generation: u64,
    },
    SaveVote(GroupId, Vote),
    Truncate {
        group: GroupId,
        next_index: u64,
    },
    Purge {
        group: GroupId,
        upto: LogId,
        next_index: u64,
    },
    Remove(GroupId, Removal),
}

#[derive(Default)]
struct Queue {
    /// Bounded by the callers: a group has a few entries in flight, and nothing else without waiting for it.
    waiting: Vec<Operation>,
    /// Why nothing is accepted any more.
    ended: Option<&'static str>,
    /// Somebody has the turn to write.
    turn_given: bool,
    /// The turn is being used.
    writing: bool,
}

pub(super) struct Writer {
    engine: Arc<LogEngine>,
    files: Arc<LogFiles>,
    sync: bool,
    on_fatal: OnFatal,
    writing: Writing,
    watermark: Mutex<Watermark>,
    queue: Mutex<Queue>,
    wake: Condvar,
    measure: Measure,
}

/// What is to be done after an operation was queued, when its caller has released its locks.
#[must_use]
pub(super) enum Queued {
    Waits,
    GiveTurn,
    Refused(Flushed, &'static str),
}

/// The right and duty to write what waits.
pub struct Turn(Weak<Writer>);

impl Turn {
    /// Writes everything that waits, until nothing does.
    pub fn write(self) {
        if let Some(writer) = self.0.upgrade() {
            writer.write_waiting();
        }
    }
}

impl Writer {
    pub(super) fn new(
        engine: Arc<LogEngine>,
        files: Arc<LogFiles>,
        watermark: Watermark,
        options: &LogOptions,
    ) -> Self {
        Self {
            engine,
            files,
            sync: options.sync,
            on_fatal: options.on_fatal.clone(),
            writing: options.writing.clone(),
            watermark: Mutex::new(watermark),
            queue: Mutex::default(),
            wake: Condvar::new(),
            measure: Measure::new(),
        }
    }

    /// Queues an operation. The caller holds its group's lock, so a group's operations keep their order.
    pub(super) fn push(&self, operation: Operation) -> Queued {
        let mut queue = self.queue.lock();
        if let Some(reason) = queue.ended {
            return Queued::Refused(operation.flushed, reason);
        }
        queue.waiting.push(operation);
        match self.writing {
            Writing::Thread => {
                self.wake.notify_one();
                Queued::Waits
            }
            Writing::Turns(_) => match std::mem::replace(&mut queue.turn_given, true) {
                true => Queued::Waits,
                false => Queued::GiveTurn,
            },
        }
    }

    /// The rest of queueing an operation, without locks.
    pub(super) fn settle(self: &Arc<Self>, queued: Queued) {
        match (queued, &self.writing) {
            (Queued::Refused(flushed, reason), _) => flushed(Err(io::Error::other(reason))),
            (Queued::GiveTurn, Writing::Turns(give)) => give(Turn(Arc::downgrade(self))),
            _ => {}
        }
    }

    /// Accepts nothing more, and writes what waits if no thread does.
    pub(super) fn stop(&self) {
        if matches!(self.writing, Writing::Turns(_)) {
            self.write_waiting();
        }
        self.queue.lock().ended.get_or_insert("the log is closed");
        self.wake.notify_one();
    }

    /// Refuses what would wait for ever in an engine that failed.
    pub(super) fn require_open(&self) -> Result<(), StorageError> {
        match self.queue.lock().ended {
            None => Ok(()),
            Some(reason) => Err(StorageError::LogEnded(reason)),
        }
    }

    /// The log is on a simulated disk.
    pub(super) fn is_simulated(&self) -> bool {
        self.files.is_simulated()
    }

    /// Calls the engine, whose panics are failed syncs.
    pub(super) fn guard<T>(
        &self,
        operation: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.require_open()?;
        catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| {
            self.fail(&describe(panic.as_ref()));
            Err(StorageError::LogEnded(FAILED))
        })
    }

    /// What the writer's thread does.
    pub(super) fn run(&self) {
        while let Some(operations) = self.next() {
            // A callback that panics leaves a group that waits for ever.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.write_round(operations))) {
                self.fail(&describe(panic.as_ref()));
            }
        }
    }

    fn next(&self) -> Option<Vec<Operation>> {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            if queue.ended.is_some() {
                return None;
            }
            self.wake.wait(&mut queue);
        }
        Some(std::mem::take(&mut queue.waiting))
    }

    /// A callback that queues more does not write it itself: that would report out of order.
    fn write_waiting(&self) {
        if std::mem::replace(&mut self.queue.lock().writing, true) {
            return;
        }
        loop {
            let operations = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    queue.turn_given = false;
                    queue.writing = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            self.write_round(operations);
        }
    }

    fn write_round(&self, operations: Vec<Operation>) {
        let written = catch_unwind(AssertUnwindSafe(|| self.write(&operations)));
        let failure = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(describe(panic.as_ref())),
        };
        if failure.is_some() || !self.files.has_power() {
            self.fail(failure.as_deref().unwrap_or(FAILED));
            return answer_failed(operations);
        }
        for Operation { kind, flushed } in operations {
            if let Kind::Append {
                group,
                entries,
                generation,
            } = kind
                && let Some(last) = entries.last()
            {
                group.flushed_to(payload::index(last), generation);
            }
            flushed(Ok(()));
        }
    }

    pub(super) fn fail(&self, reason: &str) {
        let waiting = {
            let mut queue = self.queue.lock();
            queue.ended = Some(FAILED);
            std::mem::take(&mut queue.waiting)
        };
        self.wake.notify_one();
        // A machine without power has stopped already.
        if self.files.has_power() {
            self.on_fatal.run(reason);
        }
        answer_failed(waiting);
    }

    fn write(&self, operations: &[Operation]) -> raft_engine::Result<()> {
        let mut batch = LogBatch::default();
        let mut sync = false;
        for operation in operations {
            match &operation.kind {
                Kind::Append { group, entries, .. } => {
                    let next_index = entries.last().map_or(0, |last| payload::index(last) + 1);
                    let entries: Vec<_> = entries.iter().map(payload::encode).collect();
                    batch.add_entries::<payload::Payload>(group.id(), &entries)?;
                    put_end(&mut batch, group.id(), next_index)?;
                    sync |= self.sync;
                }
                Kind::SaveVote(group, vote) => {
                    batch.put(*group, VOTE.to_vec(), vote.encode_to_vec())?;
                    sync = true;
                }
                Kind::Truncate { group, next_index } => {
                    put_end(&mut batch, *group, *next_index)?;
                    sync = true;
                }
                Kind::Purge {
                    group,
                    upto,
                    next_index,
                } => {
                    batch.put(*group, PURGED.to_vec(), upto.encode_to_vec())?;
                    put_end(&mut batch, *group, *next_index)?;
                    let index = upto.index + 1;
                    batch.add_command(*group, Command::Compact { index });
                    // Collecting garbage removes files that only a purge on the disk lets go.
                    sync = true;
                }
                Kind::Remove(group, removal) => {
                    removal::write(&mut batch, *group, *removal)?;
                    sync = true;
                }
            }
        }
        let mut watermark = self.watermark.lock();
        watermark.sign(&mut batch)?;
        let begun = sync.then(Instant::now);
        let bytes = self.engine.write(&mut batch, sync)?;
        watermark.wrote(sync);
        self.measure.wrote(bytes, begun);
        Ok(())
    }
}

const FAILED: &str = "the log failed";

fn put_end(batch: &mut LogBatch, group: GroupId, next_index: u64) -> raft_engine::Result<()> {
    batch.put(group, END.to_vec(), next_index.to_be_bytes().to_vec())
}

fn answer_failed(operations: Vec<Operation>) {
    for operation in operations {
        (operation.flushed)(Err(io::Error::other(FAILED)));
    }
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
