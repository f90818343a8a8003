//! Single things: the overview, a node, a client, where a message would go.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::http::escaped;
use super::table::{cell, facts, items, plain, span, table};
use super::{Ctl, good, well};

pub(super) fn overview(ctl: &Ctl<'_>) -> anyhow::Result<ExitCode> {
    let overview = ctl.get("/api/v1/overview")?;
    if ctl.is_json() {
        ctl.print(&overview)?;
    } else {
        let (node, totals) = (&overview["node"], &overview["totals"]);
        let rows = items(&overview, "nodes").iter().map(|one| {
            let figure = |key: &str| {
                if one["answered"] == true {
                    cell(one, key)
                } else {
                    "?".to_owned()
                }
            };
            [
                cell(one, "name"),
                figure("connections"),
                figure("messages_received"),
                figure("messages_sent"),
                figure("messages_dropped"),
                if one["answered"] == true {
                    span(&one["uptime_s"])
                } else {
                    "?".to_owned()
                },
            ]
        });
        let head = ["NODE", "CONNECTIONS", "RECEIVED", "SENT", "DROPPED", "UP FOR"];
        ctl.say(&format!(
            "{} is {}, Flotilla {}\n{} sessions, {} subscriptions, {} messages wait, {} are retained\n\n{}",
            cell(node, "name"),
            cell(node, "state"),
            cell(node, "version"),
            cell(totals, "sessions"),
            cell(totals, "subscriptions"),
            cell(totals, "queued_messages"),
            cell(totals, "retained_messages"),
            table(head, rows.collect())
        ))?;
        for alarm in items(&overview, "alarms") {
            let [severity, title, text] = ["severity", "title", "text"].map(|key| cell(alarm, key));
            ctl.say(&format!("\n{severity}: {title}\n  {text}\n"))?;
        }
    }
    let mut alarms = items(&overview, "alarms").iter();
    Ok(well(!alarms.any(|alarm| alarm["severity"] == "critical")))
}

pub(super) fn node(ctl: &Ctl<'_>) -> anyhow::Result<ExitCode> {
    let node = ctl.get("/api/v1/node")?;
    if ctl.is_json() {
        return ctl.print(&node);
    }
    let rows = items(&node, "listeners")
        .iter()
        .map(|one| ["name", "protocol", "address"].map(|key| cell(one, key)));
    let facts = facts(&[
        ("name", cell(&node, "name")),
        ("id", cell(&node, "node_id")),
        ("state", state(&node)),
        (
            "version",
            format!("{} ({})", cell(&node, "version"), cell(&node, "commit")),
        ),
        ("up for", span(&node["uptime_s"])),
    ]);
    ctl.say(&format!(
        "{facts}\n{}",
        table(["LISTENER", "PROTOCOL", "ADDRESS"], rows.collect())
    ))
}

/// What was read again and is in force, and what is not.
pub(super) fn reloaded(ctl: &Ctl<'_>) -> anyhow::Result<ExitCode> {
    let reloaded: Value = serde_json::from_str(&ctl.ask("POST", "/api/v1/config/reload")?)?;
    if ctl.is_json() {
        return ctl.print(&reloaded);
    }
    let lines = |key: &str, words: &str| -> String {
        let list = reloaded[key].as_array().map_or(&[][..], Vec::as_slice);
        list.iter()
            .map(|one| format!("{words}: {}\n", plain(one.as_str().unwrap_or_default())))
            .collect()
    };
    let text = lines("changed", "in force") + &lines("needs_restart", "needs a restart");
    ctl.say(if text.is_empty() {
        "nothing has changed\n"
    } else {
        &text
    })
}

/// With how many clients a drain has still to ask.
fn state(node: &Value) -> String {
    match node["drain"]["remaining_connections"].as_u64() {
        Some(left) => format!("{}, {left} connections left", cell(node, "state")),
        None => cell(node, "state"),
    }
}

