//! A message published with QoS 2 arrives once at a subscriber with QoS 2, whichever nodes carry it, and both ends move.

use mqtt_codec::ProtocolVersion::{V3_1_1, V5};
use simulation::{Load, Stream, for_seeds, run, trouble};

use crate::common::sound;

const STREAMS: [Stream; 3] = [("a", 2, V5), ("b", 2, V5), ("c", 2, V3_1_1)];

#[test]
fn what_was_sent_once_arrives_once() {
    for_seeds("what_was_sent_once_arrives_once", |seed| {
        run(&sound(seed, 2000), async |world| {
            world.settled(crate::common::START).await?;
            let load = Load::start(&world, &STREAMS).await?;
            trouble(&world, 6).await?;
            load.judge().await
        })
    });
}
