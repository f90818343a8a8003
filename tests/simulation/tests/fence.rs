//! A node that is cut off acknowledges nothing above QoS 0 once its lease is over, and others do not declare it down before.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use simulation::{Fault, Options, World, connect, for_seeds, is_caught, run};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{START, sound};

/// The lease, and a second for the node to notice.
const FENCED_AFTER: Duration = Duration::from_secs(4);

/// A client at each node asks for acknowledgements all the time. One node is cut off: once its lease is over, it must not
/// give any, and it must be closed before the others give it up.
async fn cut_off(world: &World) -> Result<()> {
    world.settled(START).await?;
    let alone = 1 + world.options.seed as usize % world.options.nodes;
    let (mut client, _) = connect(alone, ConnectOptions::v5("at the lonely node")).await?;
    let reason = client.publish(Message::new("t", "0").qos(1)).await?;
    ensure!((reason as u8) < 0x80, "refused while all is well: {reason:?}");
    let others: Vec<usize> = world.nodes().filter(|node| *node != alone).collect();
    let witness = others[0];
    let id = world.cluster(alone).map(|cluster| cluster.node_id());
    world.fault(Fault::Partition(vec![alone], others));
    let begun = Instant::now();
    let mut declared_down = None;
    let mut last_acknowledged = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(12) {
        let attempt = async {
            let (mut client, _) = connect(alone, ConnectOptions::v5("another")).await?;
            client.publish(Message::new("t", "1").qos(1)).await
        };
        // Both ways: a connection from before, and new ones.
        if let Ok(Ok(reason)) = timeout(
            Duration::from_millis(400),
            client.publish(Message::new("t", "1").qos(1)),
        )
        .await
            && (reason as u8) < 0x80
        {
            last_acknowledged = begun.elapsed();
        }
        if let Ok(Ok(reason)) = timeout(Duration::from_millis(400), attempt).await
            && (reason as u8) < 0x80
        {
            last_acknowledged = begun.elapsed();
        }
        ensure!(
            last_acknowledged < FENCED_AFTER,
            "acknowledged {last_acknowledged:?} after the node was cut off"
        );
        ensure!(
            begun.elapsed() < FENCED_AFTER || !world.is_ready(alone),
            "ready {:?} after the node was cut off",
            begun.elapsed()
        );
        if declared_down.is_none() && is_down(world, witness, id) {
            declared_down = Some(begun.elapsed());
            ensure!(!world.is_ready(alone), "declared down while it serves");
        }
        sleep(Duration::from_millis(20)).await;
    }
    ensure!(declared_down.is_some(), "the others did not declare it down");
    world.fault(Fault::Heal);
    world.settled(START).await
}

fn is_down(world: &World, witness: usize, id: Option<u64>) -> bool {
    let status = world
        .cluster(witness)
        .map(|cluster| cluster.status())
        .unwrap_or_default();
    let mut members = status.members.iter();
    members.any(|member| Some(member.node) == id && member.down)
}

#[test]
fn a_node_that_is_cut_off_acknowledges_nothing() {
    for_seeds("a_node_that_is_cut_off_acknowledges_nothing", |seed| {
        run(&sound(seed, 6000), async |world| cut_off(&world).await)
    });
}

#[test]
fn a_node_without_a_fence_is_caught() {
    is_caught("no fence", |seed| {
        let options = Options {
            lease: Duration::from_secs(3600),
            ..sound(seed, 6000)
        };
        run(&options, async |world| cut_off(&world).await)
    });
}
