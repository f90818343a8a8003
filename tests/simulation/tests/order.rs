//! What one publisher sends to one topic arrives for the first time in the order in which it was sent.

use std::sync::Arc;

use anyhow::Result;
use mqtt_codec::ProtocolVersion::V5;
use simulation::{Fault, Load, Options, Stream, World, for_seeds, is_caught, run};

use crate::common::{START, sound};

const STREAMS: [Stream; 4] = [("a", 1, V5), ("b", 1, V5), ("c", 2, V5), ("d", 2, V5)];

/// One node after the other hands its leaderships over and comes back.
async fn while_leaders_move(world: Arc<World>, seed: u64) -> Result<()> {
    world.settled(START).await?;
    let load = Load::start(&world, &STREAMS).await?;
    for round in 0..world.options.nodes as u64 {
        let node = 1 + (seed + round) as usize % world.options.nodes;
        world.fault(Fault::Stop(node));
        tokio::time::sleep(std::time::Duration::from_millis(3000 + 700 * (seed % 5))).await;
        world.fault(Fault::Restart(node));
        world.settled(START).await?;
    }
    load.judge().await
}

#[test]
fn what_was_sent_first_arrives_first_while_leaders_move() {
    for_seeds("what_was_sent_first_arrives_first", |seed| {
        run(&sound(seed, 3000), async move |world| {
            while_leaders_move(world, seed).await
        })
    });
}

#[test]
fn what_overtakes_on_its_way_into_the_log_is_caught() {
    let noticed = is_caught("newest first", |seed| {
        let mut options: Options = sound(seed, 3000);
        options.broken.newest_first = true;
        run(&options, async move |world| while_leaders_move(world, seed).await)
    });
    assert!(noticed.contains("broken promises"), "{noticed}");
}
