//! `flotilla ctl cluster status`.

use std::process::ExitCode;

use admin::{ClusterStatus, MemberState};
use anyhow::Context;

use super::table::table;
use super::{Ctl, well};

pub(super) fn status(ctl: &Ctl<'_>) -> anyhow::Result<ExitCode> {
    let answer = ctl.ask("GET", "/api/v1/cluster")?;
    let status: ClusterStatus = serde_json::from_str(&answer).context("the answer of the node")?;
    match ctl.is_json() {
        true => ctl.say(&(serde_json::to_string_pretty(&status)? + "\n"))?,
        false => ctl.say(&shown(&status))?,
    };
    let mut members = status.members.iter();
    let down = members.any(|member| member.state == MemberState::Down);
    Ok(well(status.ready && !down))
}

fn shown(status: &ClusterStatus) -> String {
    let rows = status.members.iter().map(|member| {
        let role = match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "follower",
        };
        [
            member.name.clone(),
            member.state.as_str().to_owned(),
            role.to_owned(),
            member.shards_held.to_string(),
            member.shards_led.to_string(),
            or_dash(&member.address),
            or_dash(&member.zone),
            member.node_id.clone(),
        ]
    });
    let head = ["NAME", "STATE", "ROLE", "HELD", "LED", "ADDRESS", "ZONE", "ID"];
    let ready = if status.ready { "ready" } else { "not ready" };
    let off = status.members.iter().filter_map(|member| {
        let off_s = member.clock_off_s()?;
        let to = if off_s > 0 { "ahead of" } else { "behind" };
        Some(format!(
            "the clock of {} is {} s {to} the cluster's time: set it, and see to NTP there\n",
            member.name,
            off_s.abs()
        ))
    });
    let off: String = off.collect();
    let off = if off.is_empty() { off } else { format!("\n{off}") };
    format!(
        "cluster {}, {} shards; {} is {ready}\n\n{}{off}",
        or_dash(&status.cluster_id),
        status.shards,
        status.node,
        table(head, rows.collect())
    )
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use admin::MemberStatus;

    use super::*;

    fn member(name: &str, state: MemberState, leader: bool) -> MemberStatus {
        MemberStatus {
            name: name.to_owned(),
            node_id: "00000000000000aa".to_owned(),
            address: String::new(),
            zone: "east".to_owned(),
            state,
            voter: leader,
            leader,
            shards_held: 16,
            shards_led: 5,
            clock_ahead_ms: None,
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_member() {
        let shown = shown(&ClusterStatus {
            cluster_id: "c".to_owned(),
            node: "first".to_owned(),
            ready: true,
            shards: 16,
            members: vec![
                member("first", MemberState::Up, true),
                member("second-one", MemberState::Leaving, false),
            ],
        });
        let expected = "\
cluster c, 16 shards; first is ready

NAME        STATE    ROLE      HELD  LED  ADDRESS  ZONE  ID
first       up       leader    16    5    -        east  00000000000000aa
second-one  leaving  follower  16    5    -        east  00000000000000aa
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_clock_that_is_off_is_named_below_the_table() {
        let member = |name: &str, clock_ahead_ms| MemberStatus {
            clock_ahead_ms,
            ..member(name, MemberState::Up, false)
        };
        let shown = shown(&ClusterStatus {
            members: vec![
                member("right", Some(1_900)),
                member("fast", Some(3_600_400)),
                member("slow", Some(-7_300)),
                member("unknown", None),
            ],
            ..ClusterStatus::default()
        });
        let (_, below) = shown.rsplit_once("\n\n").unwrap();
        let expected = "\
the clock of fast is 3600 s ahead of the cluster's time: set it, and see to NTP there
the clock of slow is 7 s behind the cluster's time: set it, and see to NTP there
";
        assert_eq!(below, expected);
    }
}
