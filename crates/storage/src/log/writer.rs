//! The one thread that writes the log: everything that waits, in order, in one synced write.

use std::io;
use std::sync::Arc;

use cluster_proto::raft::{Entry, LogId, Vote};
use parking_lot::{Condvar, Mutex};
use prost::Message;
use raft_engine::{Command, Engine, LogBatch};

use super::group::Group;
use super::{Flushed, payload};

/// The group's vote.
pub(super) const VOTE: &[u8] = b"v";
/// The log id of the last purged entry.
pub(super) const PURGED: &[u8] = b"p";
/// The first index that a truncation removed; gone with the next append, which overwrites what is there.
pub(super) const TRUNCATED: &[u8] = b"t";

/// One change of a group's log, in the order in which its memory was changed.
pub(super) struct Operation {
    pub(super) group: Arc<Group>,
    pub(super) kind: Kind,
    pub(super) flushed: Flushed,
}

pub(super) enum Kind {
    Append {
        entries: Vec<Entry>,
        generation: u64,
        overwrites: bool,
    },
    SaveVote(Vote),
    Truncate {
        next_index: u64,
    },
    Purge(LogId),
}

#[derive(Default)]
struct Queue {
    /// Bounded by the callers: a group has a few entries in flight, and nothing else without waiting for it.
    waiting: Vec<Operation>,
    stopped: bool,
}

pub(super) struct Writer {
    engine: Arc<Engine>,
    sync: bool,
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Writer {
    pub(super) fn new(engine: Arc<Engine>, sync: bool) -> Self {
        Self {
            engine,
            sync,
            queue: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Queues an operation. The caller holds its group's lock, so a group's operations keep their order.
    pub(super) fn push(&self, operation: Operation) {
        let mut queue = self.queue.lock();
        if queue.stopped {
            drop(queue);
            return (operation.flushed)(Err(io::Error::other("the log is closed")));
        }
        queue.waiting.push(operation);
        self.wake.notify_one();
    }

    pub(super) fn stop(&self) {
        self.queue.lock().stopped = true;
        self.wake.notify_one();
    }

    pub(super) fn run(&self) {
        let _guard = EndProcessOnPanic;
        let mut batch = LogBatch::default();
        while let Some(operations) = self.next() {
            if let Err(error) = self.write(&mut batch, &operations) {
                end_process(&error.to_string());
            }
            for Operation { group, kind, flushed } in operations {
                if let Kind::Append {
                    entries, generation, ..
                } = kind
                    && let Some(last) = entries.last()
                {
                    group.flushed_to(payload::index(last), generation);
                }
                flushed(Ok(()));
            }
        }
    }

    fn next(&self) -> Option<Vec<Operation>> {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            if queue.stopped {
                return None;
            }
            self.wake.wait(&mut queue);
        }
        Some(std::mem::take(&mut queue.waiting))
    }

    fn write(&self, batch: &mut LogBatch, operations: &[Operation]) -> raft_engine::Result<()> {
        let mut sync = false;
        for Operation { group, kind, .. } in operations {
            let group = group.id();
            match kind {
                Kind::Append {
                    entries, overwrites, ..
                } => {
                    if *overwrites {
                        batch.delete(group, TRUNCATED.to_vec());
                    }
                    let entries: Vec<_> = entries.iter().map(payload::encode).collect();
                    batch.add_entries::<payload::Payload>(group, &entries)?;
                    sync |= self.sync;
                }
                Kind::SaveVote(vote) => {
                    batch.put(group, VOTE.to_vec(), vote.encode_to_vec())?;
                    sync = true;
                }
                Kind::Truncate { next_index } => {
                    batch.put(group, TRUNCATED.to_vec(), next_index.to_be_bytes().to_vec())?;
                    sync = true;
                }
                Kind::Purge(log_id) => {
                    batch.put(group, PURGED.to_vec(), log_id.encode_to_vec())?;
                    batch.add_command(
                        group,
                        Command::Compact {
                            index: log_id.index + 1,
                        },
                    );
                }
            }
        }
        self.engine.write(batch, sync)?;
        Ok(())
    }
}

/// After a failed write or sync nobody knows what is on the disk: a second sync may succeed without having written
/// what the first one lost. So the node stops, and a restart reads what is really there.
fn end_process(error: &str) -> ! {
    tracing::error!(error, "writing the Raft log failed: the process ends");
    eprintln!("writing the Raft log failed, the process ends: {error}");
    std::process::abort()
}

/// The engine reports a failed sync by a panic.
struct EndProcessOnPanic;

impl Drop for EndProcessOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end_process("see the panic above");
        }
    }
}
