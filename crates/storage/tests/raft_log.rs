//! The Raft log as a crash leaves it: reopened without a shutdown, copied while it was written, with a torn tail.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use cluster_proto::raft::{Entry, LeaderId, LogId, Vote, entry::Payload};
use proptest::prelude::*;
use storage::{Flushed, GroupLog, LogOptions, RaftLog};

fn id(term: u64, index: u64) -> LogId {
    LogId {
        leader: Some(LeaderId { term, node: 1 }),
        index,
    }
}

fn entry(term: u64, index: u64) -> Entry {
    let payload = Bytes::from(format!("{term}-{index}-").repeat(20));
    Entry {
        log_id: Some(id(term, index)),
        payload: Some(Payload::Normal(payload)),
    }
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(term, index)).collect()
}

/// Runs an operation and waits until it is on the disk.
fn durably(operation: impl FnOnce(Flushed)) {
    let (sender, receiver) = sync_channel(1);
    operation(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap();
}

fn open(dir: &Path) -> RaftLog {
    RaftLog::open(dir, LogOptions::default()).unwrap()
}

/// The log and its group 1.
fn open_group(dir: &Path) -> (RaftLog, GroupLog) {
    let log = open(dir);
    let group = log.group(1).unwrap();
    (log, group)
}

/// What a crash at this moment would leave.
fn crash_image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), image.path().join(file.file_name())).unwrap();
    }
    image
}

fn newest_file(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "raftlog"))
        .max()
        .unwrap()
}

fn indexes(log: &GroupLog) -> Vec<u64> {
    log.entries(0..1000)
        .unwrap()
        .into_iter()
        .map(|entry| entry.log_id.unwrap().index)
        .collect()
}

#[test]
fn entries_and_vote_are_there_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let vote = Vote {
        leader: Some(LeaderId { term: 3, node: 9 }),
        committed: true,
    };
    durably(|flushed| log.group(4).unwrap().save_vote(vote, flushed));
    durably(|flushed| log.group(4).unwrap().append(entries(3, 0..=9), flushed));
    durably(|flushed| log.group(5).unwrap().append(entries(1, 0..=1), flushed));

    let image = crash_image(dir.path());
    let reopened = open(image.path());

    let group = reopened.group(4).unwrap();
    assert_eq!(group.vote(), Some(vote));
    assert_eq!(group.state().last, Some(id(3, 9)));
    assert_eq!(group.entries(2..5).unwrap(), entries(3, 2..=4));
    assert_eq!(
        reopened.group(5).unwrap().entries(0..9).unwrap(),
        entries(1, 0..=1)
    );
    assert_eq!(reopened.group(6).unwrap().state().last, None);
}

#[test]
fn an_append_is_readable_before_it_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, group) = open_group(dir.path());

    group.append(entries(1, 0..=99), Box::new(|_| ()));

    assert_eq!(group.entries(0..100).unwrap(), entries(1, 0..=99));
}

#[test]
fn entries_beyond_the_cache_are_read_from_disk_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = RaftLog::open(
        dir.path(),
        LogOptions {
            cache_bytes_per_group: 1000,
            ..LogOptions::default()
        },
    )
    .unwrap();
    let group = log.group(1).unwrap();
    for first in (0..500).step_by(10) {
        durably(|flushed| group.append(entries(1, first..=first + 9), flushed));
    }

    assert_eq!(group.entries(0..500).unwrap(), entries(1, 0..=499));
    assert_eq!(group.entries(100..495).unwrap(), entries(1, 100..=494));
    assert_eq!(group.entries(490..700).unwrap(), entries(1, 490..=499));
}

#[test]
fn entries_leave_memory_when_they_are_to_take_less_of_it_and_are_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let log = RaftLog::open(dir.path(), LogOptions::default()).unwrap();
    let group = log.group(1).unwrap();
    let large = |index| {
        let mut entry = entries(1, index..=index).remove(0);
        entry.payload = Some(Payload::Normal(vec![index as u8; 100 << 10].into()));
        entry
    };
    for index in 0..20 {
        durably(|flushed| group.append(vec![large(index)], flushed));
    }
    assert!(log.cached_bytes() > 20 * (100 << 10));

    log.keep_cached_to(1 << 20);
    assert!(
        (512 << 10..1 << 20).contains(&log.cached_bytes()),
        "{}",
        log.cached_bytes()
    );
    log.keep_cached_to(0);
    assert!(
        (400 << 10..512 << 10).contains(&log.cached_bytes()),
        "a little stays"
    );
    assert_eq!(
        group.entries(0..20).unwrap(),
        (0..20).map(large).collect::<Vec<_>>()
    );

    log.keep_cached_to(usize::MAX);
    for index in 20..40 {
        durably(|flushed| group.append(vec![large(index)], flushed));
    }
    assert!(log.cached_bytes() > 20 * (100 << 10));
}

#[test]
fn a_truncated_tail_stays_away_after_a_crash_and_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, group) = open_group(dir.path());
    durably(|flushed| group.append(entries(1, 0..=9), flushed));
    durably(|flushed| group.truncate_after(Some(id(1, 5)), flushed));

    let image = crash_image(dir.path());
    let (_log, reopened) = open_group(image.path());
    assert_eq!(reopened.state().last, Some(id(1, 5)));
    assert_eq!(indexes(&reopened), [0, 1, 2, 3, 4, 5]);
    durably(|flushed| reopened.append(entries(2, 6..=7), flushed));

    let image = crash_image(image.path());
    let (_log, reopened) = open_group(image.path());
    assert_eq!(reopened.state().last, Some(id(2, 7)));
    assert_eq!(
        reopened.entries(5..100).unwrap(),
        [entry(1, 5), entry(2, 6), entry(2, 7)]
    );
}

