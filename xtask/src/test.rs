//! `cargo xtask test`: installs what the tests need and runs them all: those of each crate, the operator's files, the standard's
//! statements, real clients, clusters of processes in bad weather and simulated ones, kill -9 under load, a bounded time of fuzzing.

use std::process::Command;

use anyhow::Result;

use crate::step::{self, cargo};
use crate::{fuzz, judges, tools, verify};

const FUZZ_SECONDS: u64 = 60;
/// Seeds of each simulation; `cargo xtask simulate` runs more.
const SIMULATION_SEEDS: &str = "2";
/// Conformance tests that are not run over several nodes: each has a broker of its own, so nothing would be different.
const NOT_OVER_NODES: [&str; 1] = ["restart::"];

/// Runs all of it; the first phase that fails ends it.
pub(crate) fn run() -> Result<()> {
    tools::install()?;
    verify::build()?;
    verify::run_unit_tests()?;
    // The judges of the operator's files come over the network, while simulated clusters are busy with the processor.
    std::thread::scope(|scope| {
        let judges = scope.spawn(judges::install);
        let mut simulation = tests(&["simulation"]);
        step::run("simulation", simulation.env("SIMULATION_SEEDS", SIMULATION_SEEDS))?;
        judges
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let mut deploy = tests(&["deploy"]);
    step::run("operator's files", deploy.env("FLOTILLA_TOOLS_REQUIRED", "1"))?;
    step::run(
        "broker tests",
        &mut tests(&[
            "access-tests",
            "conformance",
            "clients",
            "mutation",
            "operator",
            "hostile",
        ]),
    )?;
    step::run("conformance over three nodes", &mut conformance_over(3))?;
    step::run("crash", &mut tests(&["crash"]))?;
    step::run("cluster", &mut tests(&["cluster-tests"]))?;
    fuzz::all(FUZZ_SECONDS)?;
    println!("\ntest: all good");
    Ok(())
}

/// The standard's statements again, with consecutive connections on different nodes of a cluster. All in one process, so
/// that they share the cluster.
fn conformance_over(nodes: usize) -> Command {
    let mut command = cargo();
    command.args([
        "test",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "--test",
        "conformance",
    ]);
    command.arg("--");
    command.args(NOT_OVER_NODES.iter().flat_map(|name| ["--skip", name]));
    command.env("FLOTILLA_CONFORMANCE_NODES", nodes.to_string());
    command
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
