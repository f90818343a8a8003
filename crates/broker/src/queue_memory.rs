//! What waits in memory only: messages of sessions that end with their connection. Together they keep to a part of
//! `queues.node_bytes_max`; the bodies of durable sessions, which are on disk too, take what they leave of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The sum over the sessions of a node.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    used: Arc<AtomicU64>,
    bytes_max: u64,
}

impl QueueMemory {
    /// Of `node_bytes_max` they may take three quarters. `used` is what they take, in bytes.
    pub(crate) fn new(node_bytes_max: u64, used: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            used,
            bytes_max: node_bytes_max / 4 * 3,
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

    /// Whether so many bytes more may wait.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used.load(Ordering::Relaxed) + bytes as u64 <= self.bytes_max
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
        let has_room = self.memory.has_room(bytes);
        if has_room {
            self.set(self.bytes as usize + bytes);
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
        assert!(!one.try_add(1) && !memory.has_room(1));
        one.set(50);
        assert!(other.try_add(150));
        drop(one);
        assert_eq!(used.load(Ordering::Relaxed), 250);
        drop(other);
        assert_eq!(used.load(Ordering::Relaxed), 0);
    }
}
