//! `cargo xtask storm`: a large fleet that comes back at once after a restart; the test suite itself has a smaller one.

use anyhow::Result;

use crate::flags;
use crate::step::{self, cargo};

/// Runs the storm with the wanted number of clients, on a release build: that is what a fleet comes back to.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let clients = flags::number(args, &["--clients"], "--clients", 20_000)?;
    let mut build = cargo();
    build.args([
        "build",
        "--workspace",
        "--bins",
        "--lib",
        "--tests",
        "--locked",
        "--release",
    ]);
    step::run("build", &mut build)?;
    let mut command = cargo();
    command.args([
        "test",
        "--workspace",
        "--locked",
        "--release",
        "--test",
        "hostile-stories",
        "--",
    ]);
    command.args([
        "--exact",
        "--nocapture",
        "storm::a_fleet_that_comes_back_after_a_restart_comes_in_while_others_are_served",
    ]);
    command.env("FLOTILLA_STORM_CLIENTS", clients.to_string());
    step::run("storm", &mut command)
}
