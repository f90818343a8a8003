//! `cargo xtask compare --cluster`: three nodes on this machine against one, and against what three nodes should reach.

mod nodes;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::bench;
use super::broker::{Kind, Running};
use super::report::{self, Section};
use nodes::Nodes;

const NODES: usize = 3;
/// Of every message; what the log has beyond it is what replication adds.
const PAYLOAD: f64 = 100.0;

/// A load on three nodes, and what they should reach.
struct Case {
    title: &'static str,
    load: &'static str,
    yardsticks: &'static [(&'static str, Limit)],
}

enum Limit {
    /// CPU of all nodes per message, as a multiple of what one node needs in the same run.
    CpuOfOneNode(f64),
    /// Messages or rounds per second, at least.
    PerSecond(f64),
    /// 99th percentile of the latency in milliseconds, at most.
    P99(f64),
    /// Bytes of the log per message and replica, at most.
    LogBytes(f64),
    /// CPU of all nodes as a share of one core, at most.
    Cpu(f64),
    /// Nothing lost, and the longest time in seconds from the end of a connection to the next message, at most.
    Gap(f64),
}

/// The load during which the first node is killed.
const FAILOVER: &str = "failover";
/// So long after its start.
const KILLED_AFTER: Duration = Duration::from_secs(3);
/// Clusters of which one node is killed in each round.
const KILLED_TIMES: usize = 3;

const CASES: [Case; 8] = [
    Case {
        title: "QoS 0, ten pairs, publisher and subscriber on different nodes",
        load: "pairs --pairs 10 --qos 0 --window 200",
        yardsticks: &[("CPU of all nodes ≤ 2 × one node's", Limit::CpuOfOneNode(2.0))],
    },
    Case {
        title: "Persistent QoS 1, 64 pairs, window 16, synced by a quorum of three",
        load: "pairs --pairs 64 --qos 1 --window 16 --persistent",
        yardsticks: &[
            ("≥ 8000 messages/s", Limit::PerSecond(8000.0)),
            (
                "log ≤ payload + 200 bytes per message and replica",
                Limit::LogBytes(PAYLOAD + 200.0),
            ),
        ],
    },
    Case {
        title: "Persistent QoS 1, ten pairs, 500 messages/s",
        load: "pairs --pairs 10 --qos 1 --rate 500 --persistent",
        yardsticks: &[("p99 ≤ 20 ms", Limit::P99(20.0))],
    },
    Case {
        title: "SUBACK of a new filter, 20/s",
        load: "subscribe --connections 3 --rate 20",
        yardsticks: &[("p99 ≤ 20 ms", Limit::P99(20.0))],
    },
    Case {
        title: "Takeover by another node, 20/s",
        load: "takeover --connections 20 --rate 20",
        yardsticks: &[("p99 ≤ 50 ms", Limit::P99(50.0))],
    },
    Case {
        title: "Takeover by another node, 64 clients at a time",
        load: "takeover --connections 64",
        yardsticks: &[("≥ 1000/s", Limit::PerSecond(1000.0))],
    },
    Case {
        title: "Nothing to do: ten connections that stay open",
        load: "idle --connections 10",
        yardsticks: &[("CPU of all nodes ≤ 5 % of one core", Limit::Cpu(0.05))],
    },
    Case {
        title: "`kill -9` of the node of a persistent subscriber, which comes back at the next one",
        load: FAILOVER,
        yardsticks: &[("next message within 5 s, none lost", Limit::Gap(5.0))],
    },
];

/// Measures everything once per round, on a cluster made for it, and writes the medians into the document.
pub(super) fn run(flotilla: &Path, seconds: u64, rounds: u64, line: &str) -> Result<()> {
    let mut measured: Vec<Measured> = CASES.iter().map(|_| Measured::default()).collect();
    let mut forming = Vec::new();
    for round in 1..=rounds {
        for (case, measured) in CASES.iter().zip(&mut measured) {
            println!("round {round}/{rounds}: {}", case.title);
            if case.load == FAILOVER {
                for _ in 0..KILLED_TIMES {
                    let report = while_one_is_killed(flotilla, seconds)?;
                    measured.add(&report, None, 0.0);
                    println!("    {}", measured.row("", false));
                }
                continue;
            }
            let nodes = Nodes::start(flotilla, NODES)?;
            forming.push(nodes.formed_in.as_secs_f64());
            let written = nodes.log_bytes()?;
            let report = bench(
                flotilla,
                seconds,
                case.load.split_whitespace(),
                &nodes.addresses(),
                &nodes.pids(),
            )?;
            let written = nodes.log_bytes()? - written;
            nodes.stop()?;
            let mut limits = case.yardsticks.iter().map(|(_, limit)| limit);
            let one = match limits.any(|limit| matches!(limit, Limit::CpuOfOneNode(_))) {
                true => Some(on_one_node(flotilla, seconds, case.load)?),
                false => None,
            };
            measured.add(&report, one.as_ref(), written);
            println!("    {}", measured.row("", false));
        }
    }
    let text = generated(&measured, &forming, line);
    println!("\n{text}");
    report::write(Path::new("docs/benchmarks.md"), Section::Cluster, &text)
}