#[test]
fn purged_entries_stay_away_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, group) = open_group(dir.path());
    durably(|flushed| group.append(entries(1, 0..=9), flushed));
    durably(|flushed| group.purge(id(1, 6), flushed));
    durably(|flushed| group.append(entries(1, 10..=10), flushed));

    let image = crash_image(dir.path());
    let (_log, reopened) = open_group(image.path());

    assert_eq!(reopened.state().purged, Some(id(1, 6)));
    assert_eq!(indexes(&reopened), [7, 8, 9, 10]);
}

#[test]
fn a_purge_beyond_the_log_continues_after_the_hole() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, group) = open_group(dir.path());
    durably(|flushed| group.append(entries(1, 0..=9), flushed));
    durably(|flushed| group.truncate_after(Some(id(1, 7)), flushed));
    durably(|flushed| group.purge(id(2, 100), flushed));
    assert_eq!(open_image(dir.path()).state().last, Some(id(2, 100)));
    durably(|flushed| group.append(entries(2, 101..=102), flushed));

    let reopened = open_image(dir.path());

    assert_eq!(reopened.state().last, Some(id(2, 102)));
    assert_eq!(indexes(&reopened), [101, 102]);
}

fn open_image(dir: &Path) -> GroupLog {
    let image = crash_image(dir);
    open_group(image.path()).1
}

#[test]
fn a_torn_tail_is_cut_at_the_last_whole_write() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let group = log.group(1).unwrap();
    durably(|flushed| group.append(entries(1, 0..=9), flushed));
    let whole = written_bytes(&newest_file(dir.path()));
    durably(|flushed| group.append(entries(1, 10..=19), flushed));
    let both = written_bytes(&newest_file(dir.path()));

    for cut in [whole + 1, (whole + both) / 2, both - 1] {
        let image = crash_image(dir.path());
        let file = OpenOptions::new()
            .write(true)
            .open(newest_file(image.path()))
            .unwrap();
        file.set_len(cut).unwrap();

        let (_log, reopened) = open_group(image.path());

        assert_eq!(
            reopened.entries(0..100).unwrap(),
            entries(1, 0..=9),
            "cut at {cut} of {both}"
        );
    }
}

#[test]
fn damage_before_the_tail_is_an_error_and_not_a_shorter_log() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogOptions {
        file_bytes: 4096,
        collect_bytes: 1 << 20,
        ..LogOptions::default()
    };
    let log = RaftLog::open(dir.path(), small.clone()).unwrap();
    let group = log.group(1).unwrap();
    for first in (0..200).step_by(10) {
        durably(|flushed| group.append(entries(1, first..=first + 9), flushed));
    }
    let image = crash_image(dir.path());
    let oldest = fs::read_dir(image.path())
        .unwrap()
        .map(|file| file.unwrap().path());
    let oldest = oldest
        .filter(|path| path.extension().is_some_and(|end| end == "raftlog"))
        .min()
        .unwrap();
    let mut bytes = fs::read(&oldest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    fs::write(&oldest, bytes).unwrap();

    let read = RaftLog::open(image.path(), small).and_then(|log| log.group(1)?.entries(0..200));
    assert!(read.is_err());
}

/// The file is preallocated: its end is where the zeros begin.
fn written_bytes(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last as u64 + 1)
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Truncate(u64),
    Purge(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..20u64).prop_map(Step::Append),
        2 => (0..15u64).prop_map(Step::Truncate),
        2 => (0..15u64).prop_map(Step::Purge),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_log_holds_what_a_list_would_hold(steps in proptest::collection::vec(step(), 1..40)) {
        let mut dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            cache_bytes_per_group: 2000,
            sync: false,
            file_bytes: 4096,
            collect_bytes: 8192,
            ..LogOptions::default()
        };
        let mut log = RaftLog::open(dir.path(), options.clone()).unwrap();
        let (mut first, mut model, mut term) = (0, Vec::<Entry>::new(), 1);
        for step in steps {
            let group = log.group(1).unwrap();
            match step {
                Step::Append(count) => {
                    let next = first + model.len() as u64;
                    let added = entries(term, next..=next + count - 1);
                    model.extend(added.clone());
                    durably(|flushed| group.append(added, flushed));
                }
                Step::Truncate(count) if (count as usize) < model.len() => {
                    model.truncate(model.len() - count as usize);
                    term += 1;
                    let last = model.last().unwrap().log_id;
                    durably(|flushed| group.truncate_after(last, flushed));
                }
                Step::Purge(count) if 0 < count && count as usize <= model.len() => {
                    let upto = model[count as usize - 1].log_id.unwrap();
                    model.drain(..count as usize);
                    first = upto.index + 1;
                    durably(|flushed| group.purge(upto, flushed));
                    log.collect_garbage().unwrap();
                }
                Step::Truncate(_) | Step::Purge(_) => {}
                Step::Reopen => {
                    let image = crash_image(dir.path());
                    log = RaftLog::open(image.path(), options.clone()).unwrap();
                    dir = image;
                }
            }
            let group = log.group(1).unwrap();
            prop_assert_eq!(group.entries(0..u64::MAX).unwrap(), model.clone());
            let last = model.last().and_then(|entry| entry.log_id).or(group.state().purged);
            prop_assert_eq!(group.state().last, last);
        }
    }
}
