//! Checkpoints of state machines in a `Kv`: records of any size, cut so that no value is large.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::{Kv, SharedKv, StorageError};

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

/// The records of one group, as of its last checkpoint.
pub struct StateStore {
    kv: SharedKv,
    tree: u64,
    /// The records that are cut, with the number of their continuations: to remove those that are not needed.
    cut: HashMap<Vec<u8>, u32>,
}

impl StateStore {
    /// The store of one group.
    pub fn open(kv: SharedKv, tree: u64) -> Result<Self, StorageError> {
        let mut cut = HashMap::new();
        kv.range(tree, &[CONTINUATION], &mut |key, _| {
            if let Some((record, _)) = split_continuation(key) {
                *cut.entry(record.to_vec()).or_insert(0) += 1;
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self { kv, tree, cut })
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

    /// Writes a checkpoint: all changes or none of them.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), StorageError> {
        let mut writes = Vec::new();
        for (key, value) in changes {
            let continuations = value.as_ref().map_or(0, |value| continuations(value.len()));
            let before = match continuations {
                0 => self.cut.remove(&key).unwrap_or(0),
                count => self.cut.insert(key.clone(), count).unwrap_or(0),
            };
            for number in continuations..before {
                writes.push((continuation_key(&key, number), None));
            }
            match value {
                None => writes.push((key, None)),
                Some(value) => cut(key, &value, &mut writes),
            }
        }
        self.kv.apply_batch(self.tree, writes)
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
        self.cut.clear();
        for (key, value) in records {
            let count = continuations(value.len());
            if count > 0 {
                self.cut.insert(key.clone(), count);
            }
            let mut pieces = Vec::new();
            cut(key, &value, &mut pieces);
            writes.extend(pieces);
        }
        self.kv.apply_batch(self.tree, writes.into_iter().collect())
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

fn split_continuation(key: &[u8]) -> Option<(&[u8], u32)> {
    let (record, number) = key.get(1..)?.split_last_chunk::<4>()?;
    Some((record, u32::from_be_bytes(*number)))
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
