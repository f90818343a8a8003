//! What has to happen when: deadlines in order, so that a tick touches only what is due.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What is due. The order is the one in which deadlines of the same millisecond are handled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    /// A will's delay is over.
    Will,
    /// A session expires.
    Expiry,
    /// A disconnected session's queue may have expired messages.
    Sweep,
    /// A retained message expires; the name is its topic.
    Retained,
}

#[derive(Default, Debug)]
pub(crate) struct Timers(BTreeSet<(u64, Due, Arc<str>)>);

impl Timers {
    pub(crate) fn set(&mut self, at_ms: Option<u64>, due: Due, name: &Arc<str>) {
        if let Some(at_ms) = at_ms {
            self.0.insert((at_ms, due, Arc::clone(name)));
        }
    }

    pub(crate) fn cancel(&mut self, at_ms: Option<u64>, due: Due, name: &Arc<str>) {
        if let Some(at_ms) = at_ms {
            self.0.remove(&(at_ms, due, Arc::clone(name)));
        }
    }

    /// Takes the first one that is due.
    pub(crate) fn take(&mut self, now_ms: u64) -> Option<(Due, Arc<str>)> {
        let (at_ms, ..) = self.0.first()?;
        if *at_ms > now_ms {
            return None;
        }
        self.0.pop_first().map(|(_, due, name)| (due, name))
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.0.first().map(|(at_ms, ..)| *at_ms)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(u64, Due, Arc<str>)> {
        self.0.iter()
    }
}
