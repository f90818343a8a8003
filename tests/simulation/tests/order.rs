//! What one publisher sends to one topic arrives for the first time in the order in which it was sent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mqtt_codec::ProtocolVersion::V5;
use simulation::{Fault, Load, Options, Stream, World, for_seeds, is_caught, run};
use tokio::time::sleep;

use crate::common::{START, sound};

const STREAMS: [Stream; 4] = [("a", 1, V5), ("b", 1, V5), ("c", 2, V5), ("d", 2, V5)];

/// One node after the other hands its leaderships over and comes back.
async fn leaders_move(world: Arc<World>, streams: &[Stream]) -> Result<()> {
    world.settled(START).await?;
    let seed = world.options.seed;
    let load = Load::start(&world, streams).await?;
    for round in 0..world.options.nodes as u64 {
        let node = 1 + (seed + round) as usize % world.options.nodes;
        world.fault(Fault::Stop(node));
        sleep(Duration::from_millis(3000 + 700 * (seed % 5))).await;
        world.fault(Fault::Restart(node));
        world.settled(START).await?;
    }
    load.judge().await
}

#[test]
fn what_was_sent_first_arrives_first_while_leaders_move() {
    for_seeds("what_was_sent_first_arrives_first", |seed| {
        run(&sound(seed, 3000), |world| leaders_move(world, &STREAMS))
    });
}

#[test]
fn entries_that_are_taken_in_whatever_order_they_come_are_caught() {
    let noticed = is_caught("no numbers of entries", |seed| {
        let mut options: Options = sound(seed, 3000);
        options.broken.no_numbers = true;
        run(&options, |world| leaders_move(world, &STREAMS[..2]))
    });
    assert!(noticed.contains("Reordered"), "{noticed}");
}
