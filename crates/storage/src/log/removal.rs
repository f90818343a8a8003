//! Removing a group from a node. Its log goes first, in one write with a mark that its state is still to go: a crash
//! between the two leaves a mark instead of a state that claims more than its log, and the group cannot be opened
//! before somebody has removed its state too.

use std::collections::BTreeSet;

use raft_engine::{Command, LogBatch};

use super::{GroupId, LogEngine, NODE, RaftLog};
use crate::state::bodies_tree;
use crate::{Kv, StorageError};

/// Marks are overwritten and not deleted: the engine may find deleted values again.
const LEFT: &[u8] = &[1];
const DONE: &[u8] = &[0];

#[derive(Clone, Copy)]
pub(super) enum Removal {
    /// The log goes, the state is left.
    Log,
    /// The state is gone too.
    Done,
}

pub(super) fn write(batch: &mut LogBatch, group: GroupId, removal: Removal) -> raft_engine::Result<()> {
    let mark = match removal {
        Removal::Log => {
            batch.add_command(group, Command::Clean);
            LEFT
        }
        Removal::Done => DONE,
    };
    batch.put(NODE, group.to_be_bytes().to_vec(), mark.to_vec())
}

/// The groups whose state is still to go, and all that were ever removed from this node.
pub(super) fn read(engine: &LogEngine) -> Result<(BTreeSet<GroupId>, BTreeSet<GroupId>), StorageError> {
    let (mut left, mut removed) = (BTreeSet::new(), BTreeSet::new());
    engine.scan_raw_messages(NODE, None, None, false, |key, mark| {
        if let Some(group) = key.first_chunk().filter(|_| mark == LEFT || mark == DONE) {
            let group = GroupId::from_be_bytes(*group);
            removed.insert(group);
            if mark == LEFT {
                left.insert(group);
            }
        }
        true
    })?;
    Ok((left, removed))
}

/// Removes the state of the groups whose log was removed, and lets them be opened again as new ones. To be called
/// when a removed log is flushed, and at each start before any group is opened. Returns which groups they were.
pub fn finish_removals(log: &RaftLog, kv: &dyn Kv) -> Result<Vec<GroupId>, StorageError> {
    let groups = log.half_removed();
    if groups.is_empty() {
        return Ok(groups);
    }
    for group in &groups {
        kv.remove_tree(*group)?;
        kv.remove_tree(bodies_tree(*group))?;
    }
    kv.checkpoint()?;
    for group in &groups {
        log.state_removed(*group);
    }
    Ok(groups)
}
