//! Whether one more message may be retained: a retained message stays in the memory of every replica until somebody
//! replaces it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cluster::{Cluster, Totals};
use mqtt_codec::Publication;

use crate::config::Limits;

/// What is retained in the whole cluster, as of the last look, and what this node has let through since.
#[derive(Default, Debug)]
pub(crate) struct RetainedRoom {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl RetainedRoom {
    /// Counts anew, from the shards that have a replica here: the others are like them.
    pub(crate) fn look(&self, cluster: &Cluster, totals: &Totals) {
        let (held, shards) = (cluster.shards_held() as u64, u64::from(cluster.shards()));
        let of_all = |counted: u64| counted.saturating_mul(shards) / held.max(1);
        self.messages.store(of_all(totals.retained_messages), Relaxed);
        self.bytes.store(of_all(totals.retained_bytes), Relaxed);
    }

    /// Whether a message may be retained. One that takes the place of another, and is no larger, always may.
    pub(crate) fn admits(&self, cluster: &Cluster, limits: &Limits, publication: &Publication) -> bool {
        let (topic, size) = (publication.topic().as_str(), publication.size() as u64);
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
        let mut replaces = false;
        cluster.retained_local(topic, 1, &mut |known| {
            let known = known.topic.len() + known.properties.len() + known.payload.len();
            replaces = (known + size_of::<Publication>()) as u64 >= size;
        });
        replaces
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
        let admits = |limits| room.admits(&shared.cluster, limits, &publication);
        assert!(admits(&by_count) && admits(&by_count) && !admits(&by_count));
        room.look(&shared.cluster, &shared.cluster.totals_held());
        assert!(admits(&by_bytes) && !admits(&by_bytes));
    }
}
