//! Commands on their way into a shard's log: gathered while earlier ones are on their way to the disk, so that the
//! number of entries, which is what costs, follows the disk and not the number of clients. An entry whose fate is
//! unknown is proposed again under its number, by which the shard takes it once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{Origin, ShardCommand, ShardEntry, ShardResponse, shard_command::Command};
use metrics::{Histogram, histogram};
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::{Broken, ProposeError};

/// The most commands in an entry, unless one proposal has more.
const COMMANDS_MAX: usize = 256;
/// An entry is not filled beyond this, unless one proposal has more.
const BYTES_MAX: usize = 256 << 10;
/// An entry has to get to the other replicas in one message. What is larger is refused, or it would hold up its shard.
const ENTRY_BYTES_MAX: usize = transport::MESSAGE_BYTES_MAX - (4 << 20);
/// The most entries between being proposed and being applied.
const IN_FLIGHT_MAX: usize = 4;
/// After a failure, the pause before the next try.
const RETRY_AFTER: Duration = Duration::from_millis(30);
/// A node that stops gives up what is not complete by then.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Called once with the responses of a batch, after commit on disk and apply.
pub type BatchDone = Box<dyn FnOnce(Result<Vec<ShardResponse>, ProposeError>) + Send>;

/// Takes entries to the leader of a shard, in the order in which they are given.
pub(crate) trait Target: Send + Sync + 'static {
    /// Proposes an entry; `Proposer::finished` is told how it ended, whatever happens.
    fn send(
        self: Arc<Self>,
        proposer: Arc<Proposer>,
        number: Number,
        entry: Bytes,
    ) -> impl Future<Output = ()> + Send;
}

/// The name of an entry among those of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    life: u64,
    sequence: u64,
    /// A client connects by it: its node's replica has to know before the connection reads from it.
    pub(crate) connects: bool,
}

struct Proposal {
    commands: Vec<ShardCommand>,
    bytes: usize,
    done: BatchDone,
}

/// An entry that was made and is not complete.
struct Flight {
    number: Number,
    entry: Bytes,
    bytes: usize,
    waiting: Vec<(usize, BatchDone)>,
    made: Instant,
    give_up: Instant,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Proposal>,
    /// When an entry has to be made at the latest; `None` while nothing waits.
    due: Option<Instant>,
    /// Of everything that is not complete.
    bytes: usize,
    /// In the order of their numbers.
    flights: VecDeque<Flight>,
    /// Entries sent whose end is not known yet.
    under_way: usize,
    /// One failed: when none is under way any more, those that are left go again one by one.
    failed: bool,
    retry_at: Option<Instant>,
    life: u64,
    sequence: u64,
    stopping: bool,
}

impl Queue {
    /// For something to change, or until the oldest entry is given up.
    fn wait(&self) -> Next {
        let oldest = self.flights.front();
        oldest.map_or(Next::Wait, |flight| Next::WaitUntil(flight.give_up))
    }

    /// Numbers have no gaps, so no entry can be left out: all go, and a new life begins. What waits behind them goes too:
    /// a publisher that sends the lost ones again must not find later ones before them. Who waits is returned, in order.
    fn begin_new_life(&mut self) -> Vec<BatchDone> {
        self.life += 1;
        self.sequence = 0;
        self.under_way = 0;
        self.failed = false;
        self.retry_at = None;
        self.due = None;
        self.bytes = 0;
        let flights = std::mem::take(&mut self.flights).into_iter();
        let behind = std::mem::take(&mut self.waiting).into_iter();
        flights
            .flat_map(|flight| flight.waiting)
            .map(|(_, done)| done)
            .chain(behind.map(|one| one.done))
            .collect()
    }
}

/// The queue of one shard's proposals.
pub(crate) struct Proposer {
    node: u64,
    queue: Mutex<Queue>,
    changed: Notify,
    bytes_max: usize,
    give_up_after: Duration,
    commits: Histogram,
    /// A broken node, for tests that have to notice.
    newest_first: bool,
    waits_for_ever: bool,
}

