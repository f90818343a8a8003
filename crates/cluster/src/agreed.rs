//! The time of the cluster: that of most nodes' clocks. It stamps entries, and messages and sessions expire by it, so a node
//! whose clock is an hour off ends nothing early; who is off is known and said. Between two comparisons a steady clock
//! counts on: a clock that is set changes nothing before the others were asked.
//!
//! Nodes compare where they talk anyway. Each tells its clock when it asks the leader of the meta group for its lease, and
//! the leader answers with the time that most of them agree on. Where no majority agrees, the time stays as it was; a leader
//! that knows none takes the earliest: what expires late is not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cluster_proto::{Lease, MemberClock};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::Clock;
use crate::node::Inner;

/// Clocks that differ by no more than this agree. What a call may take is below it.
pub(crate) const TOLERANCE_MS: i64 = 2_000;
/// What a node has said of its clock counts for so long.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// A node that has entries to stamp and knows no time waits so long for it. Then it goes by its own clock.
const UNDECIDED_FOR: Duration = Duration::from_secs(10);
/// A leader that knows no time waits so long for the other members' clocks.
const UNHEARD_FOR: Duration = Duration::from_secs(5);
/// A clock has to be off for so long before it is said.
const OFF_FOR: Duration = Duration::from_secs(3);
/// It is said again after this time.
const SAY_AFTER: Duration = Duration::from_secs(300);

/// A node's own clock, and the cluster's time once that is known.
pub struct ClusterClock {
    own: Arc<dyn Clock>,
    started: Instant,
    /// Milliseconds since the Unix epoch at `started`, by the cluster's time.
    base_ms: AtomicI64,
    is_known: AtomicBool,
    /// When the time was first needed in vain.
    needed: Mutex<Option<Instant>>,
    /// Time does not go back, unless it was wrong by more than clocks may differ.
    latest_ms: AtomicU64,
    /// By node, as this leader of the meta group was told.
    heard: Mutex<Heard>,
    /// How far each node's clock is ahead of the cluster's time, as the leader says.
    ahead: Mutex<BTreeMap<u64, Off>>,
}

#[derive(Default)]
struct Heard {
    /// Since when this leader knows no time.
    unknown_since: Option<Instant>,
    /// None: a node that does not tell.
    clocks: BTreeMap<u64, (Option<i64>, Instant)>,
}

/// How far a clock is off.
#[derive(Default)]
struct Off {
    ahead_ms: i64,
    since: Option<Instant>,
    said: Option<Instant>,
}

/// What is to be said of a node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    IsOff { ahead_ms: i64 },
    IsRight,
}

impl ClusterClock {
    /// The cluster's time is not known yet.
    pub fn new(own: Arc<dyn Clock>) -> Self {
        Self {
            own,
            started: Instant::now(),
            base_ms: AtomicI64::new(0),
            is_known: AtomicBool::new(false),
            needed: Mutex::default(),
            latest_ms: AtomicU64::new(0),
            heard: Mutex::default(),
            ahead: Mutex::default(),
        }
    }

    /// Whether entries may be stamped.
    pub(crate) fn is_known(&self) -> bool {
        if self.is_known.load(Ordering::Acquire) {
            return true;
        }
        // Who is cut off from those who could tell may have a quorum of a shard all the same.
        let needed = *self.needed.lock().get_or_insert_with(Instant::now);
        let gives_up = needed.elapsed() >= UNDECIDED_FOR;
        if gives_up {
            self.go_by_own();
        }
        gives_up
    }

    /// There is nobody to compare with.
    pub(crate) fn go_by_own(&self) {
        if !self.is_known.load(Ordering::Acquire) {
            self.follow_own();
        }
    }

    /// Goes by this node's own clock as it is now.
    pub(crate) fn follow_own(&self) {
        self.set_base(self.own.wall_ms() as i64 - self.steady_ms());
    }

