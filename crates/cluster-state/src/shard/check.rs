//! What must hold between any two commands. Tests ask after each one; it looks at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster_proto::Totals;

use super::messages::size_of;
use super::session::Session;
use super::timers::Due;
use super::{MessageId, ShardState};

impl ShardState {
    /// Says which rule the state breaks, if any.
    ///
    /// # Errors
    /// The rule, in words.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), String> {
        self.check_references()?;
        self.check_timers()?;
        self.check_owners()?;
        self.check_filters()?;
        self.check_announcements()?;
        self.origins.check()?;
        self.check_totals()
    }

    fn check_references(&self) -> Result<(), String> {
        let mut references: BTreeMap<MessageId, u64> = BTreeMap::new();
        let queued = self
            .sessions
            .iter()
            .flat_map(|(_, _, session)| session.queue.messages());
        let inbound = self
            .sessions
            .iter()
            .flat_map(|(_, _, session)| session.inbound.values().copied());
        for message in queued.chain(inbound).chain(self.outbox.messages()) {
            *references.entry(message).or_default() += 1;
        }
        let counted: BTreeMap<_, _> = self
            .messages
            .iter()
            .map(|(id, stored)| (id, stored.references))
            .collect();
        require(references == counted, || {
            format!("references {references:?}, counted {counted:?}")
        })
    }

    fn check_timers(&self) -> Result<(), String> {
        let mut expected: BTreeSet<(u64, Due, Arc<str>)> = BTreeSet::new();
        for (client, _, session) in self.sessions.iter() {
            let Session {
                will_due_ms,
                expires_at_ms,
                sweep,
                ..
            } = session;
            let deadlines = [
                (*will_due_ms, Due::Will),
                (*expires_at_ms, Due::Expiry),
                (sweep.due_ms, Due::Sweep),
            ];
            for (at_ms, due) in deadlines {
                expected.extend(at_ms.map(|at_ms| (at_ms, due, Arc::clone(client))));
            }
            require(
                !session.connected || deadlines.iter().all(|(at_ms, _)| at_ms.is_none()),
                || format!("{client} is connected and has a deadline"),
            )?;
            require(will_due_ms.is_none() || session.will.is_some(), || {
                format!("{client}: a deadline, no will")
            })?;
            require(
                session.connected || session.will.is_none() == will_due_ms.is_none(),
                || format!("{client}: a will without a deadline"),
            )?;
            require(session.connected || session.expiry_s != 0, || {
                format!("{client} should have ended")
            })?;
        }
        let retained = self
            .retained
            .iter()
            .filter(|publication| publication.expires_at_ms != 0);
        expected.extend(retained.map(|retained| {
            (
                retained.expires_at_ms,
                Due::Retained,
                retained.topic.as_str().into(),
            )
        }));
        require(self.timers.iter().eq(expected.iter()), || {
            format!("timers {:?}, expected {expected:?}", self.timers)
        })
    }

    fn check_owners(&self) -> Result<(), String> {
        let connected = self.sessions.iter().filter(|(_, _, session)| session.connected);
        let expected: BTreeSet<_> = connected
            .map(|(client, _, session)| session.place_of(client))
            .collect();
        require(self.owners == expected, || {
            format!("owners {:?}, expected {expected:?}", self.owners)
        })?;
        let mut epochs = BTreeSet::new();
        for (client, _, session) in self.sessions.iter() {
            let epoch = session.owner.epoch;
            require(epochs.insert(epoch) && epoch <= self.last_epoch, || {
                format!("{client}: epoch {epoch}")
            })?;
        }
        Ok(())
    }

    fn check_filters(&self) -> Result<(), String> {
        let mut expected = BTreeMap::new();
        for (client, id, session) in self.sessions.iter() {
            for (filter, options) in &session.subscriptions {
                if !filter.starts_with("$share/") {
                    expected.insert((filter.to_string(), Arc::clone(client)), (id, *options));
                }
            }
        }
        let mut found = BTreeMap::new();
        for (filter, subscribers) in self.filters.iter() {
            require(subscribers.iter().next().is_some(), || {
                format!("{filter} has no subscriber")
            })?;
            let queueing = subscribers.iter().any(|(_, options)| options.qos > 0);
            require(queueing == subscribers.is_route(), || {
                format!("{filter}: whether it is a route")
            })?;
            for (client, id, _) in self.sessions.iter() {
                for (_, options) in subscribers.iter().filter(|(subscriber, _)| *subscriber == id) {
                    found.insert((filter.clone(), Arc::clone(client)), (id, *options));
                }
            }
        }
        require(found == expected, || {
            format!("filters {found:?}, expected {expected:?}")
        })
    }

    fn check_announcements(&self) -> Result<(), String> {
        let routes = self.routes().map(Arc::from).collect();
        self.announcements.check(&routes)
    }

    fn check_totals(&self) -> Result<(), String> {
        let mut expected = Totals::default();
        for (client, _, session) in self.sessions.iter() {
            let sizes = session
                .queue
                .messages()
                .filter_map(|id| self.messages.get(id))
                .map(|stored| stored.size);
            let bytes: u64 = sizes.sum();
            require(bytes == session.queue.bytes(), || {
                format!("{client}: {bytes} bytes in the queue")
            })?;
            expected.sessions += 1;
            expected.connected += u64::from(session.connected);
            expected.queued_messages += session.queue.len();
            expected.queued_bytes += bytes;
            expected.subscriptions += session.subscriptions.len() as u64;
        }
        expected.retained_messages = self.retained.len() as u64;
        expected.retained_bytes = self.retained.iter().map(size_of).sum();
        let mut owners: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for publication in self.retained.iter().filter(|one| !one.owner.is_empty()) {
            let (messages, bytes) = owners.entry(publication.owner.clone()).or_default();
            (*messages, *bytes) = (*messages + 1, *bytes + size_of(publication));
        }
        require(*self.retained.owners() == owners, || {
            format!("owners {:?}, expected {owners:?}", self.retained.owners())
        })?;
        let mut spaces: BTreeMap<Box<str>, u64> = BTreeMap::new();
        for (client, ..) in self.sessions.iter() {
            if let Some((space, _)) = client.split_once('/') {
                *spaces.entry(space.into()).or_default() += 1;
            }
        }
        require(*self.sessions.spaces() == spaces, || {
            format!("spaces {:?}, expected {spaces:?}", self.sessions.spaces())
        })?;
        require(self.totals() == expected, || {
            format!("totals {:?}, expected {expected:?}", self.totals())
        })
    }
}

fn require(holds: bool, rule: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule()) }
}
