//! Those who ask whether a node is there: clients by PINGREQ, operators by readiness and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Client, ConnectOptions};
use hostile::{Scene, served_within};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(100);

/// Clients who do nothing else.
pub(crate) struct Pinging {
    clients: Vec<Client>,
}

impl Pinging {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let options = ConnectOptions::v5(format!("pinging-{number}"));
            clients.push(Client::connect(address, options).await?);
        }
        Ok(Self { clients })
    }

    /// Each is answered again and again, in time. Returns the longest that it took.
    pub(crate) async fn until(self, end: Instant) -> Result<Duration> {
        let mut pinging: JoinSet<_> = self
            .clients
            .into_iter()
            .map(|client| ping_until(client, end))
            .collect();
        let mut worst = Duration::ZERO;
        while let Some(pinged) = pinging.join_next().await {
            worst = worst.max(pinged??);
        }
        Ok(worst)
    }
}

async fn ping_until(mut client: Client, end: Instant) -> Result<Duration> {
    let (within, mut worst) = (served_within()?, Duration::ZERO);
    while Instant::now() < end {
        let asked = Instant::now();
        let late = || format!("no PINGRESP within {within:?}");
        timeout(within, client.ping()).await.with_context(late)??;
        worst = worst.max(asked.elapsed());
        sleep(PAUSE).await;
    }
    Ok(worst)
}

/// The admin listener answers again and again, in time. Returns the longest that it took, and the highest level of overload.
pub(crate) async fn until(scene: &Scene, end: Instant) -> Result<(Duration, f64)> {
    let (within, mut worst, mut level) = (served_within()?, Duration::ZERO, 0.0_f64);
    while Instant::now() < end {
        let asked = Instant::now();
        tokio::task::block_in_place(|| scene.broker.admin_get("/readyz"))?;
        let ready = asked.elapsed();
        level = level.max(scene.metric("flotilla_overload_level")?);
        worst = worst.max(ready).max(asked.elapsed() - ready);
        ensure!(worst <= within, "the admin listener took {worst:?}");
        sleep(PAUSE).await;
    }
    Ok((worst, level))
}
