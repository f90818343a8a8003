//! Replicas that have applied the same entry have the same state, after whatever they went through to get there. And the
//! simulation itself does the same thing again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mqtt_codec::ProtocolVersion::V5;
use simulation::{Fault, Load, Options, World, for_seeds, is_caught, run, run_and_tell, trouble};
use tokio::time::sleep;

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

/// A cluster forms and elects leaders, which takes ids, dice, disks and many messages; then a node crashes and comes back.
async fn formed(world: Arc<World>) -> Result<()> {
    world.settled(START).await?;
    for node in world.nodes() {
        if let Some(cluster) = world.cluster(node) {
            let (id, leads) = (cluster.node_id(), cluster.leads_count());
            world.note(format_args!("node {node} is {id:016x} and leads {leads} shards"));
        }
    }
    world.fault(Fault::Crash(1));
    sleep(Duration::from_millis(500)).await;
    world.fault(Fault::Restart(1));
    world.settled(START).await?;
    world.note("it is back");
    Ok(())
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=5 {
        let again = || {
            let (judged, log) = run_and_tell(&sound(seed, 5500), formed);
            judged.unwrap();
            log
        };
        let (first, second) = (again(), again());
        assert!(first.len() > 5, "{first:?}");
        assert_eq!(first, second);
    }
}
