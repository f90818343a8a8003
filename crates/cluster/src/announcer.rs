//! What this node's connected clients want, and how much of that the meta group's table says already. Only the first and
//! the last subscriber of a filter change the table; adding is waited for, taking back is lazy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster_proto::{RouteChange, ShareMember, route_change::Destination};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A filter that nobody wants any more stays announced for so long: clients come back.
const LINGER: Duration = Duration::from_secs(3);
/// Changes in one command.
const CHANGES_MAX: usize = 512;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Wanted {
    clean: u32,
    durable: u32,
}

/// What the table is to say, or says, of a filter and this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    Full,
    Qos0Only,
    /// A change is on its way, or nobody knows what became of one. Never wanted.
    Unknown,
}

impl Wanted {
    fn route(self) -> Option<Route> {
        match (self.clean, self.durable) {
            (0, 0) => None,
            (0, _) => Some(Route::Qos0Only),
            _ => Some(Route::Full),
        }
    }
}

#[derive(Default)]
struct State {
    /// There is somebody to announce to. Before, nothing is kept but what is wanted.
    awake: bool,
    wanted: BTreeMap<String, Wanted>,
    /// Share members connected here, by filter and client.
    members: BTreeMap<(String, String), ShareMember>,
    announced: BTreeMap<String, Route>,
    /// Counts `announce_all`: what the table took before says nothing of what it has since.
    era: u64,
    /// Filters whose announcement may differ from what is wanted.
    changed: BTreeSet<String>,
    /// Filters that nobody wants any more, in the order in which they are to be taken back.
    lingering: BTreeSet<(Instant, String)>,
    /// Share members that joined, changed or left, in order.
    shares: Vec<RouteChange>,
    /// Counts what callers asked for; what was asked up to `done` is in the table.
    asked: u64,
}

/// The announcements of this node.
pub(crate) struct Announcer {
    node: u64,
    state: Mutex<State>,
    pub(crate) changed: Notify,
    /// How much of what was asked for is in the table, and the index of the meta group's log where that is so.
    done: watch::Sender<(u64, u64)>,
}

/// Changes on their way into the table.
pub(crate) struct Batch {
    pub(crate) changes: Vec<RouteChange>,
    asked: u64,
    routes: Vec<(String, Option<Route>)>,
    complete: bool,
    era: u64,
}

impl Announcer {
    pub(crate) fn new(node: u64) -> Self {
        Self {
            node,
            state: Mutex::default(),
            changed: Notify::new(),
            done: watch::Sender::new((0, 0)),
        }
    }

    /// One more connected subscriber of a filter.
    pub(crate) fn want(&self, filter: &str, durable: bool) {
        self.count(filter, |wanted| match durable {
            true => wanted.durable += 1,
            false => wanted.clean += 1,
        });
    }

    /// One less.
    pub(crate) fn unwant(&self, filter: &str, durable: bool) {
        self.count(filter, |wanted| match durable {
            true => wanted.durable = wanted.durable.saturating_sub(1),
            false => wanted.clean = wanted.clean.saturating_sub(1),
        });
    }

    fn count(&self, filter: &str, change: impl FnOnce(&mut Wanted)) {
        let mut state = self.state.lock();
        let before = state.wanted.get(filter).copied().unwrap_or_default();
        let mut after = before;
        change(&mut after);
        match after == Wanted::default() {
            true => drop(state.wanted.remove(filter)),
            false => drop(state.wanted.insert(filter.to_owned(), after)),
        }
        if !state.awake || before.route() == after.route() {
            return;
        }
        if after.route().is_none() {
            state
                .lingering
                .insert((Instant::now() + LINGER, filter.to_owned()));
            return;
        }
        let full_already = state.announced.get(filter) == Some(&Route::Full);
        if full_already && !state.changed.contains(filter) {
            return;
        }
        state.changed.insert(filter.to_owned());
        state.asked += 1;
        drop(state);
        self.changed.notify_one();
    }

    /// A connected client is a member of a shared subscription.
    pub(crate) fn join_share(&self, filter: &str, member: ShareMember, version: u64) {
        let key = (filter.to_owned(), member.client.clone());
        self.share(filter, member.clone(), true, version, |state| {
            state.members.insert(key, member);
        });
    }

