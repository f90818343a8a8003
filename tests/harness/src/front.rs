//! A proxy in front of a broker, as its tests look at it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, ensure};

use crate::{Broker, Client, ConnectOptions, LIMIT, Message, wait_for};

/// A port of loopback that was free a moment ago.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Waits until clients come through a proxy, and makes sure that the broker, whose log has to tell who connects, knows one by
/// its own address.
pub async fn known_behind(front: SocketAddr, broker: &Broker) -> Result<()> {
    let connected = async || Client::connect(front, ConnectOptions::v5("behind")).await.is_ok();
    wait_for(connected, 2 * LIMIT).await?;
    let stream = tokio::net::TcpStream::connect(front).await?;
    let own = stream.local_addr()?;
    let mut client = Client::on(stream);
    client.handshake(ConnectOptions::v5("known")).await?;
    client.subscribe("t", 1).await?;
    client.publish(Message::new("t", "x").qos(1)).await?;
    client.receive().await?;
    let line = format!("client_id=\"known\" address={own}");
    ensure!(broker.log().contains(&line), "{own}: {}", broker.log());
    Ok(())
}
