//! Bodies of messages in memory, for all shards of a node, within one budget. The oldest go first: they are in the
//! log or in the state store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cluster_proto::Publication;
use cluster_state::MessageId;
use foldhash::{HashMap, HashMapExt};
use parking_lot::Mutex;

use crate::ShardId;

type Key = (ShardId, MessageId);

/// The bodies that are in memory.
pub(crate) struct Bodies {
    bytes_max: u64,
    /// Bytes of the budget that are used for something else.
    elsewhere: Arc<AtomicU64>,
    /// What there is memory for just now.
    bytes_now_max: AtomicU64,
    kept: Mutex<Kept>,
}

struct Kept {
    bodies: HashMap<Key, Arc<Publication>>,
    /// In the order they came; those that were released stay until the list is swept.
    order: VecDeque<Key>,
    bytes: u64,
}

impl Bodies {
    pub(crate) fn new(bytes_max: u64, elsewhere: Arc<AtomicU64>) -> Self {
        let kept = Kept {
            bodies: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        };
        Self {
            bytes_max,
            elsewhere,
            bytes_now_max: AtomicU64::new(u64::MAX),
            kept: Mutex::new(kept),
        }
    }

    /// What they take, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.lock().bytes
    }

    /// From here on they take so much at the most, whatever the budget is; the oldest ones beyond it go at once.
    pub(crate) fn keep_to(&self, bytes: u64) {
        self.bytes_now_max.store(bytes, Ordering::Relaxed);
        self.evict(&mut self.kept.lock());
    }

    /// Adds the bodies of one entry, then evicts the oldest ones above the budget.
    pub(crate) fn insert(
        &self,
        shard: ShardId,
        bodies: impl IntoIterator<Item = (MessageId, Arc<Publication>)>,
    ) {
        let mut kept = self.kept.lock();
        for (id, body) in bodies {
            kept.bytes += size(&body);
            if let Some(before) = kept.bodies.insert((shard, id), body) {
                kept.bytes -= size(&before);
            } else {
                kept.order.push_back((shard, id));
            }
        }
        self.evict(&mut kept);
    }

    fn evict(&self, kept: &mut Kept) {
        let left = self
            .bytes_max
            .saturating_sub(self.elsewhere.load(Ordering::Relaxed));
        let bytes_max = left.max(self.bytes_max / 4);
        let bytes_max = bytes_max.min(self.bytes_now_max.load(Ordering::Relaxed));
        while kept.bytes > bytes_max
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.remove(&oldest);
        }
    }

    /// Forgets bodies that nothing refers to any more.
    pub(crate) fn release(&self, shard: ShardId, ids: impl IntoIterator<Item = MessageId>) {
        let mut kept = self.kept.lock();
        for id in ids {
            kept.remove(&(shard, id));
        }
        if kept.order.len() > 1024 + 2 * kept.bodies.len() {
            let Kept { bodies, order, .. } = &mut *kept;
            order.retain(|key| bodies.contains_key(key));
        }
    }

    /// The bodies that are in memory, in the order asked for.
    pub(crate) fn get(
        &self,
        shard: ShardId,
        ids: impl Iterator<Item = MessageId>,
    ) -> Vec<Option<Arc<Publication>>> {
        let kept = self.kept.lock();
        ids.map(|id| kept.bodies.get(&(shard, id)).cloned()).collect()
    }

    /// Forgets a shard's bodies: its state was replaced.
    pub(crate) fn clear(&self, shard: ShardId) {
        let mut kept = self.kept.lock();
        let gone: Vec<Key> = kept
            .bodies
            .keys()
            .filter(|(of, _)| *of == shard)
            .copied()
            .collect();
        for key in gone {
            kept.remove(&key);
        }
    }
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some(body) = self.bodies.remove(key) {
            self.bytes -= size(&body);
        }
    }
}

/// What a body costs, with an estimate for the structures around it.
pub(crate) fn size(body: &Publication) -> u64 {
    (body.topic.len() + body.properties.len() + body.payload.len() + body.publisher.len() + 200) as u64
}

/// Copies what is kept for long out of a buffer that it would keep alive, unless it is most of it.
pub(crate) fn compact(body: &mut Publication, buffer_bytes: usize) {
    if body.payload.len() * 2 < buffer_bytes {
        body.payload = Bytes::copy_from_slice(&body.payload);
        body.properties = Bytes::copy_from_slice(&body.properties);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> MessageId {
        MessageId { index, command: 0 }
    }

    fn body(bytes: usize) -> Arc<Publication> {
        Arc::new(Publication {
            payload: vec![7; bytes].into(),
            ..Publication::default()
        })
    }

    fn present(bodies: &Bodies, indexes: std::ops::Range<u64>) -> Vec<u64> {
        let found = bodies.get(0, indexes.clone().map(id));
        indexes
            .zip(found)
            .filter(|(_, body)| body.is_some())
            .map(|(index, _)| index)
            .collect()
    }

    #[test]
    fn above_the_budget_the_oldest_bodies_go() {
        let elsewhere = Arc::default();
        let bodies = Bodies::new(4 * 1200, Arc::clone(&elsewhere));
        for index in 0..10 {
            bodies.insert(0, [(id(index), body(1000))]);
        }

        assert_eq!(present(&bodies, 0..10), [6, 7, 8, 9]);

        elsewhere.store(2 * 1200, Ordering::Relaxed);
        bodies.insert(0, [(id(10), body(1000))]);
        assert_eq!(present(&bodies, 0..11), [9, 10], "others take half of it");

        elsewhere.store(9 * 1200, Ordering::Relaxed);
        bodies.insert(0, [(id(11), body(1000))]);
        assert_eq!(present(&bodies, 0..12), [11], "a quarter is left in any case");
    }

    #[test]
    fn bodies_give_way_at_once_when_they_are_to_take_less() {
        let bodies = Bodies::new(40 * 1200, Arc::default());
        for index in 0..10 {
            bodies.insert(0, [(id(index), body(1000))]);
        }
        assert_eq!(bodies.bytes(), 10 * 1200);
        bodies.keep_to(3 * 1200);
        assert_eq!(present(&bodies, 0..10), [7, 8, 9]);
        bodies.insert(0, [(id(10), body(1000))]);
        assert_eq!(present(&bodies, 0..11), [8, 9, 10]);
        bodies.keep_to(u64::MAX);
        bodies.insert(0, [(id(11), body(1000))]);
        assert_eq!(present(&bodies, 0..12), [8, 9, 10, 11]);
    }

    #[test]
    fn released_bodies_make_room_and_leave_no_trace() {
        let bodies = Bodies::new(4 * 1200, Arc::default());
        for index in 0..100_000 {
            bodies.insert(0, [(id(index), body(1000))]);
            bodies.release(0, [id(index)]);
        }

        let kept = bodies.kept.lock();
        assert_eq!((kept.bytes, kept.bodies.len()), (0, 0));
        assert!(kept.order.len() <= 1025);
    }
}