    /// It is not any more; a durable one that `stays` is a member without a node.
    pub(crate) fn leave_share(&self, filter: &str, client: &str, stays: bool, version: u64) {
        let key = (filter.to_owned(), client.to_owned());
        let Some(mut member) = self.state.lock().members.remove(&key) else {
            return;
        };
        if stays {
            member.node = 0;
        }
        self.share(filter, member, stays, version, |_| ());
    }

    fn share(
        &self,
        filter: &str,
        member: ShareMember,
        added: bool,
        version: u64,
        note: impl FnOnce(&mut State),
    ) {
        let mut state = self.state.lock();
        note(&mut state);
        if !state.awake {
            return;
        }
        state.shares.push(RouteChange {
            filter: filter.to_owned(),
            destination: Some(Destination::Member(member)),
            added,
            qos_0_only: false,
            version,
        });
        state.asked += 1;
        drop(state);
        self.changed.notify_one();
    }

    /// The next changes for the table; none while it says what it should.
    pub(crate) fn next(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        let now = Instant::now();
        while let Some(first) = state.lingering.first().filter(|(due, _)| *due <= now).cloned() {
            state.lingering.remove(&first);
            state.changed.insert(first.1);
        }
        let mut changes: Vec<RouteChange> = Vec::new();
        let mut routes = Vec::new();
        while changes.len() < CHANGES_MAX
            && let Some(filter) = state.changed.pop_first()
        {
            let wanted = state.wanted.get(&filter).and_then(|wanted| wanted.route());
            if wanted == state.announced.get(&filter).copied() {
                continue;
            }
            changes.push(RouteChange {
                filter: filter.clone(),
                destination: Some(Destination::Node(self.node)),
                added: wanted.is_some(),
                qos_0_only: wanted == Some(Route::Qos0Only),
                version: 0,
            });
            // Who comes while this is being taken back has it announced again.
            state.announced.insert(filter.clone(), Route::Unknown);
            routes.push((filter, wanted));
        }
        let room = CHANGES_MAX.saturating_sub(changes.len()).min(state.shares.len());
        changes.extend(state.shares.drain(..room));
        let complete = state.changed.is_empty() && state.shares.is_empty();
        if changes.is_empty() && *self.done.borrow() >= (state.asked, 0) {
            return None;
        }
        Some(Batch {
            changes,
            asked: state.asked,
            routes,
            complete,
            era: state.era,
        })
    }

