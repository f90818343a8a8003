//! A broker that is attacked, and beside it a client that has done nothing wrong: what the stories in `tests/` have in common.

mod bystander;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Broker, BrokerOptions, wait_for};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use bystander::Bystander;
pub use bystander::served_within;

/// Who is to be closed is closed within this time, beyond the limits that the configuration sets.
pub const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// What an attack may leave behind in the memory of the process.
const LEFT_MAX: u64 = 64 << 20;
/// Memory that was given back has this long to leave the process.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// So often the bystander is served before an attack, and after it.
const ROUNDS: u64 = 10;

/// A running broker, and a client that publishes to itself all along.
pub struct Scene {
    /// The broker under attack.
    pub broker: Broker,
    bystander: Bystander,
    resident_before: u64,
}

impl Scene {
    /// Starts a broker with these sections of configuration, and the bystander beside it.
    ///
    /// # Errors
    /// The broker does not start.
    pub async fn begin(config: &str) -> Result<Scene> {
        Scene::begin_with(BrokerOptions {
            config: Some(config.to_owned()),
            ..BrokerOptions::default()
        })
        .await
    }

    /// As `begin`, with listeners for TLS.
    ///
    /// # Errors
    /// The broker does not start.
    pub async fn begin_with(options: BrokerOptions) -> Result<Scene> {
        let broker = tokio::task::block_in_place(|| Broker::start(options))?;
        let bystander = Bystander::connect(broker.mqtt_addr()).await?;
        let mut scene = Scene {
            resident_before: 0,
            broker,
            bystander,
        };
        scene.serve_on().await?;
        scene.resident_before = scene.resident()?;
        Ok(scene)
    }

    /// Starts the broker again on what it has; the bystander comes back first.
    ///
    /// # Errors
    /// The broker does not start.
    pub async fn restart(&mut self) -> Result<()> {
        tokio::task::block_in_place(|| self.broker.restart())?;
        self.bystander = Bystander::connect(self.broker.mqtt_addr()).await?;
        self.serve_on().await?;
        self.resident_before = self.resident()?;
        Ok(())
    }

    /// Waits until the bystander was served some more times.
    ///
    /// # Errors
    /// It was not served in time, now or before.
    pub async fn serve_on(&mut self) -> Result<()> {
        self.bystander.rounds_more(ROUNDS).await
    }

    /// How often the bystander was served since the last start, and how long it waited at the most.
    pub fn seen(&self) -> String {
        let (rounds, worst) = self.bystander.seen();
        format!("the bystander was served {rounds} times, at worst within {worst:?}")
    }

    /// The attack is over, and its connections are closed: nobody noticed, and nothing is left of it.
    ///
    /// # Errors
    /// The process has ended, the bystander was not served in time, or memory is kept.
    pub async fn ends_well(self) -> Result<()> {
        self.ends_well_leaving(0).await
    }

    /// As `ends_well`, where an attack of this size may leave so many bytes, if that is more than others may.
    ///
    /// # Errors
    /// As `ends_well`.
    pub async fn ends_well_leaving(mut self, left: u64) -> Result<()> {
        self.serve_on().await?;
        ensure!(self.broker.is_running(), "the broker has ended");
        let allowed = self.resident_before + LEFT_MAX.max(left);
        let mut resident = 0;
        let settled = async || {
            resident = self.resident().unwrap_or(u64::MAX);
            resident <= allowed
        };
        let settled = wait_for(settled, SETTLE_WITHIN).await;
        let (before, after) = (self.resident_before >> 20, resident >> 20);
        settled.with_context(|| format!("resident memory rose from {before} to {after} MiB"))?;
        let (rounds, worst) = self.bystander.seen();
        println!(
            "served {rounds} times, at worst within {worst:?}; resident {before} MiB before, {after} after"
        );
        Ok(())
    }

    /// A value of the node's metrics, by name and labels; of a name alone the sum over its labels; 0 when it is not there.
    ///
    /// # Errors
    /// The admin listener does not answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let metrics = tokio::task::block_in_place(|| self.broker.admin_get("/metrics"))?;
        let values = metrics.lines().filter_map(|line| {
            let labels = line.strip_prefix(name)?;
            let (labels, value) = labels.split_at_checked(labels.find(' ')?)?;
            (labels.is_empty() || labels.starts_with('{')).then_some(value.trim())
        });
        values.map(|value| Ok(value.parse::<f64>()?)).sum()
    }

    /// Waits until a value of the metrics is at least so large: who was closed may know it before it is counted.
    ///
    /// # Errors
    /// It stays below.
    pub async fn reaches(&self, name: &str, wanted: usize) -> Result<()> {
        let mut value = 0.0;
        let reached = async || {
            value = self.metric(name).unwrap_or(0.0);
            value >= wanted as f64
        };
        let reached = wait_for(reached, CLOSED_WITHIN).await;
        reached.with_context(|| format!("{name} is {value}, not {wanted}"))
    }

    /// Resident memory of the process in bytes.
    ///
    /// # Errors
    /// It does not run.
    pub fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most that was resident at any moment since the process began, as the kernel has seen it.
    ///
    /// # Errors
    /// It does not run.
    pub fn resident_peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &'static str) -> Result<u64> {
        let pid = self.broker.pid().context("the broker runs")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line
            .and_then(|line| line.split_whitespace().next())
            .context(name)?;
        Ok(kilobytes.parse::<u64>()? * 1024)
    }
}

/// Opens many connections, and says the same on each.
///
/// # Errors
/// One cannot be opened.
pub async fn crowd(address: SocketAddr, count: usize, first: &[u8]) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        // The broker may hang up at once.
        stream.write_all(first).await.ok();
        streams.push(stream);
    }
    Ok(streams)
}

/// Reads until the broker has closed every one of them.
///
/// # Errors
/// One is still open at the end of that time.
pub async fn all_closed<S: AsyncRead + Unpin>(streams: &mut [S], within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let mut buffer = vec![0; 64 * 1024];
    for (number, stream) in streams.iter_mut().enumerate() {
        loop {
            match timeout_at(deadline, stream.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => {}
                Err(_) => bail!("connection {number} was still open after {within:?}"),
            }
        }
    }
    Ok(())
}
