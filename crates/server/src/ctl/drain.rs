//! `flotilla ctl drain` and `rebalance`: the orders, and a look at what becomes of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::table::{cell, items, table};
use super::{Ctl, well};

const LOOK_EVERY: Duration = Duration::from_millis(250);

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

/// Gives the order, and shows what every node has and is about to ask.
pub(super) fn rebalance(ctl: &Ctl<'_>, rate: Option<u32>) -> anyhow::Result<ExitCode> {
    let path = match rate {
        Some(rate) => format!("/api/v1/rebalance?rate={rate}"),
        None => "/api/v1/rebalance".to_owned(),
    };
    let shares: Value = serde_json::from_str(&ctl.ask("POST", &path)?)?;
    if ctl.is_json() {
        return ctl.print(&shares);
    }
    let rows = items(&shares, "items")
        .iter()
        .map(|one| ["name", "connections", "moving"].map(|key| cell(one, key)));
    ctl.say(&table(["NODE", "CONNECTIONS", "MOVING"], rows.collect()))
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
    fn each_step_has_a_line_with_what_is_left() {
        let drain = json!({"phase": "asking", "remaining_connections": 12});
        assert_eq!(line(&drain), "asking clients to leave: 12 connections\n");
        assert_eq!(line(&Value::Null), "taken back into service\n");
    }
}
