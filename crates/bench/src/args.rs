//! What can be asked of the load generator on the command line, and the check that it makes sense.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use mqtt_codec::{ProtocolVersion, QoS};

use crate::payload;

/// Command line of `flotilla bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What to do to the broker.
    #[arg(value_enum, default_value_t = Scenario::Pairs)]
    pub scenario: Scenario,
    /// Broker address HOST:PORT; several, separated by commas, are used in turn by successive connections.
    #[arg(short, long, value_delimiter = ',', default_value = "127.0.0.1:1883")]
    pub address: Vec<String>,
    /// Publishers with one subscriber each (pairs, wildcards, offline), or publishers of retained messages.
    #[arg(long, default_value_t = 10)]
    pub pairs: usize,
    /// Publishers to the one subscriber (fan-in).
    #[arg(long, default_value_t = 100)]
    pub publishers: usize,
    /// Subscribers to the one publisher (fan-out), or readers of the retained messages.
    #[arg(long, default_value_t = 100)]
    pub subscribers: usize,
    /// Connections held open (idle), or clients that go round at the same time (connect-cycle, takeover, subscribe).
    #[arg(long)]
    pub connections: Option<usize>,
    /// Quality of service of publications and subscriptions: 0, 1 or 2.
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload size in bytes; the first 16 carry the sequence number and the time of sending.
    #[arg(long, default_value_t = 100)]
    pub payload: usize,
    /// Messages per second published by all publishers together, or rounds per second of all clients together;
    /// without it, as fast as the window, or the broker, allows.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Messages a publisher may have under way; each counts until every subscriber has it.
    #[arg(short, long, default_value_t = 100)]
    pub window: usize,
    /// Length of the measured part in seconds.
    #[arg(short, long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Length of the part before it, under the same load, that is not measured, in seconds.
    #[arg(long, default_value_t = 2.0)]
    pub warm_up: f64,
    /// Subscribers have sessions that outlive their connection (clean session 0, or a session expiry interval).
    #[arg(long)]
    pub persistent: bool,
    /// Messages per publisher (offline, retained).
    #[arg(long, default_value_t = 1000)]
    pub messages: u64,
    /// Subscriptions per connection that match nothing that is published (wildcards, idle).
    #[arg(long, default_value_t = 0)]
    pub filters: usize,
    /// MQTT version.
    #[arg(short, long, value_enum, default_value_t = Protocol::V3_1_1)]
    pub protocol: Protocol,
    /// Connects with TLS; needs --ca or --insecure-tls.
    #[arg(long)]
    pub tls: bool,
    /// Certificates (PEM) that the broker's certificate is checked against; implies --tls.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Accepts any broker certificate; implies --tls.
    #[arg(long, conflicts_with = "ca")]
    pub insecure_tls: bool,
    /// User name to connect with.
    #[arg(long)]
    pub username: Option<String>,
    /// Password to connect with.
    #[arg(long, requires = "username")]
    pub password: Option<String>,
    /// Start of the client identifiers and first level of the topics.
    #[arg(long, default_value = "bench")]
    pub prefix: String,
    /// Keep alive of every connection in seconds; 0 is none.
    #[arg(long, default_value_t = 60)]
    pub keep_alive: u16,
    /// Local addresses to connect from in turn, for more connections than one address has ports.
    #[arg(long, value_delimiter = ',')]
    pub bind: Vec<std::net::IpAddr>,
    /// Threads that carry the connections.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Seconds without progress after which messages under way are given up as lost.
    #[arg(long, default_value_t = 5.0)]
    pub loss_timeout: f64,
    /// Process of the broker on this machine, or its processes, separated by commas: CPU time and resident memory of
    /// all together are measured too.
    #[arg(long, value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Prints the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Prints no progress lines.
    #[arg(long)]
    pub quiet: bool,
}

/// The shapes of load.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Each publisher has its own topic and one subscriber.
    Pairs,
    /// Many publishers, one subscriber.
    FanIn,
    /// One publisher, many subscribers.
    FanOut,
    /// Pairs whose subscribers use `+` and `#`, among filters that do not match.
    Wildcards,
    /// Connections that only stay open.
    Idle,
    /// Connect, subscribe, publish with QoS 1, disconnect, again and again.
    ConnectCycle,
    /// Each client connects at the next address while its connection before is still open.
    Takeover,
    /// Each client subscribes to one new filter after the other.
    Subscribe,
    /// A subscriber at the first address, which goes to the next one when its connection ends, and a publisher at the last.
    Failover,
    /// Messages queue for subscribers that are away and are fetched when they come back.
    Offline,
    /// Retained messages are stored, then read by new subscribers.
    Retained,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pairs => "pairs",
            Self::FanIn => "fan-in",
            Self::FanOut => "fan-out",
            Self::Wildcards => "wildcards",
            Self::Idle => "idle",
            Self::ConnectCycle => "connect-cycle",
            Self::Takeover => "takeover",
            Self::Subscribe => "subscribe",
            Self::Failover => "failover",
            Self::Offline => "offline",
            Self::Retained => "retained",
        })
    }
}

/// MQTT versions by the number people use for them.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.
    #[value(name = "3.1", alias = "3")]
    V3_1,
    /// MQTT 3.1.1.
    #[value(name = "3.1.1", alias = "4")]
    V3_1_1,
    /// MQTT 5.0.
    #[value(name = "5", alias = "5.0")]
    V5,
}

impl Protocol {
    pub(crate) fn version(self) -> ProtocolVersion {
        match self {
            Self::V3_1 => ProtocolVersion::V3_1,
            Self::V3_1_1 => ProtocolVersion::V3_1_1,
            Self::V5 => ProtocolVersion::V5,
        }
    }
}

impl Args {
    /// Says what cannot work before anything is connected.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.address.is_empty(), "--address names no broker");
        ensure!(
            self.payload >= payload::HEAD_LENGTH,
            "--payload must be at least {}: the sequence number and the time of sending",
            payload::HEAD_LENGTH
        );
        ensure!(
            (1..=65_535).contains(&self.window),
            "--window must be between 1 and 65535"
        );
        ensure!(
            self.rate.is_none_or(|rate| rate > 0.0),
            "--rate must be more than 0"
        );
        ensure!(
            self.seconds > 0.0 && self.warm_up >= 0.0 && self.loss_timeout > 0.0,
            "durations must be positive"
        );
        ensure!(
            self.pairs
                .min(self.publishers)
                .min(self.subscribers)
                .min(self.threads)
                > 0,
            "counts must be at least 1"
        );
        ensure!(self.subscribers < 65_535, "--subscribers must be below 65535");
        ensure!(self.connections != Some(0), "--connections must be at least 1");
        ensure!(
            !(self.scenario == Scenario::Offline && self.qos == 0),
            "messages wait for absent subscribers with --qos 1 or 2"
        );
        ensure!(
            !self.prefix.is_empty() && !self.prefix.contains(['+', '#', '\0']),
            "--prefix must be a valid topic name"
        );
        let uses_tls = self.uses_tls();
        ensure!(
            !uses_tls || self.ca.is_some() || self.insecure_tls,
            "--tls needs --ca FILE or --insecure-tls"
        );
        Ok(())
    }

    pub(crate) fn uses_tls(&self) -> bool {
        self.tls || self.ca.is_some() || self.insecure_tls
    }

    pub(crate) fn qos(&self) -> QoS {
        match self.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    pub(crate) fn loss_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.loss_timeout)
    }
}
