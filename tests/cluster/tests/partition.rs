//! Cut off from the majority, a node stops to acknowledge within its lease; healed, it is one of them again.

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster, ClusterOptions, ConnectOptions, Cut, Message};
use mqtt_codec::{ProtocolVersion, ReasonCode};
use tokio::task::block_in_place;
use tokio::time::timeout;

/// Where clients of a node that is cut off are told to go.
const ELSEWHERE: &str = "mqtt.example:1883";

/// What a client is told that is connected when its node loses the majority.
#[derive(Clone, Copy)]
enum Farewell {
    /// The server is busy.
    Busy,
    /// To use another server, and which.
    Elsewhere,
}

async fn the_minority_is_silent_and_heals(cut: Cut, farewell: Farewell) -> Result<()> {
    let cluster_keys = match farewell {
        Farewell::Busy => String::new(),
        Farewell::Elsewhere => format!("server_reference = \"{ELSEWHERE}\""),
    };
    let cluster = block_in_place(|| {
        Cluster::start(ClusterOptions {
            links: true,
            cluster_keys,
            ..ClusterOptions::default()
        })
    })?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    let mut stranded = client(&cluster, 0, "stranded").await?;
    let mut idle = client(&cluster, 0, "idle").await?;
    let mut old = Client::connect(cluster.mqtt_addr(0), ConnectOptions::v311("old")).await?;

    cluster.isolate(0, cut);
    load.move_clients(&cluster, 0, 1);
    wait_ready(&cluster, 0, false, FENCED).await?;
    ensure!(
        !acknowledges(&mut stranded).await,
        "acknowledged without a majority"
    );
    let (reason_code, reference) = match farewell {
        Farewell::Busy => (ReasonCode::ServerBusy, None),
        Farewell::Elsewhere => (ReasonCode::UseAnotherServer, Some(ELSEWHERE)),
    };
    let told = idle.expect_disconnect(reason_code).await?;
    ensure!(told.server_reference.as_deref() == reference, "{told:?}");
    // Before MQTT 5.0 a server has no words for it.
    old.expect_closed().await?;
    for version in [ProtocolVersion::V5, ProtocolVersion::V3_1_1] {
        let mut late = Client::open(cluster.mqtt_addr(0)).await?;
        late.send_connect(ConnectOptions::new(version, "late")).await?;
        let refused = late.expect_connack().await?;
        ensure!(
            refused.reason_code == ReasonCode::ServerUnavailable,
            "{refused:?}"
        );
        late.expect_closed().await?;
    }
    load.progress(300, RECOVERY).await?;

    cluster.heal_all();
    wait_ready(&cluster, 0, true, RECOVERY).await?;
    load.move_clients(&cluster, 0, 0);
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}

async fn acknowledges(client: &mut Client) -> bool {
    let publish = client.publish(Message::new("from/the/minority", "x").qos(1));
    matches!(timeout(FENCED, publish).await, Ok(Ok(reason)) if accepts(reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_links_are_closed_stops_to_acknowledge_and_heals() -> Result<()> {
    the_minority_is_silent_and_heals(Cut::Refuse, Farewell::Busy).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_links_are_silent_stops_to_acknowledge_and_heals() -> Result<()> {
    the_minority_is_silent_and_heals(Cut::Silent, Farewell::Elsewhere).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_cannot_reach_each_other_stop_nobody() -> Result<()> {
    let cluster = three_with_links()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    cluster.cut(0, 1, Cut::Silent);
    load.progress(300, RECOVERY).await?;
    cluster.heal(0, 1);
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}