pub(super) fn client(ctl: &Ctl<'_>, client: &str) -> anyhow::Result<ExitCode> {
    let detail = ctl.get(&format!("/api/v1/clients/{}", escaped(client)))?;
    if ctl.is_json() {
        return ctl.print(&detail);
    }
    let (session, connection) = (&detail["session"], &detail["connection"]);
    let mut known = vec![
        ("client", cell(session, "client_id")),
        (
            "state",
            if session["connected"] == true {
                "connected"
            } else {
                "away"
            }
            .to_owned(),
        ),
        ("node", cell(session, "node")),
        ("user", cell(session, "user")),
        ("epoch", cell(session, "epoch")),
        ("shard", cell(session, "shard")),
        (
            "waiting",
            format!(
                "{} messages, {} bytes",
                cell(session, "queued_messages"),
                cell(session, "queued_bytes")
            ),
        ),
        ("ends in", span(&session["expires_in_s"])),
    ];
    if !connection.is_null() {
        known.extend([
            ("address", cell(connection, "address")),
            ("listener", cell(connection, "listener")),
            ("protocol", cell(connection, "protocol")),
            ("keep alive", format!("{}s", cell(connection, "keep_alive_s"))),
            ("connected", span(&connection["connected_for_s"])),
            ("persistent", cell(connection, "persistent")),
            ("in flight", cell(connection, "in_flight")),
        ]);
    }
    ctl.say(&facts(&known))?;
    let rows = items(&detail, "subscriptions")
        .iter()
        .map(|one| ["filter", "qos", "kept"].map(|key| cell(one, key)));
    ctl.say(&format!(
        "\n{}",
        table(["SUBSCRIPTION", "QOS", "KEPT"], rows.collect())
    ))?;
    let queue = items(&detail, "queue");
    if !queue.is_empty() {
        let rows = queue.iter().map(|one| {
            let state = match (one["received"] == true, one["sent_before"] == true) {
                (true, _) => "received",
                (false, true) => "maybe sent",
                (false, false) => "waits",
            };
            [
                cell(one, "sequence"),
                cell(one, "qos"),
                state.to_owned(),
                span(&one["expires_in_s"]),
            ]
        });
        ctl.say(&format!(
            "\n{}",
            table(["DELIVERY", "QOS", "STATE", "EXPIRES IN"], rows.collect())
        ))?;
    }
    tell_notes(&detail);
    Ok(ExitCode::SUCCESS)
}

/// For people; whoever counts lines wants only those of the tables.
fn tell_notes(answer: &Value) {
    for note in items(answer, "notes").iter().filter_map(Value::as_str) {
        eprintln!("{}", plain(note));
    }
}

pub(super) fn explain(
    ctl: &Ctl<'_>,
    topic: &str,
    qos: u8,
    who: &[(&str, &Option<String>)],
) -> anyhow::Result<ExitCode> {
    let mut path = format!("/api/v1/explain?topic={}&qos={qos}", escaped(topic));
    for (name, value) in who {
        if let Some(value) = value {
            path += &format!("&{name}={}", escaped(value));
        }
    }
    let explained = ctl.get(&path)?;
    if ctl.is_json() {
        return ctl.print(&explained);
    }
    if let Some(problem) = explained["problem"].as_str() {
        anyhow::bail!("{problem}");
    }
    let names = |list: &[Value], key: &str| {
        let names: Vec<String> = list
            .iter()
            .map(|one| {
                if key.is_empty() {
                    plain(one.as_str().unwrap_or(""))
                } else {
                    cell(one, key)
                }
            })
            .collect();
        names.join(", ")
    };
    let mut lines = Vec::new();
    let access = &explained["access"];
    if access.is_object() {
        let verdict = if access["allowed"] == true {
            "allowed"
        } else {
            "not allowed"
        };
        let doubt = match access["exact"] == true {
            true => "",
            false => ", as far as the user name tells: certificate, token and address are not known",
        };
        lines.push(format!("{verdict}: {}{doubt}", cell(access, "reason")));
    }
    if explained["matched"] != true {
        lines.push("nobody subscribes to it".to_owned());
    }
    let here = &explained["here"];
    if here["count"].as_u64() > Some(0) {
        let clients = names(items(here, "items"), "client_id");
        lines.push(format!(
            "at once to {} connections of {}: {clients}",
            cell(here, "count"),
            cell(&explained, "node")
        ));
    }
    for node in items(&explained, "nodes") {
        lines.push(match node["skipped"] == true {
            true => format!(
                "not to {}: its sessions get it from their shards",
                cell(node, "name")
            ),
            false => format!("to {}, for its connections", cell(node, "name")),
        });
    }
    for shard in items(&explained, "shards") {
        lines.push(match shard["skipped"] == true {
            true => format!("not into shard {}: QoS 0 is not kept", cell(shard, "shard")),
            false => format!(
                "into shard {} for {} sessions: {}",
                cell(shard, "shard"),
                cell(shard, "sessions"),
                names(items(shard, "items"), "")
            ),
        });
    }
    for group in items(&explained, "groups") {
        let members = names(items(group, "members"), "client_id");
        lines.push(format!(
            "to one of {}, by {}: {members}",
            cell(group, "filter"),
            cell(group, "strategy")
        ));
    }
    ctl.say(&(lines.join("\n") + "\n"))
}

