//! `cargo xtask compare`: the same load on Flotilla and on other brokers in turn, side by side in `docs/benchmarks.md`.

mod broker;
mod cases;
mod cluster;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{flags, step};
use broker::{Kind, Running};
use cases::{CASES, Case};
use report::{Results, Section};

const FLAGS: [&str; 5] = ["--seconds", "--rounds", "--peers", "--only", "--flotilla"];

/// What was asked for on the command line.
struct Options {
    seconds: u64,
    rounds: u64,
    kinds: Vec<Kind>,
    cases: Vec<&'static Case>,
    is_complete: bool,
    flotilla: PathBuf,
    line: String,
}

/// Runs the comparison and, when it was not narrowed to one case, writes the document.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (args, on_cluster) = without(args, "--cluster");
    let options = options(&args)?;
    if on_cluster {
        let line = options.line.replace("compare", "compare --cluster");
        return cluster::run(&options.flotilla, options.seconds, options.rounds, &line);
    }
    for kind in &options.kinds {
        kind.install()?;
    }
    let mut results = Results::default();
    for round in 1..=options.rounds {
        for case in &options.cases {
            for &kind in &options.kinds {
                println!(
                    "round {round}/{}: {} on {}",
                    options.rounds,
                    case.name,
                    kind.name()
                );
                match measure(&options, case, kind) {
                    Ok(measured) => results.add(case, kind, &measured),
                    Err(error) => {
                        println!("    {error:#}");
                        results.add_failure(case, kind, &error);
                    }
                }
            }
        }
    }
    let text = report::generated(&options.cases, &options.kinds, &results, &options.line);
    println!("\n{text}");
    if !options.is_complete {
        println!("docs/benchmarks.md stays as it is: this was one case only.");
        return Ok(());
    }
    ensure!(
        results.has_flotilla(),
        "Flotilla was not measured at all; docs/benchmarks.md stays as it is"
    );
    report::write(Path::new("docs/benchmarks.md"), Section::Single, &text)
}

/// The arguments without a flag that takes no value, and whether it was there.
fn without(args: &[String], flag: &str) -> (Vec<String>, bool) {
    let rest: Vec<_> = args.iter().filter(|arg| *arg != flag).cloned().collect();
    let found = rest.len() < args.len();
    (rest, found)
}

fn options(args: &[String]) -> Result<Options> {
    let only = flags::value(args, &FLAGS, "--only")?;
    let cases: Vec<_> = CASES
        .iter()
        .filter(|case| only.is_none_or(|only| only == case.name))
        .collect();
    let names = CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
    ensure!(!cases.is_empty(), "--only knows {names}");
    let peers = flags::value(args, &FLAGS, "--peers")?.unwrap_or("mosquitto");
    let mut kinds = vec![Kind::Flotilla];
    for name in peers.split(',').filter(|name| !name.is_empty()) {
        kinds.push(Kind::parse(name)?);
    }
    Ok(Options {
        seconds: flags::number(args, &FLAGS, "--seconds", 10)?,
        rounds: flags::number(args, &FLAGS, "--rounds", 3)?.max(1),
        kinds,
        cases,
        is_complete: only.is_none(),
        flotilla: flotilla(flags::value(args, &FLAGS, "--flotilla")?)?,
        line: line(args),
    })
}

/// The command as others would repeat it: where a binary of this machine lies is of no use to them.
fn line(args: &[String]) -> String {
    let mut words = vec!["cargo xtask compare"];
    for pair in args.chunks(2).filter(|pair| pair[0] != "--flotilla") {
        words.extend(pair.iter().map(String::as_str));
    }
    words.join(" ")
}

/// The program that is both the broker to measure and the load generator: a given one, or a fresh release build.
fn flotilla(given: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Path::new(path)
            .canonicalize()
            .with_context(|| format!("--flotilla {path}"));
    }
    step::run(
        "release build",
        step::cargo().args(["build", "--release", "-p", "flotilla"]),
    )?;
    Ok(step::target_dir().join("release/flotilla"))
}

/// One broker, fresh, under one load.
fn measure(options: &Options, case: &Case, kind: Kind) -> Result<Value> {
    let mut broker = Running::start(kind, &options.flotilla, case.tls)?;
    let report = bench(
        &options.flotilla,
        options.seconds,
        case.arguments(kind),
        broker.address(),
        &broker.pid().to_string(),
    );
    let is_alive = broker.is_alive();
    broker.stop();
    let report = report?;
    ensure!(is_alive, "{} ended under the load", kind.name());
    Ok(report)
}

/// The load generator on brokers that run; addresses and processes as it takes them, separated by commas.
fn bench<'a>(
    flotilla: &Path,
    seconds: u64,
    load: impl IntoIterator<Item = &'a str>,
    addresses: &str,
    pids: &str,
) -> Result<Value> {
    let output = Command::new(flotilla)
        .args([
            "bench",
            "--json",
            "--quiet",
            "--address",
            addresses,
            "--pid",
            pids,
        ])
        .args(["--seconds", &seconds.to_string()])
        .args(load)
        .stdin(Stdio::null())
        .output()
        .context("flotilla bench was not started")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", stderr.trim());
    serde_json::from_slice(&output.stdout).context("flotilla bench printed something else than JSON")
}
