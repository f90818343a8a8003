//! Replicas that have applied the same entry have the same state, after whatever they went through to get there.

use mqtt_codec::ProtocolVersion::V5;
use simulation::{Load, for_seeds, run, trouble};

use crate::common::{START, sound};

#[test]
fn replicas_with_the_same_log_have_the_same_state() {
    for_seeds("replicas_with_the_same_log_have_the_same_state", |seed| {
        run(&sound(seed, 5000), async |world| {
            world.settled(START).await?;
            let load = Load::start(&world, &[("a", 1, V5), ("b", 2, V5)]).await?;
            for _ in 0..3 {
                trouble(&world, 2).await?;
                world.compare_replicas()?;
            }
            load.judge().await?;
            world.replicas_are_equal(START).await
        })
    });
}