pub(super) fn refusals(
    ctl: &Ctl<'_>,
    query: &[(&str, &Option<String>)],
    limit: usize,
) -> anyhow::Result<ExitCode> {
    let mut path = format!("/api/v1/refusals?limit={limit}");
    for (name, value) in query {
        if let Some(value) = value {
            path += &format!("&{name}={}", escaped(value));
        }
    }
    let refusals = ctl.get(&path)?;
    if ctl.is_json() {
        return ctl.print(&refusals);
    }
    let rows = items(&refusals, "items").iter().map(|one| {
        let code = one["reason_code"].as_u64().map(|code| format!("0x{code:02X}"));
        [
            span(&one["ago_s"]),
            cell(one, "count"),
            cell(one, "node"),
            cell(one, "action"),
            cell(one, "client_id"),
            cell(one, "user"),
            cell(one, "address"),
            cell(one, "topic"),
            code.unwrap_or_else(|| "-".to_owned()),
            cell(one, "reason"),
        ]
    });
    let head = [
        "AGO", "TIMES", "NODE", "ACTION", "CLIENT", "USER", "ADDRESS", "TOPIC", "CODE", "REASON",
    ];
    ctl.say(&table(head, rows.collect()))?;
    tell_notes(&refusals);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn retained(ctl: &Ctl<'_>, topic: &str) -> anyhow::Result<ExitCode> {
    let message = ctl.get(&format!("/api/v1/retained/message?topic={}", escaped(topic)))?;
    if ctl.is_json() {
        return ctl.print(&message);
    }
    let text = message["payload"].as_str().unwrap_or("");
    if message["encoding"] != "utf8" {
        eprintln!("the payload is no text: this is base64");
    }
    ctl.say(&format!("{text}\n"))
}

pub(super) fn log(ctl: &Ctl<'_>, level: Option<&str>) -> anyhow::Result<ExitCode> {
    let Some(level) = level else {
        let log = ctl.get("/api/v1/log")?;
        return match ctl.is_json() {
            true => ctl.print(&log),
            false => ctl.say(&format!("{}\n", cell(&log, "level"))),
        };
    };
    let mut request = ctl.request("PUT", "/api/v1/log");
    request.body = Some(json!({"level": level}).to_string());
    good(ctl.answer(&request)?)?;
    ctl.done()
}

pub(super) fn config(ctl: &Ctl<'_>, set: bool) -> anyhow::Result<ExitCode> {
    let config = ctl.get("/api/v1/config")?;
    let wanted = |one: &&Value| !set || one["origin"] != "default";
    let wanted: Vec<&Value> = items(&config, "items").iter().filter(wanted).collect();
    if ctl.is_json() {
        return ctl.print(&json!({ "items": wanted }));
    }
    let rows = wanted.into_iter().map(|one| {
        let key = format!("{}.{}", cell(one, "section"), cell(one, "key"));
        [key, cell(one, "value"), cell(one, "origin")]
    });
    ctl.say(&table(["KEY", "VALUE", "FROM"], rows.collect()))
}

pub(super) fn certificates(ctl: &Ctl<'_>) -> anyhow::Result<ExitCode> {
    let certificates = ctl.get("/api/v1/certificates")?;
    let known = items(&certificates, "items");
    if ctl.is_json() {
        ctl.print(&certificates)?;
    } else {
        let rows = known.iter().map(|one| {
            let ends = match &one["problem"] {
                Value::String(problem) => plain(problem),
                _ => span(&one["expires_in_s"]),
            };
            [
                cell(one, "used_by"),
                cell(one, "subject"),
                ends,
                cell(one, "file"),
            ]
        });
        ctl.say(&table(["FOR", "SUBJECT", "ENDS IN", "FILE"], rows.collect()))?;
    }
    let bad = |one: &Value| !one["problem"].is_null() || one["expires_in_s"].as_i64() < Some(0);
    Ok(well(!known.iter().any(bad)))
}