    /// When something that lingers is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.state.lock().lingering.first().map(|(due, _)| *due)
    }

    /// A batch is in the table.
    pub(crate) fn committed(&self, batch: Batch, index: u64) {
        let mut state = self.state.lock();
        if state.era == batch.era {
            for (filter, route) in batch.routes {
                match route {
                    Some(route) => drop(state.announced.insert(filter, route)),
                    None => drop(state.announced.remove(&filter)),
                }
            }
        }
        drop(state);
        if batch.complete {
            // Each for itself: a batch without changes is complete with what this node has applied, which may be less than
            // what a change before it was answered with.
            self.done
                .send_modify(|done| *done = (done.0.max(batch.asked), done.1.max(index)));
        }
    }

    /// A batch is not, or nobody knows: it goes again.
    pub(crate) fn failed(&self, batch: Batch) {
        let mut state = self.state.lock();
        state
            .changed
            .extend(batch.routes.into_iter().map(|(filter, _)| filter));
        let shares = batch
            .changes
            .into_iter()
            .filter(|change| matches!(change.destination, Some(Destination::Member(_))));
        let newer = std::mem::take(&mut state.shares);
        state.shares = shares.chain(newer).collect();
    }

    /// The table says nothing of this node any more, or never did: all of it is announced anew.
    pub(crate) fn announce_all(&self) {
        let mut state = self.state.lock();
        state.awake = true;
        let State {
            wanted,
            members,
            announced,
            changed,
            shares,
            asked,
            era,
            ..
        } = &mut *state;
        *era += 1;
        announced.clear();
        changed.extend(wanted.keys().cloned());
        let all = members.iter().map(|((filter, _), member)| RouteChange {
            filter: filter.clone(),
            destination: Some(Destination::Member(member.clone())),
            added: true,
            qos_0_only: false,
            version: 0,
        });
        let newer = std::mem::take(shares);
        *shares = all.chain(newer).collect();
        *asked += 1;
        drop(state);
        self.changed.notify_one();
    }

    /// This node is alone: there is nobody to announce to until `announce_all`.
    pub(crate) fn sleep(&self) {
        let mut state = self.state.lock();
        state.awake = false;
        state.changed.clear();
        state.lingering.clear();
        state.shares.clear();
    }

    /// Waits until all that was asked for before is in the table; answers the index of the meta group's log.
    pub(crate) async fn announced(&self) -> u64 {
        let asked = self.state.lock().asked;
        let mut done = self.done.subscribe();
        // The sender lives as long as this node.
        let reached = done.wait_for(|(done, _)| *done >= asked).await;
        reached.map_or(0, |reached| reached.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_alone_keeps_nothing_of_those_who_left_and_announces_who_stayed() {
        let announcer = Announcer::new(1);
        for number in 0..100 {
            let filter = format!("t/{number}");
            announcer.want(&filter, false);
            announcer.unwant(&filter, false);
            announcer.join_share("$share/g/t", ShareMember::default(), 0);
            announcer.leave_share("$share/g/t", "", false, 0);
        }
        announcer.want("stays", false);
        {
            let state = announcer.state.lock();
            assert!(state.changed.is_empty() && state.lingering.is_empty() && state.shares.is_empty());
        }

        announcer.announce_all();

        let batch = announcer.next().unwrap();
        assert_eq!(batch.changes.len(), 1);
        assert_eq!(batch.changes[0].filter, "stays");
    }

    /// What the table says of this node's filters when everything that is under way has arrived.
    #[derive(Default)]
    struct Table(BTreeMap<String, bool>, u64);

    impl Table {
        fn take(&mut self, batch: &Batch) -> u64 {
            for change in &batch.changes {
                match change.added {
                    true => drop(self.0.insert(change.filter.clone(), change.qos_0_only)),
                    false => drop(self.0.remove(&change.filter)),
                }
            }
            self.1 += 1;
            self.1
        }

        fn take_all(&mut self, announcer: &Announcer) {
            while let Some(batch) = announcer.next() {
                let index = self.take(&batch);
                announcer.committed(batch, index);
            }
        }
    }

    fn announcer_with(table: &mut Table, filter: &str) -> Announcer {
        let announcer = Announcer::new(1);
        announcer.announce_all();
        announcer.want(filter, false);
        table.take_all(&announcer);
        announcer
    }

    #[tokio::test(start_paused = true)]
    async fn who_subscribes_while_the_route_is_being_taken_back_has_it_announced_again() {
        let mut table = Table::default();
        let announcer = announcer_with(&mut table, "t");
        announcer.unwant("t", false);
        tokio::time::advance(2 * LINGER).await;
        let removal = announcer.next().unwrap();
        assert!(!removal.changes[0].added);

        announcer.want("t", false);
        let index = table.take(&removal);
        announcer.committed(removal, index);
        table.take_all(&announcer);

        assert_eq!(table.0.get("t"), Some(&false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_that_is_committed_though_nobody_heard_of_it_is_made_up_for() {
        let mut table = Table::default();
        let announcer = announcer_with(&mut table, "t");
        announcer.unwant("t", false);
        tokio::time::advance(2 * LINGER).await;
        let removal = announcer.next().unwrap();
        table.take(&removal);
        announcer.failed(removal);

        announcer.want("t", true);
        table.take_all(&announcer);

        assert_eq!(table.0.get("t"), Some(&true));
    }

    #[test]
    fn what_the_table_took_before_the_node_was_declared_down_is_announced_anew() {
        let mut table = Table::default();
        let announcer = announcer_with(&mut table, "t");
        announcer.want("late", false);
        let batch = announcer.next().unwrap();
        let index = table.take(&batch);

        table.0.clear();
        announcer.announce_all();
        announcer.committed(batch, index);
        table.take_all(&announcer);

        assert_eq!(table.0.len(), 2);
    }
}
