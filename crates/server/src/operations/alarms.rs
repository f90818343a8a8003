//! What asks for an operator's attention, told from what the API shows. Prometheus' rules see more, over time; this is for
//! somebody who looks now.

use admin::views::{Alarm, NodeNumbers, NodeView, Severity, ShardView};
use admin::{ClusterStatus, MemberState, MemberStatus};

/// The worst first.
pub(super) fn of(
    node: &NodeView,
    cluster: &ClusterStatus,
    shards: &[ShardView],
    numbers: &[NodeNumbers],
) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut add = |severity, name, title: String, text: String| {
        alarms.push(Alarm {
            severity,
            name,
            title,
            text,
        });
    };
    let down: Vec<&MemberStatus> = cluster
        .members
        .iter()
        .filter(|member| member.state == MemberState::Down)
        .collect();
    if let Some(drain) = &node.drain {
        add(
            Severity::Warning,
            "node_draining",
            format!("{} is out of service", node.name),
            format!(
                "It was drained, and has {} connections left. `flotilla ctl undrain` takes it back.",
                drain.remaining_connections
            ),
        );
    } else if node.state != "ready" {
        add(
            Severity::Critical,
            "node_not_ready",
            format!("{} does not serve clients", node.name),
            "It is starting, stopping, or cut off from a majority of the cluster.".to_owned(),
        );
    }
    if node.overload_level >= 2 {
        add(
            Severity::Critical,
            "memory_short",
            format!("{} is short of memory", node.name),
            "New connections are refused, and at level 3 QoS 0 messages are dropped, until it has room again.".to_owned(),
        );
    }
    if !cluster.members.is_empty() && !cluster.members.iter().any(|member| member.leader) {
        add(
            Severity::Critical,
            "no_cluster_leader",
            "Nobody leads the cluster".to_owned(),
            "Subscriptions and changes of members wait until a majority of its voters is back.".to_owned(),
        );
    }
    let headless = numbers_of(shards.iter().filter(|shard| shard.leader.is_none()));
    if let Some((count, list)) = headless {
        add(
            Severity::Critical,
            "shard_without_leader",
            format!("{count} of {} shards have no leader", shards.len()),
            format!("Sessions and retained messages in {list} wait. For a moment that is an election."),
        );
    }
    for member in &down {
        let forget = match cluster.members.len() {
            1 => "",
            _ => " Bring it back, or forget it if it is gone for good.",
        };
        add(
            Severity::Critical,
            "member_down",
            format!("{} is down", member.name),
            format!("It was not heard of for more than five seconds; others do its work.{forget}"),
        );
    }
    let thin = numbers_of(
        shards
            .iter()
            .filter(|shard| shard.leader.is_some() && !shard.complete),
    );
    if let Some((count, list)) = thin {
        add(
            Severity::Warning,
            "shard_incomplete",
            format!("{count} of {} shards are on the move", shards.len()),
            format!("Not all replicas of {list} take part yet: they are being copied, or a node is gone."),
        );
    }
    let is_down = |numbers: &NodeNumbers| down.iter().any(|member| member.node_id == numbers.node_id);
    for silent in numbers
        .iter()
        .filter(|numbers| !numbers.answered && !is_down(numbers))
    {
        add(
            Severity::Warning,
            "member_silent",
            format!("{} does not answer", silent.name),
            "It was asked for its numbers and said nothing within a second; it is not in the sums."
                .to_owned(),
        );
    }
    for leaving in cluster
        .members
        .iter()
        .filter(|member| member.state == MemberState::Leaving)
    {
        add(
            Severity::Warning,
            "member_leaving",
            format!("{} leaves the cluster", leaving.name),
            format!(
                "It still holds {} shards, and is no member when it has none.",
                leaving.shards_held
            ),
        );
    }
    for member in &cluster.members {
        let Some(off_s) = member.clock_off_s() else {
            continue;
        };
        add(
            Severity::Warning,
            "clock_off",
            format!("The clock of {} is off by {} s", member.name, off_s.abs()),
            format!(
                "It is {} the cluster's time, by which messages and sessions go meanwhile. Set it, and see to NTP there.",
                if off_s > 0 { "ahead of" } else { "behind" }
            ),
        );
    }
    alarms.sort_by_key(|alarm| alarm.severity);
    alarms
}

