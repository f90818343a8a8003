//! Retained messages by topic, and finding those a new subscription gets. [MQTT5 3.3.1.3]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytestring::ByteString;
use cluster_proto::{Publication, Retain, ShardResponse};
use mqtt_topic::{TopicFilter, TopicName};
use prost::Message;

use super::messages::{is_past, size_of};
use super::sources::Lane;
use super::timers::{Due, Timers};
use super::{ApplyContext, ShardState, answer, record};
use crate::encoding::{Changes, named};

/// Filters with more levels are compared topic by topic instead of level by level.
const LEVELS_MAX: usize = 64;

#[derive(Default, Debug)]
pub(crate) struct Retained {
    topics: BTreeMap<Arc<str>, Publication>,
    bytes: u64,
    /// Messages and bytes of each owner; who has none is not in it.
    owners: BTreeMap<String, (u64, u64)>,
    changed: BTreeSet<Arc<str>>,
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Messages and bytes of an owner.
    pub(crate) fn of_owner(&self, owner: &str) -> (u64, u64) {
        self.owners.get(owner).copied().unwrap_or_default()
    }

    /// All owners with their messages and bytes.
    pub(crate) fn owners(&self) -> &BTreeMap<String, (u64, u64)> {
        &self.owners
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Publication> {
        self.topics.values()
    }

    pub(crate) fn set(&mut self, publication: Publication, timers: &mut Timers) {
        let topic: Arc<str> = publication.topic.as_str().into();
        self.remove(&topic, timers);
        self.restore(Arc::clone(&topic), publication, timers);
        self.changed.insert(topic);
    }

    pub(crate) fn remove(&mut self, topic: &Arc<str>, timers: &mut Timers) {
        let Some(old) = self.topics.remove(topic) else {
            return;
        };
        self.bytes -= size_of(&old);
        self.disown(&old);
        timers.cancel(deadline(&old), Due::Retained, topic);
        self.changed.insert(Arc::clone(topic));
    }

    pub(crate) fn restore(&mut self, topic: Arc<str>, publication: Publication, timers: &mut Timers) {
        self.bytes += size_of(&publication);
        self.own(&publication);
        timers.set(deadline(&publication), Due::Retained, &topic);
        self.topics.insert(topic, publication);
    }

    fn own(&mut self, publication: &Publication) {
        if publication.owner.is_empty() {
            return;
        }
        let size = size_of(publication);
        match self.owners.get_mut(&publication.owner) {
            Some((messages, bytes)) => (*messages, *bytes) = (*messages + 1, *bytes + size),
            None => drop(self.owners.insert(publication.owner.clone(), (1, size))),
        }
    }

    fn disown(&mut self, publication: &Publication) {
        let Some((messages, bytes)) = self.owners.get_mut(&publication.owner) else {
            return;
        };
        (*messages, *bytes) = (*messages - 1, *bytes - size_of(publication));
        if *messages == 0 {
            self.owners.remove(&publication.owner);
        }
    }

    /// Visits the messages whose topics match and come behind `after`, in the order of topics, until `visit` breaks.
    pub(crate) fn matching(
        &self,
        filter: &TopicFilter,
        after: &str,
        now_ms: u64,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) {
        let mut visit = |publication: &Publication| {
            let seen = !after.is_empty() && publication.topic.as_str() <= after;
            if seen || is_past(publication.expires_at_ms, now_ms) {
                return ControlFlow::Continue(());
            }
            visit(publication)
        };
        let stopped = if !filter.has_wildcards() {
            self.topics
                .get(filter.as_str())
                .map_or(ControlFlow::Continue(()), visit)
        } else if filter.levels() > LEVELS_MAX {
            self.compare_all(filter, &mut visit)
        } else {
            let levels: Vec<&str> = filter.as_str().split('/').collect();
            self.walk(&mut String::new(), &levels, after, &mut visit)
        };
        // Whether all were visited is for the caller to remember.
        let _ = stopped;
    }

    fn compare_all(
        &self,
        filter: &TopicFilter,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (topic, publication) in &self.topics {
            let name = TopicName::parse(ByteString::from(&**topic));
            if name.is_ok_and(|name| filter.matches(&name)) {
                visit(publication)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Visits what begins with `prefix`, which is empty or ends with `/`, and goes on as the levels say.
    fn walk(
        &self,
        prefix: &mut String,
        levels: &[&str],
        after: &str,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some((level, rest)) = levels.split_first() else {
            return ControlFlow::Continue(());
        };
        match *level {
            "#" => self.all_below(prefix, after, visit),
            "+" => self.each_level(prefix, rest, after, visit),
            level => {
                let length = prefix.len();
                prefix.push_str(level);
                let result = self.at(prefix, rest, after, visit);
                prefix.truncate(length);
                result
            }
        }
    }

    /// Visits the topic `prefix`, which does not end with `/`, and what is below it.
    fn at(
        &self,
        prefix: &mut String,
        rest: &[&str],
        after: &str,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // `a/#` matches `a` too. [MQTT5 4.7.1.2]
        if (rest.is_empty() || rest == ["#"])
            && let Some(publication) = self.topics.get(prefix.as_str())
        {
            visit(publication)?;
        }
        if rest.is_empty() {
            return ControlFlow::Continue(());
        }
        prefix.push('/');
        let result = self.walk(prefix, rest, after, visit);
        prefix.pop();
        result
    }

    fn all_below(
        &self,
        prefix: &str,
        after: &str,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let from = match after > prefix {
            true => Bound::Excluded(after),
            false => Bound::Included(prefix),
        };
        for (topic, publication) in self.topics.range::<str, _>((from, Bound::Unbounded)) {
            if !topic.starts_with(prefix) {
                break;
            }
            // A leading wildcard does not match topics of the server. [MQTT-4.7.2-1]
            if !(prefix.is_empty() && topic.starts_with('$')) {
                visit(publication)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Visits each name that occurs as the next level, by jumping from one to the next.
    fn each_level(
        &self,
        prefix: &mut String,
        rest: &[&str],
        after: &str,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // What comes before the level of `after` was visited.
        let mut from = match after.strip_prefix(prefix.as_str()) {
            Some(below) => Bound::Included(format!("{prefix}{}", below.split('/').next().unwrap_or(""))),
            None => Bound::Included(prefix.clone()),
        };
        loop {
            let range = (from.as_ref().map(String::as_str), Bound::Unbounded);
            let Some((topic, publication)) = self.topics.range::<str, _>(range).next() else {
                break;
            };
            let Some(below) = topic.strip_prefix(prefix.as_str()) else {
                break;
            };
            let Some(end) = below.find('/') else {
                let hidden = prefix.is_empty() && topic.starts_with('$');
                if !hidden && (rest.is_empty() || rest == ["#"]) {
                    visit(publication)?;
                }
                from = Bound::Excluded(topic.to_string());
                continue;
            };
            let group = &topic[..prefix.len() + end];
            let hidden = prefix.is_empty() && group.starts_with('$');
            if !hidden && !rest.is_empty() {
                let length = prefix.len();
                prefix.push_str(&below[..=end]);
                let result = self.walk(prefix, rest, after, visit);
                prefix.truncate(length);
                result?;
            }
            // `0` follows `/`: this is behind everything below the level, and before any other topic.
            from = Bound::Included(format!("{group}0"));
        }
        ControlFlow::Continue(())
    }

    pub(crate) fn take_dirty(&mut self, changes: &mut Changes) {
        for topic in std::mem::take(&mut self.changed) {
            let value = self.topics.get(&topic).map(Message::encode_to_vec);
            changes.insert(named(record::RETAINED, &topic), value);
        }
    }

    pub(crate) fn records(&self, changes: &mut Changes) {
        for (topic, publication) in &self.topics {
            changes.insert(named(record::RETAINED, topic), Some(publication.encode_to_vec()));
        }
    }
}

fn deadline(publication: &Publication) -> Option<u64> {
    (publication.expires_at_ms != 0).then_some(publication.expires_at_ms)
}

impl ShardState {
    pub(super) fn retain(&mut self, context: &ApplyContext, command: Retain) -> ShardResponse {
        let Some(publication) = command.publication else {
            return answer::malformed();
        };
        if publication.topic.is_empty() || publication.topic.len() > record::NAME_BYTES_MAX {
            return answer::malformed();
        }
        if self
            .sources
            .has(command.source_shard, command.source_number, Lane::Retain)
        {
            return answer::done();
        }
        self.sources
            .note(command.source_shard, command.source_number, Lane::Retain);
        // An empty payload deletes. [MQTT-3.3.1-6]
        if publication.payload.is_empty() || is_past(publication.expires_at_ms, context.now_ms) {
            self.retained
                .remove(&publication.topic.as_str().into(), &mut self.timers);
        } else {
            self.retained.set(publication, &mut self.timers);
        }
        answer::done()
    }
}
