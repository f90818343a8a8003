//! Retained messages as lines of JSON: written down, and set again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::http::escaped;
use super::progress::{Progress, Read};
use super::publish::send;
use super::table::items;
use super::{Ctl, well};

/// Messages in one request, and their bytes: well below what the API takes.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// What a restored message needs; the rest of a line is for people.
const KEYS: [&str; 6] = [
    "topic",
    "payload",
    "encoding",
    "qos",
    "properties",
    "expires_in_s",
];

/// Where a backup is written: a file that is new is its owner's alone, since payloads are in it.
pub(super) fn backup_out(file: Option<&Path>) -> anyhow::Result<Box<dyn Write>> {
    let Some(path) = file else {
        return Ok(Box::new(io::stdout()));
    };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let opened = options.open(path);
    Ok(Box::new(opened.with_context(|| path.display().to_string())?))
}

pub(super) fn write(
    ctl: &Ctl<'_>,
    filter: &str,
    file: Option<&Path>,
    mut progress: Progress,
) -> anyhow::Result<ExitCode> {
    let mut lines = BufWriter::new(backup_out(file)?);
    let (mut count, mut after) = (0, String::new());
    loop {
        let query = format!(
            "filter={}&after={}&limit={BATCH}&full=true",
            escaped(filter),
            escaped(&after)
        );
        let page = ctl.get(&format!("/api/v1/retained?{query}"))?;
        for message in items(&page, "items") {
            writeln!(lines, "{message}")?;
            count += 1;
        }
        progress.tell(|| format!("writing retained messages: {count}"));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    lines.flush()?;
    progress.end(|| format!("writing retained messages: {count}"));
    eprintln!("{count} retained messages written");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn restore(
    ctl: &Ctl<'_>,
    file: Option<&Path>,
    mut progress: Progress,
) -> anyhow::Result<ExitCode> {
    let (lines, mut read) = input(file)?;
    let (mut batch, mut bytes, mut tally) = (Vec::new(), 0, Tally::default());
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        read.line(&line);
        if line.trim().is_empty() {
            continue;
        }
        let message: Value = serde_json::from_str(&line).with_context(|| format!("line {}", number + 1))?;
        if message["truncated"] == true {
            bail!(
                "line {}: only the beginning of the payload: this is a list and no backup",
                number + 1
            );
        }
        bytes += line.len();
        batch.push(message_of(&message));
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            tally.set(ctl, std::mem::take(&mut batch))?;
            progress.tell(|| tally.line(&read));
            bytes = 0;
        }
    }
    tally.set(ctl, batch)?;
    progress.end(|| tally.line(&read));
    match ctl.is_json() {
        true => ctl.print(&json!({"done": tally.done, "failed": tally.failed}))?,
        false => ctl.say(&format!(
            "{} retained messages set, {} failed\n",
            tally.done, tally.failed
        ))?,
    };
    Ok(well(tally.failed == 0))
}

/// Where the lines of a backup come from, and how much of them was read.
pub(super) fn input(file: Option<&Path>) -> anyhow::Result<(Box<dyn BufRead>, Read)> {
    let Some(path) = file else {
        return Ok((Box::new(io::stdin().lock()), Read::of(None)));
    };
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let bytes = file.metadata().ok().map(|data| data.len());
    Ok((Box::new(BufReader::new(file)), Read::of(bytes)))
}

#[derive(Default)]
struct Tally {
    done: usize,
    failed: usize,
}

impl Tally {
    fn line(&self, read: &Read) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        format!("setting retained messages: {}{failed}{}", self.done, read.share())
    }

    fn set(&mut self, ctl: &Ctl<'_>, batch: Vec<Value>) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let outcomes = send(ctl, "/api/v1/retained", &json!({ "messages": batch }))?;
        for outcome in items(&outcomes, "items") {
            if outcome["done"] == true {
                self.done += 1;
            } else {
                self.failed += 1;
                eprintln!("flotilla: {}: {}", outcome["topic"], outcome["reason"]);
            }
        }
        Ok(())
    }
}

fn message_of(line: &Value) -> Value {
    let known = KEYS.iter().filter(|key| !line[**key].is_null());
    known
        .map(|key| ((*key).to_owned(), line[*key].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_backup_becomes_a_message_without_what_is_for_people() {
        let line = json!({"topic": "a", "payload": "x", "encoding": "utf8", "qos": 1, "bytes": 1, "shard": 3,
            "publisher": "p", "truncated": false, "expires_in_s": null});
        assert_eq!(
            message_of(&line),
            json!({"topic": "a", "payload": "x", "encoding": "utf8", "qos": 1})
        );
    }
}
