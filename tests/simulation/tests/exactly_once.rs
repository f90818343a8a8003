//! A message published with QoS 2 arrives once at a subscriber with QoS 2, whichever nodes carry it, and both ends move.

use std::sync::Arc;

use anyhow::Result;
use mqtt_codec::ProtocolVersion::{V3_1_1, V5};
use simulation::{Load, Options, Stream, World, for_seeds, is_caught, run, trouble};

use crate::common::{START, sound};

const STREAMS: [Stream; 3] = [("a", 2, V5), ("b", 2, V5), ("c", 2, V3_1_1)];

async fn in_trouble(world: Arc<World>) -> Result<()> {
    world.settled(START).await?;
    let load = Load::start(&world, &STREAMS).await?;
    trouble(&world, 6).await?;
    load.judge().await
}

#[test]
fn what_was_sent_once_arrives_once() {
    for_seeds("what_was_sent_once_arrives_once", |seed| {
        run(&sound(seed, 2000), in_trouble)
    });
}

#[test]
fn what_is_taken_again_when_it_comes_again_is_caught() {
    let noticed = is_caught("no numbers", |seed| {
        let mut options: Options = sound(seed, 2000);
        options.broken.no_numbers = true;
        run(&options, in_trouble)
    });
    assert!(noticed.contains("broken promises"), "{noticed}");
}
