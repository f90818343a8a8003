//! What one publisher sends to one topic arrives for the first time in the order in which it was sent.

use mqtt_codec::ProtocolVersion::V5;
use simulation::{Fault, Load, Stream, for_seeds, run};

use crate::common::{START, sound};

const STREAMS: [Stream; 4] = [("a", 1, V5), ("b", 1, V5), ("c", 2, V5), ("d", 2, V5)];

#[test]
fn what_was_sent_first_arrives_first_while_leaders_move() {
    for_seeds("what_was_sent_first_arrives_first", |seed| {
        run(&sound(seed, 3000), async move |world| {
            world.settled(START).await?;
            let load = Load::start(&world, &STREAMS).await?;
            for round in 0..world.options.nodes as u64 {
                // One node after the other hands its leaderships over and comes back.
                let node = 1 + (seed + round) as usize % world.options.nodes;
                world.fault(Fault::Stop(node));
                tokio::time::sleep(std::time::Duration::from_millis(3000 + 700 * (seed % 5))).await;
                world.fault(Fault::Restart(node));
                world.settled(START).await?;
            }
            load.judge().await
        })
    });
}
