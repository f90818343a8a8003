//! What a node carries: as many messages as a subscriber takes while publishers wait for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use harness::{Client, ConnectOptions, Message};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::PAYLOAD;

const MEASURED_FOR: Duration = Duration::from_secs(1);
const PUBLISHERS: usize = 4;
/// Messages of each that have not arrived.
const UNDER_WAY: usize = 16;

/// Messages in a second, from publishers to one subscriber, whose session is kept.
pub(crate) async fn carried(address: SocketAddr, qos: u8) -> Result<f64> {
    let options = ConnectOptions::v5("measure").persistent();
    let mut subscriber = Client::connect(address, options).await?;
    subscriber.subscribe("measure", qos).await?;
    let places = Arc::new(Semaphore::new(PUBLISHERS * UNDER_WAY));
    let began = Instant::now();
    let end = began + MEASURED_FOR;
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        let options = ConnectOptions::v5(format!("measuring-{number}"));
        let client = Client::connect(address, options).await?;
        publishers.spawn(publish(client, qos, Arc::clone(&places), end));
    }
    let mut arrived = 0;
    while let Ok(publish) = timeout_at(end, subscriber.receive()).await {
        publish?;
        arrived += 1;
        places.add_permits(1);
    }
    let carried = f64::from(arrived) / began.elapsed().as_secs_f64();
    while let Some(publisher) = publishers.join_next().await {
        publisher??;
    }
    // What is left of it is not part of what follows.
    drop(subscriber);
    let subscriber = Client::connect(address, ConnectOptions::v5("measure")).await?;
    subscriber.disconnect().await?;
    Ok(carried)
}

async fn publish(mut client: Client, qos: u8, places: Arc<Semaphore>, end: Instant) -> Result<()> {
    let message = Message::new("measure", [0; PAYLOAD]).qos(qos);
    let mut unacknowledged = 0;
    while let Ok(place) = timeout_at(end, places.acquire()).await {
        place?.forget();
        client.send_publish(message.clone()).await?;
        unacknowledged += usize::from(qos > 0);
        if unacknowledged >= UNDER_WAY {
            client.receive_packet().await?;
            unacknowledged -= 1;
        }
    }
    Ok(())
}
