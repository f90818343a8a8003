//! `flotilla ctl trace`: what happens to a client, or to topics, line by line.

use std::process::ExitCode;

use anyhow::{Context, bail};
use broker::config::TimeSpan;
use serde_json::Value;

use super::http::{escaped, follow};
use super::table::plain;
use super::{Ctl, good};

pub(super) fn run(
    ctl: &Ctl<'_>,
    client: Option<&str>,
    topic: Option<&str>,
    within: TimeSpan,
) -> anyhow::Result<ExitCode> {
    let seconds = within.get().as_millis().div_ceil(1000);
    let (name, subject) = match (client, topic) {
        (Some(client), _) => ("client", client),
        (None, topic) => ("topic", topic.unwrap_or("")),
    };
    let path = format!("/api/v1/trace?{name}={}&seconds={seconds}", escaped(subject));
    let mut is_over = false;
    let answer = follow(&ctl.request("GET", &path), |line| {
        let Some(json) = line.strip_prefix("data: ") else {
            return Ok(());
        };
        let line: Value = serde_json::from_str(json).context("the answer of the node")?;
        is_over |= line["event"] == "end";
        match ctl.is_json() {
            true => ctl.say(&format!("{json}\n")).map(drop),
            false => ctl.say(&shown(&line)).map(drop),
        }
    })?;
    good(answer)?;
    if !is_over {
        bail!("the node ended the trace early");
    }
    Ok(ExitCode::SUCCESS)
}

/// Time (UTC), client, event, and what else is known, as `name=value`.
fn shown(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().map(plain);
    let mut parts = vec![time(line["at_ms"].as_u64().unwrap_or(0))];
    if let Some(lost) = line["lost"].as_u64() {
        parts.push(format!(
            "({lost} lines before this one are lost: they were not read in time)"
        ));
    }
    parts.extend(text("client_id"));
    parts.extend(text("event"));
    parts.extend(text("packet"));
    parts.extend(text("action"));
    for (name, key) in [
        ("id", "packet_id"),
        ("qos", "qos"),
        ("topic", "topic"),
        ("bytes", "bytes"),
        ("payload", "payload_bytes"),
        ("address", "address"),
        ("listener", "listener"),
        ("rule", "rule_line"),
    ] {
        match &line[key] {
            Value::String(text) => parts.push(format!("{name}={}", plain(text))),
            Value::Number(number) => parts.push(format!("{name}={number}")),
            _ => {}
        }
    }
    let codes = |code: &Value| Some(format!("0x{:02X}", code.as_u64()?));
    let words = |word: &Value| Some(plain(word.as_str()?));
    parts.extend(list("flags", &line["flags"], words));
    parts.extend(list("filters", &line["filters"], words));
    parts.extend(list("codes", &line["reason_codes"], codes));
    if let Some(reason) = text("reason") {
        parts.push(format!("({reason})"));
    }
    if let Some(place) = line.get("place") {
        parts.push(match place.as_str() {
            Some(node) => format!("connected to {}", plain(node)),
            None => "not connected".to_owned(),
        });
        if place.is_string() && *place != line["node"] {
            parts.push("(ask that node for its packets)".to_owned());
        }
    }
    parts.join("  ") + "\n"
}

fn list(name: &str, values: &Value, shown: impl Fn(&Value) -> Option<String>) -> Option<String> {
    let values: Vec<String> = values.as_array()?.iter().filter_map(shown).collect();
    Some(format!("{name}={}", values.join(",")))
}

/// Of the day, by UTC.
fn time(at_ms: u64) -> String {
    let (seconds, millis) = (at_ms / 1000, at_ms % 1000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_when_to_whom_and_what() {
        let publish = json!({
            "at_ms": 86_399_007u64, "node": "n-1", "event": "received", "client_id": "c", "packet": "PUBLISH", "bytes": 9,
            "payload_bytes": 2, "packet_id": 7, "topic": "a\u{1b}b", "qos": 1, "flags": ["dup", "retain"], "lost": 3,
        });
        assert_eq!(
            shown(&publish),
            "23:59:59.007  (3 lines before this one are lost: they were not read in time)  c  received  PUBLISH  id=7  \
             qos=1  topic=a\u{fffd}b  bytes=9  payload=2  flags=dup,retain\n"
        );
        let denied = json!({
            "at_ms": 0, "node": "n-1", "event": "denied", "client_id": "c", "action": "publish", "topic": "b", "rule_line": 2,
            "reason_codes": [0x87], "reason": "line 2 of the rules denies it",
        });
        assert_eq!(
            shown(&denied),
            "00:00:00.000  c  denied  publish  topic=b  rule=2  codes=0x87  (line 2 of the rules denies it)\n"
        );
        let place = |place: Value| {
            shown(&json!({"at_ms": 0, "node": "n-1", "event": "place", "client_id": "c", "place": place}))
        };
        assert_eq!(place(json!("n-1")), "00:00:00.000  c  place  connected to n-1\n");
        assert_eq!(
            place(json!("n-2")),
            "00:00:00.000  c  place  connected to n-2  (ask that node for its packets)\n"
        );
        assert_eq!(place(Value::Null), "00:00:00.000  c  place  not connected\n");
    }
}
