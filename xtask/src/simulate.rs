//! `cargo xtask simulate`: many seeds of every simulation, and a table of what came of them; the test suite runs a few.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::{flags, step};

/// Runs each simulation with so many seeds.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let known = ["--seeds", "--first", "--only"];
    let seeds = flags::number(args, &known, "--seeds", 100)?;
    let first = flags::number(args, &known, "--first", 1)?;
    let only = flags::value(args, &known, "--only")?;
    let mut command = step::cargo();
    command.args(["test", "--workspace", "--locked", "--test", "simulation", "--"]);
    command.args(only);
    command.args(["--nocapture"]);
    command.env("SIMULATION_SEEDS", seeds.to_string());
    command.env("SIMULATION_FIRST", first.to_string());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("the simulations were not started")?;
    let output = child.stdout.take().context("the simulations have no output")?;
    let mut rows = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        // Whatever the test harness writes stands before it on the same line.
        rows.extend(line.split_once("simulation | ").map(|(_, row)| row.to_owned()));
    }
    let status = child.wait()?;
    println!("\n| simulation | seeds | simulated | took |\n|---|---|---|---|");
    rows.iter().for_each(|row| println!("| {row} |"));
    if !status.success() {
        bail!("a simulation failed; the line that repeats it stands above");
    }
    Ok(())
}
