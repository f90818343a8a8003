//! A will is published when its client is lost with its node, not after a goodbye, not when the client is back in time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use simulation::{Fault, Options, World, connect, for_seeds, is_caught, run};
use tokio::time::{sleep, timeout};

use crate::common::{START, sound};

/// Longer than it takes to declare a node down and to publish.
const FIRED_WITHIN: Duration = Duration::from_secs(25);

fn with_will(client: &str, delay_s: u32) -> ConnectOptions {
    let will = Message::new(&format!("wills/{client}"), client).qos(1);
    ConnectOptions::v5(client)
        .session_expiry(600)
        .delayed_will(will, delay_s)
}

/// Four clients at a node that crashes: one is lost, one has said goodbye, one is back before its delay is over, one is
/// lost with a delay.
async fn crash_with_clients(world: &World) -> Result<()> {
    world.settled(START).await?;
    let nodes = world.options.nodes;
    let doomed = 1 + world.options.seed as usize % nodes;
    let other = 1 + doomed % nodes;
    let watching = || ConnectOptions::v5("watcher").persistent();
    let (mut watcher, _) = connect(other, watching()).await?;
    watcher.subscribe("wills/#", 1).await?;
    let lost = connect(doomed, with_will("lost", 0)).await?;
    let late = connect(doomed, with_will("late", 2)).await?;
    let polite = connect(doomed, with_will("polite", 0)).await?;
    let back = connect(doomed, with_will("back", 60)).await?;
    polite.0.disconnect().await?;
    // Nothing acknowledges a goodbye: one that a crash overtakes before it is committed is none.
    sleep(Duration::from_secs(1)).await;
    world.fault(Fault::Crash(doomed));
    sleep(Duration::from_millis(100)).await;
    drop((lost, late, back));
    let begun = tokio::time::Instant::now();
    let _back = loop {
        // Other nodes lead the client's shard after a moment.
        match connect(other, with_will("back", 60).resume()).await {
            Ok(connected) => break connected,
            Err(error) => ensure!(begun.elapsed() < START, "it cannot come back: {error:#}"),
        }
        sleep(Duration::from_millis(100)).await;
    };
    let mut fired: BTreeMap<String, u32> = BTreeMap::new();
    let ends = tokio::time::Instant::now() + FIRED_WITHIN;
    while tokio::time::Instant::now() < ends {
        // A moment without a will is no failure. Neither is the end of the connection: its node waits for a new leader.
        match timeout(Duration::from_secs(1), watcher.receive()).await {
            Ok(Ok(received)) if !received.dup => {
                *fired.entry(received.publication.topic().to_string()).or_default() += 1;
            }
            Ok(Err(_)) => {
                world.note("the watcher was disconnected");
                sleep(Duration::from_millis(200)).await;
                if let Ok((again, _)) = connect(other, watching()).await {
                    watcher = again;
                }
            }
            _ => {}
        }
    }
    world.fault(Fault::Restart(doomed));
    let times = |client: &str| fired.get(&format!("wills/{client}")).copied().unwrap_or(0);
    ensure!(
        times("lost") == 1,
        "the lost client's will came {} times",
        times("lost")
    );
    ensure!(
        times("late") == 1,
        "the delayed will came {} times",
        times("late")
    );
    ensure!(times("polite") == 0, "a will after a goodbye");
    ensure!(times("back") == 0, "a will of a client that was back in time");
    world.settled(START).await
}

#[test]
fn a_client_lost_with_its_node_has_its_will_published() {
    for_seeds("a_client_lost_with_its_node_has_its_will_published", |seed| {
        run(&sound(seed, 8000), async |world| crash_with_clients(&world).await)
    });
}

#[test]
fn a_cluster_that_does_not_give_lost_nodes_up_is_caught() {
    is_caught("nodes are not declared down", |seed| {
        let options = Options {
            down_after: Duration::from_secs(3600),
            ..sound(seed, 8000)
        };
        run(&options, async |world| crash_with_clients(&world).await)
    });
}
