//! `cargo xtask verify`: everything that can be said about the tree without changing it and without a running broker.

use std::process::Command;

use anyhow::Result;

use crate::step::{self, cargo};
use crate::tools;

/// The test crates that start a broker; `cargo xtask test` runs them.
pub(crate) const BROKER_TESTS: [&str; 10] = [
    "access-tests",
    "conformance",
    "clients",
    "crash",
    "mutation",
    "operator",
    "hostile",
    "cluster-tests",
    "deploy",
    "simulation",
];

/// Runs all checks; the first that fails ends it.
pub(crate) fn run() -> Result<()> {
    step::run("format", cargo().args(["fmt", "--all", "--check"]))?;
    judge_dependencies()?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    step::run("clippy", cargo().args(clippy))?;
    step::run(
        "docs",
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    build()?;
    run_unit_tests()?;
    println!("\nverify: all good");
    Ok(())
}

/// What `deny.toml` demands, but for advisories: those need a database from the network, `cargo deny check advisories`.
fn judge_dependencies() -> Result<()> {
    match tools::cargo_deny() {
        Ok(program) => step::run(
            "cargo deny",
            Command::new(program).args(["--locked", "check", "bans", "licenses", "sources"]),
        ),
        Err(error) => {
            println!("cargo deny: not here ({error:#}); only tests/tidy judges licences, bans and sources");
            Ok(())
        }
    }
}

/// Builds the broker and every test in one go: always the whole workspace, so that a dependency is built with one set
/// of features only, whichever of the tests run later.
pub(crate) fn build() -> Result<()> {
    step::run(
        "build",
        cargo().args(["build", "--workspace", "--bins", "--lib", "--tests", "--locked"]),
    )
}

/// Whether the faster test runner is there; without it `cargo test` does the same.
pub(crate) fn has_nextest() -> bool {
    step::exists("cargo-nextest", "--version")
}

/// Runs the tests that need no running broker, unless they have passed on this commit, with nothing beside it and as they are
/// built now: of `verify` and `test`, one after the other, the second need not repeat them.
pub(crate) fn run_unit_tests() -> Result<()> {
    let stamp = step::target_dir().join("unit-tests-passed");
    let now = fingerprint()?;
    if now.is_some() && std::fs::read_to_string(&stamp).ok() == now {
        println!(
            "\n==> unit tests: these have passed on this commit; `rm {}` repeats them",
            stamp.display()
        );
        return Ok(());
    }
    step::run("unit tests", &mut unit_tests())?;
    if let Some(now) = now {
        std::fs::write(stamp, now)?;
    }
    Ok(())
}

/// The commit, and each test as it is built. `None`: the tree has something that is in no commit.
fn fingerprint() -> Result<Option<String>> {
    let (Ok(commit), Ok(changes)) = (
        step::output("git", &["rev-parse", "HEAD"]),
        step::output("git", &["status", "--porcelain"]),
    ) else {
        return Ok(None);
    };
    if !changes.is_empty() {
        return Ok(None);
    }
    let mut built = Vec::new();
    for entry in std::fs::read_dir(step::target_dir().join("debug/deps"))? {
        let entry = entry?;
        let path = entry.path();
        let about = entry.metadata()?;
        if path.extension().is_none() && about.is_file() {
            let modified = about.modified()?.duration_since(std::time::UNIX_EPOCH)?;
            built.push(format!(
                "{} {} {}",
                path.display(),
                about.len(),
                modified.as_nanos()
            ));
        }
    }
    built.sort();
    Ok(Some(format!("{commit}\n{}\n", built.join("\n"))))
}

/// The tests that need no running broker.
fn unit_tests() -> Command {
    let mut command = cargo();
    if has_nextest() {
        let packages = BROKER_TESTS.map(|name| format!("package({name})")).join(" + ");
        command.args([
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "-E",
            &format!("not ({packages})"),
        ]);
    } else {
        command.args([
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--locked",
            "--no-fail-fast",
        ]);
        command.args(BROKER_TESTS.iter().flat_map(|name| ["--exclude", name]));
    }
    command
}
