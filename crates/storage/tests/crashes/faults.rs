//! Disks that fail, fill up or change what they hold: the node stops, and starts only with a log that is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use crate::node::{GROUPS, Node, Step, entry};
use parking_lot::Mutex;
use storage::{
    Files, Kv, LogOptions, OnFatal, RaftLog, SimulatedDisk, StorageError, Writing, finish_removals,
};

/// A node that has written something.
fn busy_node() -> Node {
    let mut node = Node::new(1);
    node.open().unwrap();
    for group in GROUPS {
        node.step(group, Step::Append(2));
    }
    node.write();
    node
}

fn assert_node_stops(mut node: Node) {
    let (flushed_before, _) = node.progress();
    node.step(1, Step::Append(1));
    node.step(2, Step::Vote);
    node.write();
    node.step(1, Step::Append(1));
    node.write();
    node.collect_garbage();

    assert_eq!(node.fatal.lock().len(), 1, "the node is told once to stop");
    assert_eq!(
        node.progress().0,
        flushed_before,
        "nothing more is reported as flushed"
    );
    let group = node.log().group(9);
    assert!(matches!(group, Err(StorageError::LogEnded(_))));
    node.disk.set_full(false);
    node.crash();
    node.open().unwrap();
}

#[test]
fn a_failed_sync_stops_the_node() {
    let node = busy_node();
    node.disk.fail_next_sync();

    assert_node_stops(node);
}

#[test]
fn a_full_disk_stops_the_node() {
    let node = busy_node();
    node.disk.set_full(true);

    assert_node_stops(node);
}

#[test]
fn a_failed_sync_while_garbage_is_collected_stops_the_node() {
    let mut node = busy_node();
    for _ in 0..40 {
        node.step(1, Step::Append(4));
        node.step(1, Step::Purge(4));
        node.step(2, Step::Append(1));
        node.write();
    }
    node.disk.fail_next_sync();
    node.collect_garbage();
    assert_eq!(node.fatal.lock().len(), 1);

    assert_node_stops(node);
}

#[test]
fn the_writers_thread_stops_the_node_too() {
    let disk = SimulatedDisk::new(1);
    let stopped = Arc::new(AtomicBool::new(false));
    let hook = stopped.clone();
    let options = LogOptions {
        on_fatal: OnFatal::call(move |_| hook.store(true, Ordering::Release)),
        ..LogOptions::default()
    };
    let log = RaftLog::open_on(&Files::Simulated(disk.clone()), Path::new("log"), options).unwrap();
    let group = log.group(1).unwrap();
    let (sender, receiver) = sync_channel(2);
    disk.fail_next_sync();

    let report = sender.clone();
    group.append(
        vec![entry(1, 1, 0)],
        Box::new(move |result| report.send(result).unwrap()),
    );
    assert!(receiver.recv().unwrap().is_err());
    group.append(
        vec![entry(1, 1, 1)],
        Box::new(move |result| sender.send(result).unwrap()),
    );
    assert!(receiver.recv().unwrap().is_err());

    assert!(stopped.load(Ordering::Acquire));
}

#[test]
fn a_callback_may_use_the_log_and_reports_keep_their_order() {
    let disk = SimulatedDisk::new(1);
    let options = LogOptions {
        writing: Writing::at_once(),
        ..LogOptions::default()
    };
    let log = RaftLog::open_on(&Files::Simulated(disk), Path::new("log"), options).unwrap();
    let group = log.group(1).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let (again, first, second) = (group.clone(), reports.clone(), reports.clone());

    group.append(
        vec![entry(1, 1, 0)],
        Box::new(move |_| {
            again.append(vec![entry(1, 1, 1)], Box::new(move |_| second.lock().push(1)));
            first.lock().push(again.state().last.unwrap().index - 1);
        }),
    );

    assert_eq!(*reports.lock(), [0, 1]);
    assert_eq!(group.entries(0..9).unwrap().len(), 2);
}

fn log_files(node: &Node) -> Vec<PathBuf> {
    let mut files = node.disk.files(Path::new("node/log"));
    files.retain(|path| path.extension().is_some_and(|end| end == "raftlog"));
    files
}

