//! Whether one more message may be retained: a retained message stays in the memory of every replica until somebody
//! replaces it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cluster::{Cluster, Totals, proto};
use foldhash::HashMap;
use mqtt_codec::Publication;
use parking_lot::Mutex;

use crate::config::Limits;
use crate::refusal::Limited;

/// Whom a retained message counts for, and how much that may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    /// As it is stored with the message.
    pub(crate) name: String,
    /// 0: no limit.
    pub(crate) messages_max: u64,
    /// 0: no limit.
    pub(crate) bytes_max: u64,
    /// What to call it when it has too much.
    pub(crate) limit: Limited,
}

/// Messages and bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Held {
    messages: u64,
    bytes: u64,
}

/// What is retained in the whole cluster, as of the last look, and what this node has let through since.
#[derive(Default, Debug)]
pub(crate) struct RetainedRoom {
    messages: AtomicU64,
    bytes: AtomicU64,
    /// The same of those owners who have retained something since.
    owners: Mutex<HashMap<String, Held>>,
}

impl RetainedRoom {
    /// Counts anew.
    pub(crate) fn look(&self, cluster: &Cluster, totals: &Totals) {
        let all = of_all_shards(cluster, (totals.retained_messages, totals.retained_bytes));
        self.messages.store(all.messages, Relaxed);
        self.bytes.store(all.bytes, Relaxed);
        self.owners.lock().clear();
    }

    /// Whether a message may be retained, or the limit that is against it. One that takes the place of another, and is no
    /// larger, always may; for its owner's limits the other has to be its owner's, too.
    pub(crate) fn admits(
        &self,
        cluster: &Cluster,
        limits: &Limits,
        publication: &Publication,
        owner: &Owner,
    ) -> Result<(), Limited> {
        if !self.admits_of_owner(cluster, publication, owner) {
            return Err(owner.limit);
        }
        match self.admits_of_all(cluster, limits, publication) {
            true => Ok(()),
            false => Err(Limited::Retained),
        }
    }

    fn admits_of_owner(&self, cluster: &Cluster, publication: &Publication, owner: &Owner) -> bool {
        if owner.messages_max == 0 && owner.bytes_max == 0 {
            return true;
        }
        let mut replaced = None;
        cluster.retained_local(publication.topic().as_str(), 1, &mut |known| {
            replaced = (known.owner == owner.name).then(|| counted_size(known));
        });
        let size = (publication.size() - size_of::<Publication>()) as u64;
        let mut owners = self.owners.lock();
        let held = owners.entry(owner.name.clone());
        let held = held.or_insert_with(|| of_all_shards(cluster, cluster.retained_held(&owner.name)));
        let after = Held {
            messages: held.messages + u64::from(replaced.is_none()),
            bytes: (held.bytes + size).saturating_sub(replaced.unwrap_or_default()),
        };
        let fits = |now: u64, max: u64| max == 0 || now <= max;
        let has_room = fits(after.messages, owner.messages_max) && fits(after.bytes, owner.bytes_max);
        let is_welcome = has_room || replaced.is_some_and(|replaced| size <= replaced);
        if is_welcome {
            *held = after;
        }
        is_welcome
    }

    fn admits_of_all(&self, cluster: &Cluster, limits: &Limits, publication: &Publication) -> bool {
        let size = publication.size() as u64;
        let is_below = |now: u64, more: u64, max: u64| max == 0 || now + more <= max;
        let has_room = is_below(
            self.messages.load(Relaxed),
            1,
            limits.retained_messages_max.into(),
        ) && is_below(self.bytes.load(Relaxed), size, limits.retained_bytes_max.get());
        if has_room {
            self.messages.fetch_add(1, Relaxed);
            self.bytes.fetch_add(size, Relaxed);
            return true;
        }
        self.replaces(cluster, publication)
    }

    /// Whether a message takes the place of another, and is no larger.
    pub(crate) fn replaces(&self, cluster: &Cluster, publication: &Publication) -> bool {
        let (topic, size) = (publication.topic().as_str(), publication.size() as u64);
        let mut replaces = false;
        cluster.retained_local(topic, 1, &mut |known| {
            replaces = counted_size(known) + size_of::<Publication>() as u64 >= size;
        });
        replaces
    }
}

/// What a stored message counts for in limits.
fn counted_size(known: &proto::Publication) -> u64 {
    (known.topic.len() + known.properties.len() + known.payload.len()) as u64
}

fn of_all_shards(cluster: &Cluster, (messages, bytes): (u64, u64)) -> Held {
    Held {
        messages: cluster.of_all_shards(messages),
        bytes: cluster.of_all_shards(bytes),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mqtt_topic::TopicName;

    use super::*;
    use crate::testing::node;

    #[tokio::test]
    async fn what_was_let_through_counts_until_the_next_look() {
        let (_files, shared) = node().await;
        let topic = TopicName::parse("t".into()).unwrap();
        let publication = Publication::new(topic, Bytes::from_static(b"x"));
        let (by_count, by_bytes) = (
            Limits {
                retained_messages_max: 2,
                ..Limits::default()
            },
            Limits {
                retained_bytes_max: crate::config::ByteSize::from_bytes(publication.size() as u64),
                ..Limits::default()
            },
        );
        let room = RetainedRoom::default();
        let admits = |limits| room.admits_of_all(&shared.cluster, limits, &publication);
        assert!(admits(&by_count) && admits(&by_count) && !admits(&by_count));
        room.look(&shared.cluster, &shared.cluster.totals_held());
        assert!(admits(&by_bytes) && !admits(&by_bytes));
    }

    #[tokio::test]
    async fn what_one_owner_retains_is_counted_apart() {
        let (_files, shared) = node().await;
        let owner = |name: &str, messages_max, bytes_max| Owner {
            name: name.to_owned(),
            messages_max,
            bytes_max,
            limit: Limited::RetainedPerUser,
        };
        let publication =
            |topic: &str| Publication::new(TopicName::parse(topic.into()).unwrap(), Bytes::from_static(b"x"));
        let room = RetainedRoom::default();
        let limits = Limits::default();
        let admits =
            |topic: &str, owner: &Owner| room.admits(&shared.cluster, &limits, &publication(topic), owner);
        let (anna, bob) = (owner("user:anna", 2, 0), owner("user:bob", 0, 4));
        assert_eq!([admits("a", &anna), admits("b", &anna)], [Ok(()), Ok(())]);
        assert_eq!(admits("c", &anna), Err(Limited::RetainedPerUser));
        assert_eq!([admits("a", &bob), admits("b", &bob)], [Ok(()), Ok(())]);
        assert_eq!(admits("c", &bob), Err(Limited::RetainedPerUser));
        assert_eq!(admits("c", &owner("user:carl", 0, 0)), Ok(()));
        // None of them has been stored: with the next look they are forgotten.
        room.look(&shared.cluster, &shared.cluster.totals_held());
        assert_eq!(admits("c", &anna), Ok(()));
    }
}
