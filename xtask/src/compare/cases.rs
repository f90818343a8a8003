//! The loads of the comparison, each with what Flotilla should reach.

use super::broker::Kind;

/// One load.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// As it stands in the document.
    pub(crate) title: &'static str,
    load: &'static str,
    /// Further arguments for Flotilla alone, where it is to do more than its peers.
    flotilla_only: &'static str,
    pub(crate) tls: bool,
    pub(crate) yardsticks: &'static [Yardstick],
}

/// What Flotilla's median should be at most, or at least.
#[derive(Clone, Copy)]
pub(crate) enum Yardstick {
    /// CPU per message, as a multiple of mosquitto's.
    CpuRatio(f64),
    /// Median latency, as a multiple of mosquitto's.
    P50Ratio(f64),
    /// 99th percentile of the latency, as a multiple of mosquitto's.
    P99Ratio(f64),
    /// Messages per second, at least.
    PerSecond(f64),
    /// Resident bytes per connection.
    BytesPerConnection(f64),
}

impl Case {
    pub(crate) fn arguments(&self, kind: Kind) -> impl Iterator<Item = &'static str> {
        let more = if kind == Kind::Flotilla {
            self.flotilla_only
        } else {
            ""
        };
        let tls = if self.tls { "--insecure-tls" } else { "" };
        self.load
            .split_whitespace()
            .chain(more.split_whitespace())
            .chain(tls.split_whitespace())
    }

    /// The load as `flotilla bench` takes it.
    pub(crate) fn line(&self) -> String {
        let more = if self.flotilla_only.is_empty() {
            String::new()
        } else {
            format!(" (Flotilla: {})", self.flotilla_only)
        };
        format!("{}{more}", self.load)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.load.starts_with("idle")
    }
}

/// In the order of the document.
pub(crate) const CASES: [Case; 10] = [
    Case {
        name: "qos0",
        title: "QoS 0, ten pairs, saturating",
        load: "pairs --pairs 10 --qos 0 --window 200",
        flotilla_only: "",
        tls: false,
        yardsticks: &[Yardstick::CpuRatio(0.10)],
    },
    Case {
        name: "qos1",
        title: "QoS 1, ten pairs, window 16",
        load: "pairs --pairs 10 --qos 1 --window 16",
        flotilla_only: "",
        tls: false,
        yardsticks: &[Yardstick::CpuRatio(0.14)],
    },
    Case {
        name: "qos2",
        title: "QoS 2, ten pairs, window 16",
        load: "pairs --pairs 10 --qos 2 --window 16",
        flotilla_only: "",
        tls: false,
        yardsticks: &[Yardstick::CpuRatio(0.15)],
    },
    Case {
        name: "fan-out",
        title: "Fan-out 1:100, QoS 0",
        load: "fan-out --subscribers 100 --qos 0 --window 200",
        flotilla_only: "",
        tls: false,
        yardsticks: &[Yardstick::CpuRatio(0.08)],
    },
    Case {
        name: "fan-in",
        title: "Fan-in 100:1, QoS 0",
        load: "fan-in --publishers 100 --qos 0 --window 20",
        flotilla_only: "",
        tls: false,
        yardsticks: &[Yardstick::CpuRatio(0.10)],
    },
    Case {
        name: "rate",
        title: "5,000 messages/s, ten pairs, QoS 0",
        load: "pairs --pairs 10 --qos 0 --rate 5000",
        flotilla_only: "",
        tls: false,
        yardsticks: &[
            Yardstick::CpuRatio(1.3),
            Yardstick::P50Ratio(1.3),
            Yardstick::P99Ratio(1.3),
        ],
    },
    Case {
        name: "persistent",
        title: "QoS 1, 64 pairs, window 16; Flotilla with persistent sessions synced to disk, the others without persistence",
        load: "pairs --pairs 64 --qos 1 --window 16",
        flotilla_only: "--persistent",
        tls: false,
        yardsticks: &[Yardstick::CpuRatio(0.75), Yardstick::PerSecond(20_000.0)],
    },
    Case {
        name: "connect-cycle",
        title: "Connect, subscribe, publish QoS 1, disconnect; ten clients at a time",
        load: "connect-cycle --connections 10",
        flotilla_only: "",
        tls: false,
        yardsticks: &[Yardstick::CpuRatio(2.0)],
    },
    Case {
        name: "idle",
        title: "2,000 idle TCP connections",
        load: "idle --connections 2000",
        flotilla_only: "",
        tls: false,
        yardsticks: &[Yardstick::BytesPerConnection(6.0 * 1024.0)],
    },
    Case {
        name: "idle-tls",
        title: "1,000 idle TLS connections",
        load: "idle --connections 1000",
        flotilla_only: "",
        tls: true,
        yardsticks: &[Yardstick::BytesPerConnection(30.0 * 1024.0)],
    },
];
