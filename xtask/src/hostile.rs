//! `cargo xtask hostile`: the stories of hostile clients one after the other on a machine that does nothing else, judged by how long
//! a client beside them waits; the test suite runs them all at once, and is more patient.

use anyhow::Result;

use crate::{flags, step, test, verify};

/// Runs the stories with the longest time that the client may wait for its own message.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let within = flags::number(args, &["--within"], "--within", 250)?;
    verify::build()?;
    let mut command = test::tests(&["hostile"]);
    command.env("FLOTILLA_SERVED_WITHIN_MS", within.to_string());
    if verify::has_nextest() {
        command.args(["--test-threads", "1"]);
    }
    step::run("hostile", &mut command)
}
