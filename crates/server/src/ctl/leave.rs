//! `flotilla ctl cluster leave`: the node that is asked leaves, and is looked at until it has. It goes on leaving without that.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use admin::{Leave, LeaveState};
use anyhow::Context;

use super::{Ctl, well};

const LOOK_EVERY: Duration = Duration::from_millis(250);
const PATH: &str = "/api/v1/cluster/leave";

/// How long it is looked at.
pub(super) struct Patience {
    /// In which nothing moves.
    pub(super) stalled: Duration,
    /// In all.
    pub(super) within: Duration,
}

/// A line whenever something has changed; in JSON only how it ended.
pub(super) fn run(
    ctl: &Ctl<'_>,
    fewer_copies: bool,
    beside_down: bool,
    patience: &Patience,
) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let mut moved = begun;
    let mut before: Option<Leave> = None;
    let order = format!("{PATH}?fewer_copies={fewer_copies}&beside_down={beside_down}");
    let mut found = ask(ctl, "POST", &order)?;
    loop {
        let has_left = found.state == LeaveState::Left;
        if before.as_ref() != Some(&found) {
            moved = Instant::now();
            if !ctl.is_json() {
                ctl.say(&line(&found))?;
            }
        }
        let is_stalled = moved.elapsed() >= patience.stalled;
        let is_late = begun.elapsed() >= patience.within;
        if has_left || is_stalled || is_late {
            if ctl.is_json() {
                ctl.say(&(serde_json::to_string_pretty(&found)? + "\n"))?;
            }
            if !has_left {
                let what = if is_stalled {
                    "nothing moves any more"
                } else {
                    "it takes longer"
                };
                eprintln!("flotilla: {what}; the node goes on leaving: give the order again to look on");
            }
            return Ok(well(has_left));
        }
        before = Some(found);
        std::thread::sleep(LOOK_EVERY);
        found = ask(ctl, "GET", PATH)?;
    }
}

fn ask(ctl: &Ctl<'_>, method: &str, path: &str) -> anyhow::Result<Leave> {
    serde_json::from_str(&ctl.ask(method, path)?).context("the answer of the node")
}

fn line(found: &Leave) -> String {
    let Leave {
        node,
        state,
        replicas,
        connections,
        ..
    } = found;
    match state {
        LeaveState::Staying => format!("{node} has not heard of it yet\n"),
        LeaveState::Leaving => format!("leaving: {node} ({replicas} replicas, {connections} clients)\n"),
        LeaveState::Left => format!("{node} has left\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_left_until_the_node_has() {
        let at = |state, replicas, connections| Leave {
            node: "n-3".to_owned(),
            node_id: "aa".to_owned(),
            state,
            replicas,
            connections,
        };
        assert_eq!(
            line(&at(LeaveState::Leaving, 16, 7)),
            "leaving: n-3 (16 replicas, 7 clients)\n"
        );
        assert_eq!(line(&at(LeaveState::Left, 0, 0)), "n-3 has left\n");
    }
}