    /// This node's own clock, as it is now.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.own.wall_ms()
    }

    fn steady_ms(&self) -> i64 {
        self.started.elapsed().as_millis() as i64
    }

    fn set_base(&self, base_ms: i64) {
        self.base_ms.store(base_ms, Ordering::Release);
        self.is_known.store(true, Ordering::Release);
    }

    /// As the leader of the meta group: a node says what its clock shows.
    pub(crate) fn hear(&self, node: u64, wall_ms: Option<u64>) {
        let base_ms = wall_ms.map(|wall_ms| wall_ms as i64 - self.steady_ms());
        let mut heard = self.heard.lock();
        heard.clocks.insert(node, (base_ms, Instant::now()));
    }

    /// As the leader of the meta group: goes by what most of these nodes' clocks show, and adds it to an answer.
    pub(crate) fn decide(&self, live: &BTreeSet<u64>, lease: &mut Lease) {
        let known: BTreeMap<u64, Option<i64>> = {
            let mut heard = self.heard.lock();
            let fresh = |at: &Instant| at.elapsed() < HEARD_WITHIN;
            heard.clocks.retain(|_, (_, at)| fresh(at));
            let live = live
                .iter()
                .filter_map(|node| Some((*node, heard.clocks.get(node)?.0)));
            live.collect()
        };
        let silent = known.values().filter(|base| base.is_none()).count();
        let mut bases: Vec<i64> = known.values().flatten().copied().collect();
        match majority(&mut bases, live.len() - silent) {
            Some(base_ms) => {
                self.heard.lock().unknown_since = None;
                self.set_base(base_ms);
            }
            None if !self.is_known.load(Ordering::Acquire) => {
                let since = *self.heard.lock().unknown_since.get_or_insert_with(Instant::now);
                if let Some(earliest_ms) = bases.first()
                    && since.elapsed() >= UNHEARD_FOR
                {
                    self.set_base(*earliest_ms);
                }
            }
            None => {}
        }
        if !self.is_known.load(Ordering::Acquire) {
            lease.time_ms = Some(0);
            return;
        }
        let base_ms = self.base_ms.load(Ordering::Acquire);
        lease.time_ms = Some((base_ms + self.steady_ms()).max(1) as u64);
        let clocks = known.into_iter().filter_map(|(node, base)| {
            let ahead_ms = base? - base_ms;
            Some(MemberClock { node, ahead_ms })
        });
        lease.clocks = clocks.collect();
    }

    /// What the leader of the meta group answered to a question of `asked`.
    pub(crate) fn take(&self, lease: &Lease, asked: Instant) {
        let Some(time_ms) = lease.time_ms else {
            // It is of a version that knows no time of the cluster.
            return self.go_by_own();
        };
        if time_ms == 0 {
            return;
        }
        let took_ms = asked.elapsed().as_millis() as i64;
        let base_ms = time_ms as i64 + took_ms / 2 - self.steady_ms();
        let differs_ms = (base_ms - self.base_ms.load(Ordering::Acquire)).abs();
        // No more exact than the question took.
        if !self.is_known.load(Ordering::Acquire) || differs_ms > took_ms {
            self.set_base(base_ms);
        }
        let mut ahead = self.ahead.lock();
        ahead.retain(|node, _| lease.clocks.iter().any(|clock| clock.node == *node));
        for clock in &lease.clocks {
            ahead.entry(clock.node).or_default().ahead_ms = clock.ahead_ms;
        }
    }

    /// By how many milliseconds each node's clock is ahead of the cluster's time, where that is known.
    pub(crate) fn ahead_ms(&self) -> BTreeMap<u64, i64> {
        let ahead = self.ahead.lock();
        ahead.iter().map(|(node, off)| (*node, off.ahead_ms)).collect()
    }

    /// What is to be said now, of the nodes that are asked for; then it counts as said.
    fn news(&self, concerns: impl Fn(u64) -> bool) -> Vec<(u64, News)> {
        let mut ahead = self.ahead.lock();
        let concerned = ahead.iter_mut().filter(|(node, _)| concerns(**node));
        concerned
            .filter_map(|(node, off)| Some((*node, off.news()?)))
            .collect()
    }
}

impl Clock for ClusterClock {
    fn now_ms(&self) -> u64 {
        if !self.is_known.load(Ordering::Acquire) {
            return self.own.now_ms();
        }
        let now = (self.base_ms.load(Ordering::Acquire) + self.steady_ms()).max(0) as u64;
        let latest = self.latest_ms.load(Ordering::Relaxed);
        if now < latest && latest - now <= TOLERANCE_MS as u64 {
            return latest;
        }
        self.latest_ms.store(now, Ordering::Relaxed);
        now
    }

    fn wall_ms(&self) -> u64 {
        self.own.wall_ms()
    }

