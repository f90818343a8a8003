//! A simulated store of ordered trees: a crash keeps some of the batches since the last checkpoint, from the oldest
//! on.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::kv::Write;

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

/// A change of one tree.
#[derive(Clone)]
pub(crate) enum Batch {
    Write(u64, Vec<Write>),
    Remove(u64),
}

#[derive(Default)]
pub(super) struct Trees {
    seen: BTreeMap<u64, Tree>,
    synced: BTreeMap<u64, Tree>,
    unsynced: Vec<Batch>,
}

impl Trees {
    pub(super) fn tree(&self, tree: u64) -> Option<&Tree> {
        self.seen.get(&tree)
    }

    pub(super) fn bytes(&self) -> u64 {
        let pairs = self.seen.values().flatten();
        pairs.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    pub(super) fn apply(&mut self, batch: Batch) {
        apply(&mut self.seen, batch.clone());
        self.unsynced.push(batch);
    }

    pub(super) fn sync(&mut self) {
        for batch in self.unsynced.drain(..) {
            apply(&mut self.synced, batch);
        }
    }

    /// After a failed sync nothing that was written since the last one is ever on the disk.
    pub(super) fn lose_unsynced(&mut self) {
        self.unsynced.clear();
    }

    pub(super) fn crash(&mut self, random: &mut SmallRng) {
        let kept = random.random_range(0..=self.unsynced.len());
        for batch in self.unsynced.drain(..).take(kept) {
            apply(&mut self.synced, batch);
        }
        self.seen = self.synced.clone();
    }
}

fn apply(trees: &mut BTreeMap<u64, Tree>, batch: Batch) {
    match batch {
        Batch::Remove(tree) => drop(trees.remove(&tree)),
        Batch::Write(tree, writes) => {
            let tree = trees.entry(tree).or_default();
            for (key, value) in writes {
                match value {
                    Some(value) => tree.insert(key, value),
                    None => tree.remove(&key),
                };
            }
        }
    }
}
