//! How clients get to nodes: the small client of the other tests, over the simulated network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crash::Dial;
use harness::{Client, ConnectOptions};
use mqtt_codec::{ConnAck, ReasonCode};
use rand::Rng;
use tokio::time::timeout;
use turmoil::net::TcpStream;

use crate::World;
use crate::machine::{MQTT_PORT, name};

const CONNECT_WITHIN: Duration = Duration::from_secs(2);

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
