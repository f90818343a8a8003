//! Log lines to standard error, for people or machines.

use std::io::{self, IsTerminal};

use anyhow::Context;
use broker::config::{Log, LogFormat};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Starts logging for the whole process.
pub(crate) fn init(config: &Log) -> anyhow::Result<()> {
    // It reports every step of every group at `info`, and every try to reach a node that is down at `warn`: this node says that
    // itself, once. Whoever wants more names it, and what is named later counts.
    let level = format!("openraft=error,{}", config.level);
    let filter = EnvFilter::builder().parse(level).context("log.level")?;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(filter);
    let started = match config.format {
        LogFormat::Text => subscriber.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

/// Why a `log.level` means nothing. A word without `=` has to be a level: `inof` is a slip and not the name of a part.
pub(crate) fn level_problem(level: &str) -> Option<String> {
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
        ] {
            assert_eq!(level_problem(level).is_none(), valid, "{level}");
        }
    }
}
