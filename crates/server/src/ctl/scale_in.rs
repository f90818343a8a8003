//! `flotilla ctl cluster scale-in`: one node after the other is told to leave. How far that is, the cluster knows: whoever gives
//! the order again goes on where it is.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use admin::{MemberStatus, ScaleIn, ScaleInState};
use anyhow::Context;

use super::{Ctl, well};

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Who would go.
pub(super) fn foretell(ctl: &Ctl<'_>, to: u32, fewer_copies: bool) -> anyhow::Result<ExitCode> {
    let found = ask(ctl, "GET", to, fewer_copies)?;
    if ctl.is_json() {
        return ctl.say(&(serde_json::to_string_pretty(&found)? + "\n"));
    }
    let lines = found
        .going
        .iter()
        .map(|member| format!("would leave: {}\n", what(member)));
    let lines: String = lines.collect();
    ctl.say(&format!(
        "{lines}{} of {} nodes would stay\n",
        found.to, found.members
    ))
}

/// A line whenever something has changed; in JSON only how it ended.
pub(super) fn run(ctl: &Ctl<'_>, to: u32, fewer_copies: bool, within: Duration) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + within;
    let mut before: Option<ScaleIn> = None;
    loop {
        let mut found = ask(ctl, "GET", to, fewer_copies)?;
        if found.state == ScaleInState::Ready {
            found = ask(ctl, "POST", to, fewer_copies)?;
        }
        let is_done = found.state == ScaleInState::Done;
        let is_over = is_done || Instant::now() >= deadline;
        if ctl.is_json() {
            if is_over {
                ctl.say(&(serde_json::to_string_pretty(&found)? + "\n"))?;
            }
        } else {
            ctl.say(&news(before.as_ref(), &found))?;
        }
        if is_over {
            return Ok(well(is_done));
        }
        before = Some(found);
        std::thread::sleep(LOOK_EVERY);
    }
}

fn ask(ctl: &Ctl<'_>, method: &str, to: u32, fewer_copies: bool) -> anyhow::Result<ScaleIn> {
    let path = format!("/api/v1/cluster/scale-in?to={to}&fewer_copies={fewer_copies}");
    serde_json::from_str(&ctl.ask(method, &path)?).context("the answer of the node")
}

/// What has changed since the look before, in lines.
fn news(before: Option<&ScaleIn>, now: &ScaleIn) -> String {
    let mut lines = String::new();
    let still = |node_id: &str| now.going.iter().any(|member| member.node_id == node_id);
    for gone in before.iter().flat_map(|before| &before.going) {
        if !still(&gone.node_id) {
            lines += &format!("{} has left\n", gone.name);
        }
    }
    let same =
        before.is_some_and(|before| before.state == now.state && before.going.first() == now.going.first());
    match now.state {
        ScaleInState::Done => lines += &format!("done: {} nodes\n", now.members),
        _ if same => {}
        ScaleInState::Leaving => {
            let first = now.going.first().map(what).unwrap_or_default();
            lines += &format!("leaving: {first}\n");
        }
        ScaleInState::Ready | ScaleInState::Settling => {
            lines += "waiting until all shards are where they belong\n"
        }
    }
    lines
}

fn what(member: &MemberStatus) -> String {
    format!("{} ({} replicas)", member.name, member.shards_held)
}

#[cfg(test)]
mod tests {
    use admin::MemberState;

    use super::*;

    fn going(state: ScaleInState, members: &[(&str, u32)]) -> ScaleIn {
        let member = |(name, shards_held): &(&str, u32)| MemberStatus {
            name: (*name).to_owned(),
            node_id: format!("id of {name}"),
            address: String::new(),
            zone: String::new(),
            state: MemberState::Leaving,
            voter: false,
            leader: false,
            shards_held: *shards_held,
            shards_led: 0,
            clock_ahead_ms: None,
        };
        ScaleIn {
            to: 3,
            members: 3 + members.len() as u32,
            state,
            going: members.iter().map(member).collect(),
        }
    }

    #[test]
    fn each_step_has_a_line_and_nothing_is_said_twice() {
        let steps = [
            going(ScaleInState::Settling, &[("n-4", 9), ("n-3", 10)]),
            going(ScaleInState::Leaving, &[("n-4", 9), ("n-3", 10)]),
            going(ScaleInState::Leaving, &[("n-4", 9), ("n-3", 11)]),
            going(ScaleInState::Leaving, &[("n-4", 8), ("n-3", 11)]),
            going(ScaleInState::Leaving, &[("n-3", 16)]),
            going(ScaleInState::Settling, &[]),
            going(ScaleInState::Done, &[]),
        ];
        let mut before = None;
        let mut said = String::new();
        for step in &steps {
            said += &news(before, step);
            before = Some(step);
        }
        let expected = "\
waiting until all shards are where they belong
leaving: n-4 (9 replicas)
leaving: n-4 (8 replicas)
n-4 has left
leaving: n-3 (16 replicas)
n-3 has left
waiting until all shards are where they belong
done: 3 nodes
";
        assert_eq!(said, expected);
    }
}
