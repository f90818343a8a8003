//! Checkpoints of state machines in a `Kv`: records of any size, cut so that no value is large.

mod journal;

use std::ops::ControlFlow;

use crate::kv::Write;
use crate::{GroupId, Kv, SharedKv, StorageError};

/// A record's new value, or none when it is removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Takes a record's key and value; an error ends the scan.
pub type VisitRecord<'a> = &'a mut dyn FnMut(&[u8], Vec<u8>) -> Result<(), StorageError>;

/// sled keeps values above 128 KiB in files which it never syncs; pages and headers take their part of that.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Continuations of long records live beside the records, so that a scan of a prefix does not see them.
const CONTINUATION: u8 = 0xFF;
const WHOLE: u8 = 0;
const CUT: u8 = 1;

/// Set in the name of the tree beside a group's own one.
const BODIES: u64 = 1 << 63;

/// The tree with the bodies of a group's messages.
pub(crate) fn bodies_tree(group: GroupId) -> u64 {
    group | BODIES
}

/// A batch of the store has so many writes at the most: it keeps all that they replace until it is written.
const WRITES_AT_ONCE: usize = 1024;

/// The records of one group, as of its last checkpoint. Nothing is read before it is asked for.
pub struct StateStore {
    kv: SharedKv,
    tree: u64,
}

impl StateStore {
    /// The state of one group. A checkpoint that a crash has interrupted is finished, or was never begun.
    pub fn open(kv: SharedKv, group: GroupId) -> Result<Self, StorageError> {
        Self::of_tree(kv, group)
    }

    /// The bodies of one group's messages, in a tree of their own: who reads all of the state reads none of them.
    pub fn open_bodies(kv: SharedKv, group: GroupId) -> Result<Self, StorageError> {
        Self::of_tree(kv, bodies_tree(group))
    }

    fn of_tree(kv: SharedKv, tree: u64) -> Result<Self, StorageError> {
        let store = Self { kv, tree };
        for part in journal::read(store.kv.as_ref(), tree)?.chunks(WRITES_AT_ONCE) {
            store.kv.apply_batch(tree, part.to_vec())?;
        }
        journal::remove(store.kv.as_ref(), tree)?;
        Ok(store)
    }

