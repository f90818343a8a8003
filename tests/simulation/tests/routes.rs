//! After SUBACK, a message published at any node that serves reaches the subscriber.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Client, ConnectOptions, Message};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simulation::{Fault, Options, World, connect, connect_at_last, for_seeds, is_caught, run};
use tokio::time::timeout;

use crate::common::{START, sound};

const ROUNDS: usize = 20;
const ARRIVES_WITHIN: Duration = Duration::from_secs(8);

/// A client with a clean session subscribes at one node, and another publishes with QoS 0 at another as soon as SUBACK is
/// there, while the links are as slow as the seed says. QoS 0 has only this one chance to arrive.
async fn rounds(world: &World) -> Result<()> {
    world.settled(START).await?;
    let mut random = SmallRng::seed_from_u64(world.options.seed);
    for round in 0..ROUNDS {
        let nodes = world.options.nodes;
        let here = random.random_range(1..=nodes);
        let there = 1 + (here + random.random_range(0..nodes - 1)) % nodes;
        let delay = Duration::from_millis(random.random_range(3..60));
        let slow = 1 + there % nodes;
        world.fault(Fault::SlowLink(there, slow, delay));
        let topic = format!("routes/{round}");
        let (mut publisher, _) = connect(there, ConnectOptions::v5("publisher")).await?;
        let (mut subscriber, _) = connect(here, ConnectOptions::v5("subscriber")).await?;
        let granted = subscriber.subscribe(&topic, 0).await?;
        ensure!(granted as u8 == 0, "not granted: {granted:?}");
        publisher.publish(Message::new(&topic, "here?").qos(0)).await?;
        let arrived = timeout(ARRIVES_WITHIN, subscriber.receive()).await;
        arrived.with_context(|| {
            format!("round {round}: subscribed at node {here}, published at node {there}, not received")
        })??;
        drop((publisher, subscriber));
        world.fault(Fault::Heal);
    }
    Ok(())
}

#[test]
fn after_suback_every_node_routes_to_the_subscriber() {
    for_seeds("after_suback_every_node_routes_to_the_subscriber", |seed| {
        run(&sound(seed, 4000), async |world| rounds(&world).await)
    });
}

#[test]
fn a_suback_that_does_not_wait_for_the_other_nodes_is_caught() {
    is_caught("no route barrier", |seed| {
        let mut options: Options = sound(seed, 4000);
        options.broken.no_route_wait = true;
        run(&options, async |world| rounds(&world).await)
    });
}

/// While nodes crash and links are cut, a subscription that is granted by the end holds for every node.
#[test]
fn a_subscription_outlives_the_crash_of_any_other_node() {
    for_seeds("a_subscription_outlives_the_crash_of_any_other_node", |seed| {
        run(&sound(seed, 4500), async move |world| {
            world.settled(START).await?;
            let (mut subscriber, _) = connect(1, ConnectOptions::v5("stays")).await?;
            subscriber.subscribe("stays/#", 1).await?;
            for node in world.nodes().skip(1) {
                world.fault(Fault::Crash(node));
                tokio::time::sleep(Duration::from_millis(300 * (seed % 30))).await;
                world.fault(Fault::Restart(node));
                world.settled(START).await?;
                published(node, &mut subscriber).await?;
            }
            Ok(())
        })
    });
}

async fn published(node: usize, subscriber: &mut Client) -> Result<()> {
    let mut publisher = connect_at_last(node, ConnectOptions::v5("comes and goes")).await?;
    let text = format!("from {node}");
    publisher
        .publish(Message::new("stays/here", text.as_str()).qos(1))
        .await?;
    let received = timeout(ARRIVES_WITHIN, subscriber.receive())
        .await
        .context("nothing came")??;
    match received.publication.payload() == text.as_bytes() {
        true => Ok(()),
        false => bail!("something else came"),
    }
}
