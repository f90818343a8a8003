//! A shard that has moved away from the nodes that founded it and is placed there again is not founded a second time: what it
//! has is on nodes that are away, and comes back with them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::ShardStatus;
use harness::{ConnectOptions, Message};
use simulation::{
    Fault, Options, World, connect, connect_at_last, for_seeds, is_caught, look, run, wait_until,
};
use tokio::time::sleep;

use crate::common::{START, sound};

/// Longer than it takes to declare three nodes down, one after the other.
const REPLACE_AFTER: Duration = Duration::from_secs(30);
/// To declare a node down, and to give its vote to another.
const DOWN: Duration = Duration::from_secs(8);
const CLIENTS: usize = 4;

fn six(seed: u64) -> Options {
    Options {
        nodes: 6,
        // One, so that no node has less than another one and nothing moves for that.
        shards: 1,
        replace_after: REPLACE_AFTER,
        ..sound(seed, 11_000)
    }
}

/// What a node knows of the shard.
fn shard(world: &World, node: usize) -> Option<ShardStatus> {
    world.cluster(node)?.status().shards.into_iter().next()
}

/// The nodes where the shard is placed, as one of those that run sees it.
fn placed(world: &World, witness: usize) -> Vec<usize> {
    let placed = shard(world, witness)
        .map(|shard| shard.placed)
        .unwrap_or_default();
    let ids = world.nodes().map(|node| (node, world.id(node)));
    ids.filter(|(_, id)| id.is_some_and(|id| placed.contains(&id)))
        .map(|(node, _)| node)
        .collect()
}

async fn away_and_back(world: &World) -> Result<()> {
    world.settled(START).await?;
    let founders = placed(world, 1);
    let others: Vec<usize> = world.nodes().filter(|node| !founders.contains(node)).collect();
    ensure!(founders.len() == 3, "{founders:?}");
    let session = |number: usize| ConnectOptions::v5(format!("client-{number}")).persistent();
    let (mut publisher, _) = connect(others[0], ConnectOptions::v5("publisher")).await?;
    for number in 0..CLIENTS {
        let (mut client, _) = connect(others[0], session(number)).await?;
        let topic = format!("for/{number}");
        client.subscribe(&topic, 1).await?;
        client.disconnect().await?;
        let reason = publisher.publish(Message::new(&topic, "kept").qos(1)).await?;
        ensure!((reason as u8) < 0x80, "{reason:?}");
    }
    let state = Message::new("state", crash::payload_of(7)).qos(1).retain();
    publisher.publish(state).await?;
    drop(publisher);
    // The founders go for so long that others get their replicas.
    for node in &founders {
        world.fault(Fault::Crash(*node));
        wait_until("its replica is elsewhere", START + REPLACE_AFTER, || {
            shard(world, others[0]).is_some_and(|shard| {
                let placed = shard.placed;
                let gone = world.id(*node).is_some_and(|id| !placed.contains(&id));
                let voters = others.iter().find_map(|other| {
                    let shard = self::shard(world, *other)?;
                    shard.applied.and(shard.voters)
                });
                gone && voters.is_some_and(|voters| placed.iter().all(|node| voters.contains(node)))
            })
        })
        .await?;
    }
    founders
        .iter()
        .for_each(|node| world.fault(Fault::Restart(*node)));
    world.settled(START).await?;
    let holders = placed(world, 1);
    ensure!(
        holders == others,
        "{holders:?} have it, not those that have not founded it"
    );
    wait_until("the founders have let it go", START, || {
        let gone = |node: &usize| shard(world, *node).is_some_and(|shard| shard.applied.is_none());
        founders.iter().all(gone)
    })
    .await?;
    // Those who have it now go, before one of them could be replaced with the others' help.
    for node in &holders {
        world.fault(Fault::Crash(*node));
        sleep(DOWN).await;
    }
    wait_until(
        "it is placed on its founders again",
        START + REPLACE_AFTER,
        || placed(world, founders[0]) == founders,
    )
    .await
    .with_context(|| format!("{:?}", placed(world, founders[0])))?;
    // Long enough to found it anew.
    sleep(Duration::from_secs(15)).await;
    holders.iter().for_each(|node| world.fault(Fault::Restart(*node)));
    world.settled(2 * START).await?;
    for (node, number) in world.nodes().cycle().zip(0..CLIENTS) {
        let mut client = connect_at_last(node, session(number)).await?;
        ensure!(client.connack().session_present, "session {number} is gone");
        client.receive().await?;
    }
    for node in world.nodes() {
        let found = look(node, "state").await?;
        ensure!(found == Some(7), "retained at node {node}: {found:?}");
    }
    Ok(())
}

#[test]
fn a_shard_that_comes_back_to_its_founders_is_not_founded_again() {
    for_seeds(
        "a_shard_that_comes_back_to_its_founders_is_not_founded_again",
        |seed| run(&six(seed), async |world| away_and_back(&world).await),
    );
}

#[test]
fn founders_that_forget_that_they_have_founded_are_caught() {
    is_caught("founded again", |seed| {
        let mut options = six(seed);
        options.broken.founds_again = true;
        run(&options, async |world| away_and_back(&world).await)
    });
}
