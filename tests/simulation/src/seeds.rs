//! Which seeds a test runs, and how a failure says what repeats it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::Result;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// All tests of the suite together take about this long, with two at a time.
const SECONDS: u64 = 120;
/// Tests that share it.
const TESTS: u64 = 15;
/// A broken node is to be noticed within so many seeds.
const TO_CATCH: u64 = 12;

thread_local! {
    /// By the runs of this test so far.
    static SIMULATED_MS: Cell<u64> = const { Cell::new(0) };
}

/// A run is over.
pub(crate) fn simulated(milliseconds: u64) {
    SIMULATED_MS.with(|all| all.set(all.get() + milliseconds));
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

/// What the nodes say is stamped with the time of the simulation.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        write!(out, "{:>8} ms ", elapsed.as_millis())
    }
}

fn listen() {
    // What the nodes say, where a test is run with RUST_LOG (`turmoil=info` names them); another test may have been first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_timer(SimulatedTime)
        .with_test_writer()
        .try_init();
}

/// Runs one seed after the other: `SIMULATION_SEED` alone, or `SIMULATION_SEEDS` of them, or as many as fit into this
/// test's part of `SIMULATION_SECONDS`. Panics at the first failure with the line that repeats it.
#[allow(
    clippy::disallowed_methods,
    reason = "how long a test may take is measured outside of the simulation"
)]
pub fn for_seeds(name: &str, run: impl Fn(u64) -> Result<()>) {
    listen();
    let begun = Instant::now();
    let alone = number("SIMULATION_SEED");
    let wanted = number("SIMULATION_SEEDS");
    let budget = Duration::from_secs(number("SIMULATION_SECONDS").unwrap_or(SECONDS) * 2 / TESTS);
    let first = alone.or_else(|| number("SIMULATION_FIRST")).unwrap_or(1);
    let mut seeds = 0;
    loop {
        let seed = first + seeds;
        if let Err(error) = run(seed) {
            let told: Vec<String> = error.chain().map(ToString::to_string).collect();
            let told = told.join("\n\n");
            panic!("seed {seed}: {told}\nAgain: SIMULATION_SEED={seed} cargo test -p simulation {name}");
        }
        println!("{name}: seed {seed} keeps the promise");
        seeds += 1;
        let enough = match (alone, wanted) {
            (Some(_), _) => true,
            (None, Some(wanted)) => seeds >= wanted,
            (None, None) => begun.elapsed() >= budget,
        };
        if enough {
            break;
        }
    }
    let simulated = SIMULATED_MS.with(Cell::take) / 1000;
    println!(
        "simulation | {name} | {seeds} from {first} | {simulated} s | {:.0?}",
        begun.elapsed()
    );
}

/// Runs seeds until one fails, as a broken node has to; says how it was noticed.
///
/// # Panics
/// No seed failed.
pub fn is_caught(name: &str, run: impl Fn(u64) -> Result<()>) -> String {
    listen();
    for seed in 1..=TO_CATCH {
        if let Err(error) = run(seed) {
            println!("{name}: seed {seed} notices: {}", error.root_cause());
            return format!("{error:?}");
        }
    }
    panic!("{name}: none of {TO_CATCH} seeds noticed");
}
