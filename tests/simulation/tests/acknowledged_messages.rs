//! A message that was acknowledged to its publisher arrives, whatever minority crashes, is cut off or loses its disk.

use std::time::Duration;

use broker::config::AckLevel;
use mqtt_codec::ProtocolVersion::{V3_1_1, V5};
use simulation::{Fault, Load, Options, Stream, for_seeds, is_caught, run, trouble};
use tokio::time::sleep;

use crate::common::{START, sound};

const STREAMS: [Stream; 4] = [
    ("one/new", 1, V5),
    ("two/new", 2, V5),
    ("one/old", 1, V3_1_1),
    ("two/old", 2, V3_1_1),
];

#[test]
fn what_was_acknowledged_arrives() {
    for_seeds("what_was_acknowledged_arrives", |seed| {
        run(&sound(seed, 0), async |world| {
            world.settled(START).await?;
            let load = Load::start(&world, &STREAMS).await?;
            trouble(&world, 8).await?;
            load.judge().await
        })
    });
}

/// A load, and the loss of power on all machines at once.
fn blackout(options: &Options) -> anyhow::Result<()> {
    run(options, async |world| {
        world.settled(START).await?;
        let load = Load::start(&world, &STREAMS).await?;
        sleep(Duration::from_millis(1500 + world.options.seed * 37)).await;
        world.nodes().for_each(|node| world.fault(Fault::Crash(node)));
        sleep(Duration::from_secs(1)).await;
        world.nodes().for_each(|node| world.fault(Fault::Restart(node)));
        world.settled(START).await?;
        load.judge().await
    })
}

#[test]
fn a_loss_of_power_everywhere_loses_nothing() {
    for seed in 1..=3 {
        blackout(&sound(seed, 0)).unwrap();
    }
}

#[test]
fn an_acknowledgement_before_the_disk_has_it_is_caught() {
    is_caught("acknowledged in memory", |seed| {
        let options = Options {
            ack: AckLevel::Quorum,
            ..sound(seed, 0)
        };
        blackout(&options)
    });
}

#[test]
fn disks_that_forget_what_they_synced_are_caught() {
    is_caught("forgetful disks", |seed| {
        let options = Options {
            forgetful_disks: true,
            ..sound(seed, 0)
        };
        blackout(&options)
    });
}

/// The power of one node after the other goes for a moment, while its disk is behind those of the others.
fn flickers(options: &Options) -> anyhow::Result<()> {
    run(options, async |world| {
        world.settled(START).await?;
        let load = Load::start(&world, &STREAMS).await?;
        for node in world.nodes() {
            world.fault(Fault::SlowDisk(node, Some(Duration::from_millis(200))));
            sleep(Duration::from_millis(700 + world.options.seed * 37)).await;
            world.fault(Fault::Crash(node));
            sleep(Duration::from_millis(50)).await;
            world.fault(Fault::Restart(node));
            world.fault(Fault::SlowDisk(node, None));
            world.settled(START).await?;
        }
        load.judge().await
    })
}

#[test]
fn a_leader_that_is_back_before_it_was_missed_overwrites_nothing() {
    for seed in 1..=2 {
        flickers(&sound(seed, 0)).unwrap();
    }
}

#[test]
fn a_leader_that_leads_on_in_its_old_term_is_caught() {
    is_caught("leads on", |seed| {
        let mut options = sound(seed, 0);
        options.broken.leads_on = true;
        flickers(&options)
    });
}
