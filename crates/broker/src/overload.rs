//! Memory that runs short: one task looks at what the process has resident, and everybody asks for the level that follows.
//! It also counts what is retained, and sessions, which nothing else makes room for.

mod memory;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::config::ByteSize;
use crate::shared::Shared;
use usage::Usage;

pub(crate) use memory::resident_bytes;

/// Between two looks at the memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Where the levels begin, in percent of the budget.
const BEGINS: [u64; 3] = [80, 90, 95];
/// A level ends so many points below where it began.
const HYSTERESIS: u64 = 5;
/// Messages that wait in memory alone take no more beyond this part of the budget, in percent: the rest is for what is under way.
const WAITING_MAX: u64 = 90;
/// Those for whom much waits, and what is on disk, too, take no more beyond this part, which is below where the last level ends.
const HEAVY_MAX: u64 = 70;
/// What is on disk, too, may always take so much.
const CACHED_MIN: u64 = 5;
/// Of what the control group or the machine allows, in tenths, when the configuration says nothing.
const DEFAULT_TENTHS: u64 = 9;

/// How short memory is, and what is done about it. Each does what the ones before it do, too.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    #[default]
    Normal,
    /// Those who publish most are read more slowly; nothing more is kept for clients that are away, so that this alone never leads
    /// further.
    Slow,
    /// New connections are refused.
    Refuse,
    /// QoS 0 messages are dropped.
    Shed,
}

impl Level {
    const ALL: [Self; 4] = [Self::Normal, Self::Slow, Self::Refuse, Self::Shed];

    fn at(number: usize) -> Self {
        Self::ALL[number.min(Self::ALL.len() - 1)]
    }

    /// The level that follows when so much of the budget is resident.
    fn next(self, resident: u64, budget: u64) -> Self {
        let percent = u128::from(resident) * 100 / u128::from(budget.max(1));
        let passed = |points: u64| {
            let passed = BEGINS
                .iter()
                .filter(|begin| percent >= u128::from(**begin - points));
            Self::at(passed.count())
        };
        self.clamp(passed(0), passed(HYSTERESIS))
    }

    /// What one client may publish in a second; 0: no limit.
    pub(crate) fn bytes_per_second_max(self) -> u64 {
        match self {
            Self::Normal => 0,
            Self::Slow => 1024 * 1024,
            Self::Refuse => 256 * 1024,
            Self::Shed => 64 * 1024,
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Normal => "memory is no longer short",
            Self::Slow => {
                "memory runs short: those who publish most are read more slowly, and nothing more is kept for clients that are away"
            }
            Self::Refuse => "memory is short: new connections are refused",
            Self::Shed => "memory is used up: new connections are refused, QoS 0 messages are dropped",
        }
    }
}

/// The level of this node.
#[derive(Default, Debug)]
pub(crate) struct Overload {
    level: AtomicU8,
}

impl Overload {
    pub(crate) fn level(&self) -> Level {
        Level::at(usize::from(self.level.load(Ordering::Relaxed)))
    }

    /// Whether sessions, subscriptions of kept sessions and retained messages may become no more.
    pub(crate) fn keeps_no_more(&self) -> bool {
        self.level() >= Level::Slow
    }

    /// Whether new connections are refused.
    pub(crate) fn refuses(&self) -> bool {
        self.level() >= Level::Refuse
    }

    /// Whether QoS 0 messages are dropped.
    pub(crate) fn sheds(&self) -> bool {
        self.level() >= Level::Shed
    }

    pub(crate) fn set(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }
}

/// Looks for as long as the node runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut memory_max = shared.live().memory_max;
    let mut budget = budget(&shared, memory_max);
    let mut usage = Usage::default();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stopping.cancelled() => return,
        }
        let wanted = shared.live().memory_max;
        if wanted != memory_max {
            memory_max = wanted;
            budget = self::budget(&shared, memory_max);
        }
        let (cached, held) = held_bytes(&shared);
        let before = shared.overload.level();
        let Some(resident) = resident_bytes() else {
            continue;
        };
        let in_use = usage.in_use(resident, held);
        keep_room(&shared, in_use, budget, cached);
        let level = before.next(in_use, budget);
        if level == before {
            continue;
        }
        shared.overload.set(level);
        shared.metrics.overload_level.set(f64::from(level as u8));
        let (number, what) = (level as u8, level.consequence());
        match level > before {
            true => warn!(level = number, in_use, resident, budget, "{what}"),
            false => info!(level = number, in_use, resident, budget, "{what}"),
        }
    }
}

/// What the node keeps to.
fn budget(shared: &Shared, memory_max: ByteSize) -> u64 {
    let budget = match memory_max.get() {
        0 => memory::allowed_bytes().map(|allowed| allowed / 10 * DEFAULT_TENTHS),
        budget => Some(budget),
    };
    match budget {
        Some(budget) => shared.metrics.memory_budget.set(budget as f64),
        None => warn!("nothing tells how much memory there is: set overload.memory_max"),
    }
    budget.unwrap_or(u64::MAX)
}

