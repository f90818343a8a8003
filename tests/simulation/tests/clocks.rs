//! A node whose clock is an hour off ends no session and no message early, and the others know whose clock it is.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use simulation::{Fault, World, connect, connect_at_last, for_seeds, is_caught, run, wait_until};
use tokio::time::sleep;

use crate::common::{START, sound};

const HOUR: Duration = Duration::from_secs(3600);
/// Enough that each shard has some.
const CLIENTS: usize = 12;
/// Of sessions and messages: more than a run takes, less than the clock is off.
const LASTS_S: u32 = 1800;
/// Of a session that is to end all the same.
const SHORT_S: u32 = 20;
const MOMENT: Duration = Duration::from_secs(1);

fn session(number: usize) -> ConnectOptions {
    ConnectOptions::v5(format!("client-{number}")).session_expiry(LASTS_S)
}

/// The clock of one node is set an hour ahead or back, before the cluster forms or while it works.
fn set_clock(world: &World, node: usize) {
    match world.options.seed % 4 {
        0 | 1 => world.fault(Fault::ClockJump(node, HOUR)),
        _ => world.fault(Fault::ClockSetBack(node, HOUR)),
    }
}

/// What each node says about the clock of one: off, by an hour.
async fn all_know(world: &World, off: usize) -> Result<()> {
    let id = world.cluster(off).map(|cluster| cluster.node_id());
    let skews = |witness: usize| {
        let status = world.cluster(witness).map(|cluster| cluster.status());
        let members = status.unwrap_or_default().members.into_iter();
        members
            .map(|member| (Some(member.node) == id, member.clock_ahead_ms.unwrap_or(0).abs()))
            .collect::<Vec<_>>()
    };
    let is_known = |witness: usize| {
        let skews = skews(witness);
        skews.len() == world.options.nodes
            && skews.iter().all(|(is_off, skew_ms)| match is_off {
                true => (3_599_000..3_601_000).contains(skew_ms),
                false => *skew_ms < 1_000,
            })
    };
    wait_until("every node knows whose clock is off", START, || {
        world.nodes().all(is_known)
    })
    .await
}

async fn an_hour_off(world: &World) -> Result<()> {
    let nodes = world.options.nodes;
    let off = 1 + world.options.seed as usize % nodes;
    let at_start = world.options.seed.is_multiple_of(2);
    if at_start {
        set_clock(world, off);
    }
    world.settled(START).await?;
    let (mut watcher, _) = connect(1, ConnectOptions::v5("watcher").persistent()).await?;
    watcher.subscribe("wills/#", 1).await?;
    watcher.disconnect().await?;
    for number in 0..CLIENTS {
        let (mut client, _) = connect(1 + number % nodes, session(number)).await?;
        client.subscribe(&format!("for/{number}"), 1).await?;
        client.disconnect().await?;
    }
    let will = Message::new("wills/patient", "lost").qos(1);
    let patient = ConnectOptions::v5("patient").session_expiry(LASTS_S);
    let patient = connect(off, patient.delayed_will(will, LASTS_S)).await?;
    let short = ConnectOptions::v5("short").session_expiry(SHORT_S);
    connect(off, short.clone()).await?.0.disconnect().await?;
    drop(patient);
    if !at_start {
        set_clock(world, off);
    }
    // One at the node itself, and one elsewhere.
    for node in [off, 1 + off % nodes] {
        let name = format!("publisher at {node}");
        let mut publisher = connect_at_last(node, ConnectOptions::v5(&name)).await?;
        for number in 0..CLIENTS {
            let topic = format!("for/{number}");
            let message = Message::new(&topic, &name).qos(1).expiry(LASTS_S);
            let reason = publisher.publish(message).await?;
            ensure!((reason as u8) < 0x80, "{name}: {reason:?}");
        }
    }
    all_know(world, off).await?;
    // Each shard is led by each node at some time, and all begin anew without knowing the time.
    for node in world.nodes() {
        world.fault(Fault::Crash(node));
        sleep(Duration::from_secs(3)).await;
        world.fault(Fault::Restart(node));
        world.settled(START).await?;
    }
    world.nodes().for_each(|node| world.fault(Fault::Crash(node)));
    sleep(Duration::from_secs(1)).await;
    world.nodes().for_each(|node| world.fault(Fault::Restart(node)));
    world.settled(START).await?;
    all_know(world, off).await?;
    for number in 0..CLIENTS {
        let mut client = connect_at_last(1 + (number + 1) % nodes, session(number).resume()).await?;
        ensure!(
            client.connack().session_present,
            "the session of client {number} ended early"
        );
        for _ in 0..2 {
            client.receive().await?;
        }
    }
    let mut watcher = connect_at_last(1, ConnectOptions::v5("watcher").persistent().resume()).await?;
    watcher.expect_no_publish(MOMENT).await?;
    // Time does go on.
    sleep(Duration::from_secs(u64::from(SHORT_S))).await;
    let short = connect_at_last(off, short.resume()).await?;
    ensure!(!short.connack().session_present, "a session did not end");
    Ok(())
}

#[test]
fn a_clock_that_is_an_hour_off_ends_nothing_early_and_is_known() {
    for_seeds(
        "a_clock_that_is_an_hour_off_ends_nothing_early_and_is_known",
        |seed| run(&sound(seed, 10_000), async |world| an_hour_off(&world).await),
    );
}

#[test]
fn nodes_that_go_by_their_own_clocks_are_caught() {
    is_caught("each by its own clock", |seed| {
        let mut options = sound(seed, 10_000);
        options.broken.own_clocks = true;
        run(&options, async |world| an_hour_off(&world).await)
    });
}
