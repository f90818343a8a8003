//! What can go wrong, and a time of trouble drawn from a seed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::World;

/// Longer than electing leaders and catching up take.
const RECOVERY: Duration = Duration::from_secs(60);

/// Something that happens to nodes or to what is between them. Nodes count from 1.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The power goes: what is not synced is lost.
    Crash(usize),
    /// The power comes back.
    Restart(usize),
    /// The node stops in order and hands its leaderships over.
    Stop(usize),
    /// The power goes, and the disk is replaced by an empty one.
    Wipe(usize),
    /// Nothing passes between two groups of nodes.
    Partition(Vec<usize>, Vec<usize>),
    /// Nothing passes in one direction.
    OneWay(usize, usize),
    /// All links work again, at full speed.
    Heal,
    /// Messages between two nodes take this long.
    SlowLink(usize, usize, Duration),
    /// Syncs of a node's disk take this long, or as long as they should.
    SlowDisk(usize, Option<Duration>),
    /// The wall clock of a node goes ahead.
    ClockJump(usize, Duration),
    /// The wall clock of a node is set back.
    ClockSetBack(usize, Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// So many faults, one after the other; at the end all is well again. A wiped disk is filled again before anything else
/// happens: two lost disks are more than three replicas promise to survive.
pub async fn trouble(world: &Arc<World>, faults: usize) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(world.options.seed ^ world.next_trouble() << 32);
    for number in 1..=faults {
        let calm = Duration::from_millis(random.random_range(100..2500));
        sleep(calm).await;
        one(world, &mut random).await?;
        world.note(format_args!("fault {number} of {faults} is over"));
    }
    world.fault(Fault::Heal);
    world.settled(RECOVERY).await
}

async fn one(world: &Arc<World>, random: &mut SmallRng) -> Result<()> {
    let mut nodes: Vec<usize> = world.nodes().collect();
    nodes.shuffle(random);
    let (one, other) = (nodes[0], nodes[1]);
    let while_it_lasts = Duration::from_millis(random.random_range(200..8000));
    match random.random_range(0..12) {
        0..=2 => {
            world.fault(Fault::Crash(one));
            sleep(while_it_lasts / 2).await;
            world.fault(Fault::Restart(one));
            back(world, one).await
        }
        3 => {
            // All at once: a building without power.
            nodes.iter().for_each(|node| world.fault(Fault::Crash(*node)));
            sleep(while_it_lasts / 4).await;
            nodes.iter().for_each(|node| world.fault(Fault::Restart(*node)));
            world.settled(RECOVERY).await
        }
        4 => {
            world.fault(Fault::Stop(one));
            sleep(Duration::from_secs(6)).await;
            world.fault(Fault::Restart(one));
            back(world, one).await
        }
        5..=6 => {
            let minority = random.random_range(1..=nodes.len() / 2);
            let (few, many) = nodes.split_at(minority);
            world.fault(Fault::Partition(few.to_vec(), many.to_vec()));
            sleep(while_it_lasts).await;
            world.fault(Fault::Heal);
            Ok(())
        }
        7 => {
            world.fault(Fault::OneWay(one, other));
            sleep(while_it_lasts).await;
            world.fault(Fault::Heal);
            Ok(())
        }
        8 => {
            let delay = Duration::from_millis(random.random_range(20..400));
            world.fault(Fault::SlowLink(one, other, delay));
            sleep(while_it_lasts).await;
            world.fault(Fault::Heal);
            Ok(())
        }
        9 => {
            let sync = Duration::from_millis(random.random_range(10..500));
            world.fault(Fault::SlowDisk(one, Some(sync)));
            world.fault(Fault::ClockJump(other, while_it_lasts));
            sleep(while_it_lasts).await;
            world.fault(Fault::SlowDisk(one, None));
            Ok(())
        }
        10 => {
            // The others have more than a node wrote itself, and it is back before they miss it.
            let sync = Duration::from_millis(random.random_range(50..500));
            world.fault(Fault::SlowDisk(one, Some(sync)));
            sleep(while_it_lasts / 4).await;
            world.fault(Fault::Crash(one));
            sleep(Duration::from_millis(random.random_range(10..300))).await;
            world.fault(Fault::Restart(one));
            world.fault(Fault::SlowDisk(one, None));
            back(world, one).await
        }
        _ => {
            world.settled(RECOVERY).await?;
            world.fault(Fault::Wipe(one));
            sleep(while_it_lasts / 4).await;
            world.fault(Fault::Restart(one));
            back(world, one).await?;
            world.settled(RECOVERY).await
        }
    }
}

async fn back(world: &World, node: usize) -> Result<()> {
    crate::wait_until("the node is ready again", RECOVERY, || world.is_ready(node)).await
}
