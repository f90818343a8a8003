//! The result of a run, as a table for people and as JSON for programs.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::args::Args;
use crate::fleet::Verdict;

/// What was asked for and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Brokers.
    pub address: Vec<String>,
    /// MQTT version.
    pub protocol: String,
    /// Quality of service of publications and subscriptions.
    pub qos: u8,
    /// Payload size in bytes.
    pub payload_bytes: usize,
    /// Messages per second asked for; absent when the window set the pace.
    pub rate: Option<f64>,
    /// Messages under way per publisher.
    pub window: usize,
    /// Subscribers had persistent sessions.
    pub persistent: bool,
    /// Connections held at the same time.
    pub connections: usize,
    /// Length of the measured part.
    pub seconds: f64,
    /// Messages published in that time.
    pub published: u64,
    /// First arrivals at subscribers in that time.
    pub delivered: u64,
    /// First arrivals over the whole run, with the warm-up and what came after the measured part.
    pub delivered_in_all: u64,
    /// Publications per second.
    pub published_per_second: f64,
    /// Deliveries per second.
    pub delivered_per_second: f64,
    /// Microseconds from publishing to arrival, or of a cycle.
    pub latency_us: Option<Latency>,
    /// Deliveries that never came, over the whole run.
    pub lost: u64,
    /// Deliveries that came again, over the whole run.
    pub duplicated: u64,
    /// Deliveries that came after a later message, over the whole run; absent where no order is promised.
    pub out_of_order: Option<u64>,
    /// Messages from outside the run.
    pub unexpected: u64,
    /// Times a publisher stopped waiting for messages under way.
    pub given_up: u64,
    /// Connections that ended early or could not be made, with the reason of each, the first ten.
    pub failures: Vec<String>,
    /// How late a message of a fixed rate left, at worst.
    pub behind_schedule_ms: Option<f64>,
    /// Parts of scenarios that have several.
    pub phases: Vec<Phase>,
    /// Memory the broker took for each connection that only stays open.
    pub resident_bytes_per_connection: Option<u64>,
    /// Resources of the broker's process during the measured part.
    pub broker: Option<ProcessUse>,
    /// Resources of the generator itself.
    pub generator: Option<ProcessUse>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

/// One part of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// How often.
    pub count: u64,
    /// How long all of it took.
    pub seconds: f64,
    /// Count by seconds.
    pub per_second: f64,
}

/// CPU time and memory of one process.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ProcessUse {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    /// The same by message delivered, or by cycle.
    pub cpu_us_per_message: f64,
    /// Resident memory before the measured part.
    pub resident_bytes_before: u64,
    /// Resident memory after it.
    pub resident_bytes_after: u64,
}

impl Latency {
    pub(crate) fn from_histogram(nanoseconds: &Histogram<u64>) -> Self {
        let micros = |value: u64| value as f64 / 1e3;
        let quantile = |quantile| micros(nanoseconds.value_at_quantile(quantile));
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: micros(nanoseconds.max()),
            mean: nanoseconds.mean() / 1e3,
        }
    }
}

