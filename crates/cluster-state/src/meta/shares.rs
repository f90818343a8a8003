//! The members of shared subscriptions: every node knows all of them, so that a publisher's node can choose one.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{ShareMember, ShareMemberRecord};

use super::change::MemberChange;
use super::{MetaEffect, MetaState};

/// The whole `$share/name/filter`, and the client.
pub(super) type Key = (String, String);

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Known {
    pub(super) member: ShareMember,
    /// Of its subscription in a shard.
    pub(super) version: u64,
}

impl Known {
    pub(super) fn encode(&self) -> ShareMemberRecord {
        ShareMemberRecord {
            member: Some(self.member.clone()),
            version: self.version,
        }
    }

    fn is_durable(&self) -> bool {
        self.member.shard.is_some()
    }

    /// Whether the known connection is a later one than that of the change.
    fn is_later_than(&self, change: &ShareMember) -> bool {
        change.epoch != 0 && change.epoch < self.member.epoch
    }
}

#[derive(Default, Debug)]
pub(super) struct Shares {
    members: BTreeMap<Key, Known>,
    changed: BTreeSet<Key>,
}

impl Shares {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Known)> {
        self.members.iter()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Known> {
        self.members.get(key)
    }

    pub(super) fn restore(&mut self, key: Key, known: Known) {
        self.members.insert(key, known);
    }

    pub(super) fn take_changed(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed)
    }

    /// Makes a change that the node `proposer` proposes.
    pub(super) fn change(&mut self, change: MemberChange, proposer: u64, effects: &mut Vec<MetaEffect>) {
        let key = (change.filter.clone(), change.member.client.clone());
        let known = self.members.get(&key);
        let next = match (change.added, change.member.shard) {
            (true, None) => connected(known, &change),
            (true, Some(_)) => kept(known, &change, proposer),
            (false, None) => without_connected(known, &change),
            (false, Some(_)) => without_kept(known, &change),
        };
        self.set(key, next, effects);
    }

    /// Nothing is connected to this node any more.
    pub(super) fn forget_node(&mut self, node: u64, effects: &mut Vec<MetaEffect>) {
        let of_node = self.members.iter().filter(|(_, known)| known.member.node == node);
        let changes: Vec<(Key, Option<Known>)> = of_node
            .map(|(key, known)| {
                let mut stays = known.clone();
                stays.member.node = 0;
                (key.clone(), Some(stays).filter(Known::is_durable))
            })
            .collect();
        for (key, next) in changes {
            self.set(key, next, effects);
        }
    }

    fn set(&mut self, key: Key, next: Option<Known>, effects: &mut Vec<MetaEffect>) {
        let known = self.members.get(&key);
        if known == next.as_ref() {
            return;
        }
        let before = known.map(|known| &known.member);
        let after = next.as_ref().map(|next| &next.member);
        // A version alone is nobody else's business.
        if before != after
            && let Some(member) = after.or(before)
        {
            effects.push(MetaEffect::ShareMember {
                filter: key.0.clone(),
                member: member.clone(),
                added: after.is_some(),
            });
        }
        self.changed.insert(key.clone());
        match next {
            Some(next) => drop(self.members.insert(key, next)),
            None => drop(self.members.remove(&key)),
        }
    }
}

/// A member whose session ends with its connection is there, in place of whatever was.
fn connected(known: Option<&Known>, change: &MemberChange) -> Option<Known> {
    if let Some(known) = known.filter(|known| known.is_later_than(&change.member)) {
        return Some(known.clone());
    }
    Some(Known {
        member: change.member.clone(),
        version: 0,
    })
}

/// Only the connection that is known takes such a member away: the client may be connected elsewhere by now.
fn without_connected(known: Option<&Known>, change: &MemberChange) -> Option<Known> {
    known
        .filter(|known| {
            known.is_durable()
                || known.member.node != change.member.node
                || known.is_later_than(&change.member)
        })
        .cloned()
}

/// A member that a shard keeps: what it subscribed goes by versions, where it is connected by epochs.
fn kept(known: Option<&Known>, change: &MemberChange, proposer: u64) -> Option<Known> {
    let Some(known) = known else {
        // That it is not connected any more makes nobody a member again.
        let says_nothing = change.member.node == 0 && change.version == 0;
        return (!says_nothing).then(|| Known {
            member: change.member.clone(),
            version: change.version,
        });
    };
    let late = known.is_later_than(&change.member);
    if !known.is_durable() {
        let next = Known {
            member: change.member.clone(),
            version: change.version,
        };
        return Some(if late { known.clone() } else { next });
    }
    let mut next = known.clone();
    if change.version != 0 && change.version < known.version {
        return Some(next);
    }
    if change.version >= known.version {
        next.version = change.version;
        next.member.qos = change.member.qos;
        next.member.no_local = change.member.no_local;
        next.member.shard = change.member.shard;
    }
    let leaves_this_node = known.member.node == proposer;
    if !late && (change.member.node != 0 || leaves_this_node) {
        next.member.node = change.member.node;
        next.member.epoch = known.member.epoch.max(change.member.epoch);
    }
    Some(next)
}

/// Only a later entry of its shard takes such a member away.
fn without_kept(known: Option<&Known>, change: &MemberChange) -> Option<Known> {
    known
        .filter(|known| !known.is_durable() || known.version >= change.version)
        .cloned()
}

impl MetaState {
    /// The members of all shared subscriptions, with the whole `$share/name/filter`, in the order of filter and client.
    pub fn share_members(&self) -> impl Iterator<Item = (&str, &ShareMember)> {
        self.shares
            .iter()
            .map(|((filter, _), known)| (filter.as_str(), &known.member))
    }

    /// A member of a shared subscription.
    pub fn share_member(&self, filter: &str, client: &str) -> Option<&ShareMember> {
        let key = (filter.to_owned(), client.to_owned());
        self.shares.get(&key).map(|known| &known.member)
    }
}
