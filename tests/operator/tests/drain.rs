//! A node is taken out of service and back, alone and among others; and what its clients are told.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Broker, BrokerOptions, Client, Cluster, ClusterOptions, ConnectOptions, Message, wait_for};
use mqtt_codec::{ProtocolVersion, ReasonCode};
use operator::{Api, Member, Node, printed};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

async fn order(api: &Api, path: &str) -> Result<()> {
    api.ask("POST", path, None)?.good().map(drop)
}

async fn in_state(api: &Api, state: &str) -> Result<Value> {
    wait_for(
        async || api.get("/api/v1/node").is_ok_and(|node| node["state"] == state),
        LIMIT,
    )
    .await?;
    api.get("/api/v1/node")
}

async fn refusal(address: SocketAddr, options: ConnectOptions) -> Result<ReasonCode> {
    let mut client = Client::open(address).await?;
    client.send_connect(options).await?;
    Ok(client.expect_connack().await?.reason_code)
}

fn broker(config: &str) -> Result<(Broker, Api)> {
    let broker = Broker::start(BrokerOptions {
        config: Some(config.to_owned()),
        ..BrokerOptions::default()
    })?;
    let api = Api::at(broker.admin_addr());
    Ok((broker, api))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_says_goodbye_refuses_and_is_taken_back() -> Result<()> {
    let (broker, api) = broker("")?;
    let address = broker.mqtt_addr();
    let mut modern = Client::connect(address, ConnectOptions::v5("modern")).await?;
    let mut old = Client::connect(address, ConnectOptions::v311("old")).await?;
    assert_eq!(api.get("/api/v1/node")?["drain"], Value::Null);

    order(&api, "/api/v1/node/drain").await?;
    // There is no other node to go to.
    modern.expect_disconnect(ReasonCode::ServerShuttingDown).await?;
    old.expect_closed().await?;
    let node = in_state(&api, "drained").await?;
    assert_eq!(
        node["drain"],
        json!({"phase": "drained", "remaining_connections": 0})
    );
    let ready = api.ask("GET", "/readyz", None)?;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("[-]not-draining failed"), "{}", ready.body);
    let metrics = broker.admin_get("/metrics")?;
    assert!(metrics.contains("flotilla_draining 1\n"), "{metrics}");
    assert!(
        metrics.contains("flotilla_connections_closed_total{reason=\"moved\"} 2\n"),
        "{metrics}"
    );
    for version in [ProtocolVersion::V5, ProtocolVersion::V3_1_1] {
        let reason_code = refusal(address, ConnectOptions::new(version, "late")).await?;
        assert_eq!(reason_code, ReasonCode::ServerUnavailable);
    }

    order(&api, "/api/v1/node/undrain").await?;
    in_state(&api, "ready").await?;
    assert_eq!(api.ask("GET", "/readyz", None)?.status, 200);
    Client::connect(address, ConnectOptions::v5("modern"))
        .await?
        .ping()
        .await?;
    wait_for(
        async || {
            broker
                .admin_get("/metrics")
                .is_ok_and(|text| text.contains("flotilla_draining 0\n"))
        },
        LIMIT,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_one_after_the_other_and_the_rest_stays_when_it_is_taken_back() -> Result<()> {
    let (broker, api) = broker("[drain]\nconnections_per_second = 1\n")?;
    let mut clients = Vec::new();
    for number in 0..20 {
        let options = ConnectOptions::v5(format!("c{number}"));
        clients.push(Client::connect(broker.mqtt_addr(), options).await?);
    }
    order(&api, "/api/v1/node/drain").await?;
    // Those that came first go first.
    clients[0]
        .expect_disconnect(ReasonCode::ServerShuttingDown)
        .await?;
    let node = in_state(&api, "draining").await?;
    assert_eq!(node["drain"]["phase"], "asking", "{node}");
    let remaining = node["drain"]["remaining_connections"]
        .as_u64()
        .unwrap_or_default();
    assert!((1..20).contains(&remaining), "{node}");
    order(&api, "/api/v1/node/undrain").await?;
    clients[19].ping().await?;

    // Another rate may be asked for, and a wrong one is refused.
    assert_eq!(api.ask("POST", "/api/v1/node/drain?rate=0", None)?.status, 400);
    order(&api, "/api/v1/node/drain?rate=1000").await?;
    clients[19]
        .expect_disconnect(ReasonCode::ServerShuttingDown)
        .await?;
    in_state(&api, "drained").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_to_its_time_whatever_the_rate_and_cannot_be_taken_back() -> Result<()> {
    let config =
        "[node]\nstop_timeout = \"4s\"\n[drain]\nconnections_per_second = 1\nload_balancer_wait = \"1s\"\n";
    let (mut broker, api) = broker(config)?;
    let mut clients = Vec::new();
    for number in 0..10 {
        let options = ConnectOptions::v5(format!("c{number}"));
        clients.push(Client::connect(broker.mqtt_addr(), options).await?);
    }
    let stopped = tokio::task::spawn_blocking(move || broker.stop());
    let node = in_state(&api, "draining").await?;
    assert_eq!(
        node["drain"]["remaining_connections"], 10,
        "load balancers have a second to notice: {node}"
    );
    assert_eq!(api.ask("POST", "/api/v1/node/undrain", None)?.status, 409);
    for client in &mut clients {
        client.expect_disconnect(ReasonCode::ServerShuttingDown).await?;
    }
    let status = stopped.await??;
    assert!(status.success(), "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_waits_for_a_drain_and_shows_what_is_left() -> Result<()> {
    let (broker, api) = broker("")?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    let drained = broker.ctl(&["drain", "--wait", "--rate", "10"])?;
    assert!(drained.status.success(), "{drained:?}");
    assert!(
        printed(&drained).contains("drained: 0 connections"),
        "{}",
        printed(&drained)
    );
    client.expect_disconnect(ReasonCode::ServerShuttingDown).await?;
    assert!(printed(&broker.ctl(&["node"])?).contains("drained, 0 connections left"));
    assert!(broker.ctl(&["undrain"])?.status.success());
    in_state(&api, "ready").await.map(drop)
}

fn led(api: &Api, name: &str) -> Option<(u64, String)> {
    let status = api.get("/api/v1/cluster").ok()?;
    let member = status["members"]
        .as_array()?
        .iter()
        .find(|member| member["name"] == name)?;
    Some((
        member["shards_led"].as_u64()?,
        member["state"].as_str()?.to_owned(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_drained_node_go_on_elsewhere() -> Result<()> {
    let options = ClusterOptions {
        cluster_keys: "server_reference = \"mqtt.example.org\"\n".to_owned(),
        ..ClusterOptions::default()
    };
    let mut cluster = tokio::task::spawn_blocking(|| Cluster::start(options)).await??;
    let apis: Vec<Api> = cluster
        .all()
        .into_iter()
        .map(|node| Api::at(cluster.admin_addr(node)))
        .collect();
    let name = cluster.name(0).to_owned();
    wait_for(
        async || led(&apis[0], &name).is_some_and(|(led, _)| led > 0),
        LIMIT,
    )
    .await
    .context("the first node leads nothing yet")?;
    let device = || ConnectOptions::v5("device").persistent();
    let mut client = Client::connect(cluster.mqtt_addr(0), device()).await?;
    client.subscribe("fleet/#", 1).await?;
    let mut sender = Client::connect(cluster.mqtt_addr(2), ConnectOptions::v311("sender")).await?;

    order(&apis[0], "/api/v1/node/drain").await?;
    let goodbye = client.expect_disconnect(ReasonCode::UseAnotherServer).await?;
    assert_eq!(goodbye.server_reference.as_deref(), Some("mqtt.example.org"));
    sender
        .publish(Message::new("fleet/1", "meanwhile").qos(1))
        .await?;
    let late = refusal(cluster.mqtt_addr(0), device().resume()).await?;
    assert_eq!(late, ReasonCode::UseAnotherServer);
    let mut client = Client::connect(cluster.mqtt_addr(1), device().resume()).await?;
    assert!(client.connack().session_present);
    assert_eq!(
        client.receive().await?.publication.payload(),
        "meanwhile".as_bytes()
    );
    // It leads nothing, as any node sees, and is a member like before.
    let out = async || led(&apis[2], &name) == Some((0, "draining".to_owned()));
    wait_for(out, LIMIT).await.context("the drained node leads")?;
    assert!(printed(&Member(&cluster, 2).ctl(&["cluster", "status"])?).contains("draining"));

    // Another one at the same time: what is left serves, and takes over.
    order(&apis[1], "/api/v1/node/drain").await?;
    client.expect_disconnect(ReasonCode::UseAnotherServer).await?;
    let mut client = Client::connect(cluster.mqtt_addr(2), device().resume()).await?;
    assert!(client.connack().session_present);
    let all_led = async || led(&apis[2], cluster.name(2)).is_some_and(|(led, _)| led == 16);
    wait_for(all_led, LIMIT)
        .await
        .context("the last node does not lead all")?;
    sender.publish(Message::new("fleet/1", "again").qos(1)).await?;
    assert_eq!(client.receive().await?.publication.payload(), "again".as_bytes());

    // Taken back, it leads again what is its to lead.
    order(&apis[0], "/api/v1/node/undrain").await?;
    order(&apis[1], "/api/v1/node/undrain").await?;
    in_state(&apis[0], "ready").await?;
    wait_for(
        async || led(&apis[2], &name).is_some_and(|(led, state)| led > 0 && state == "up"),
        LIMIT,
    )
    .await
    .context("a node that was taken back leads nothing")?;

    // A stop says the same, and is no leave.
    let stopped = tokio::task::spawn_blocking(move || (cluster.stop(2), cluster));
    client.expect_disconnect(ReasonCode::UseAnotherServer).await?;
    sender.expect_closed().await?;
    let (status, cluster) = stopped.await?;
    assert!(status?.success());
    assert!(led(&apis[0], cluster.name(2)).is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_more_than_its_share_sends_the_rest_elsewhere() -> Result<()> {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default())).await??;
    let mut clients = Vec::new();
    for number in 0..9 {
        let options = ConnectOptions::v5(format!("c{number}"));
        clients.push(Client::connect(cluster.mqtt_addr(0), options).await?);
    }
    // Any node can be asked.
    let order = ["rebalance", "--rate", "1000", "--progress", "--output", "json"];
    let shown = Member(&cluster, 1).ctl(&order)?;
    assert!(shown.status.success(), "{shown:?}");
    // How many were still to move at each look is chance, but that all have moved is not.
    let progress = String::from_utf8_lossy(&shown.stderr);
    assert!(progress.ends_with("still to move: 0 connections\n"), "{progress}");
    let shares: Value = serde_json::from_str(&printed(&shown))?;
    let full = shares["items"].as_array().context("items")?.iter();
    let full: Vec<_> = full.filter(|share| share["name"] == cluster.name(0)).collect();
    assert_eq!(
        (&full[0]["connections"], &full[0]["moving"]),
        (&json!(9), &json!(6)),
        "{shares}"
    );
    // Those that came last go, and the others stay.
    for client in &mut clients[3..] {
        client.expect_disconnect(ReasonCode::UseAnotherServer).await?;
    }
    for client in &mut clients[..3] {
        client.ping().await?;
    }
    let again = Api::at(cluster.admin_addr(2)).ask("POST", "/api/v1/rebalance?rate=0", None)?;
    assert_eq!(again.status, 400);
    Ok(())
}
