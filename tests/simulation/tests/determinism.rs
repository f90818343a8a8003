//! Replicas that have applied the same entry have the same state, after whatever they went through to get there. And the
//! simulation itself does the same thing again.

use std::sync::Arc;

use anyhow::Result;
use mqtt_codec::ProtocolVersion::V5;
use simulation::{Load, Options, World, for_seeds, is_caught, run, run_and_tell, trouble};

use crate::common::{START, sound};

async fn compared(world: Arc<World>) -> Result<()> {
    world.settled(START).await?;
    let load = Load::start(&world, &[("a", 1, V5), ("b", 2, V5)]).await?;
    for _ in 0..3 {
        trouble(&world, 2).await?;
        world.compare_replicas()?;
    }
    load.judge().await?;
    world.replicas_are_equal(START).await
}

#[test]
fn replicas_with_the_same_log_have_the_same_state() {
    for_seeds("replicas_with_the_same_log_have_the_same_state", |seed| {
        run(&sound(seed, 5000), compared)
    });
}

#[test]
fn replicas_with_a_time_of_their_own_are_caught() {
    is_caught("entries applied by the replica's own time", |seed| {
        let mut options: Options = sound(seed, 5000);
        options.broken.own_time = true;
        run(&options, compared)
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4] {
        let again = || {
            let (judged, log) = run_and_tell(&sound(seed, 5000), compared);
            judged.unwrap();
            log
        };
        let (first, second) = (again(), again());
        assert!(first.len() > 10, "{first:?}");
        assert_eq!(first, second);
    }
}
