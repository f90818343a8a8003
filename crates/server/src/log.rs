//! Log lines to standard error, for people or machines.

use std::fmt::{self, Debug, Write};
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use broker::config::{Log, LogFormat};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Changes what the log tells while the process runs.
pub(crate) struct LogControl {
    level: Mutex<String>,
    replace: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl LogControl {
    /// As it was set last.
    pub(crate) fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, until the next start. What means nothing is refused and changes nothing.
    pub(crate) fn set(&self, level: &str) -> Result<(), String> {
        if let Some(problem) = level_problem(level) {
            return Err(problem);
        }
        (self.replace)(filter(level).map_err(|error| error.to_string())?)?;
        level.clone_into(&mut self.level.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// Starts logging for the whole process.
pub(crate) fn init(config: &Log) -> anyhow::Result<LogControl> {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(filter(&config.level).context("log.level")?);
    macro_rules! start {
        ($subscriber:expr) => {{
            let subscriber = $subscriber.with_filter_reloading();
            let handle = subscriber.reload_handle();
            let started = subscriber.try_init();
            started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))?;
            Box::new(move |filter: EnvFilter| handle.reload(filter).map_err(|error| error.to_string()))
        }};
    }
    // The two forms have handles of different types.
    let replace: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync> = match config.format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal();
            start!(subscriber.with_ansi(colours).fmt_fields(Fields))
        }
        LogFormat::Json => start!(subscriber.json().flatten_event(true)),
    };
    Ok(LogControl {
        level: Mutex::new(config.level.clone()),
        replace,
    })
}

/// Fields as text: what a client has said neither begins a line of its own nor speaks to a terminal.
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line {
            text: WithoutControls(&mut writer),
            is_begun: false,
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

/// Fields that are written one behind the other.
struct Line<W> {
    text: W,
    is_begun: bool,
    result: fmt::Result,
}

impl<W: Write> Line<W> {
    fn write(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if std::mem::replace(&mut self.is_begun, true) {
            self.text.write_char(' ')?;
        }
        match name {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.text, "{name}={value:?}"),
        }
    }
}

impl<W: Write> Visit for Line<W> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Where a line of the `log` crate comes from is in its target.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), value);
        }
    }
}

/// Writes control characters as `\u{…}`.
struct WithoutControls<W>(W);

impl<W: Write> Write for WithoutControls<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                None => self.0.write_str(part)?,
                Some(last) => {
                    self.0.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
            }
        }
        Ok(())
    }
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    // It reports every step of every group at `info`, and every try to reach a node that is down at `warn`: this node says that
    // itself, once. Whoever wants more names it, and what is named later counts.
    EnvFilter::builder().parse(format!("openraft=error,{STORE}={},{level}", of_store(level)))
}

/// Beyond `STORE_MAX` it writes whatever is stored: what clients have published.
const STORE: &str = "sled";
const STORE_MAX: LevelFilter = LevelFilter::INFO;

/// As much as everything else says, up to there.
fn of_store(level: &str) -> LevelFilter {
    let words = level.split(',').map(str::trim).filter(|part| !part.contains('='));
    let all = words.filter_map(|word| word.parse().ok()).next_back();
    all.unwrap_or(LevelFilter::ERROR).min(STORE_MAX)
}

/// Why a `log.level` means nothing, or too much. A word without `=` has to be a level: `inof` is a slip and not the name of a part.
pub(crate) fn level_problem(level: &str) -> Option<String> {
    let tells_all = |part: &&str| {
        let word = part.rsplit_once('=').map(|(_, word)| word.trim());
        let level = word.and_then(|word| word.parse::<LevelFilter>().ok());
        part.starts_with(STORE) && level.is_some_and(|level| level > STORE_MAX)
    };
    if let Some(part) = level.split(',').map(str::trim).find(tells_all) {
        return Some(format!(
            "`{part}` would write what clients have published into the log: `{STORE}={STORE_MAX}` at the most"
        ));
    }
    // Numbers and nothing at all would be levels, too.
    let is_level = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.parse::<LevelFilter>().is_ok()
    };
    let slip = level
        .split(',')
        .map(str::trim)
        .find(|part| match part.rsplit_once('=') {
            Some((name, word)) => name.is_empty() || !is_level(word),
            None => !is_level(part),
        });
    slip.map(|part| format!("`{part}` is not a level: error, warn, info, debug, trace or off, or part=level"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_alone_or_for_a_part() {
        for (level, valid) in [
            ("info", true),
            ("off", true),
            ("warn,broker=debug, cluster::raft=trace", true),
            ("inof", false),
            ("info,broker=loud", false),
            ("=info", false),
            ("3", false),
            ("", false),
            ("info,", false),
            ("trace,sled=warn", true),
            ("info,sled=debug", false),
            ("sled::tree = trace", false),
        ] {
            assert_eq!(level_problem(level).is_none(), valid, "{level}");
        }
    }

    #[test]
    fn what_a_client_says_begins_no_line_and_speaks_to_no_terminal() {
        for (said, written) in [
            ("c-1 ünï", "c-1 ünï"),
            ("c\n2026 audit: x", "c\\n2026 audit: x"),
            ("\x1b[31mred\r", "\\u{1b}[31mred\\r"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
        ] {
            let mut text = String::new();
            WithoutControls(&mut text).write_str(said).unwrap();
            assert_eq!(text, written);
        }
    }

    #[test]
    fn the_store_says_no_more_than_all_and_never_what_is_stored() {
        for (level, expected) in [
            ("trace", "sled=info"),
            ("warn,broker=trace", "sled=warn"),
            ("off,audit=info", "sled=off"),
            ("trace,sled=error", "sled=error"),
        ] {
            let filter = filter(level).unwrap().to_string();
            assert!(filter.contains(expected), "{level}: {filter}");
        }
    }
}
