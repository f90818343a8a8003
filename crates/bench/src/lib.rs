//! The load generator behind `flotilla bench`, for any MQTT broker; it measures and judges, the brokers' own work is elsewhere.
//!
//! A run is a [`Scenario`] driven over plain or TLS connections. Each connection is one task that reads
//! many packets at once and writes them in batches; connections are spread over a few single-threaded runtimes, so that the generator stays
//! cheap next to the broker it measures. Every payload starts with a sequence number and the time of sending, from which
//! the receiving side counts what was lost, duplicated or out of order and how long each message took.

mod args;
mod client;
mod context;
mod cycle;
mod driver;
mod failover;
mod fleet;
mod flow;
mod idle;
mod load;
mod offline;
mod oracle;
mod payload;
mod plan;
mod process;
mod publisher;
mod report;
mod retained;
mod rounds;
mod stats;
mod stream;
mod subscriber;
mod workers;

use std::time::Duration;

use anyhow::Context;

pub use args::{Args, Protocol, Scenario};
pub use report::{Latency, Phase, ProcessUse, Report};

/// Runs the scenario to its end, shows progress on standard error and prints the result on standard output.
pub fn run(args: Args) -> anyhow::Result<()> {
    let as_json = args.json;
    let report = measure(args)?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Runs the scenario to its end and returns what was measured.
pub fn measure(args: Args) -> anyhow::Result<Report> {
    args.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let workers = workers::Workers::start(args.threads)?;
    let scenario = args.scenario;
    let context = context::Context::new(args, workers)?;
    let outcome = runtime.block_on(async {
        match scenario {
            Scenario::Pairs | Scenario::FanIn | Scenario::FanOut | Scenario::Wildcards => {
                load::run(&context).await
            }
            Scenario::Idle => idle::run(&context).await,
            Scenario::ConnectCycle | Scenario::Takeover | Scenario::Subscribe => cycle::run(&context).await,
            Scenario::Failover => failover::run(&context).await,
            Scenario::Offline => offline::run(&context).await,
            Scenario::Retained => retained::run(&context).await,
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome.with_context(|| format!("the {scenario} scenario did not finish"))
}