impl Proposer {
    /// `life` has to be above that of every earlier process of this node, with room for 2^20 more.
    pub(crate) fn new(node: u64, life: u64, bytes_max: usize, give_up_after: Duration) -> Self {
        let queue = Queue {
            life,
            ..Queue::default()
        };
        Self {
            node,
            queue: Mutex::new(queue),
            changed: Notify::new(),
            bytes_max,
            give_up_after,
            commits: histogram!("flotilla_replication_commit_duration_seconds"),
            newest_first: false,
            waits_for_ever: false,
        }
    }

    pub(crate) fn broken(mut self, broken: Broken) -> Self {
        self.newest_first = broken.newest_first;
        self.waits_for_ever = broken.waits_for_ever;
        self
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
            () if queue.bytes > 2 * self.bytes_max || bytes > ENTRY_BYTES_MAX => Some(ProposeError::Busy),
            () => None,
        };
        if let Some(refused) = refused {
            drop(queue);
            return done(Err(refused));
        }
        let due = Instant::now();
        let proposal = Proposal {
            commands,
            bytes,
            done,
        };
        self.enqueue(&mut queue, proposal, due);
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

    /// Ends when everything that was proposed before is complete, or was given up.
    pub(crate) fn flushed(&self) -> oneshot::Receiver<()> {
        let (done, flushed) = oneshot::channel();
        let done: BatchDone = Box::new(move |_| drop(done));
        let mut queue = self.queue.lock();
        if !queue.waiting.is_empty() {
            let marker = Proposal {
                commands: Vec::new(),
                bytes: 0,
                done,
            };
            self.enqueue(&mut queue, marker, Instant::now());
        } else if let Some(last) = queue.flights.back_mut() {
            last.waiting.push((0, done));
        }
        flushed
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.queue.lock().bytes > self.bytes_max
    }

