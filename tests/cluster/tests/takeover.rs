//! A client id belongs to one connection of the whole cluster.

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster, ClusterOptions, ConnectOptions, is_audited, wait_for};
use mqtt_codec::ReasonCode;
use tokio::net::TcpStream;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_to_another_node_takes_its_session_along() -> Result<()> {
    let cluster = three()?;
    let mut first = persistent(&cluster, 0, "mover").await?;
    subscribe(&mut first, "news", 1).await?;
    let second = Client::connect(cluster.mqtt_addr(1), ConnectOptions::v5("mover").persistent()).await;
    let mut second = second?;
    ensure!(second.connack().session_present, "the session stayed behind");
    first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    let mut publisher = client(&cluster, 2, "publisher").await?;
    publish(&mut publisher, "news", "for the second", 1).await?;
    expect_text(&mut second, "for the second").await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_come_at_once_one_stays() -> Result<()> {
    let cluster = three()?;
    let mut clients = Vec::new();
    for round in 0..12 {
        clients.push(client(&cluster, round % 3, "popular").await?);
    }
    let mut last = clients.pop().expect("twelve came");
    for mut earlier in clients {
        earlier.drain_until_closed().await?;
    }
    last.ping().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_just_before_the_connection_was_lost_is_not_forgotten_elsewhere() -> Result<()> {
    let cluster = three()?;
    let mut publisher = client(&cluster, 2, "publisher").await?;
    let mut wanderer = persistent(&cluster, 0, "wanderer").await?;
    subscribe(&mut wanderer, "steps", 1).await?;
    for step in 1..=10 {
        let text = format!("step {step}");
        publish(&mut publisher, "steps", &text, 1).await?;
        let received = wanderer.receive().await?;
        ensure!(
            received.publication.payload() == text.as_bytes(),
            "step {step}: acknowledged before, and here again: {:?}",
            received.publication.payload()
        );
        wanderer.acknowledge(&received).await?;
        // Without goodbye, and at once somewhere else.
        drop(wanderer);
        wanderer = persistent(&cluster, step % 3, "wanderer").await?;
        ensure!(wanderer.connack().session_present, "the session stayed behind");
    }
    Ok(())
}

/// A client on a node, and where it comes from.
async fn from_where(cluster: &Cluster, node: usize, options: ConnectOptions) -> Result<(Client, String)> {
    let stream = TcpStream::connect(cluster.mqtt_addr(node)).await?;
    let address = stream.local_addr()?.to_string();
    let mut client = Client::on(stream);
    client.handshake(options).await?;
    Ok((client, address))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_is_written_down_with_both_addresses_on_both_nodes() -> Result<()> {
    let cluster = three()?;
    let kept = ConnectOptions::v5("kept").persistent();
    for (name, options) in [("brief", ConnectOptions::v5("brief")), ("kept", kept)] {
        let (mut owner, mut before) = from_where(&cluster, 0, options.clone()).await?;
        // To another node, to a third one, and to another connection of that.
        for (from, to) in [(0, 1), (1, 2), (2, 2)] {
            let (next, now) = from_where(&cluster, to, options.clone()).await?;
            owner.expect_disconnect(ReasonCode::SessionTakenOver).await?;
            let (address, previous) = (format!("address={now} "), format!("previous={before}"));
            wait_audited(&cluster, &[to], "takeover", &[name, &address, &previous]).await?;
            let (address, new) = (format!("address={before} "), format!("next={now}"));
            wait_audited(&cluster, &[from], "taken over", &[name, &address, &new]).await?;
            (owner, before) = (next, now);
        }
        // Who comes back after a goodbye takes nothing from anybody.
        owner.disconnect().await?;
        let (_back, now) = from_where(&cluster, 0, options).await?;
        let address = format!("address={now} ");
        ensure!(!is_audited(&cluster.log(0), "takeover", &[&address]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_from_a_node_that_stands_still_names_that_node() -> Result<()> {
    // It is not declared down meanwhile.
    let cluster = block_in_place(|| {
        Cluster::start(ClusterOptions {
            cluster_keys: "down_after = '1m'".to_owned(),
            ..ClusterOptions::default()
        })
    })?;
    let _stranded = persistent(&cluster, 0, "stranded").await?;
    cluster.pause(0)?;
    let (_next, now) = from_where(&cluster, 1, ConnectOptions::v5("stranded").persistent()).await?;
    let address = format!("address={now} ");
    wait_audited(
        &cluster,
        &[1],
        "takeover",
        &["stranded", &address, "previous_node="],
    )
    .await?;
    cluster.resume(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_counted_over_all_nodes_and_who_has_one_comes_in_on_any() -> Result<()> {
    const SESSIONS: usize = 6;
    let cluster = three_of(3, &format!("[limits]\nsessions_max = {SESSIONS}\n"))?;
    for number in 0..SESSIONS - 1 {
        let kept = persistent(&cluster, number % 3, &format!("kept-{number}")).await?;
        kept.disconnect().await?;
    }
    let brief = client(&cluster, 0, "brief").await?;
    let refused = async |node: usize, name: &str| -> Result<bool> {
        let mut client = Client::open(cluster.mqtt_addr(node)).await?;
        client.send_connect(ConnectOptions::v5(name).persistent()).await?;
        Ok(client.expect_connack().await?.reason_code == ReasonCode::QuotaExceeded)
    };
    // A node that has not applied the last of them yet lets one more in: each try is somebody else.
    let mut tries = 0;
    let mut refuses = async |node: usize| {
        let full = async || {
            tries += 1;
            refused(node, &format!("more-{tries}")).await.unwrap_or(false)
        };
        wait_for(full, RECOVERY).await
    };
    for node in cluster.all() {
        refuses(node).await?;
    }
    for number in 0..SESSIONS - 1 {
        let kept = persistent(&cluster, (number + 1) % 3, &format!("kept-{number}")).await?;
        ensure!(kept.connack().session_present, "kept-{number}");
    }
    // One that ends with its connection leaves its place to the connection that takes over.
    let taken = client(&cluster, 1, "brief").await?;
    drop(brief);
    refuses(2).await?;
    drop(taken);
    Ok(())
}