    fn of_cluster(self: Arc<Self>) -> Option<Arc<ClusterClock>> {
        Some(self)
    }
}

impl Off {
    fn news(&mut self) -> Option<News> {
        if self.ahead_ms.abs() <= TOLERANCE_MS {
            self.since = None;
            return self.said.take().map(|_| News::IsRight);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_new = self.said.is_none_or(|said| said.elapsed() >= SAY_AFTER);
        if since.elapsed() < OFF_FOR || !is_new {
            return None;
        }
        self.said = Some(Instant::now());
        Some(News::IsOff {
            ahead_ms: self.ahead_ms,
        })
    }
}

/// What more than half of so many clocks show, nearly. These are the ones that are known.
fn majority(bases: &mut [i64], of: usize) -> Option<i64> {
    bases.sort_unstable();
    // If a majority agrees, the one in the middle is among it.
    let middle = *bases.get(bases.len().saturating_sub(1) / 2)?;
    let agree = bases
        .iter()
        .filter(|base| (*base - middle).abs() <= TOLERANCE_MS)
        .count();
    (agree * 2 > of).then_some(middle)
}

impl Inner {
    /// Says whose clock is off: of its own each node, of all the leader of the meta group.
    pub(crate) fn say_whose_clock_is_off(&self) {
        let leads = self.meta.leads();
        for (node, news) in self.clock.news(|node| leads || node == self.node_id) {
            let name = self
                .meta
                .machine
                .read(|state| state.member(node).map(|member| member.name.clone()));
            let name = name.unwrap_or_default();
            match news {
                News::IsOff { ahead_ms } => warn!(
                    node = format!("{node:016x}"),
                    name,
                    ahead_s = ahead_ms as f64 / 1000.0,
                    "the clock of this node is off, compared with the time of the cluster, by which its messages and sessions go \
                     meanwhile: set it, and see to NTP there (chronyc tracking, timedatectl)"
                ),
                News::IsRight => info!(
                    node = format!("{node:016x}"),
                    name, "the clock of this node is right again"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const SECOND: Duration = Duration::from_secs(1);

    /// A wall clock that is set by hand.
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn at(wall_ms: i64) -> (Arc<Hand>, ClusterClock) {
        let hand = Arc::new(Hand(AtomicU64::new(wall_ms as u64)));
        (hand.clone(), ClusterClock::new(hand))
    }

    /// Lets the leader, node 1, hear itself and others, and answer.
    fn told(leader: &ClusterClock, others: &[(u64, i64)], live: &[u64]) -> Lease {
        leader.hear(1, Some(leader.wall_ms()));
        for (node, wall_ms) in others {
            leader.hear(*node, Some(*wall_ms as u64));
        }
        let mut lease = Lease::default();
        leader.decide(&live.iter().copied().collect(), &mut lease);
        lease
    }

    #[test]
    fn a_majority_of_clocks_outvotes_one_that_is_off() {
        for off in [-HOUR_MS, HOUR_MS] {
            assert_eq!(majority(&mut [10, off, 0], 3).map(|base| base < 100), Some(true));
        }
        assert_eq!(majority(&mut [0, HOUR_MS], 2), None, "one against one");
        assert_eq!(majority(&mut [0, HOUR_MS, -HOUR_MS], 3), None);
        assert_eq!(majority(&mut [0], 3), None, "the others have not said anything");
        assert_eq!(majority(&mut [0, 1], 3), Some(0));
        assert_eq!(majority(&mut [5], 1), Some(5), "it is alone");
        assert_eq!(majority(&mut [], 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_clock_is_an_hour_ahead_goes_by_the_others() {
        let (_, leader) = at(5 * HOUR_MS);
        let (_, late) = at(6 * HOUR_MS);
        let others = [(2, 6 * HOUR_MS), (3, 5 * HOUR_MS + 20)];
        let lease = told(&leader, &others, &[1, 2, 3]);
        late.take(&lease, Instant::now());

        assert!((leader.now_ms() as i64 - 5 * HOUR_MS).abs() < 100);
        assert!((late.now_ms() as i64 - 5 * HOUR_MS).abs() < 100);
        assert!(
            (late.ahead_ms()[&2] - HOUR_MS).abs() < 100,
            "{:?}",
            late.ahead_ms()
        );
        assert!(late.ahead_ms()[&3].abs() < 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_clock_is_an_hour_ahead_goes_by_the_others_too() {
        let (_, leader) = at(6 * HOUR_MS);
        let mut lease = Lease::default();
        leader.hear(1, Some(leader.wall_ms()));
        leader.decide(&BTreeSet::from([1, 2, 3]), &mut lease);
        assert_eq!(lease.time_ms, Some(0), "it has not heard the others");
        assert!(!leader.is_known());

        let lease = told(&leader, &[(2, 5 * HOUR_MS), (3, 5 * HOUR_MS)], &[1, 2, 3]);
        assert!(leader.is_known());
        assert_eq!(leader.now_ms() as i64, 5 * HOUR_MS);
        assert_eq!(lease.clocks[0].ahead_ms, HOUR_MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_changes_nothing_before_the_others_were_asked_and_nothing_after() {
        let (hand, leader) = at(HOUR_MS);
        told(&leader, &[(2, HOUR_MS), (3, HOUR_MS)], &[1, 2, 3]);
        tokio::time::advance(SECOND).await;
        hand.0.store(3 * HOUR_MS as u64, Ordering::Relaxed);
        assert_eq!(leader.now_ms() as i64, HOUR_MS + 1000);

        told(&leader, &[(2, HOUR_MS + 1000), (3, HOUR_MS + 1000)], &[1, 2, 3]);
        assert_eq!(leader.now_ms() as i64, HOUR_MS + 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn two_nodes_that_do_not_agree_keep_the_time_they_have() {
        let (hand, leader) = at(HOUR_MS);
        told(&leader, &[(2, HOUR_MS)], &[1, 2]);
        hand.0.store(3 * HOUR_MS as u64, Ordering::Relaxed);
        let lease = told(&leader, &[(2, HOUR_MS)], &[1, 2]);

        assert_eq!(leader.now_ms() as i64, HOUR_MS);
        assert_eq!(lease.clocks[0].ahead_ms, 2 * HOUR_MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_knows_no_time_waits_for_the_others_and_not_for_ever() {
        let (_, leader) = at(HOUR_MS);
        told(&leader, &[(2, HOUR_MS / 2)], &[1, 2]);
        assert!(!leader.is_known());
        tokio::time::advance(UNHEARD_FOR).await;
        let lease = told(&leader, &[(2, HOUR_MS / 2)], &[1, 2]);

        assert_eq!(lease.time_ms, Some(HOUR_MS as u64 / 2), "the earliest");
        assert_eq!(leader.now_ms() as i64, HOUR_MS / 2);
    }

    #[test]
    fn nodes_of_a_version_that_knows_no_time_of_the_cluster_go_by_their_own() {
        let (_, leader) = at(HOUR_MS);
        leader.hear(1, Some(leader.wall_ms()));
        leader.hear(2, None);
        leader.hear(3, None);
        leader.decide(&BTreeSet::from([1, 2, 3]), &mut Lease::default());
        assert!(leader.is_known(), "nobody else has a say");

        let (_, new) = at(2 * HOUR_MS);
        new.take(&Lease::default(), Instant::now());
        assert!(new.is_known() && (new.now_ms() as i64 - 2 * HOUR_MS).abs() < 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_off_is_said_once_in_five_minutes_and_when_it_is_right_again() {
        let (_, leader) = at(HOUR_MS);
        let hear = |ahead_ms: i64| {
            let now = leader.now_ms() as i64;
            let lease = told(&leader, &[(2, now + ahead_ms), (3, now), (4, now)], &[1, 2, 3, 4]);
            leader.take(&lease, Instant::now());
            let mut news = leader.news(|_| true);
            // The leader's own stands still in this test.
            news.retain(|(node, _)| *node == 2);
            news
        };
        assert_eq!(hear(HOUR_MS), [], "it may be nothing");
        tokio::time::advance(OFF_FOR).await;
        assert_eq!(hear(HOUR_MS), [(2, News::IsOff { ahead_ms: HOUR_MS })]);
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(hear(HOUR_MS), []);
        tokio::time::advance(SAY_AFTER).await;
        assert_eq!(hear(HOUR_MS), [(2, News::IsOff { ahead_ms: HOUR_MS })]);
        assert_eq!(hear(0), [(2, News::IsRight)]);
        assert_eq!(hear(0), []);
    }
}