    /// A record's value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        read_record(self.kv.as_ref(), self.tree, key)
    }

    /// Reads records while checkpoints go on.
    pub fn reader(&self) -> impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StorageError> + Send + Sync + 'static {
        let (kv, tree) = (self.kv.clone(), self.tree);
        move |key| read_record(kv.as_ref(), tree, key)
    }

    /// Visits the records whose key has the prefix, in order.
    pub fn scan(&self, prefix: &[u8], visit: VisitRecord<'_>) -> Result<(), StorageError> {
        let mut failed = None;
        self.kv.range(self.tree, prefix, &mut |key, value| {
            if key.first() == Some(&CONTINUATION) {
                return ControlFlow::Break(());
            }
            let visited = join(self.kv.as_ref(), self.tree, key, value).and_then(|value| visit(key, value));
            match visited {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Writes a checkpoint, each key once: all changes or none of them.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), StorageError> {
        let mut writes = Vec::new();
        for (key, value) in changes {
            let continuations = value.as_ref().map_or(0, |value| continuations(value.len()));
            for number in continuations..self.continuations_now(&key)? {
                writes.push((continuation_key(&key, number), None));
            }
            match value {
                None => writes.push((key, None)),
                Some(value) => cut(key, &value, &mut writes),
            }
        }
        self.write(writes)
    }

    /// All of it or none. What is too much for one batch is written down first, and done again if a crash comes between.
    fn write(&self, writes: Vec<Write>) -> Result<(), StorageError> {
        let kv = self.kv.as_ref();
        if writes.len() <= WRITES_AT_ONCE {
            return kv.apply_batch(self.tree, writes);
        }
        journal::write(kv, self.tree, &writes)?;
        let mut writes = writes.into_iter();
        while writes.len() > 0 {
            let part = writes.by_ref().take(WRITES_AT_ONCE).collect();
            kv.apply_batch(self.tree, part)?;
        }
        journal::remove(kv, self.tree)
    }

    /// How many continuations a record has on the disk.
    fn continuations_now(&self, key: &[u8]) -> Result<u32, StorageError> {
        let head = self.kv.get(self.tree, key)?;
        Ok(match head.as_deref().and_then(<[u8]>::split_first) {
            Some((&CUT, rest)) => rest.first_chunk().map_or(0, |count| u32::from_be_bytes(*count)),
            _ => 0,
        })
    }

    /// Removes every record, then writes these: for a snapshot from a peer.
    pub fn replace(
        &mut self,
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StorageError> {
        let mut writes = std::collections::BTreeMap::new();
        self.kv.range(self.tree, &[], &mut |key, _| {
            writes.insert(key.to_vec(), None);
            ControlFlow::Continue(())
        })?;
        for (key, value) in records {
            let mut pieces = Vec::new();
            cut(key, &value, &mut pieces);
            writes.extend(pieces);
        }
        self.write(writes.into_iter().collect())
    }
}

fn read_record(kv: &dyn Kv, tree: u64, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    match kv.get(tree, key)? {
        Some(value) => join(kv, tree, key, &value).map(Some),
        None => Ok(None),
    }
}

fn continuations(length: usize) -> u32 {
    (length.saturating_sub(1) / VALUE_BYTES_MAX) as u32
}

fn continuation_key(key: &[u8], number: u32) -> Vec<u8> {
    let mut continuation = Vec::with_capacity(key.len() + 5);
    continuation.push(CONTINUATION);
    continuation.extend_from_slice(key);
    continuation.extend_from_slice(&number.to_be_bytes());
    continuation
}

/// The first piece stays under the record's key, after a mark and, if there are more, their number.
fn cut(key: Vec<u8>, value: &[u8], writes: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
    let mut pieces = value.chunks(VALUE_BYTES_MAX);
    let first = pieces.next().unwrap_or_default();
    let mut head = Vec::with_capacity(first.len() + 5);
    match continuations(value.len()) {
        0 => head.push(WHOLE),
        count => {
            head.push(CUT);
            head.extend_from_slice(&count.to_be_bytes());
        }
    }
    head.extend_from_slice(first);
    for (number, piece) in pieces.enumerate() {
        writes.push((continuation_key(&key, number as u32), Some(piece.to_vec())));
    }
    writes.push((key, Some(head)));
}

fn join(kv: &dyn Kv, tree: u64, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StorageError> {
    let damaged = |detail: &str| StorageError::Damaged {
        what: "a record",
        detail: detail.to_owned(),
    };
    match value.split_first() {
        Some((&WHOLE, whole)) => Ok(whole.to_vec()),
        Some((&CUT, rest)) => {
            let (count, first) = rest
                .split_first_chunk::<4>()
                .ok_or_else(|| damaged("it is too short"))?;
            let mut joined = first.to_vec();
            for number in 0..u32::from_be_bytes(*count) {
                let piece = kv.get(tree, &continuation_key(key, number))?;
                joined.extend_from_slice(&piece.ok_or_else(|| damaged("a continuation is missing"))?);
            }
            Ok(joined)
        }
        _ => Err(damaged("it has no mark")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::SledKv;

    fn open(dir: &tempfile::TempDir) -> StateStore {
        StateStore::open(Arc::new(SledKv::open(dir.path(), 16 << 20).unwrap()), 7).unwrap()
    }

    fn records(store: &StateStore) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = Vec::new();
        store
            .scan(&[], &mut |key, value| {
                records.push((key.to_vec(), value));
                Ok(())
            })
            .unwrap();
        records
    }

    #[test]
    fn a_checkpoint_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        store
            .apply([
                (b"a".to_vec(), Some(b"1".to_vec())),
                (b"s/x".to_vec(), Some(vec![])),
            ])
            .unwrap();
        store.kv.checkpoint().unwrap();
        drop(store);

        let store = open(&dir);

        assert_eq!(
            records(&store),
            [(b"a".to_vec(), b"1".to_vec()), (b"s/x".to_vec(), vec![])]
        );
    }

    #[test]
    fn a_long_record_is_cut_and_joined_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        for length in [
            VALUE_BYTES_MAX,
            VALUE_BYTES_MAX + 1,
            5 * VALUE_BYTES_MAX,
            3 * VALUE_BYTES_MAX - 1,
        ] {
            let value: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
            store.apply([(b"r/long".to_vec(), Some(value.clone()))]).unwrap();

            assert_eq!(store.get(b"r/long").unwrap(), Some(value.clone()));
            assert_eq!(records(&store), [(b"r/long".to_vec(), value)]);
        }
        let mut longest = 0;
        let mut values = 0;
        let visit = &mut |_: &[u8], value: &[u8]| {
            longest = longest.max(value.len());
            values += 1;
            ControlFlow::Continue(())
        };
        store.kv.range(7, &[], visit).unwrap();
        assert!(longest <= VALUE_BYTES_MAX + 5);
        assert_eq!(values, 3, "continuations of the longer value are gone");
    }

    #[test]
    fn removing_a_long_record_after_reopening_removes_its_continuations() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        store.apply([(b"m1".to_vec(), Some(vec![1; 300_000]))]).unwrap();
        store.kv.checkpoint().unwrap();
        drop(store);

        let mut store = open(&dir);
        store.apply([(b"m1".to_vec(), None)]).unwrap();

        let mut left = 0;
        let count = &mut |_: &[u8], _: &[u8]| {
            left += 1;
            ControlFlow::Continue(())
        };
        store.kv.range(7, &[], count).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn replacing_leaves_nothing_of_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        store
            .apply([
                (b"old".to_vec(), Some(vec![1; 200_000])),
                (b"both".to_vec(), Some(vec![2])),
            ])
            .unwrap();

        store.replace([(b"both".to_vec(), vec![3; 100_000])]).unwrap();

        assert_eq!(records(&store), [(b"both".to_vec(), vec![3; 100_000])]);
    }
}
