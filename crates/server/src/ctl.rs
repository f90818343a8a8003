//! `flotilla ctl`: questions and orders to a running node, over HTTP to its admin listener.

mod http;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use admin::{ClusterStatus, MemberState};
use anyhow::{Context, bail};

use crate::arguments::{ClusterCommand, CtlAbout, CtlArguments, Output};

/// The node has answered, and not everything is well.
const EXIT_NOT_WELL: u8 = 3;

pub(crate) fn run(arguments: &CtlArguments) -> anyhow::Result<ExitCode> {
    let CtlAbout::Cluster(command) = &arguments.about;
    match command {
        ClusterCommand::Status => status(arguments),
        ClusterCommand::Leave => change(arguments, "/api/v1/cluster/leave"),
        ClusterCommand::Forget { node } => change(
            arguments,
            &format!("/api/v1/cluster/forget/{}", http::escaped(node)),
        ),
    }
}

fn status(arguments: &CtlArguments) -> anyhow::Result<ExitCode> {
    let answer = ask(arguments, "GET", "/api/v1/cluster")?;
    let status: ClusterStatus = serde_json::from_str(&answer).context("the answer of the node")?;
    let text = match arguments.output {
        Output::Json => serde_json::to_string_pretty(&status)? + "\n",
        Output::Table => table(&status),
    };
    io::stdout().write_all(text.as_bytes())?;
    let down = status
        .members
        .iter()
        .any(|member| member.state == MemberState::Down);
    match status.ready && !down {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::from(EXIT_NOT_WELL)),
    }
}

fn change(arguments: &CtlArguments, path: &str) -> anyhow::Result<ExitCode> {
    ask(arguments, "POST", path)?;
    let text = match arguments.output {
        Output::Json => "{\"done\": true}\n",
        Output::Table => "done\n",
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The body of a good answer; another one becomes an error with the node's words.
fn ask(arguments: &CtlArguments, method: &str, path: &str) -> anyhow::Result<String> {
    let answer = http::ask(&arguments.admin, method, path)
        .with_context(|| format!("asking the node at {} (--admin)", arguments.admin))?;
    match answer.status {
        200..300 => Ok(answer.body),
        status => bail!("the node refused ({status}): {}", answer.body.trim()),
    }
}

fn table(status: &ClusterStatus) -> String {
    let head = ["NAME", "STATE", "ROLE", "HELD", "LED", "ADDRESS", "ZONE", "ID"].map(str::to_owned);
    let mut rows = vec![head];
    for member in &status.members {
        let role = match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "follower",
        };
        rows.push([
            member.name.clone(),
            member.state.as_str().to_owned(),
            role.to_owned(),
            member.shards_held.to_string(),
            member.shards_led.to_string(),
            or_dash(&member.address),
            or_dash(&member.zone),
            member.node_id.clone(),
        ]);
    }
    let mut text = String::new();
    let ready = if status.ready { "ready" } else { "not ready" };
    // Writing to a String has no way to fail.
    let _ = writeln!(
        text,
        "cluster {}, {} shards; {} is {ready}\n",
        or_dash(&status.cluster_id),
        status.shards,
        status.node
    );
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let width = rows
                    .iter()
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0);
                format!("{cell:width$}")
            })
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use admin::MemberStatus;

    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_member() {
        let member = |name: &str, state, leader| MemberStatus {
            name: name.to_owned(),
            node_id: "00000000000000aa".to_owned(),
            address: String::new(),
            zone: "east".to_owned(),
            state,
            voter: leader,
            leader,
            shards_held: 16,
            shards_led: 5,
        };
        let shown = table(&ClusterStatus {
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
}