impl Phase {
    pub(crate) fn new(name: &str, count: u64, length: Duration) -> Self {
        let seconds = length.as_secs_f64();
        Self {
            name: name.to_owned(),
            count,
            seconds,
            per_second: count as f64 / seconds,
        }
    }
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            scenario: args.scenario.to_string(),
            address: args.address.clone(),
            protocol: format!("{:?}", args.protocol)
                .trim_start_matches('V')
                .replace('_', "."),
            qos: args.qos,
            payload_bytes: args.payload,
            rate: args.rate,
            window: args.window,
            persistent: args.persistent,
            connections: 0,
            seconds: 0.0,
            published: 0,
            delivered: 0,
            delivered_in_all: 0,
            published_per_second: 0.0,
            delivered_per_second: 0.0,
            latency_us: None,
            lost: 0,
            duplicated: 0,
            out_of_order: None,
            unexpected: 0,
            given_up: 0,
            failures: Vec::new(),
            behind_schedule_ms: None,
            phases: Vec::new(),
            resident_bytes_per_connection: None,
            broker: None,
            generator: None,
        }
    }

    pub(crate) fn set_throughput(&mut self, length: Duration, published: u64, delivered: u64) {
        self.seconds = length.as_secs_f64();
        (self.published, self.delivered) = (published, delivered);
        self.published_per_second = published as f64 / self.seconds;
        self.delivered_per_second = delivered as f64 / self.seconds;
    }

    pub(crate) fn with_verdict(mut self, verdict: Verdict) -> Self {
        self.lost = verdict.lost;
        self.duplicated = verdict.duplicated;
        self.out_of_order = Some(verdict.out_of_order);
        self.unexpected = verdict.unexpected;
        self.given_up = verdict.given_up;
        self.failures = verdict.failures;
        self.failures.truncate(10);
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = self.rate.map_or(format!("window {}", self.window), |rate| {
            format!("{rate} messages/s")
        });
        let session = if self.persistent {
            ", persistent sessions"
        } else {
            ""
        };
        writeln!(f)?;
        row(
            f,
            "scenario",
            format_args!("{} at {}", self.scenario, self.address.join(", ")),
        )?;
        row(
            f,
            "load",
            format_args!(
                "MQTT {}, QoS {}, {} bytes, {pace}{session}",
                self.protocol, self.qos, self.payload_bytes
            ),
        )?;
        row(f, "connections", self.connections)?;
        row(f, "measured", format_args!("{:.1} s", self.seconds))?;
        if self.phases.is_empty() {
            row(
                f,
                "published",
                format_args!("{} ({:.0}/s)", self.published, self.published_per_second),
            )?;
            row(
                f,
                "delivered",
                format_args!("{} ({:.0}/s)", self.delivered, self.delivered_per_second),
            )?;
        }
        for phase in &self.phases {
            row(
                f,
                &phase.name,
                format_args!(
                    "{} in {:.3} s ({:.0}/s)",
                    phase.count, phase.seconds, phase.per_second
                ),
            )?;
        }
        if let Some(latency) = &self.latency_us {
            row(f, "latency", latency)?;
        }
        if let Some(late) = self.behind_schedule_ms {
            row(f, "behind schedule", format_args!("at worst {late:.1} ms"))?;
        }
        if self.delivered > 0 || self.lost > 0 {
            row(f, "lost", self.lost)?;
            row(f, "duplicated", self.duplicated)?;
        }
        if let Some(out_of_order) = self.out_of_order {
            row(f, "out of order", out_of_order)?;
        }
        for (name, count) in [("unexpected", self.unexpected), ("given up", self.given_up)] {
            if count > 0 {
                row(f, name, count)?;
            }
        }
        if let Some(bytes) = self.resident_bytes_per_connection {
            row(
                f,
                "memory",
                format_args!("{bytes} bytes resident in the broker per connection"),
            )?;
        }
        for (name, process) in [("broker", &self.broker), ("generator", &self.generator)] {
            if let Some(process) = process {
                row(f, name, process)?;
            }
        }
        self.failures
            .iter()
            .try_for_each(|failure| row(f, "failed", failure))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |micros: f64| micros / 1e3;
        let Self {
            p50,
            p90,
            p99,
            p999,
            max,
            ..
        } = *self;
        write!(
            f,
            "p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
            millis(p50),
            millis(p90),
            millis(p99),
            millis(p999),
            millis(max)
        )
    }
}

impl fmt::Display for ProcessUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / 1048576.0;
        write!(f, "{:.2} s CPU, ", self.cpu_seconds)?;
        if self.cpu_us_per_message > 0.0 {
            write!(f, "{:.3} µs each, ", self.cpu_us_per_message)?;
        }
        write!(
            f,
            "{:.1} MiB resident, then {:.1}",
            mebibytes(self.resident_bytes_before),
            mebibytes(self.resident_bytes_after)
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "{name:<16}{value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::new_histogram;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut histogram = new_histogram();
        (1..=1000).for_each(|millis| histogram.record(millis * 1_000_000).unwrap());
        let latency = Latency::from_histogram(&histogram);
        assert!((latency.p50 / 500_000.0 - 1.0).abs() < 0.01);
        assert!((latency.p99 / 990_000.0 - 1.0).abs() < 0.01);
        assert!((latency.max / 1_000_000.0 - 1.0).abs() < 0.01);
    }
}
