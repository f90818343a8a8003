//! A leader that hands over stops to lead before its successor begins. Whatever is lost on the way, the shard has a leader again in
//! time, and in the end the one that it should have.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simulation::{Fault, Options, World, connect, for_seeds, is_caught, run, wait_until};
use tokio::time::{Instant, sleep};

use crate::common::{START, sound};

/// A node comes back, and is handed what it should lead, so often.
const ROUNDS: usize = 4;
/// Of cuts after each return, while leaderships move.
const CUTS: usize = 8;
/// For a shard to accept something after a hand-over that came to nothing: elections take less than two seconds.
const LED_WITHIN: Duration = Duration::from_secs(10);

fn three(seed: u64) -> Options {
    Options {
        nodes: 3,
        shards: 6,
        ..sound(seed, 14_000)
    }
}

/// Whether every shard is led by the first of its placement, as all nodes see it.
fn led_by_the_first(world: &World) -> bool {
    world.nodes().all(|node| {
        let status = world
            .cluster(node)
            .map(|cluster| cluster.status())
            .unwrap_or_default();
        !status.shards.is_empty()
            && status
                .shards
                .iter()
                .all(|shard| shard.leader.is_some() && shard.leader == shard.placed.first().copied())
    })
}

async fn handed_over(world: &World) -> Result<()> {
    world.settled(START).await?;
    let mut random = SmallRng::seed_from_u64(world.options.seed);
    for round in 0..ROUNDS {
        let node = random.random_range(world.nodes());
        let others: Vec<usize> = world.nodes().filter(|other| *other != node).collect();
        world.fault(Fault::Crash(node));
        sleep(Duration::from_secs(4)).await;
        world.fault(Fault::Restart(node));
        wait_until("it serves again", START, || world.is_ready(node)).await?;
        // The others hand over what it should lead, and are cut off in the middle of it.
        for _ in 0..CUTS {
            let cut = random.random_range(0..4);
            match cut {
                0 => world.fault(Fault::Partition(vec![node], others.clone())),
                1 => others
                    .iter()
                    .for_each(|other| world.fault(Fault::OneWay(*other, node))),
                2 => others
                    .iter()
                    .for_each(|other| world.fault(Fault::OneWay(node, *other))),
                _ => world.fault(Fault::Partition(vec![others[0]], vec![others[1]])),
            }
            sleep(Duration::from_millis(random.random_range(50..700))).await;
            world.fault(Fault::Heal);
            sleep(Duration::from_millis(random.random_range(10..200))).await;
        }
        world.fault(Fault::Heal);
        world.note(format_args!("round {round}: all links are well"));
        let begun = Instant::now();
        while let Err(error) = accepted_everywhere(&mut random).await {
            ensure!(
                begun.elapsed() < LED_WITHIN,
                "round {round}: not every shard accepts something within {LED_WITHIN:?}: {error:#}"
            );
            sleep(Duration::from_millis(50)).await;
        }
        wait_until("each shard is led by the first of its nodes", START, || {
            led_by_the_first(world)
        })
        .await?;
    }
    Ok(())
}

/// Each shard takes something retained, for which there are enough topics.
async fn accepted_everywhere(random: &mut SmallRng) -> Result<()> {
    let name = format!("writer {}", random.random::<u64>());
    let (mut client, _) = connect(1, ConnectOptions::v5(&name)).await?;
    for number in 0..24 {
        let message = Message::new(&format!("state/{number}"), "is").qos(1).retain();
        let reason = client.publish(message).await?;
        ensure!((reason as u8) < 0x80, "{reason:?}");
    }
    Ok(())
}

#[test]
fn a_hand_over_that_comes_to_nothing_is_made_good() {
    for_seeds("a_hand_over_that_comes_to_nothing_is_made_good", |seed| {
        run(&three(seed), async |world| handed_over(&world).await)
    });
}

#[test]
fn a_lead_that_is_offered_once_and_not_again_is_caught() {
    is_caught("offered once", |seed| {
        let mut options = three(seed);
        options.broken.moves_once = true;
        run(&options, async |world| handed_over(&world).await)
    });
}
