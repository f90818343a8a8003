//! Lists: asked for page by page, shown as one.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::Ctl;
use super::http::escaped;
use super::table::{cell, items, plain, span, table};

/// Items of a page at the most, as the API has it.
const PAGE: usize = 1000;

/// Everything up to a limit (0: everything), and what the answers said besides.
struct Listed {
    items: Vec<Value>,
    /// There is more than the limit.
    more: bool,
    covers: Value,
    notes: Vec<String>,
}

fn gather(ctl: &Ctl<'_>, path: &str, query: &[(&str, Option<&str>)], limit: usize) -> anyhow::Result<Listed> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut listed = Listed {
        items: Vec::new(),
        more: false,
        covers: Value::Null,
        notes: Vec::new(),
    };
    let mut after: Option<String> = None;
    loop {
        let wanted = (limit - listed.items.len()).min(PAGE).to_string();
        let paging = [("limit", Some(wanted.as_str())), ("after", after.as_deref())];
        let given = query.iter().chain(&paging);
        let given = given.filter_map(|(name, value)| Some(format!("{name}={}", escaped((*value)?))));
        let mut page = ctl.get(&format!("/api/v1/{path}?{}", given.collect::<Vec<_>>().join("&")))?;
        if let Value::Array(found) = page["items"].take() {
            listed.items.extend(found);
        }
        listed.covers = page["covers"].take();
        listed.notes = items(&page, "notes")
            .iter()
            .filter_map(|note| Some(note.as_str()?.to_owned()))
            .collect();
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() || listed.items.len() >= limit {
            listed.more = after.is_some();
            return Ok(listed);
        }
    }
}

impl Listed {
    fn print<const COLUMNS: usize>(
        self,
        ctl: &Ctl<'_>,
        head: [&str; COLUMNS],
        row: impl Fn(&Value) -> [String; COLUMNS],
    ) -> anyhow::Result<ExitCode> {
        if ctl.is_json() {
            let Self {
                items,
                more,
                covers,
                notes,
            } = self;
            return ctl.print(&json!({"items": items, "more": more, "covers": covers, "notes": notes}));
        }
        ctl.say(&table(head, self.items.iter().map(row).collect()))?;
        // For people; whoever counts lines wants only those of the table.
        let number = |key: &str| self.covers[key].as_u64();
        if let (Some(held), Some(all)) = (number("shards"), number("of"))
            && held < all
        {
            eprintln!("only of {held} of {all} shards: no node with a copy of the others answered");
        }
        for note in self.notes {
            eprintln!("{}", plain(&note));
        }
        if self.more {
            eprintln!("there is more: --limit 0 shows all");
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn clients(
    ctl: &Ctl<'_>,
    query: &[(&str, Option<&str>)],
    limit: usize,
) -> anyhow::Result<ExitCode> {
    let head = [
        "CLIENT",
        "STATE",
        "NODE",
        "USER",
        "SUBSCRIPTIONS",
        "WAITING",
        "BYTES",
        "ENDS IN",
        "ADDRESS",
    ];
    gather(ctl, "clients", query, limit)?.print(ctl, head, |one| {
        [
            cell(one, "client_id"),
            if one["connected"] == true {
                "connected"
            } else {
                "away"
            }
            .to_owned(),
            cell(one, "node"),
            cell(one, "user"),
            cell(one, "subscriptions"),
            cell(one, "queued_messages"),
            cell(one, "queued_bytes"),
            span(&one["expires_in_s"]),
            cell(one, "address"),
        ]
    })
}

pub(super) fn subscriptions(
    ctl: &Ctl<'_>,
    filter: Option<&str>,
    client: Option<&str>,
    limit: usize,
) -> anyhow::Result<ExitCode> {
    let query = [("filter", filter), ("client", client)];
    gather(ctl, "subscriptions", &query, limit)?.print(
        ctl,
        ["CLIENT", "FILTER", "QOS", "KEPT", "NODE"],
        |one| {
            [
                cell(one, "client_id"),
                cell(one, "filter"),
                cell(one, "qos"),
                cell(one, "kept"),
                cell(one, "node"),
            ]
        },
    )
}

pub(super) fn routes(ctl: &Ctl<'_>, filter: Option<&str>, limit: usize) -> anyhow::Result<ExitCode> {
    let head = ["FILTER", "NODES", "SHARDS", "HERE", "MEMBERS"];
    gather(ctl, "routes", &[("filter", filter)], limit)?.print(ctl, head, |one| {
        let node = |node: &Value| {
            let only = if node["qos_0_only"] == true { "(QoS 0)" } else { "" };
            cell(node, "name") + only
        };
        let nodes: Vec<String> = items(one, "nodes").iter().map(node).collect();
        let shards: Vec<String> = items(one, "shards").iter().map(Value::to_string).collect();
        let joined = |parts: Vec<String>| {
            if parts.is_empty() {
                "-".to_owned()
            } else {
                parts.join(",")
            }
        };
        [
            cell(one, "filter"),
            joined(nodes),
            joined(shards),
            cell(one, "connections_here"),
            cell(one, "members"),
        ]
    })
}

pub(super) fn retained(ctl: &Ctl<'_>, filter: &str, limit: usize) -> anyhow::Result<ExitCode> {
    let head = ["TOPIC", "QOS", "BYTES", "ENDS IN", "PUBLISHER", "MESSAGE"];
    gather(ctl, "retained", &[("filter", Some(filter))], limit)?.print(ctl, head, |one| {
        let text = match one["encoding"].as_str() {
            Some("utf8") => cell(one, "payload"),
            _ => "(binary)".to_owned(),
        };
        let mut message: String = text.chars().take(60).collect();
        if message.len() < text.len() || one["truncated"] == true {
            message.push('…');
        }
        let ends = span(&one["expires_in_s"]);
        [
            cell(one, "topic"),
            cell(one, "qos"),
            cell(one, "bytes"),
            ends,
            cell(one, "publisher"),
            message,
        ]
    })
}