/// How many they are, and which.
fn numbers_of<'a>(shards: impl Iterator<Item = &'a ShardView>) -> Option<(usize, String)> {
    let numbers: Vec<String> = shards.map(|shard| shard.shard.to_string()).collect();
    let word = if numbers.len() == 1 { "shard" } else { "shards" };
    (!numbers.is_empty()).then(|| (numbers.len(), format!("{word} {}", numbers.join(", "))))
}

#[cfg(test)]
mod tests {
    use admin::views::DrainView;

    use super::*;

    fn member(name: &str, state: MemberState, leader: bool) -> MemberStatus {
        MemberStatus {
            name: name.to_owned(),
            node_id: name.to_owned(),
            address: String::new(),
            zone: String::new(),
            state,
            voter: true,
            leader,
            shards_held: 2,
            shards_led: 1,
            clock_ahead_ms: None,
        }
    }

    fn shard(number: u32, leader: Option<&str>, complete: bool) -> ShardView {
        ShardView {
            shard: number,
            leader: leader.map(str::to_owned),
            replicas: Vec::new(),
            complete,
        }
    }

    fn names(
        state: &str,
        members: Vec<MemberStatus>,
        shards: &[ShardView],
        silent: &[&str],
    ) -> Vec<&'static str> {
        let node = NodeView {
            name: "a".to_owned(),
            node_id: "a".to_owned(),
            version: String::new(),
            commit: String::new(),
            uptime_s: 1,
            state: state.to_owned(),
            overload_level: 0,
            drain: (state == "draining").then(|| DrainView {
                phase: "asking".to_owned(),
                remaining_connections: 7,
            }),
            listeners: Vec::new(),
        };
        let numbers = members.iter().map(|member| NodeNumbers {
            name: member.name.clone(),
            node_id: member.node_id.clone(),
            answered: !silent.contains(&member.name.as_str()),
            ..NodeNumbers::default()
        });
        let numbers: Vec<_> = numbers.collect();
        let cluster = ClusterStatus {
            members,
            ..ClusterStatus::default()
        };
        of(&node, &cluster, shards, &numbers)
            .iter()
            .map(|alarm| alarm.name)
            .collect()
    }

    #[test]
    fn a_cluster_that_is_well_raises_none() {
        let members = vec![
            member("a", MemberState::Up, true),
            member("b", MemberState::Up, false),
        ];
        assert!(names("ready", members, &[shard(0, Some("a"), true)], &[]).is_empty());
    }

    #[test]
    fn a_node_that_was_drained_is_no_emergency() {
        let members = vec![member("a", MemberState::Draining, true)];
        let raised = names("draining", members, &[shard(0, Some("a"), true)], &[]);
        assert_eq!(raised, ["node_draining"]);
    }

    #[test]
    fn a_clock_that_is_off_is_named() {
        let mut members = vec![
            member("a", MemberState::Up, true),
            member("b", MemberState::Up, false),
        ];
        members[0].clock_ahead_ms = Some(150);
        members[1].clock_ahead_ms = Some(-3_600_000);
        let raised = names("ready", members, &[shard(0, Some("a"), true)], &[]);
        assert_eq!(raised, ["clock_off"]);
    }

    #[test]
    fn a_node_that_is_down_is_named_once() {
        let members = vec![
            member("a", MemberState::Up, true),
            member("b", MemberState::Down, false),
        ];
        let shards = [shard(0, Some("a"), false), shard(1, None, true)];
        let raised = names("ready", members, &shards, &["b"]);
        assert_eq!(
            raised,
            ["shard_without_leader", "member_down", "shard_incomplete"]
        );
    }

    #[test]
    fn a_node_that_is_cut_off_says_so_first() {
        let members = vec![
            member("a", MemberState::Up, false),
            member("b", MemberState::Leaving, false),
        ];
        let raised = names("not ready", members, &[], &["b"]);
        assert_eq!(
            raised,
            [
                "node_not_ready",
                "no_cluster_leader",
                "member_silent",
                "member_leaving"
            ]
        );
    }
}