/// The first node dies while the subscriber is connected to it.
fn while_one_is_killed(flotilla: &Path, seconds: u64) -> Result<Value> {
    let mut nodes = Nodes::start(flotilla, NODES)?;
    let (addresses, survivor) = (nodes.addresses(), nodes.last_pid());
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| bench(flotilla, seconds, [FAILOVER], &addresses, &survivor));
        std::thread::sleep(KILLED_AFTER);
        nodes.kill_first();
        load.join()
    });
    let report = report.map_err(|_| anyhow::anyhow!("the load panicked"))??;
    nodes.stop()?;
    Ok(report)
}

fn on_one_node(flotilla: &Path, seconds: u64, load: &str) -> Result<Value> {
    let broker = Running::start(Kind::Flotilla, flotilla, false)?;
    let report = bench(
        flotilla,
        seconds,
        load.split_whitespace(),
        broker.address(),
        &broker.pid().to_string(),
    );
    broker.stop();
    report
}

/// What each round gave; a figure that a load does not have is missing.
#[derive(Default)]
struct Measured {
    cpu: Vec<f64>,
    cpu_of_one: Vec<f64>,
    core: Vec<f64>,
    per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    log_bytes: Vec<f64>,
    lost: Vec<f64>,
    /// The longest time without a message after the end of a connection, in seconds.
    gaps: Vec<f64>,
    failures: Vec<String>,
}

impl Measured {
    fn add(&mut self, report: &Value, one: Option<&Value>, written: f64) {
        let number = |report: &Value, pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
        self.cpu.extend(number(report, "/broker/cpu_us_per_message"));
        self.cpu_of_one
            .extend(one.and_then(|one| number(one, "/broker/cpu_us_per_message")));
        let (cpu, seconds) = (number(report, "/broker/cpu_seconds"), number(report, "/seconds"));
        self.core
            .extend(cpu.zip(seconds).map(|(cpu, seconds)| cpu / seconds));
        self.per_second.extend(number(report, "/delivered_per_second"));
        self.p50
            .extend(number(report, "/latency_us/p50").map(|micros| micros / 1e3));
        self.p99
            .extend(number(report, "/latency_us/p99").map(|micros| micros / 1e3));
        self.lost.extend(number(report, "/lost"));
        if report.get("scenario").and_then(Value::as_str) == Some(FAILOVER) {
            self.gaps
                .extend(number(report, "/latency_us/max").map(|micros| micros / 1e6));
        }
        self.log_bytes.extend(
            number(report, "/delivered_in_all")
                .filter(|all| *all > 0.0)
                .map(|all| written / all / NODES as f64),
        );
        let failures = report.pointer("/failures").and_then(Value::as_array);
        self.failures.extend(
            failures
                .into_iter()
                .flatten()
                .filter_map(|text| text.as_str().map(str::to_owned)),
        );
    }

    fn reached(&self, limit: &Limit) -> Option<f64> {
        match limit {
            Limit::CpuOfOneNode(_) => {
                let one = report::median(&self.cpu_of_one).filter(|one| *one > 0.0)?;
                Some(report::median(&self.cpu)? / one)
            }
            Limit::PerSecond(_) => report::median(&self.per_second),
            Limit::P99(_) => report::median(&self.p99),
            Limit::LogBytes(_) => report::median(&self.log_bytes),
            Limit::Cpu(_) => report::median(&self.core),
            // Each cluster of which a node was killed has one, or the subscriber never noticed.
            Limit::Gap(_) if self.gaps.len() < self.lost.len() => None,
            Limit::Gap(_) => self.gaps.iter().copied().reduce(f64::max),
        }
    }

    fn row(&self, title: &str, as_table: bool) -> String {
        let cells = [
            ("µs CPU", report::shown(report::median(&self.cpu), 3)),
            ("per second", report::shown(report::median(&self.per_second), 0)),
            ("p50 ms", report::shown(report::median(&self.p50), 3)),
            ("p99 ms", report::shown(report::median(&self.p99), 3)),
            ("log bytes", report::shown(report::median(&self.log_bytes), 0)),
            ("lost", report::shown(report::median(&self.lost), 0)),
        ];
        if as_table {
            let cells: Vec<_> = cells.into_iter().map(|(_, cell)| cell).collect();
            let failure = self.failures.first().map_or(String::new(), |failure| {
                format!(" ({})", report::one_line(failure))
            });
            return format!("| {title}{failure} | {} |", cells.join(" | "));
        }
        let cells: Vec<_> = cells
            .into_iter()
            .map(|(name, cell)| format!("{cell} {name}"))
            .collect();
        format!("{}{}", cells.join(", "), self.failures.join("; "))
    }
}

