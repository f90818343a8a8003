//! Damages configuration files at random and asks `flotilla check-config`: it answers yes or no, and never panics.
//!
//! The fuzzer looks at the same code from inside (`fuzz/targets`), with a build of its own; this is the binary that people run.
//! `FLOTILLA_MUTATION_SECONDS` says how long it goes on, `FLOTILLA_MUTATION_SEED` repeats a run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECONDS: u64 = 10;

const SEEDS: [&str; 4] = [
    "[node]\nname = \"one\"\ndata_dir = \"./data\"\nworker_threads = 2\nstop_timeout = \"15s\"\n",
    "[[listeners]]\nname = \"mqtt\"\nprotocol = \"tcp\"\nbind = \"127.0.0.1:1883\"\n\n[[listeners]]\nname = \"ws\"\n",
    "[limits]\nconnections_max = 1000\npacket_size_max = \"1MiB\"\n\n[queues]\nmessages_max = 10_000\n",
    "[durability]\nack = \"quorum-synced\"\n\n[storage]\n[admin]\nbind = \"[::1]:9000\"\n[log]\nformat = \"json\"\n",
];

const WORDS: [&str; 20] = [
    "[",
    "]",
    "[[",
    "]]",
    "=",
    "\"",
    "'''",
    "\n",
    ".",
    "-1",
    "99999999999999999999",
    "1e400",
    "inf",
    "1979-05-27",
    "true",
    "{}",
    "\u{0}",
    "\u{feff}",
    "ä",
    "1h90m",
];

#[test]
fn a_damaged_configuration_is_refused_and_never_panics() -> Result<()> {
    let seconds = from_environment("FLOTILLA_MUTATION_SECONDS")?.unwrap_or(SECONDS);
    let seed = from_environment("FLOTILLA_MUTATION_SEED")?.unwrap_or_else(|| rand::rng().random());
    println!("these mutations again: FLOTILLA_MUTATION_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let program = program()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flotilla.toml");
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut tried = 0;
    while Instant::now() < deadline {
        let text = mutated(&mut random);
        std::fs::write(&file, &text)?;
        judge(&program, &file)
            .with_context(|| format!("seed {seed}:\n{}", String::from_utf8_lossy(&text)))?;
        tried += 1;
    }
    println!("{tried} configurations");
    Ok(())
}

/// 0 and 2 are answers, 1 too; a panic has a code of its own, and a signal has none.
fn judge(program: &Path, file: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.arg("check-config").arg("--config").arg(file);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        matches!(output.status.code(), Some(0..=2)),
        "{}: {said}",
        output.status
    );
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

fn mutated(random: &mut SmallRng) -> Vec<u8> {
    let mut text = SEEDS[random.random_range(0..SEEDS.len())].as_bytes().to_vec();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=text.len());
        let until = (at + random.random_range(0..12)).min(text.len());
        match random.random_range(0..5) {
            0 => text.splice(at..until, []).for_each(drop),
            1 => text.splice(at..until, [random.random()]).for_each(drop),
            2 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                text.splice(at..at, word.bytes()).for_each(drop);
            }
            3 => {
                let copy = text[at..until].repeat(random.random_range(1..20));
                text.splice(at..at, copy).for_each(drop);
            }
            _ => {
                let other = SEEDS[random.random_range(0..SEEDS.len())];
                text.splice(at..at, other.bytes()).for_each(drop);
            }
        }
    }
    text
}

/// The binary lies above the folder of the test executable.
fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("flotilla"))
        .find(|path| path.is_file());
    found.context("no flotilla binary: run cargo xtask test")
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(
            text.parse()
                .with_context(|| format!("{name}={text}: not a number"))?,
        )),
        Err(_) => Ok(None),
    }
}
