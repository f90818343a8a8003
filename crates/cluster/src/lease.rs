//! The right to serve: a node that has not heard from a meta leader with a quorum for some seconds stops by itself, before
//! the others declare it down. What it would acknowledge could not be kept, and what it routes by grows stale.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

/// This node's own lease.
pub(crate) struct Lease {
    started: Instant,
    /// Milliseconds since `started`.
    until_ms: AtomicU64,
    /// The only member of its cluster needs nobody's leave.
    alone: AtomicBool,
    /// It was alone, and the meta group does not know all routes to its shards yet.
    growing: AtomicBool,
    /// It has caught up since it joined.
    ready: AtomicBool,
    /// Others were told that this node routes by the meta group's log up to here, or does not serve.
    barrier_floor: AtomicU64,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            until_ms: AtomicU64::new(0),
            alone: AtomicBool::new(false),
            growing: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            barrier_floor: AtomicU64::new(0),
        }
    }

    /// Whether the node may acknowledge.
    pub(crate) fn is_held(&self) -> bool {
        self.is_alone() || self.is_held_at(Instant::now())
    }

    fn is_held_at(&self, now: Instant) -> bool {
        self.elapsed_ms(now) < self.until_ms.load(Ordering::Acquire)
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    pub(crate) fn set_alone(&self, alone: bool) {
        // Whoever sees that it is not alone any more sees this, too.
        self.growing.store(!alone && self.is_alone(), Ordering::Release);
        self.alone.store(alone, Ordering::Release);
    }

    /// Whether this node's replicas know routes that the meta group may not know: nobody asked for them while it was alone.
    pub(crate) fn is_growing(&self) -> bool {
        self.growing.load(Ordering::Acquire)
    }

    /// The meta group knows all routes.
    pub(crate) fn has_grown(&self) {
        self.growing.store(false, Ordering::Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the node may serve clients.
    pub(crate) fn serves(&self) -> bool {
        self.is_ready() && self.is_held()
    }

    /// Says whether that is news.
    pub(crate) fn set_ready(&self, ready: bool) -> bool {
        self.ready.swap(ready, Ordering::SeqCst) != ready
    }

    /// Another node wants to know that this one routes by the meta group's log up to `index`. True: it does not serve, and
    /// will not before it does.
    pub(crate) fn promise(&self, index: u64) -> bool {
        self.barrier_floor.fetch_max(index, Ordering::SeqCst);
        !self.ready.load(Ordering::SeqCst)
    }

    pub(crate) fn barrier_floor(&self) -> u64 {
        self.barrier_floor.load(Ordering::SeqCst)
    }

    /// Asked for at `asked`, granted for that long.
    pub(crate) fn renew(&self, asked: Instant, length: Duration) {
        let until = self.elapsed_ms(asked) + length.as_millis() as u64;
        self.until_ms.fetch_max(until, Ordering::AcqRel);
    }

    /// The time that is left.
    pub(crate) fn left(&self) -> Duration {
        let now = self.elapsed_ms(Instant::now());
        Duration::from_millis(self.until_ms.load(Ordering::Acquire).saturating_sub(now))
    }

    fn elapsed_ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_millis() as u64
    }
}

/// What the leader of the meta group knows of the others' lives.
#[derive(Default)]
pub(crate) struct Heard {
    lives: Mutex<Lives>,
}

#[derive(Default)]
struct Lives {
    leading_since: Option<Instant>,
    heard: HashMap<u64, Instant>,
    draining: BTreeSet<u64>,
}

impl Heard {
    /// A member asked for its lease, or came.
    pub(crate) fn note(&self, node: u64, draining: bool) {
        let mut lives = self.lives.lock();
        lives.heard.insert(node, Instant::now());
        match draining {
            true => lives.draining.insert(node),
            false => lives.draining.remove(&node),
        };
    }

    /// Members that are being taken out of service, as far as they have said so.
    pub(crate) fn draining(&self) -> Vec<u64> {
        self.lives.lock().draining.iter().copied().collect()
    }

    /// Called often, so that the beginning of a leadership is noticed.
    pub(crate) fn leading(&self, leads: bool) {
        self.leading_at(leads, Instant::now());
    }

    fn leading_at(&self, leads: bool, now: Instant) {
        let mut lives = self.lives.lock();
        match (leads, lives.leading_since) {
            (true, None) => lives.leading_since = Some(now),
            (false, Some(_)) => *lives = Lives::default(),
            _ => {}
        }
    }

    /// How long a member has been silent, counted from the beginning of this leadership at the most.
    pub(crate) fn silent_for(&self, node: u64) -> Duration {
        self.silent_at(node, Instant::now())
    }

    fn silent_at(&self, node: u64, now: Instant) -> Duration {
        let lives = self.lives.lock();
        let Some(since) = lives.leading_since else {
            return Duration::ZERO;
        };
        let last = lives.heard.get(&node).copied().unwrap_or(since).max(since);
        now.saturating_duration_since(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for() {
        let lease = Lease::new();
        let asked = lease.started + SECOND;
        lease.renew(asked, 3 * SECOND);

        assert!(lease.is_held_at(asked + 2 * SECOND));
        assert!(!lease.is_held_at(asked + 3 * SECOND));
    }

    #[test]
    fn a_late_answer_to_an_early_question_does_not_shorten_a_lease() {
        let lease = Lease::new();
        lease.renew(lease.started + 2 * SECOND, 3 * SECOND);
        lease.renew(lease.started + SECOND, 3 * SECOND);

        assert!(lease.is_held_at(lease.started + 4 * SECOND));
    }

    #[test]
    fn a_new_leader_gives_everybody_the_whole_time() {
        let (heard, begun) = (Heard::default(), Instant::now());
        heard.leading_at(true, begun);
        heard.note(7, true);
        heard.leading_at(false, begun + 9 * SECOND);
        heard.leading_at(true, begun + 9 * SECOND);

        assert_eq!(heard.silent_at(7, begun + 10 * SECOND), SECOND);
        assert_eq!(heard.silent_at(8, begun + 10 * SECOND), SECOND);
    }
}
