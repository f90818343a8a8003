//! How clients get to nodes: the small client of the other tests, over the simulated network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crash::Dial;
use harness::{Client, ConnectOptions};
use mqtt_codec::{ConnAck, ReasonCode};
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};
use turmoil::net::TcpStream;

use crate::World;
use crate::machine::{MQTT_PORT, name};

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A node that was cut off serves again after this time: its connections, its lease, and what it has to catch up with.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// A connection to a node on which nothing has been sent.
pub async fn open(node: usize) -> Result<Client> {
    let connecting = TcpStream::connect((name(node), MQTT_PORT));
    let stream = timeout(CONNECT_WITHIN, connecting)
        .await
        .context("connecting timed out")?;
    // A stream that no listener accepted belongs to none that lets strangers in.
    Ok(Client::on(stream?).as_user("simulated"))
}

/// Connects to a node; an error unless it accepts.
pub async fn connect(node: usize, options: ConnectOptions) -> Result<(Client, ConnAck)> {
    let mut client = open(node).await?;
    let connack = client.handshake(options).await?;
    ensure!(
        connack.reason_code == ReasonCode::Success,
        "refused: {:?}",
        connack.reason_code
    );
    Ok((client, connack))
}

/// As `connect`, again and again while the node refuses or leaves the client alone, as it does until it has its lease back.
pub async fn connect_at_last(node: usize, options: ConnectOptions) -> Result<Client> {
    at_last(async || connect(node, options.clone()).await.map(|(client, _)| client)).await
}

/// What a new subscriber at a node finds retained, when the node lets it in.
pub async fn look(node: usize, topic: &str) -> Result<Option<u64>> {
    at_last(async || crash::look_on(open(node).await?, topic).await).await
}

/// Tries until a node serves. An answer that does not come is a failure at once.
async fn at_last<T>(attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let text = format!("{error:#}");
        ensure!(!text.contains("no packet came"), text);
        ensure!(
            begun.elapsed() < SERVES_WITHIN,
            "not let in for {SERVES_WITHIN:?}: {text}"
        );
        sleep(PAUSE).await;
    }
}

/// Each connection to whichever node the seed says, as behind a balancer that knows nothing.
pub fn dial_any(world: &Arc<World>) -> Dial {
    let world = world.clone();
    Arc::new(move |_| {
        let node = world.choices.lock().random_range(world.nodes());
        Box::pin(open(node))
    })
}

/// What clients are told who are dialled for.
pub(crate) fn nowhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
}