/// Until the next look, what waits may take a part of the room that is left: not all that a message takes is counted. What is on
/// disk, too, makes room.
fn keep_room(shared: &Shared, in_use: u64, budget: u64, cached: u64) {
    let part = |percent: u64| budget / 100 * percent;
    let [waiting, heavy] = [WAITING_MAX, HEAVY_MAX].map(|percent| part(percent).saturating_sub(in_use) / 4);
    shared.memory.may_grow_by([waiting, heavy]);
    let excess = in_use.saturating_sub(part(HEAVY_MAX));
    let cached_max = cached.saturating_add(heavy).saturating_sub(excess);
    shared.cluster.keep_cached_to(cached_max.max(part(CACHED_MIN)));
}

/// What takes memory though it is on disk, too, and that with all that waits in memory alone or is retained; and looks at what is
/// retained, and at sessions, anew.
fn held_bytes(shared: &Shared) -> (u64, u64) {
    let totals = shared.cluster.totals_held();
    shared.retained_room.look(&shared.cluster, &totals);
    shared.session_room.look(&shared.cluster, &totals);
    let cached = shared.cluster.cached_bytes();
    (cached, shared.memory.used() + cached + totals.retained_bytes)
}

#[cfg(test)]
mod tests {
    use mqtt_codec::QoS;

    use super::*;
    use crate::incoming::receive;
    use crate::queue_memory::HeldMemory;
    use crate::testing::{grant, message, node, received, subscribe};

    /// The levels that follow from these percents of a budget, one after the other.
    fn levels(percents: &[u64]) -> Vec<u8> {
        let mut level = Level::Normal;
        let follow = |percent: &u64| {
            level = level.next(percent * 10, 1_000);
            level as u8
        };
        percents.iter().map(follow).collect()
    }

    #[test]
    fn levels_begin_at_their_part_of_the_budget_and_rise_at_once() {
        assert_eq!(
            levels(&[0, 79, 80, 89, 90, 94, 95, 250]),
            [0, 0, 1, 1, 2, 2, 3, 3]
        );
        assert_eq!(levels(&[10, 120]), [0, 3]);
    }

    #[test]
    fn a_level_lasts_until_memory_is_well_below_where_it_began() {
        assert_eq!(
            levels(&[100, 95, 90, 89, 85, 84, 80, 75, 74]),
            [3, 3, 3, 2, 2, 1, 1, 1, 0]
        );
        assert_eq!(levels(&[100, 50]), [3, 0]);
    }

    #[test]
    fn no_budget_is_too_large_to_be_reckoned_with() {
        assert_eq!(Level::Normal.next(u64::MAX, u64::MAX), Level::Shed);
        assert_eq!(Level::Normal.next(1, u64::MAX), Level::Normal);
        assert_eq!(Level::Normal.next(1, 0), Level::Shed);
    }

    #[tokio::test]
    async fn what_waits_takes_a_part_of_what_is_left_and_who_has_much_of_it_stops_first() {
        let (_files, shared) = node().await;
        let mut heavy = HeldMemory::new(&shared.memory);
        assert!(heavy.try_add(64_000_000), "nobody has looked yet");
        let may_add = |in_use: u64, bytes: usize| {
            keep_room(&shared, in_use * 1_000_000, 1_000_000_000, 0);
            let mut light = HeldMemory::new(&shared.memory);
            light.try_add(bytes)
        };
        assert!(
            may_add(650, 12_500_000) && !may_add(650, 12_500_001),
            "a quarter of 50 MB"
        );
        assert!(heavy.try_add(12_500_000) && !heavy.try_add(1));
        assert!(
            may_add(750, 1_000_000),
            "up to a MiB of its own, a quarter of 150 MB"
        );
        assert!(!heavy.try_add(1));
        assert!(may_add(899, 250_000) && !may_add(899, 250_001));
        assert!(may_add(1_200, 64_000), "a little for each");
        assert!(shared.memory.is_short());
    }

    #[tokio::test]
    async fn at_the_last_level_qos_0_reaches_nobody_and_the_rest_does() {
        let (_files, shared) = node().await;
        let above = subscribe(&shared, "above", "t", grant(QoS::AtLeastOnce), false);
        let at_0 = subscribe(&shared, "at-0", "t", grant(QoS::AtMostOnce), false);
        let mixed = || vec![message("p", "t", "live", 0), message("p", "t", "kept", 1)];
        shared.overload.set(Level::Refuse);
        receive(&shared, mixed());
        assert_eq!((received(&above).len(), received(&at_0).len()), (2, 2));
        shared.overload.set(Level::Shed);
        receive(&shared, mixed());
        assert_eq!(received(&above), [("kept".to_owned(), QoS::AtLeastOnce)]);
        assert!(received(&at_0).is_empty());
        assert_eq!(shared.metrics.dropped_overload.total(), 3);
    }
}
