//! `cargo xtask fuzz`: builds the targets of `fuzz/` with coverage instrumentation and runs them for a bounded time.
//!
//! The instrumentation is an LLVM pass that a stable compiler has too, so neither nightly nor cargo-fuzz is needed. Only
//! the workspace's own crates have it, put in by this program where cargo would start the compiler: dependencies are
//! those of all other builds, which would take minutes to build again.

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
const INSTRUMENTATION: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// The crates that have it, beside the targets themselves: those with a decoder, or with what decoded bytes are given to.
const INSTRUMENTED: [&str; 8] = [
    "mqtt_topic",
    "mqtt_codec",
    "mqtt_session",
    "access",
    "cluster_proto",
    "cluster_state",
    "broker",
    "flotilla_server",
];

/// A run that is as short or shorter is not worth an optimising build.
const SHORT_SECONDS: u64 = 60;

/// Set for this program where cargo takes it for the compiler.
const COMPILING: &str = "FLOTILLA_FUZZ_COMPILING";

/// Fuzzes all targets or the named one.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let known = ["--seconds", "--target"];
    let seconds = flags::number(args, &known, "--seconds", 60)?;
    match flags::value(args, &known, "--target")? {
        None => all(seconds),
        Some(name) if TARGETS.contains(&name) => {
            build(seconds)?;
            target(name, seconds.max(1))
        }
        Some(name) => bail!("there is no target `{name}`; there are {}", TARGETS.join(", ")),
    }
}

/// Fuzzes every target for its share of the time.
pub(crate) fn all(seconds: u64) -> Result<()> {
    build(seconds)?;
    let share = (seconds / TARGETS.len() as u64).max(1);
    TARGETS.iter().try_for_each(|name| target(name, share))
}

/// Whether cargo has started this program in place of the compiler.
pub(crate) fn is_compiling() -> bool {
    std::env::var_os(COMPILING).is_some()
}

/// Starts the compiler, whose path comes first, and has it instrument what the targets are about.
pub(crate) fn compile(args: &[String]) -> Result<()> {
    let (compiler, rest) = args.split_first().context("no compiler")?;
    let names = rest.iter().skip_while(|arg| *arg != "--crate-name");
    let is_part = |name: &String| INSTRUMENTED.contains(&name.as_str()) || name.starts_with("fuzz_");
    let mut command = Command::new(compiler);
    command.args(rest);
    if names.skip(1).take(1).any(is_part) {
        command.args(INSTRUMENTATION);
    }
    match command.status().context("the compiler does not start")?.code() {
        Some(0) => Ok(()),
        code => std::process::exit(code.unwrap_or(1)),
    }
}

fn work_dir() -> PathBuf {
    step::target_dir().join("fuzz")
}

/// A short run is mostly the build: then our crates, whose inputs are tried half as fast, are not optimised.
fn build(seconds: u64) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--workspace", "--locked", "--features", "fuzz/libfuzzer"]);
    for name in TARGETS {
        command.args(["--example", &format!("fuzz_{name}")]);
    }
    if seconds <= SHORT_SECONDS {
        command.args([
            "--config",
            "profile.dev.opt-level=0",
            "--config",
            "profile.dev.debug=false",
        ]);
    }
    // By its place: a build of the whole workspace may have put the same program there anew since this one started.
    command
        .env("RUSTC_WORKSPACE_WRAPPER", step::target_dir().join("debug/xtask"))
        .env(COMPILING, "1");
    step::run("fuzz build", &mut command)
}

/// New inputs go to `target/`, the seeds in the tree are only read. A finding is left beside them with how to repeat it.
fn target(name: &str, seconds: u64) -> Result<()> {
    let program = step::target_dir()
        .join("debug/examples")
        .join(format!("fuzz_{name}"));
    let corpus = work_dir().join("corpus").join(name);
    let findings = work_dir().join("findings");
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
