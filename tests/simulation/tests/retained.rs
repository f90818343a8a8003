//! A subscriber gets the last retained message that was acknowledged before it subscribed, or a later one, at any node.

use std::time::Duration;

use anyhow::{Result, ensure};
use broker::config::AckLevel;
use harness::{ConnectOptions, Message};
use simulation::{Fault, Options, World, connect_at_last, for_seeds, is_caught, look, run, trouble};
use tokio::time::sleep;

use crate::common::{START, sound};

/// Writes ten topics at one node and looks at another, with what the story does in between.
async fn write_and_look(world: &World, round: u64, between: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let topic = |number: u64| format!("state/{number}");
    let nodes = world.options.nodes as u64;
    let mut writer = connect_at_last(1 + (round % nodes) as usize, ConnectOptions::v5("writer")).await?;
    for number in 0..10 {
        // The filling is the crash test's: numbers that it can read.
        let payload = crash::payload_of(round);
        let reason = writer
            .publish(Message::new(&topic(number), payload).qos(1).retain())
            .await?;
        ensure!((reason as u8) < 0x80, "refused: {reason:?}");
    }
    drop(writer);
    between().await?;
    for number in 0..10 {
        let node = 1 + ((round + 1 + number) % nodes) as usize;
        let found = look(node, &topic(number)).await?;
        ensure!(
            found == Some(round),
            "{}: {found:?} instead of {round} at node {node}",
            topic(number)
        );
    }
    Ok(())
}

#[test]
fn what_was_retained_is_found_at_every_node() {
    for_seeds("what_was_retained_is_found_at_every_node", |seed| {
        run(&sound(seed, 7000), async |world| {
            world.settled(START).await?;
            for round in 0..4 {
                write_and_look(&world, round, async || Ok(())).await?;
                write_and_look(&world, 100 + round, async || trouble(&world, 1).await).await?;
            }
            Ok(())
        })
    });
}

async fn blackout(world: &World) -> Result<()> {
    world.settled(START).await?;
    let between = async || {
        world.nodes().for_each(|node| world.fault(Fault::Crash(node)));
        sleep(Duration::from_secs(1)).await;
        world.nodes().for_each(|node| world.fault(Fault::Restart(node)));
        world.settled(START).await
    };
    write_and_look(world, world.options.seed, between).await
}

#[test]
fn a_retained_message_that_was_only_in_memory_is_caught() {
    is_caught("retained in memory", |seed| {
        let options = Options {
            ack: AckLevel::Received,
            ..sound(seed, 7000)
        };
        run(&options, async |world| blackout(&world).await)
    });
}
