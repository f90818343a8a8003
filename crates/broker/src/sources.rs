//! What outboxes have brought to the connections of this node already: a batch that is sent again, by the same leader of
//! a shard or by the next one, reaches nobody twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::ShardId;
use foldhash::HashSet;
use parking_lot::Mutex;

/// A number given to a message in an outbox, by which everybody takes it once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) shard: ShardId,
    pub(crate) number: u64,
}

/// Numbers that were seen, by shard. An outbox is sent in order, and from what is not done, so the highest one is enough.
#[derive(Debug)]
pub(crate) struct Sources {
    /// One above the highest.
    next: Vec<AtomicU64>,
    /// Messages not yet done whose share on this node's account is: a member without a shard has them.
    shared: Mutex<HashSet<(ShardId, u64, Arc<str>)>>,
}

impl Sources {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            next: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            shared: Mutex::default(),
        }
    }

    /// Whether it is the first time that a message is brought to the subscribers of this node.
    pub(crate) fn is_new(&self, source: Source) -> bool {
        let Some(next) = self.next.get(usize::from(source.shard)) else {
            return true;
        };
        next.fetch_max(source.number + 1, Ordering::AcqRel) <= source.number
    }

    /// A member of a group has the message.
    pub(crate) fn share_taken(&self, source: Source, group: &Arc<str>) {
        let key = (source.shard, source.number, Arc::clone(group));
        self.shared.lock().insert(key);
    }

    pub(crate) fn is_share_taken(&self, source: Source, group: &Arc<str>) -> bool {
        let key = (source.shard, source.number, Arc::clone(group));
        self.shared.lock().contains(&key)
    }

    /// The outbox will not send messages up to this number again.
    pub(crate) fn done(&self, shard: ShardId, up_to: u64) {
        let mut shared = self.shared.lock();
        if !shared.is_empty() {
            shared.retain(|(known, number, _)| *known != shard || *number > up_to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_comes_again_brings_only_what_is_behind_it() {
        let sources = Sources::new(2);
        let new = |shard, number| sources.is_new(Source { shard, number });
        assert!((0..3).all(|number| new(0, number)));
        assert!((0..3).all(|number| !new(0, number)));
        assert!(new(0, 5), "numbers that go elsewhere are left out");
        assert!(new(1, 0), "each shard counts for itself");
    }

    #[test]
    fn shares_are_remembered_until_the_outbox_has_done_with_them() {
        let sources = Sources::new(1);
        let group: Arc<str> = "$share/g/t".into();
        let source = Source { shard: 0, number: 7 };
        sources.share_taken(source, &group);
        assert!(sources.is_share_taken(source, &group));
        sources.done(0, 6);
        assert!(sources.is_share_taken(source, &group));
        sources.done(0, 7);
        assert!(!sources.is_share_taken(source, &group));
    }
}
