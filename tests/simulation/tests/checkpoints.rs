//! A node whose disk is behind writes a checkpoint and loses its power: the bodies that the checkpoint refers to are there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{ConnectOptions, Message};
use simulation::{Fault, Options, World, connect, connect_at_last, for_seeds, is_caught, run};
use tokio::time::sleep;

use crate::common::{START, sound};

/// Much slower than the others' disks, and slower than checkpoints come.
const SLOW: Duration = Duration::from_millis(1500);
const SESSIONS: usize = 8;
const MESSAGES: usize = 60;

fn options(seed: u64) -> Options {
    Options {
        nodes: 3,
        checkpoint_interval: Duration::from_millis(300),
        ..sound(seed, 12_000)
    }
}

async fn behind(world: &World) -> Result<()> {
    world.settled(START).await?;
    let slow = 1 + world.options.seed as usize % 3;
    let quick = 1 + slow % 3;
    let session = |number: usize| ConnectOptions::v5(format!("client-{number}")).persistent();
    for number in 0..SESSIONS {
        let (mut client, _) = connect(quick, session(number)).await?;
        client.subscribe("news", 1).await?;
        client.disconnect().await?;
    }
    let mut publisher = connect_at_last(quick, ConnectOptions::v5("publisher")).await?;
    world.fault(Fault::SlowDisk(slow, Some(SLOW)));
    for number in 0..MESSAGES {
        let message = Message::new("news", format!("number {number}")).qos(1);
        let reason = publisher.publish(message).await?;
        ensure!((reason as u8) < 0x80, "{reason:?}");
        sleep(Duration::from_millis(30)).await;
    }
    sleep(Duration::from_millis(world.options.seed * 131 % 700)).await;
    world.fault(Fault::Crash(slow));
    sleep(Duration::from_millis(500)).await;
    world.fault(Fault::SlowDisk(slow, None));
    world.fault(Fault::Restart(slow));
    world.settled(START).await?;
    // Read where it was behind.
    for number in 0..SESSIONS {
        let mut client = connect_at_last(slow, session(number)).await?;
        for expected in 0..MESSAGES {
            let received = client.receive().await;
            let received = received.with_context(|| format!("client {number} lacks message {expected}"))?;
            let payload = received.publication.payload();
            ensure!(
                payload == format!("number {expected}").as_bytes(),
                "{payload:?} instead of {expected}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_crash_between_a_checkpoint_and_its_log_loses_no_bodies() {
    for_seeds(
        "a_crash_between_a_checkpoint_and_its_log_loses_no_bodies",
        |seed| run(&options(seed), async |world| behind(&world).await),
    );
}

#[test]
fn checkpoints_that_do_not_wait_for_their_log_are_caught() {
    is_caught("early checkpoints", |seed| {
        let mut options = options(seed);
        options.broken.early_checkpoints = true;
        run(&options, async |world| behind(&world).await)
    });
}
