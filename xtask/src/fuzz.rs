//! `cargo xtask fuzz`: builds the targets of `fuzz/` with coverage instrumentation and runs them for a bounded time.
//!
//! The instrumentation is an LLVM pass that a stable compiler has too, so neither nightly nor cargo-fuzz is needed.
//! It has a target directory of its own; dependencies of the targets are few on purpose.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::flags;
use crate::step::{self, cargo};

/// The targets; each is a file in `fuzz/targets` with seeds in `fuzz/seeds`.
const TARGETS: [&str; 9] = [
    "codec",
    "split",
    "filters",
    "session",
    "configuration",
    "proxy_protocol",
    "websocket",
    "peers",
    "access",
];

/// What cargo-fuzz passes too, without the address sanitizer: our crates have no unsafe code for it to watch.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// Fuzzes all targets or the named one.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let known = ["--seconds", "--target"];
    let seconds = flags::number(args, &known, "--seconds", 60)?;
    match flags::value(args, &known, "--target")? {
        None => all(seconds),
        Some(name) if TARGETS.contains(&name) => {
            build()?;
            target(name, seconds.max(1))
        }
        Some(name) => bail!("there is no target `{name}`; there are {}", TARGETS.join(", ")),
    }
}

/// Fuzzes every target for its share of the time.
pub(crate) fn all(seconds: u64) -> Result<()> {
    build()?;
    let share = (seconds / TARGETS.len() as u64).max(1);
    TARGETS.iter().try_for_each(|name| target(name, share))
}

fn target_dir() -> PathBuf {
    step::target_dir().join("fuzz")
}

fn build() -> Result<()> {
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--locked",
        "--bins",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
    ]);
    // Naming the target, even the host's own, keeps the instrumentation away from build scripts.
    command
        .arg(target_dir())
        .args(["--target", &step::host()?])
        .env("RUSTFLAGS", INSTRUMENTATION);
    step::run("fuzz build", &mut command)
}

/// New inputs go to `target/`, the seeds in the tree are only read. A finding is left beside them with how to repeat it.
fn target(name: &str, seconds: u64) -> Result<()> {
    let program = target_dir().join(step::host()?).join("release").join(name);
    let corpus = target_dir().join("corpus").join(name);
    let findings = target_dir().join("findings");
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&findings)?;
    let mut command = Command::new(&program);
    command.arg(format!("-max_total_time={seconds}"));
    command.args([
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-max_len=4096",
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    command.arg(format!("-artifact_prefix={}/{name}-", findings.display()));
    command
        .arg(&corpus)
        .arg(step::root().join("fuzz/seeds").join(name));
    step::run(&format!("fuzz {name}"), &mut command).with_context(|| {
        format!(
            "an input is in {}; repeat: {} FILE",
            findings.display(),
            program.display()
        )
    })
}
