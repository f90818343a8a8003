//! A log on a simulated disk with a history of what was done to it: after a crash it has to be what it was after
//! some operation, and not before the last one that was reported as flushed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cluster_proto::raft::{Entry, LeaderId, LogId, Vote, entry::Payload};
use parking_lot::Mutex;
use storage::{
    Files, Flushed, GroupId, GroupLog, LogOptions, OnFatal, RaftLog, SimulatedDisk, Turn, Writing,
};

pub(crate) const GROUPS: [GroupId; 3] = [1, 2, 3];
const LOG: &str = "node/log";

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId {
        leader: Some(LeaderId { term, node: 1 }),
        index,
    }
}

pub(crate) fn entry(group: GroupId, term: u64, index: u64) -> Entry {
    let payload = Bytes::from(format!("{group}-{term}-{index}-").repeat(8));
    Entry {
        log_id: Some(id(term, index)),
        payload: Some(Payload::Normal(payload)),
    }
}

/// What is done to a group's log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// This many entries of a term.
    Append(u64),
    /// All but this many entries are removed, and the next ones have another term.
    Truncate(u64),
    /// This many entries are removed from the front.
    Purge(u64),
    /// Like a snapshot from a peer: beyond the last entry.
    PurgeBeyond,
    Vote,
}

/// What a group's log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    pub(crate) entries: Vec<Entry>,
}

impl Content {
    fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |purged| purged.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    fn term(&self) -> u64 {
        let last = self.entries.last().and_then(|entry| entry.log_id).or(self.purged);
        let last = last.and_then(|last| last.leader).map_or(1, |leader| leader.term);
        self.vote
            .and_then(|vote| vote.leader)
            .map_or(last, |leader| leader.term.max(last))
    }

    fn read(log: &GroupLog) -> Result<Self, String> {
        let state = log.state();
        let content = Self {
            vote: log.vote(),
            purged: state.purged,
            entries: log.entries(0..u64::MAX).map_err(|error| error.to_string())?,
        };
        let last = content
            .entries
            .last()
            .and_then(|entry| entry.log_id)
            .or(state.purged);
        match state.last == last {
            true => Ok(content),
            false => Err(format!(
                "the log says that it ends at {:?} and ends at {last:?}",
                state.last
            )),
        }
    }
}

type Contents = BTreeMap<GroupId, Content>;

/// A node's log with its history.
pub(crate) struct Node {
    pub(crate) disk: SimulatedDisk,
    pub(crate) options: LogOptions,
    log: Option<RaftLog>,
    turn: Arc<Mutex<Option<Turn>>>,
    pub(crate) fatal: Arc<Mutex<Vec<String>>>,
    /// What the log holds after each operation, from before the first.
    history: Vec<Contents>,
    /// The last operation that was reported as flushed.
    flushed: Arc<AtomicUsize>,
}

impl Node {
    /// An empty node whose turns to write are taken by [`Self::write`].
    pub(crate) fn new(seed: u64) -> Self {
        let turn = Arc::new(Mutex::new(None));
        let fatal = Arc::new(Mutex::new(Vec::new()));
        let (given, reasons) = (turn.clone(), fatal.clone());
        let options = LogOptions {
            file_bytes: 2048,
            collect_bytes: 4096,
            cache_bytes_per_group: 1000,
            writing: Writing::Turns(Arc::new(move |turn| *given.lock() = Some(turn))),
            on_fatal: OnFatal::call(move |reason| reasons.lock().push(reason.to_owned())),
            ..LogOptions::default()
        };
        Self {
            disk: SimulatedDisk::new(seed),
            options,
            log: None,
            turn,
            fatal,
            history: vec![GROUPS.map(|group| (group, Content::default())).into()],
            flushed: Arc::default(),
        }
    }

    /// Opens the log and compares it with the history, which goes on from what is found.
    pub(crate) fn open(&mut self) -> Result<(), String> {
        let opened = RaftLog::open_on(
            &Files::Simulated(self.disk.clone()),
            Path::new(LOG),
            self.options.clone(),
        );
        if self.disk.is_dead() {
            return Ok(());
        }
        let log = opened.map_err(|error| format!("the log does not open: {error}"))?;
        let mut found = Contents::new();
        for group in GROUPS {
            let group_log = log.group(group);
            if self.disk.is_dead() {
                return Ok(());
            }
            let group_log = group_log.map_err(|error| format!("group {group} does not open: {error}"))?;
            found.insert(group, Content::read(&group_log)?);
        }
        let flushed = self.flushed.load(Ordering::Acquire);
        let Some(after) = (flushed..self.history.len())
            .rev()
            .find(|after| self.history[*after] == found)
        else {
            return Err(self.explain(flushed, &found));
        };
        self.history.truncate(after + 1);
        self.flushed.store(after, Ordering::Release);
        self.log = Some(log);
        Ok(())
    }

