//! `cargo xtask crash`: hundreds of rounds of kill -9 under load; the test suite itself runs a few.

use anyhow::Result;

use crate::{flags, step, test, verify};

/// Runs the crash test with the wanted number of rounds.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let rounds = flags::number(args, &["--rounds"], "--rounds", 100)?;
    verify::build()?;
    let mut command = test::tests(&["crash"]);
    command.env("FLOTILLA_CRASH_ROUNDS", rounds.to_string());
    if verify::has_nextest() {
        command.arg("--no-capture");
    }
    step::run("crash", &mut command)
}