fn verdict(title: &str, (yardstick, limit): &(&str, Limit), measured: &Measured) -> String {
    let reached = measured.reached(limit);
    let (shown, holds) = match *limit {
        Limit::CpuOfOneNode(most) => (report::times(reached), reached.map(|reached| reached <= most)),
        Limit::PerSecond(least) => (report::shown(reached, 0), reached.map(|reached| reached >= least)),
        Limit::P99(most) => (
            report::with_unit(reached, "ms"),
            reached.map(|reached| reached <= most),
        ),
        Limit::LogBytes(most) => (report::shown(reached, 0), reached.map(|reached| reached <= most)),
        Limit::Cpu(most) => (
            report::with_unit(reached.map(|core| core * 100.0), "%"),
            reached.map(|reached| reached <= most),
        ),
        Limit::Gap(most) => (
            format!(
                "{} at worst of {}",
                report::with_unit(reached, "s"),
                measured.gaps.len()
            ),
            reached.map(|reached| reached <= most && measured.lost.iter().all(|lost| *lost == 0.0)),
        ),
    };
    let holds = match holds {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not measured",
    };
    format!("| {title} | {yardstick} | {shown} | {holds} |")
}

fn generated(measured: &[Measured], forming: &[f64], line: &str) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "Measured on {} with `{line}`.\n", report::today());
    let _ = writeln!(
        text,
        "{}, by all nodes. {}. Replication factor 3, default durability (acknowledged once synced by a quorum).\n",
        report::machine(),
        report::versions(&[Kind::Flotilla])
    );
    let _ = writeln!(
        text,
        "| load on three nodes | yardstick | reached | |\n|---|---|---|---|"
    );
    for (case, measured) in CASES.iter().zip(measured) {
        for yardstick in case.yardsticks {
            let _ = writeln!(text, "{}", verdict(case.title, yardstick, measured));
        }
    }
    let longest = forming.iter().copied().reduce(f64::max);
    let holds = match longest {
        Some(longest) if longest <= 10.0 => "yes",
        Some(_) => "no",
        None => "not measured",
    };
    let _ = writeln!(
        text,
        "| Three empty nodes form a cluster, {} times | all ready within 10 s | {} at worst | {holds} |",
        forming.len(),
        report::with_unit(longest, "s")
    );
    let _ = writeln!(
        text,
        "\n| `flotilla bench` on three nodes | CPU µs per message | messages/s | p50 ms | p99 ms | log bytes per message and replica | lost |\n\
         |---|---|---|---|---|---|---|"
    );
    for (case, measured) in CASES.iter().zip(measured) {
        let _ = writeln!(text, "{}", measured.row(&format!("`{}`", case.load), true));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cpu: f64) -> Value {
        serde_json::json!({
            "broker": {"cpu_us_per_message": cpu, "cpu_seconds": 1.0}, "seconds": 10.0,
            "delivered_per_second": 9000.0, "latency_us": {"p50": 1000.0, "p99": 25_000.0}, "lost": 0, "failures": [],
        })
    }

    #[test]
    fn a_yardstick_that_is_missed_is_said_to_be_missed() {
        let mut measured = Measured::default();
        measured.add(&report(3.0), Some(&report(1.0)), 0.0);
        let says = |(case, yardstick): (usize, usize), holds: &str| {
            let case = &CASES[case];
            let text = verdict(case.title, &case.yardsticks[yardstick], &measured);
            assert!(text.ends_with(&format!("| {holds} |")), "{text}");
        };
        says((0, 0), "no");
        says((1, 0), "yes");
        says((1, 1), "not measured");
        says((2, 0), "no");
        says((6, 0), "no");
        says((7, 0), "not measured");
    }

    #[test]
    fn a_message_that_is_lost_with_a_node_is_no_yardstick_reached() {
        let of = |lost: u64, gap_us: f64| serde_json::json!({"scenario": FAILOVER, "lost": lost, "latency_us": {"max": gap_us}});
        let case = &CASES[7];
        for (reports, holds) in [
            (vec![of(0, 2e6), of(0, 4e6)], "yes"),
            (vec![of(0, 2e6), of(0, 6e6)], "no"),
            (vec![of(0, 2e6), of(1, 2e6)], "no"),
            (
                vec![of(0, 2e6), serde_json::json!({"scenario": FAILOVER, "lost": 0})],
                "not measured",
            ),
        ] {
            let mut measured = Measured::default();
            for report in &reports {
                measured.add(report, None, 0.0);
            }
            let text = verdict(case.title, &case.yardsticks[0], &measured);
            assert!(text.ends_with(&format!("| {holds} |")), "{text}");
        }
    }
}
