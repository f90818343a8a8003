//! The state store after crashes and damage: what was checkpointed is there, or the node does not start.

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::Path;

use storage::{Files, Kv, SharedKv, SimulatedDisk, SledKv, StateStore, StorageError};

fn put(kv: &dyn Kv, key: &str, value: &str) {
    let write = (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()));
    kv.apply_batch(3, vec![write]).unwrap();
}

fn keys(kv: &dyn Kv) -> Vec<String> {
    let mut keys = Vec::new();
    kv.range(3, b"", &mut |key, _| {
        keys.push(String::from_utf8_lossy(key).into_owned());
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

fn open(disk: &SimulatedDisk) -> SharedKv {
    Files::Simulated(disk.clone())
        .open_kv(Path::new("state"), 0)
        .unwrap()
}

#[test]
fn a_crash_keeps_the_checkpoint_and_some_batches_in_order_after_it() {
    let mut kept = [0; 4];
    for seed in 0..100 {
        let disk = SimulatedDisk::new(seed);
        let kv = open(&disk);
        put(kv.as_ref(), "a", "checkpointed");
        kv.checkpoint().unwrap();
        for key in ["b", "c", "d"] {
            put(kv.as_ref(), key, "not checkpointed");
        }

        disk.crash();
        let found = keys(open(&disk).as_ref());

        assert!(
            kv.get(3, b"a").is_err(),
            "what was opened before the crash is dead"
        );
        assert!(["a", "b", "c", "d"].starts_with(&found.iter().map(String::as_str).collect::<Vec<_>>()));
        kept[found.len() - 1] += 1;
    }
    assert!(kept.iter().all(|times| *times > 0), "{kept:?}");
}

#[test]
fn a_checkpoint_that_failed_does_not_become_durable_later() {
    let disk = SimulatedDisk::new(3);
    let kv = open(&disk);
    put(kv.as_ref(), "a", "lost");
    disk.fail_next_sync();
    assert!(kv.checkpoint().is_err());
    kv.checkpoint().unwrap();

    disk.crash();

    assert!(keys(open(&disk).as_ref()).is_empty());
}

#[test]
fn both_stores_hold_the_same_and_remove_a_whole_tree() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [
        Files::Real.open_kv(dir.path(), 1 << 20).unwrap(),
        open(&SimulatedDisk::new(1)),
    ];
    for kv in stores {
        let mut store = StateStore::open(kv.clone(), 3).unwrap();
        let long = vec![7; 200_000];
        store
            .apply([
                (b"a".to_vec(), Some(long.clone())),
                (b"b".to_vec(), Some(vec![1])),
                (b"b".to_vec(), None),
            ])
            .unwrap();
        assert_eq!(store.get(b"a").unwrap(), Some(long));
        assert_eq!(store.get(b"b").unwrap(), None);

        kv.remove_tree(3).unwrap();
        kv.checkpoint().unwrap();

        assert!(keys(kv.as_ref()).is_empty());
        put(kv.as_ref(), "c", "the tree can be filled again");
        assert_eq!(keys(kv.as_ref()), ["c"]);
    }
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
fn a_checkpoint_of_many_batches_is_there_whole_or_not_at_all_after_a_crash() {
    let records_of =
        |version: u8| (0..3000u32).map(move |key| (key.to_be_bytes().to_vec(), vec![version; 50]));
    let changes = |version| records_of(version).map(|(key, value)| (key, Some(value)));
    let mut survived = [0; 2];
    for seed in 0..60 {
        let disk = SimulatedDisk::new(seed);
        let kv = open(&disk);
        let mut store = StateStore::open(kv.clone(), 3).unwrap();
        store.apply(changes(1)).unwrap();
        kv.checkpoint().unwrap();
        store.apply(changes(2)).unwrap();

        disk.crash();
        let kv = open(&disk);
        let found = records(&StateStore::open(kv.clone(), 3).unwrap());

        let whole = [1, 2].map(|version| found == records_of(version).collect::<Vec<_>>());
        assert!(whole[0] || whole[1], "seed {seed}: {} records", found.len());
        survived[usize::from(whole[1])] += 1;
        let mut all = 0;
        kv.range(3, b"", &mut |_, _| {
            all += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(all, 3000, "nothing else is left");
    }
    assert!(survived.iter().all(|times| *times > 0), "{survived:?}");
}

#[test]
fn bodies_are_not_seen_by_who_reads_the_state() {
    let kv = open(&SimulatedDisk::new(1));
    let mut state = StateStore::open(kv.clone(), 3).unwrap();
    let mut bodies = StateStore::open_bodies(kv.clone(), 3).unwrap();
    state.apply([(b"i1".to_vec(), Some(vec![1]))]).unwrap();
    bodies.apply([(b"m1".to_vec(), Some(vec![2; 200_000]))]).unwrap();

    assert_eq!(records(&state), [(b"i1".to_vec(), vec![1])]);
    assert_eq!(keys(kv.as_ref()), ["i1"]);
    assert_eq!(bodies.get(b"m1").unwrap(), Some(vec![2; 200_000]));
}

/// A sled directory with checkpoints, closed.
fn written_store(dir: &Path) {
    let kv = SledKv::open(dir, 1 << 20).unwrap();
    for round in 0..20 {
        for key in 0..50 {
            put(&kv, &format!("key {key}"), &format!("{round}").repeat(200));
        }
        kv.checkpoint().unwrap();
    }
}

#[test]
fn a_store_that_is_whole_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    written_store(dir.path());

    let kv = SledKv::open(dir.path(), 1 << 20).unwrap();

    assert_eq!(keys(&kv).len(), 50);
}

#[test]
fn a_store_that_is_about_to_be_closed_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let kv = SledKv::open(dir.path(), 1 << 20).unwrap();
    put(&kv, "key", "value");
    let closing = std::thread::spawn(move || {
        // Long enough for the other one to find it open.
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(kv);
    });

    let again = SledKv::open(dir.path(), 1 << 20).unwrap();

    assert_eq!(keys(&again), ["key"]);
    closing.join().unwrap();
}

#[test]
fn a_store_without_its_end_is_refused_with_words_that_help() {
    let dir = tempfile::tempdir().unwrap();
    written_store(dir.path());
    let path = dir.path().join("db");
    let whole = std::fs::read(&path).unwrap();
    for part in 0..8 {
        std::fs::write(&path, &whole).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(whole.len() as u64 * part / 8).unwrap();
        drop(file);

        let refused = SledKv::open(dir.path(), 1 << 20).err();

        let refused = refused.unwrap_or_else(|| panic!("{part} eighths of a store were accepted"));
        assert!(matches!(refused, StorageError::DataDamaged { .. }), "{refused}");
        assert!(
            refused.to_string().contains("remove its whole data directory"),
            "{refused}"
        );
    }
}
