//! `flotilla ctl drain` and `rebalance`: the orders, and a look at what becomes of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::progress::Progress;
use super::table::{cell, items, table};
use super::{Ctl, well};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Nothing more is expected to move after so long.
const STILL_FOR: Duration = Duration::from_secs(10);

/// Gives the order; with `wait` it looks on for so long at the most.
pub(super) fn run(ctl: &Ctl<'_>, rate: Option<u32>, wait: Option<Duration>) -> anyhow::Result<ExitCode> {
    let path = match rate {
        Some(rate) => format!("/api/v1/node/drain?rate={rate}"),
        None => "/api/v1/node/drain".to_owned(),
    };
    ctl.ask("POST", &path)?;
    match wait {
        Some(within) => look_on(ctl, within),
        None => ctl.done(),
    }
}

/// Gives the order, and shows what every node has and is about to ask; then, where progress is shown, how many are still there.
pub(super) fn rebalance(
    ctl: &Ctl<'_>,
    rate: Option<u32>,
    mut progress: Progress,
) -> anyhow::Result<ExitCode> {
    let path = match rate {
        Some(rate) => format!("/api/v1/rebalance?rate={rate}"),
        None => "/api/v1/rebalance".to_owned(),
    };
    let shares: Value = serde_json::from_str(&ctl.ask("POST", &path)?)?;
    if ctl.is_json() {
        ctl.print(&shares)?;
    } else {
        let rows = items(&shares, "items")
            .iter()
            .map(|one| ["name", "connections", "moving"].map(|key| cell(one, key)));
        ctl.say(&table(["NODE", "CONNECTIONS", "MOVING"], rows.collect()))?;
    }
    if progress.is_shown() {
        see_them_move(ctl, &shares, &mut progress)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Until every node has its share, or nothing has moved for a while: clients may come back to where they were.
fn see_them_move(ctl: &Ctl<'_>, shares: &Value, progress: &mut Progress) -> anyhow::Result<()> {
    let (mut left, mut moved) = (u64::MAX, Instant::now());
    while left > 0 && moved.elapsed() < STILL_FOR {
        let overview = ctl.get("/api/v1/overview")?;
        let now = beyond_their_share(items(shares, "items"), items(&overview, "nodes"));
        if now != left {
            (left, moved) = (now, Instant::now());
        }
        progress.tell(|| format!("still to move: {left} connections"));
        std::thread::sleep(LOOK_EVERY);
    }
    progress.end(|| format!("still to move: {left} connections"));
    Ok(())
}

/// Connections that nodes have in excess of what the order leaves them.
fn beyond_their_share(shares: &[Value], nodes: &[Value]) -> u64 {
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or(0);
    let moving = shares.iter().filter(|share| number(share, "moving") > 0);
    let excess = moving.map(|share| {
        let target = number(share, "connections").saturating_sub(number(share, "moving"));
        let node = nodes.iter().find(|node| node["node_id"] == share["node_id"]);
        node.map_or(0, |node| number(node, "connections").saturating_sub(target))
    });
    excess.sum()
}

/// A line whenever something has changed; in JSON only how it ended.
fn look_on(ctl: &Ctl<'_>, within: Duration) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + within;
    let mut shown = Value::Null;
    loop {
        let node = ctl.get("/api/v1/node")?;
        let drain = node["drain"].clone();
        let is_drained = node["state"] == "drained";
        let is_over = is_drained || drain.is_null() || Instant::now() >= deadline;
        match ctl.is_json() {
            true if is_over => drop(ctl.print(&node)?),
            false if drain != shown => drop(ctl.say(&line(&drain))?),
            _ => {}
        }
        if is_over {
            return Ok(well(is_drained));
        }
        shown = drain;
        std::thread::sleep(LOOK_EVERY);
    }
}

fn line(drain: &Value) -> String {
    if drain.is_null() {
        return "taken back into service\n".to_owned();
    }
    let phase = match drain["phase"].as_str() {
        Some("waiting") => "waiting for load balancers",
        Some("handing over") => "handing over what it leads",
        Some("asking") => "asking clients to leave",
        _ => "drained",
    };
    format!("{phase}: {} connections\n", cell(drain, "remaining_connections"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_still_to_move_is_what_nodes_have_beyond_their_share() {
        let shares = [
            json!({"node_id": "a", "connections": 90, "moving": 60}),
            json!({"node_id": "b", "connections": 0, "moving": 0}),
            json!({"node_id": "c", "connections": 50, "moving": 20}),
        ];
        // The second only gets some, and the third has ended.
        let nodes = [
            json!({"node_id": "a", "connections": 41}),
            json!({"node_id": "b", "connections": 49}),
        ];
        assert_eq!(beyond_their_share(&shares, &nodes), 11);
    }

    #[test]
    fn each_step_has_a_line_with_what_is_left() {
        let drain = json!({"phase": "asking", "remaining_connections": 12});
        assert_eq!(line(&drain), "asking clients to leave: 12 connections\n");
        assert_eq!(line(&Value::Null), "taken back into service\n");
    }
}
