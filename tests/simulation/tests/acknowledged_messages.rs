//! A message that was acknowledged to its publisher arrives, whatever minority crashes, is cut off or loses its disk.

use mqtt_codec::ProtocolVersion::{V3_1_1, V5};
use simulation::{Load, Options, Stream, for_seeds, run, trouble};

const STREAMS: [Stream; 4] = [("one/new", 1, V5), ("two/new", 2, V5), ("one/old", 1, V3_1_1), ("two/old", 2, V3_1_1)];

#[test]
fn what_was_acknowledged_arrives() {
    for_seeds("what_was_acknowledged_arrives", |seed| {
        run(&Options::new(seed), async |world| {
            world.settled(std::time::Duration::from_secs(60)).await?;
            let load = Load::start(&world, &STREAMS).await?;
            trouble(&world, 8).await?;
            load.judge().await
        })
    });
}
