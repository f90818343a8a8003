//! Commands on their way into a shard's log: gathered while earlier ones are on their way to the disk, so that the
//! number of entries, which is what costs, follows the disk and not the number of clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{ShardCommand, ShardEntry, ShardResponse};
use openraft::Raft;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::raft::{Callback, Machine, Payload, StateMachine, TypeConfig};
use crate::{Clock, ProposeError};

/// The most commands in an entry, unless one proposal has more.
const COMMANDS_MAX: usize = 256;
/// An entry is not filled beyond this, unless one proposal has more.
const BYTES_MAX: usize = 256 << 10;
/// The most entries between being proposed and being applied.
const IN_FLIGHT_MAX: usize = 4;

/// Called once with the responses of a batch, after commit on disk and apply.
pub type BatchDone = Box<dyn FnOnce(Result<Vec<ShardResponse>, ProposeError>) + Send>;

struct Proposal {
    commands: Vec<ShardCommand>,
    bytes: usize,
    done: BatchDone,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Proposal>,
    /// When an entry has to be made at the latest; `None` while nothing waits.
    due: Option<Instant>,
    /// Of everything that is not complete.
    bytes: usize,
    in_flight: usize,
    stopping: bool,
}

/// The queue of one shard's proposals.
pub(crate) struct Proposer {
    queue: Mutex<Queue>,
    changed: Notify,
    bytes_max: usize,
}

impl Proposer {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Notify::new(),
            bytes_max,
        }
    }

    /// Queues commands; `done` is called at once if they are refused.
    pub(crate) fn propose(&self, commands: Vec<ShardCommand>, done: BatchDone) {
        if commands.is_empty() {
            return done(Ok(Vec::new()));
        }
        let bytes = commands.iter().map(Message::encoded_len).sum::<usize>() + 64 * commands.len();
        let mut queue = self.queue.lock();
        let refused = match () {
            () if queue.stopping => Some(ProposeError::Stopping),
            () if queue.bytes > 2 * self.bytes_max => Some(ProposeError::Busy),
            () => None,
        };
        if let Some(refused) = refused {
            drop(queue);
            return done(Err(refused));
        }
        let due = Instant::now();
        self.enqueue(
            &mut queue,
            Proposal {
                commands,
                bytes,
                done,
            },
            due,
        );
    }

    /// Queues a command that nobody waits for: it shares the next entry, which is made `within` that time. It is not
    /// refused for lack of room, so the caller sees to it that there are few; a node that stops drops it.
    pub(crate) fn propose_soon(&self, command: ShardCommand, within: Duration) {
        let bytes = command.encoded_len() + 64;
        let mut queue = self.queue.lock();
        if queue.stopping {
            return;
        }
        let proposal = Proposal {
            commands: vec![command],
            bytes,
            done: Box::new(drop),
        };
        self.enqueue(&mut queue, proposal, Instant::now() + within);
    }

    fn enqueue(&self, queue: &mut Queue, proposal: Proposal, due: Instant) {
        queue.bytes += proposal.bytes;
        queue.waiting.push_back(proposal);
        if queue.due.is_none_or(|known| due < known) {
            queue.due = Some(due);
            self.changed.notify_one();
        }
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.queue.lock().bytes > self.bytes_max
    }

    /// Refuses what comes from now on.
    pub(crate) fn stop(&self) {
        self.queue.lock().stopping = true;
        self.changed.notify_one();
    }

    /// Proposes until it is stopped and everything is complete.
    pub(crate) async fn run<M: Machine>(
        self: Arc<Self>,
        raft: Raft<TypeConfig, StateMachine<M>>,
        clock: Arc<dyn Clock>,
    ) {
        loop {
            match self.next() {
                Next::Entry(proposals) => self.send(&raft, clock.as_ref(), proposals).await,
                Next::Wait => self.changed.notified().await,
                Next::WaitUntil(due) => {
                    // Whichever comes first, the queue is looked at again.
                    let _ = tokio::time::timeout_at(due, self.changed.notified()).await;
                }
                Next::Stop => return,
            }
        }
    }

    fn next(&self) -> Next {
        let mut queue = self.queue.lock();
        if queue.waiting.is_empty() || queue.in_flight >= IN_FLIGHT_MAX {
            let finished = queue.stopping && queue.waiting.is_empty() && queue.in_flight == 0;
            return if finished { Next::Stop } else { Next::Wait };
        }
        let due = queue.due.filter(|due| !queue.stopping && *due > Instant::now());
        if let Some(due) = due {
            return Next::WaitUntil(due);
        }
        let (mut commands, mut bytes, mut proposals) = (0, 0, Vec::new());
        while let Some(proposal) = queue.waiting.front() {
            commands += proposal.commands.len();
            bytes += proposal.bytes;
            if !proposals.is_empty() && (commands > COMMANDS_MAX || bytes > BYTES_MAX) {
                break;
            }
            proposals.extend(queue.waiting.pop_front());
        }
        if queue.waiting.is_empty() {
            queue.due = None;
        }
        queue.in_flight += 1;
        Next::Entry(proposals)
    }

    async fn send<M: Machine>(
        self: &Arc<Self>,
        raft: &Raft<TypeConfig, StateMachine<M>>,
        clock: &dyn Clock,
        proposals: Vec<Proposal>,
    ) {
        let mut commands = Vec::new();
        let mut waiting = Vec::with_capacity(proposals.len());
        let mut bytes = 0;
        for proposal in proposals {
            waiting.push((proposal.commands.len(), proposal.done));
            bytes += proposal.bytes;
            commands.extend(proposal.commands);
        }
        let entry = ShardEntry {
            now_ms: clock.now_ms(),
            commands,
            origin: None,
        };
        let payload = Payload(Bytes::from(entry.encode_to_vec()));
        let completion = Completion {
            proposer: self.clone(),
            bytes,
            waiting,
        };
        let callback = Callback(Box::new(move |result| completion.complete(result)));
        if let Err(error) = raft.client_write_ff(payload, Some(callback)).await {
            // The callback was dropped, which has told those who wait.
            tracing::warn!(%error, "a shard's group does not take proposals");
        }
    }
}

/// Tells those who wait what became of an entry, also when openraft drops it.
struct Completion {
    proposer: Arc<Proposer>,
    bytes: usize,
    waiting: Vec<(usize, BatchDone)>,
}

impl Completion {
    fn complete(mut self, result: ClientWriteResult<TypeConfig>) {
        match result {
            Ok(response) => {
                let mut responses = response.data.0.into_iter();
                for (count, done) in self.waiting.drain(..) {
                    done(Ok(responses.by_ref().take(count).collect()));
                }
            }
            Err(_) => self.fail(ProposeError::NoQuorum),
        }
    }

    fn fail(&mut self, error: ProposeError) {
        for (_, done) in self.waiting.drain(..) {
            done(Err(error.clone()));
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.fail(ProposeError::Stopping);
        let mut queue = self.proposer.queue.lock();
        queue.in_flight -= 1;
        queue.bytes -= self.bytes;
        drop(queue);
        self.proposer.changed.notify_one();
    }
}

enum Next {
    Entry(Vec<Proposal>),
    Wait,
    WaitUntil(Instant),
    Stop,
}
