//! For which filters the meta group has routes to this shard: announced before a subscription is acknowledged, and taken back
//! when no subscription is left.
//!
//! Versions keep late messages from undoing newer ones: a route is added in the version of the entry that subscribed, and
//! removed in that of the entry that took it back.

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster_proto::{
    Announce, AnnouncedRecord, ShardResponse, Unannounce, Unannounced, shard_response::Response,
};
use mqtt_topic::SubscriptionFilter;
use prost::Message;

use super::subscribe::Subscribers;
use super::{ApplyContext, ShardState, answer, record, subscribe};
use crate::encoding::{Changes, named};

#[derive(Default, Debug)]
pub(crate) struct Announcements {
    announced: BTreeSet<Arc<str>>,
    /// Of those, the ones that no subscription above QoS 0 has.
    unused: BTreeSet<Arc<str>>,
    /// Filters that such a subscription has and that are not announced.
    missing: BTreeSet<Arc<str>>,
    /// The index of the last entry that took back an announcement.
    taken_back_at: u64,
    changed: BTreeSet<Arc<str>>,
}

impl Announcements {
    pub(super) fn restore(taken_back_at: u64) -> Self {
        Self {
            taken_back_at,
            ..Self::default()
        }
    }

    pub(super) fn taken_back_at(&self) -> u64 {
        self.taken_back_at
    }

    pub(super) fn is_missing(&self, filter: &str) -> bool {
        self.missing.contains(filter)
    }

    /// A filter has subscriptions above QoS 0 now, or has none any more.
    pub(super) fn route_changed(&mut self, filter: &Arc<str>, is_route: bool) {
        let announced = self.announced.contains(filter);
        put(&mut self.unused, filter, announced && !is_route);
        put(&mut self.missing, filter, !announced && is_route);
    }

    /// Adds an announcement, also one of a checkpoint.
    pub(super) fn insert(&mut self, filter: Arc<str>, is_route: bool) {
        self.announced.insert(Arc::clone(&filter));
        self.route_changed(&filter, is_route);
    }

    /// Takes the announcement back of a filter that no subscription needs.
    fn remove(&mut self, filter: &str) {
        if let Some(filter) = self.unused.take(filter) {
            self.announced.remove(&filter);
            self.changed.insert(filter);
        }
    }

    pub(super) fn take_dirty(&mut self, changes: &mut Changes) {
        for filter in std::mem::take(&mut self.changed) {
            let value = self.announced.contains(&filter).then(encode);
            changes.insert(named(record::ANNOUNCED, &filter), value);
        }
    }

    pub(super) fn records(&self, changes: &mut Changes) {
        for filter in &self.announced {
            changes.insert(named(record::ANNOUNCED, filter), Some(encode()));
        }
    }

    pub(super) fn check(&self, routes: &BTreeSet<Arc<str>>) -> Result<(), String> {
        if self.unused != &self.announced - routes || self.missing != routes - &self.announced {
            return Err(format!("announcements {self:?} with routes {routes:?}"));
        }
        Ok(())
    }
}

fn put(set: &mut BTreeSet<Arc<str>>, filter: &Arc<str>, belongs: bool) {
    if !belongs {
        set.remove(filter);
    } else if !set.contains(filter) {
        set.insert(Arc::clone(filter));
    }
}

fn is_plain(filter: &str) -> bool {
    matches!(subscribe::parse(filter), Some(SubscriptionFilter::Plain(_)))
}

fn encode() -> Vec<u8> {
    AnnouncedRecord {}.encode_to_vec()
}

impl ShardState {
    /// One that is late is ignored: what it says may have been taken back since. Its filters just stay unannounced.
    pub(super) fn announce(&mut self, command: &Announce) -> ShardResponse {
        let filters = &command.filters;
        if !filters.iter().all(|filter| is_plain(filter)) {
            return answer::malformed();
        }
        if command.version <= self.announcements.taken_back_at {
            return answer::done();
        }
        for filter in filters {
            if !self.announcements.announced.contains(filter.as_str()) {
                let filter: Arc<str> = filter.as_str().into();
                let is_route = self.is_route(&filter);
                self.announcements.insert(Arc::clone(&filter), is_route);
                self.announcements.changed.insert(filter);
            }
        }
        answer::done()
    }

    /// Also what is not announced is taken back: a route may be there all the same, and its announcement on the way.
    pub(super) fn unannounce(&mut self, context: &ApplyContext, command: Unannounce) -> ShardResponse {
        let mut filters = command.filters;
        filters.retain(|filter| is_plain(filter) && !self.is_route(filter));
        for filter in &filters {
            self.announcements.remove(filter);
        }
        if !filters.is_empty() {
            self.announcements.taken_back_at = context.index;
        }
        answer::of(Response::Unannounced(Unannounced {
            filters,
            index: context.index,
        }))
    }

    pub(super) fn is_route(&self, filter: &str) -> bool {
        subscribe::parse_plain(filter)
            .and_then(|filter| self.filters.get(&filter))
            .is_some_and(Subscribers::is_route)
    }

    /// Announced filters that no subscription needs any more: to be taken back by `Unannounce`, and then removed from the meta
    /// group in the version that answers.
    pub fn unused_announcements(&self, max: usize) -> Vec<String> {
        let unused = self.announcements.unused.iter().take(max);
        unused.map(ToString::to_string).collect()
    }

    /// Filters that subscriptions need and that are not announced: to be added to the meta group in the version of the last
    /// entry applied, and then announced.
    pub fn unannounced_routes(&self, max: usize) -> Vec<String> {
        let missing = self.announcements.missing.iter().take(max);
        missing.map(ToString::to_string).collect()
    }

    /// Whether the shard neither has subscriptions above QoS 0 of this filter nor has announced it. If the meta group has a
    /// route to it all the same, it is to be taken back by `Unannounce`, too, before it is removed.
    pub fn has_no_use_for(&self, filter: &str) -> bool {
        !self.announcements.announced.contains(filter) && !self.is_route(filter)
    }
}
