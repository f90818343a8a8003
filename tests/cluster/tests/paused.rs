//! A node that stands still is left behind, acknowledges nothing in its sleep, and comes back.

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::Message;
use mqtt_codec::Packet;

#[tokio::test(flavor = "multi_thread")]
async fn the_others_go_on_without_a_node_that_stands_still_and_it_returns() -> Result<()> {
    let cluster = three()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    let mut stranded = client(&cluster, 0, "stranded").await?;
    cluster.pause(0)?;
    load.move_clients(&cluster, 0, 1);
    load.progress(300, RECOVERY).await?;
    wait_member(&cluster, 1, 0, RECOVERY, |member| member.state == "down").await?;
    // It lies in the socket of the sleeper, who has to notice first that it slept too long.
    stranded
        .send_publish(Message::new("too/late", "x").qos(1))
        .await?;
    cluster.resume(0)?;
    let answer = stranded.receive_packet().await;
    ensure!(
        !matches!(&answer, Ok(Packet::PubAck(ack)) if accepts(ack.reason_code)),
        "acknowledged by a node that was given up: {answer:?}"
    );
    wait_ready(&cluster, 0, true, RECOVERY).await?;
    load.move_clients(&cluster, 0, 0);
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}