    /// Refuses what comes from now on.
    pub(crate) fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopping = true;
        let give_up = Instant::now() + STOP_WITHIN;
        for flight in &mut queue.flights {
            flight.give_up = flight.give_up.min(give_up);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// The leader may be known now: what failed need not wait.
    pub(crate) fn retry_now(&self) {
        let mut queue = self.queue.lock();
        if queue.retry_at.take().is_some() {
            self.changed.notify_one();
        }
    }

    /// Gives up everything that is not complete: this node is cut off, its clients go elsewhere, and what they asked for
    /// here must not come after what they ask for there.
    pub(crate) fn give_up(&self) {
        begin_new_life(self.queue.lock());
        self.changed.notify_one();
    }

    /// Proposes until it is stopped and everything is complete.
    pub(crate) async fn run<T: Target>(self: Arc<Self>, target: Arc<T>) {
        loop {
            match self.next() {
                Next::Entry(number, entry) => target.clone().send(self.clone(), number, entry).await,
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
        let now = Instant::now();
        let mut queue = self.queue.lock();
        // Whoever was to answer may never do so: a leader without its followers says neither yes nor no.
        if queue.flights.front().is_some_and(|flight| flight.give_up <= now) {
            if self.waits_for_ever && queue.under_way > 0 {
                return Next::Wait;
            }
            begin_new_life(queue);
            return self.next();
        }
        if queue.failed {
            return self.next_after_failure(queue, now);
        }
        if queue.waiting.is_empty() || queue.flights.len() >= IN_FLIGHT_MAX {
            let finished = queue.stopping && queue.waiting.is_empty() && queue.flights.is_empty();
            return if finished { Next::Stop } else { queue.wait() };
        }
        let due = queue.due.filter(|due| !queue.stopping && *due > now);
        if let Some(due) = due {
            return Next::WaitUntil(due);
        }
        let (number, entry) = self.make_entry(&mut queue, now);
        queue.under_way += 1;
        Next::Entry(number, entry)
    }

    fn next_after_failure(&self, mut queue: MutexGuard<'_, Queue>, now: Instant) -> Next {
        if queue.under_way > 0 {
            return queue.wait();
        }
        if let Some(retry_at) = queue.retry_at.filter(|at| *at > now) {
            return Next::WaitUntil(retry_at);
        }
        queue.retry_at = None;
        let Some(front) = queue.flights.front() else {
            queue.failed = false;
            drop(queue);
            return self.next();
        };
        let (number, entry) = (front.number, front.entry.clone());
        queue.under_way += 1;
        Next::Entry(number, entry)
    }

    fn make_entry(&self, queue: &mut Queue, now: Instant) -> (Number, Bytes) {
        let (mut count, mut bytes, mut commands, mut waiting) = (0, 0, Vec::new(), Vec::new());
        if self.newest_first {
            queue.waiting.make_contiguous().reverse();
        }
        while let Some(proposal) = queue.waiting.front() {
            let full = count + proposal.commands.len() > COMMANDS_MAX || bytes + proposal.bytes > BYTES_MAX;
            if count > 0 && full {
                break;
            }
            let Some(proposal) = queue.waiting.pop_front() else {
                break;
            };
            count += proposal.commands.len();
            bytes += proposal.bytes;
            waiting.push((proposal.commands.len(), proposal.done));
            commands.extend(proposal.commands);
        }
        if queue.waiting.is_empty() {
            queue.due = None;
        }
        queue.sequence += 1;
        let number = Number {
            life: queue.life,
            sequence: queue.sequence,
            connects: commands.iter().any(is_connect),
        };
        let origin = Origin {
            node: self.node,
            life: number.life,
            sequence: number.sequence,
        };
        let entry = ShardEntry {
            now_ms: 0,
            commands,
            origin: Some(origin),
        };
        let entry = Bytes::from(entry.encode_to_vec());
        let give_up_after = if queue.stopping {
            STOP_WITHIN
        } else {
            self.give_up_after
        };
        queue.flights.push_back(Flight {
            number,
            entry: entry.clone(),
            bytes,
            waiting,
            made: now,
            give_up: now + give_up_after,
        });
        (number, entry)
    }

    /// How an entry ended that was sent. Everything but success is tried again.
    pub(crate) fn finished(&self, number: Number, result: Result<Vec<ShardResponse>, ()>) {
        let mut queue = self.queue.lock();
        if number.life != queue.life {
            // Given up before: who waited has been told.
            return;
        }
        queue.under_way -= 1;
        let place = queue.flights.iter().position(|flight| flight.number == number);
        let Ok(responses) = result else {
            queue.failed = true;
            queue.retry_at = Some(Instant::now() + RETRY_AFTER);
            drop(queue);
            self.changed.notify_one();
            return;
        };
        let flight = place.and_then(|place| queue.flights.remove(place));
        queue.bytes -= flight.as_ref().map_or(0, |flight| flight.bytes);
        drop(queue);
        if let Some(flight) = &flight {
            self.commits.record(flight.made.elapsed());
        }
        self.changed.notify_one();
        let mut responses = responses.into_iter();
        for (count, done) in flight.into_iter().flat_map(|flight| flight.waiting) {
            done(Ok(responses.by_ref().take(count).collect()));
        }
    }
}

/// Gives up all there is, and tells who waits when the queue is not locked any more.
fn begin_new_life(mut queue: MutexGuard<'_, Queue>) {
    let given_up = queue.begin_new_life();
    drop(queue);
    given_up
        .into_iter()
        .for_each(|done| done(Err(ProposeError::NoQuorum)));
}

fn is_connect(command: &ShardCommand) -> bool {
    matches!(command.command, Some(Command::Connect(_)))
}

enum Next {
    Entry(Number, Bytes),
    Wait,
    WaitUntil(Instant),
    Stop,
}

/// Adds the leader's time to an entry. The last one counts, so a repeated entry may be stamped again.
pub(crate) fn stamped(entry: &Bytes, now_ms: u64) -> Bytes {
    let stamp = ShardEntry {
        now_ms,
        ..ShardEntry::default()
    };
    let mut stamped = Vec::with_capacity(entry.len() + 12);
    stamped.extend_from_slice(entry);
    stamped.extend_from_slice(&stamp.encode_to_vec());
    stamped.into()
}