#[test]
fn damage_of_a_closed_file_is_refused_with_words_that_help() {
    let mut node = busy_node();
    for _ in 0..60 {
        node.step(1, Step::Append(2));
        node.write();
    }
    let files = log_files(&node);
    assert!(files.len() > 2);
    // The header of a write.
    node.disk.damage(&files[1], 34).unwrap();
    node.crash();

    let refused = node.open().unwrap_err();

    assert!(
        refused.contains("the Raft log in node/log is damaged"),
        "{refused}"
    );
    assert!(refused.contains("remove its whole data directory"), "{refused}");
}

#[test]
fn damage_of_the_newest_file_is_no_torn_tail() {
    let mut node = busy_node();
    for _ in 0..3 {
        node.step(1, Step::Append(1));
        node.write();
    }
    let file = log_files(&node).pop().unwrap();
    // The header of the first write, which others follow.
    node.disk.damage(&file, 34).unwrap();
    node.crash();

    for start in ["the first", "the second"] {
        let refused = node.open().unwrap_err();
        assert!(refused.contains("was on the disk"), "{start} start: {refused}");
        node.crash();
    }
}

#[test]
fn a_removed_group_is_gone_or_whole_after_a_crash_at_any_place() {
    let mut operation = 0;
    loop {
        operation += 1;
        for seed in 0..4 {
            let disk = SimulatedDisk::new(seed);
            let (log, kv) = open(&disk);
            write_group(&log, kv.as_ref());
            let before = disk.operations();
            disk.fail_power_at(before + operation);
            remove_group(&log, kv.as_ref());
            let finished = !disk.is_dead();
            disk.crash();
            drop((log, kv));

            let (log, kv) = open(&disk);
            let half_removed = log.group(7).is_err();
            let removed = finish_removals(&log, kv.as_ref()).unwrap();
            let entries = log.group(7).unwrap().entries(0..9).unwrap().len();
            let applied = kv.get(7, b"applied").unwrap();

            let context = format!("operation {operation} of the removal, seed {seed}");
            assert_eq!(half_removed, removed == [7], "{context}");
            assert!(!log.was_removed(8), "{context}");
            assert_eq!(
                log.was_removed(7),
                log.group(7).unwrap().state().last.is_none(),
                "{context}"
            );
            match entries {
                0 => assert_eq!(applied, None, "{context}: a state without a log"),
                3 => assert!(applied.is_some() && !finished, "{context}"),
                _ => panic!("{context}: {entries} entries are left"),
            }
            assert!(kv.get(8, b"applied").unwrap().is_some(), "the other group stays");
            if finished {
                return;
            }
        }
    }
}

fn open(disk: &SimulatedDisk) -> (RaftLog, storage::SharedKv) {
    let files = Files::Simulated(disk.clone());
    let options = LogOptions {
        writing: Writing::at_once(),
        ..LogOptions::default()
    };
    let log = RaftLog::open_on(&files, Path::new("log"), options).unwrap();
    (log, files.open_kv(Path::new("state"), 0).unwrap())
}

fn write_group(log: &RaftLog, kv: &dyn Kv) {
    for group in [7, 8] {
        let entries = (0..3).map(|index| entry(group, 1, index)).collect();
        log.group(group).unwrap().append(entries, Box::new(|_| ()));
        kv.apply_batch(group, vec![(b"applied".to_vec(), Some(b"2".to_vec()))])
            .unwrap();
    }
    kv.checkpoint().unwrap();
}

fn remove_group(log: &RaftLog, kv: &dyn Kv) {
    let handle = log.group(7).unwrap();
    let flushed = Arc::new(AtomicBool::new(false));
    let report = flushed.clone();
    log.remove_group(
        7,
        Box::new(move |result| report.store(result.is_ok(), Ordering::Release)),
    );
    assert!(log.group(7).is_err());
    let refused = Arc::new(AtomicBool::new(false));
    let report = refused.clone();
    handle.append(
        vec![entry(7, 1, 3)],
        Box::new(move |result| report.store(result.is_err(), Ordering::Release)),
    );
    assert!(
        refused.load(Ordering::Acquire),
        "a handle of a removed group fails"
    );
    if flushed.load(Ordering::Acquire) {
        // Without power it fails.
        let _ = finish_removals(log, kv);
    }
}
