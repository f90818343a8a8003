//! Sessions as lines of JSON: written down part by part, and brought back at a bounded rate. The first line says what it is, the last
//! one that it is whole.

use std::io::{BufRead as _, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster::{Clock, SystemClock};
use serde_json::{Value, json};

use super::backup::{backup_out, input};
use super::http::escaped;
use super::progress::Progress;
use super::publish::send;
use super::table::{items, plain};
use super::{Ctl, well};

/// The version of the format.
const VERSION: u64 = 1;
/// Lines in one request, and their bytes: well below what the API takes.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// How many lines there are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    sessions: u64,
    messages: u64,
}

impl Count {
    fn add(&mut self, is_session: bool) {
        match is_session {
            true => self.sessions += 1,
            false => self.messages += 1,
        }
    }

    fn words(&self) -> String {
        format!("{} sessions, {} messages", self.sessions, self.messages)
    }

    fn shown(&self) -> Value {
        json!({"sessions": self.sessions, "messages": self.messages})
    }
}

pub(super) fn write(ctl: &Ctl<'_>, file: Option<&Path>, mut progress: Progress) -> anyhow::Result<ExitCode> {
    let mut lines = BufWriter::new(backup_out(file)?);
    let status = ctl.get("/api/v1/cluster")?;
    let taken_ms = SystemClock::new().now_ms();
    // No two of one moment are alike.
    let backup = taken_ms << 20 | u64::from(std::process::id() & 0xf_ffff);
    let head = json!({
        "version": VERSION,
        "backup": format!("{backup:016x}"),
        "cluster_id": status["cluster_id"],
        "taken_at_s": taken_ms / 1000,
    });
    writeln!(lines, "{}", json!({ "flotilla_sessions": head }))?;
    let (mut count, mut after) = (Count::default(), String::new());
    loop {
        let part = ctl.get(&format!("/api/v1/sessions?after={}", escaped(&after)))?;
        for line in items(&part, "items") {
            writeln!(lines, "{line}")?;
            count.add(line["session"].is_object());
        }
        progress.tell(|| format!("writing {}", count.words()));
        match part["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    writeln!(lines, "{}", json!({ "end": count.shown() }))?;
    lines.flush()?;
    progress.end(|| format!("writing {}", count.words()));
    eprintln!(
        "{} sessions with {} messages written",
        count.sessions, count.messages
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) fn restore(
    ctl: &Ctl<'_>,
    rate: u32,
    file: Option<&Path>,
    mut progress: Progress,
) -> anyhow::Result<ExitCode> {
    let (lines, mut read) = input(file)?;
    let mut lines = lines.lines().enumerate();
    let (_, head) = lines.next().context("the backup is empty")?;
    let head = head?;
    read.line(&head);
    let mut restoring = Restoring::new(ctl, rate, backup_of(&head)?);
    let (mut batch, mut bytes, mut end) = (Vec::new(), 0, None);
    for (number, line) in lines {
        let line = line?;
        read.line(&line);
        let value: Value = serde_json::from_str(&line).with_context(|| format!("line {}", number + 1))?;
        if value["end"].is_object() {
            end = Some(value["end"].clone());
            break;
        }
        restoring.read.add(value["session"].is_object());
        bytes += line.len();
        batch.push(value);
        if batch.len() >= BATCH.min(rate as usize) || bytes >= BATCH_BYTES {
            restoring.send(std::mem::take(&mut batch))?;
            progress.tell(|| format!("restoring: {}{}", restoring.restored.words(), read.share()));
            bytes = 0;
        }
    }
    restoring.send(batch)?;
    progress.end(|| format!("restoring: {}{}", restoring.restored.words(), read.share()));
    restoring.told(end.is_some_and(|end| end == restoring.read.shown()))
}

/// The identifier, of a version that this program knows.
fn backup_of(head: &str) -> anyhow::Result<String> {
    let head: Value = serde_json::from_str(head).context("line 1")?;
    let head = &head["flotilla_sessions"];
    ensure!(head.is_object(), "line 1: this is no backup of sessions");
    let version = &head["version"];
    ensure!(
        version.as_u64() == Some(VERSION),
        "line 1: version {version} of the format, and only {VERSION} is known here"
    );
    let backup = head["backup"].as_str().context("line 1: `backup` is missing")?;
    Ok(backup.to_owned())
}

struct Restoring<'a> {
    ctl: &'a Ctl<'a>,
    backup: String,
    rate: u32,
    /// When the next lines may be sent.
    due: Instant,
    read: Count,
    restored: Count,
    known: Count,
    newer: Count,
    full: u64,
    failed: u64,
}

impl<'a> Restoring<'a> {
    fn new(ctl: &'a Ctl<'a>, rate: u32, backup: String) -> Self {
        Self {
            ctl,
            backup,
            rate,
            due: Instant::now(),
            read: Count::default(),
            restored: Count::default(),
            known: Count::default(),
            newer: Count::default(),
            full: 0,
            failed: 0,
        }
    }

    fn send(&mut self, batch: Vec<Value>) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        std::thread::sleep(self.due.saturating_duration_since(Instant::now()));
        self.due = Instant::now() + Duration::from_secs_f64(batch.len() as f64 / f64::from(self.rate));
        let body = json!({"backup": self.backup, "items": batch});
        let outcomes = send(self.ctl, "/api/v1/sessions", &body)?;
        for outcome in items(&outcomes, "items") {
            if let Some(line) = self.count(outcome) {
                eprintln!("flotilla: {line}");
            }
        }
        Ok(())
    }

    /// Adds an outcome up; what people have to know about it.
    fn count(&mut self, outcome: &Value) -> Option<String> {
        let is_session = outcome["sequence"].is_null();
        let client = plain(outcome["client_id"].as_str().unwrap_or_default());
        match outcome["outcome"].as_str() {
            Some("restored") => self.restored.add(is_session),
            Some("known") => self.known.add(is_session),
            Some("newer") => {
                self.newer.add(is_session);
                return is_session
                    .then(|| format!("{client}: its session is newer than the backup, and stays as it is"));
            }
            Some("full") => {
                self.full += 1;
                return Some(format!("{client}: no room for message {}", outcome["sequence"]));
            }
            _ => {
                self.failed += 1;
                let reason = plain(outcome["reason"].as_str().unwrap_or("no reason was given"));
                return Some(format!("{client}: {reason}"));
            }
        }
        None
    }

    fn told(&self, is_whole: bool) -> anyhow::Result<ExitCode> {
        if self.ctl.is_json() {
            self.ctl.print(&json!({
                "restored": self.restored.shown(), "known": self.known.shown(), "newer": self.newer.shown(),
                "full": self.full, "failed": self.failed, "whole": is_whole,
            }))?;
        } else {
            self.ctl.say(&self.summary())?;
        }
        if !is_whole {
            eprintln!("flotilla: the backup ends early, or lines are missing: what it has is restored");
        }
        Ok(well(is_whole && self.full == 0 && self.failed == 0))
    }

    fn summary(&self) -> String {
        let line = |what: &str, count: &Count| format!("{what}: {}\n", count.words());
        let mut lines = line("restored", &self.restored);
        if self.known != Count::default() {
            lines += &line("known or expired", &self.known);
        }
        if self.newer != Count::default() {
            lines += &line("left as they are", &self.newer);
        }
        if self.full + self.failed > 0 {
            lines += &format!(
                "not restored: {} for lack of room, {} failed\n",
                self.full, self.failed
            );
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backup_of_a_known_version_is_restored() {
        let head = r#"{"flotilla_sessions":{"version":1,"backup":"00ff"}}"#;
        assert_eq!(backup_of(head).unwrap(), "00ff");
        for (head, reason) in [
            (r#"{"topic":"a"}"#, "no backup of sessions"),
            (
                r#"{"flotilla_sessions":{"version":2,"backup":"00ff"}}"#,
                "version 2 of",
            ),
            (r#"{"flotilla_sessions":{"version":1}}"#, "`backup` is missing"),
            ("", "line 1"),
        ] {
            let error = backup_of(head).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
