//! `cargo xtask test`: installs what the tests need and runs them all: those of each crate, the standard's statements,
//! real clients, kill -9 under load, clusters that are simulated, and a bounded time of fuzzing.

use std::process::Command;

use anyhow::Result;

use crate::step::{self, cargo};
use crate::{fuzz, tools, verify};

const FUZZ_SECONDS: u64 = 60;

/// Runs all of it; the first phase that fails ends it.
pub(crate) fn run() -> Result<()> {
    tools::install()?;
    verify::build()?;
    step::run("unit tests", &mut verify::unit_tests())?;
    step::run(
        "broker tests",
        &mut tests(&["conformance", "clients", "mutation"]),
    )?;
    step::run("crash", &mut tests(&["crash"]))?;
    step::run("simulation", &mut tests(&["simulation"]))?;
    step::run("cluster", &mut tests(&["cluster-tests"]))?;
    fuzz::all(FUZZ_SECONDS)?;
    println!("\ntest: all good");
    Ok(())
}

/// The tests of some packages, built as part of the whole workspace.
pub(crate) fn tests(packages: &[&str]) -> Command {
    let mut command = cargo();
    if verify::has_nextest() {
        let filter: Vec<String> = packages.iter().map(|name| format!("package({name})")).collect();
        command.args([
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "-E",
            &filter.join(" + "),
        ]);
    } else {
        command.args(["test", "--locked", "--no-fail-fast"]);
        command.args(packages.iter().flat_map(|name| ["--package", name]));
    }
    command
}