    fn explain(&self, flushed: usize, found: &Contents) -> String {
        let expected = &self.history[flushed];
        let earlier = self.history[..flushed]
            .iter()
            .rposition(|contents| contents == found);
        let short = |contents: &Contents| -> Vec<_> {
            contents
                .iter()
                .map(|(group, content)| {
                    let ids = content.entries.iter().filter_map(|entry| entry.log_id);
                    let ids: Vec<_> = ids
                        .map(|id| (id.leader.unwrap_or_default().term, id.index))
                        .collect();
                    format!(
                        "{group}: vote {:?} purged {:?} entries {ids:?}",
                        content.vote, content.purged
                    )
                })
                .collect()
        };
        format!(
            "the log is not what it was after operation {flushed} or a later one (but after {earlier:?}):\n\
             found {:#?}\nafter {flushed}: {:#?}\nat last: {:#?}",
            short(found),
            short(expected),
            short(self.history.last().unwrap()),
        )
    }

    /// Does a step if it makes sense, without waiting.
    pub(crate) fn step(&mut self, group: GroupId, step: Step) {
        let Some(log) = self.log.as_ref().and_then(|log| log.group(group).ok()) else {
            return;
        };
        let mut contents = self.history.last().unwrap().clone();
        let content = contents.get_mut(&group).unwrap();
        match step {
            Step::Append(count) => {
                let (term, next) = (content.term(), content.next());
                let entries: Vec<_> = (next..next + count)
                    .map(|index| entry(group, term, index))
                    .collect();
                content.entries.extend(entries.clone());
                log.append(entries, self.record(contents));
            }
            Step::Truncate(kept) if (kept as usize) < content.entries.len() => {
                content.entries.truncate(kept as usize);
                let last = content
                    .entries
                    .last()
                    .and_then(|entry| entry.log_id)
                    .or(content.purged);
                log.truncate_after(last, self.record(contents));
                self.step(group, Step::Vote);
            }
            Step::Purge(count) if 0 < count && count as usize <= content.entries.len() => {
                let upto = content.entries[count as usize - 1].log_id.unwrap();
                content.entries.drain(..count as usize);
                content.purged = Some(upto);
                log.purge(upto, self.record(contents));
            }
            Step::PurgeBeyond => {
                let upto = id(content.term(), content.next() + 5);
                content.entries.clear();
                content.purged = Some(upto);
                log.purge(upto, self.record(contents));
            }
            Step::Vote => {
                let term = content.term() + 1;
                let vote = Vote {
                    leader: Some(LeaderId { term, node: 2 }),
                    committed: false,
                };
                content.vote = Some(vote);
                log.save_vote(vote, self.record(contents));
            }
            Step::Truncate(_) | Step::Purge(_) => {}
        }
    }

    fn record(&mut self, contents: Contents) -> Flushed {
        self.history.push(contents);
        let (number, flushed) = (self.history.len() - 1, self.flushed.clone());
        Box::new(move |result| {
            if result.is_ok() {
                flushed.fetch_max(number, Ordering::AcqRel);
            }
        })
    }

    /// Writes what waits.
    pub(crate) fn write(&self) {
        let turn = self.turn.lock().take();
        if let Some(turn) = turn {
            turn.write();
        }
    }

    pub(crate) fn collect_garbage(&self) {
        if let Some(log) = &self.log {
            // Without power it may fail.
            let _ = log.collect_garbage();
        }
    }

    pub(crate) fn log(&self) -> &RaftLog {
        self.log.as_ref().expect("the log is open")
    }

    /// How many operations were reported as flushed, of how many.
    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.flushed.load(Ordering::Acquire), self.history.len() - 1)
    }

    /// Crashes the machine; [`Self::open`] starts the node again.
    pub(crate) fn crash(&mut self) {
        self.disk.crash();
        self.turn.lock().take();
        self.log = None;
    }
}
