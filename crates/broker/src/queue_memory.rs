//! What waits in memory only: messages of sessions that end with their connection. Together they keep to a part of
//! `queues.node_bytes_max`, and to what the memory budget leaves; the bodies of durable sessions, which are on disk too, take
//! what they leave of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much each of them may have waiting though the memory of the node is used up by others.
const OWN_BYTES: u64 = 64 * 1024;
/// Who does not take what it has, and has more, gets nothing more when memory begins to run short: before anybody else notices.
const HEAVY_BYTES: u64 = 1024 * 1024;

/// The sum over the sessions of a node.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    used: Arc<AtomicU64>,
    bytes_max: u64,
    /// What there is memory for, as of the last look; the second is for those who have much waiting.
    bytes_now_max: [AtomicU64; 2],
}

impl QueueMemory {
    /// Of `node_bytes_max` they may take three quarters. `used` is what they take, in bytes.
    pub(crate) fn new(node_bytes_max: u64, used: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            used,
            bytes_max: node_bytes_max / 4 * 3,
            bytes_now_max: [u64::MAX; 2].map(AtomicU64::new),
        })
    }

    /// For tests that do not look at it.
    #[cfg(test)]
    pub(crate) fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, Arc::default())
    }

    /// What they take, in bytes.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Until the next look at the memory of the process, so many bytes more may wait: for all, and for those who have
    /// much waiting.
    pub(crate) fn may_grow_by(&self, bytes: [u64; 2]) {
        let used = self.used();
        for (max, bytes) in self.bytes_now_max.iter().zip(bytes) {
            max.store(used.saturating_add(bytes), Ordering::Relaxed);
        }
    }

    /// Whether nothing more is to wait that can do without.
    pub(crate) fn is_short(&self) -> bool {
        self.used() >= self.bytes_now_max[0].load(Ordering::Relaxed)
    }

    /// Whether so many bytes more may wait, so that one has `own` bytes waiting.
    fn has_room(&self, bytes: u64, own: u64, is_heavy: bool) -> bool {
        let used = self.used() + bytes;
        let now_max = &self.bytes_now_max[usize::from(is_heavy)];
        used <= self.bytes_max && (used <= now_max.load(Ordering::Relaxed) || own <= OWN_BYTES)
    }
}

/// What one holder takes of it; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct HeldMemory {
    memory: Arc<QueueMemory>,
    bytes: u64,
}

impl HeldMemory {
    pub(crate) fn new(memory: &Arc<QueueMemory>) -> Self {
        Self {
            memory: Arc::clone(memory),
            bytes: 0,
        }
    }

    /// Takes some more, if there is room.
    pub(crate) fn try_add(&mut self, bytes: usize) -> bool {
        self.try_add_as(bytes, self.bytes + bytes as u64 > HEAVY_BYTES)
    }

    /// The same for somebody who is about to take what waits.
    pub(crate) fn try_add_for_a_moment(&mut self, bytes: usize) -> bool {
        self.try_add_as(bytes, false)
    }

    fn try_add_as(&mut self, bytes: usize, is_heavy: bool) -> bool {
        let own = self.bytes + bytes as u64;
        let has_room = self.memory.has_room(bytes as u64, own, is_heavy);
        if has_room {
            self.set(own as usize);
        }
        has_room
    }

    /// Takes so much from here on.
    pub(crate) fn set(&mut self, bytes: usize) {
        let (before, bytes) = (self.bytes, bytes as u64);
        self.bytes = bytes;
        match bytes.checked_sub(before) {
            Some(0) => {}
            Some(more) => drop(self.memory.used.fetch_add(more, Ordering::Relaxed)),
            None => drop(self.memory.used.fetch_sub(before - bytes, Ordering::Relaxed)),
        }
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_share_three_quarters_and_give_back_what_they_held() {
        let used = Arc::default();
        let memory = QueueMemory::new(400, Arc::clone(&used));
        let (mut one, mut other) = (HeldMemory::new(&memory), HeldMemory::new(&memory));
        assert!(one.try_add(200) && other.try_add(100));
        assert!(!one.try_add(1) && !memory.has_room(1, 1, false));
        one.set(50);
        assert!(other.try_add(150));
        drop(one);
        assert_eq!(used.load(Ordering::Relaxed), 250);
        drop(other);
        assert_eq!(used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn while_memory_is_short_each_may_have_a_little_waiting_and_who_has_much_takes_no_more() {
        let memory = QueueMemory::new(u64::MAX, Arc::default());
        let (mut heavy, mut light) = (HeldMemory::new(&memory), HeldMemory::new(&memory));
        let (little, much) = (OWN_BYTES as usize, HEAVY_BYTES as usize);
        assert!(heavy.try_add(much) && !memory.is_short());
        memory.may_grow_by([u64::MAX, 0]);
        assert!(!heavy.try_add(1) && light.try_add(much));
        assert!(heavy.try_add_for_a_moment(1));
        memory.may_grow_by([0, 0]);
        assert!(memory.is_short() && !light.try_add(1));
        let mut other = HeldMemory::new(&memory);
        assert!(other.try_add(little) && !other.try_add(1));
        memory.may_grow_by([1, 0]);
        assert!(!memory.is_short() && other.try_add(1) && !other.try_add(1));
    }
}
