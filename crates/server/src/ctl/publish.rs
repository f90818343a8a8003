//! `flotilla ctl publish` and `flotilla ctl watch`: messages in, messages out.

use std::io::Read as _;
use std::process::ExitCode;

use admin::encoding;
use anyhow::Context;
use serde_json::{Value, json};

use super::http::{escaped, follow};
use super::table::{items, plain};
use super::{Ctl, good, well};

/// `options`: QoS, whether it is retained, and the seconds after which it expires.
pub(super) fn run(
    ctl: &Ctl<'_>,
    topic: &str,
    message: Option<&str>,
    options: (u8, bool, Option<u32>),
) -> anyhow::Result<ExitCode> {
    let payload = match message {
        Some(message) => message.as_bytes().to_vec(),
        None => {
            let mut payload = Vec::new();
            std::io::stdin()
                .read_to_end(&mut payload)
                .context("reading the message")?;
            payload
        }
    };
    let (payload, encoding) = encoding::encode(&payload);
    let (qos, retain, expires_in_s) = options;
    let message = json!({
        "topic": topic, "payload": payload, "encoding": encoding, "qos": qos, "retain": retain,
        "expires_in_s": expires_in_s,
    });
    let outcomes = send(ctl, "/api/v1/publish", &message)?;
    let outcome = items(&outcomes, "items").first().cloned().unwrap_or_default();
    if ctl.is_json() {
        ctl.print(&outcome)?;
    } else if outcome["done"] == true {
        let matched = outcome["matched"] == true;
        ctl.say(if matched {
            "done\n"
        } else {
            "done, and nobody subscribes to it\n"
        })?;
    } else {
        eprintln!(
            "flotilla: {}",
            plain(outcome["reason"].as_str().unwrap_or("it was not done"))
        );
    }
    Ok(well(outcome["done"] == true))
}

/// Sends messages; what became of each, whether all were done or not.
pub(super) fn send(ctl: &Ctl<'_>, path: &str, messages: &Value) -> anyhow::Result<Value> {
    let mut request = ctl.request("POST", path);
    request.body = Some(messages.to_string());
    let answer = ctl.answer(&request)?;
    // A partial failure has the same form as success, under another status.
    match serde_json::from_str::<Value>(&answer.body) {
        Ok(outcomes) if outcomes["items"].is_array() => Ok(outcomes),
        _ => serde_json::from_str(&good(answer)?).context("the answer of the node"),
    }
}

pub(super) fn watch(ctl: &Ctl<'_>, filter: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/watch?filter={}", escaped(filter));
    let answer = follow(&ctl.request("GET", &path), |line| {
        let Some(json) = line.strip_prefix("data: ") else {
            return Ok(());
        };
        if ctl.is_json() {
            return ctl.say(&format!("{json}\n")).map(drop);
        }
        let message: Value = serde_json::from_str(json).context("the answer of the node")?;
        let text = |key: &str| plain(message[key].as_str().unwrap_or(""));
        ctl.say(&format!("{}  {}\n", text("topic"), text("payload")))
            .map(drop)
    })?;
    good(answer)?;
    Ok(ExitCode::SUCCESS)
}
