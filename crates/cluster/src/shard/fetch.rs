//! Reading a session's queue. Bodies in memory come at once; others are read from disk by a blocking thread, handed
//! to the session's next fetch, and kept for nobody else.

use std::sync::Arc;

use cluster_proto::Publication;
use cluster_state::{MessageId, QueueItem};
use foldhash::HashMap;

use super::Shard;
use super::bodies::DecodedEntry;
use crate::bodies::size;
use crate::chance;
use crate::{Fetch, Outboxed, Queued};

/// The most bodies read from disk at once for a session.
const LOAD_MESSAGES_MAX: usize = 256;

/// Bodies on their way from disk to a session.
pub(super) enum Loading {
    Reading,
    /// None where the message is gone.
    Read(HashMap<MessageId, Option<Arc<Publication>>>),
}

impl Shard {
    /// See `Cluster::fetch`.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        client: &str,
        epoch: u64,
        from: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> Fetch {
        let queue = self.read(|state| {
            let session = state.session(client)?;
            let owned = session.connected && session.owner.epoch == epoch;
            owned.then(|| state.queue_from(client, from, messages_max.max(1), bytes_max))
        });
        let Some((items, end)) = queue else {
            return Fetch::Gone;
        };
        let Some(loaded) = self.take_loaded(client) else {
            return Fetch::Loading;
        };
        let bodies = self
            .node
            .bodies
            .get(self.id, items.iter().map(|item| item.message));
        let mut messages = Vec::with_capacity(items.len());
        let mut next_sequence = end;
        for (item, body) in items.iter().zip(bodies) {
            match body.map(Some).or_else(|| loaded.get(&item.message).cloned()) {
                Some(Some(body)) => messages.push(queued(item, body)),
                Some(None) => {
                    tracing::warn!(client, sequence = item.sequence, "a queued message has no body")
                }
                None if messages.is_empty() => {
                    let missing = items.iter().filter(|item| !loaded.contains_key(&item.message));
                    self.load(client, missing.map(|item| item.message).collect(), bytes_max);
                    return Fetch::Loading;
                }
                None => {
                    next_sequence = item.sequence;
                    break;
                }
            }
        }
        self.keep_loaded(client, loaded, &items, next_sequence);
        Fetch::Ready {
            messages,
            next_sequence,
        }
    }

    /// What was read for the session; none while it is being read.
    fn take_loaded(&self, client: &str) -> Option<HashMap<MessageId, Option<Arc<Publication>>>> {
        let mut loading = self.loading.lock();
        match loading.get_mut(client) {
            None => Some(HashMap::default()),
            Some(Loading::Reading) => None,
            Some(Loading::Read(loaded)) => {
                let loaded = std::mem::take(loaded);
                loading.remove(client);
                Some(loaded)
            }
        }
    }

    /// Keeps what was read beyond this fetch's limits for the next one.
    fn keep_loaded(
        &self,
        client: &str,
        mut loaded: HashMap<MessageId, Option<Arc<Publication>>>,
        items: &[QueueItem],
        next_sequence: u64,
    ) {
        for item in items.iter().filter(|item| item.sequence < next_sequence) {
            loaded.remove(&item.message);
        }
        if !loaded.is_empty() && self.waker(client).is_some() {
            self.loading.lock().insert(client.into(), Loading::Read(loaded));
        }
    }

    fn load(self: &Arc<Self>, client: &str, mut ids: Vec<MessageId>, bytes_max: usize) {
        ids.truncate(LOAD_MESSAGES_MAX);
        let client: Arc<str> = client.into();
        self.loading.lock().insert(client.clone(), Loading::Reading);
        let shard = self.clone();
        chance::blocking_on(&self.node.runtime, move || {
            let loaded = shard.read_bodies(&ids, bytes_max);
            shard.loading.lock().insert(client.clone(), Loading::Read(loaded));
            if let Some(waker) = shard.waker(&client) {
                waker.queue_grew();
            }
        });
    }

    fn read_bodies(
        &self,
        ids: &[MessageId],
        bytes_max: usize,
    ) -> HashMap<MessageId, Option<Arc<Publication>>> {
        let mut loaded = HashMap::default();
        let mut entry = DecodedEntry::default();
        let mut bytes = 0;
        for id in ids {
            let body = match self.bodies.read(*id, &mut entry) {
                Ok(body) => body.map(Arc::new),
                Err(error) => {
                    tracing::error!(%error, shard = self.id, index = id.index, "reading a message failed");
                    None
                }
            };
            bytes += body.as_deref().map_or(0, size) as usize;
            loaded.insert(*id, body);
            if bytes >= bytes_max {
                break;
            }
        }
        loaded
    }

    /// Messages of the outbox, oldest first. May read from disk.
    pub(crate) fn outbox(&self, max: usize) -> Vec<Outboxed> {
        use cluster_state::OutboxBody;
        let items: Vec<_> = self.read(|state| state.outbox().take(max).collect());
        let mut entry = DecodedEntry::default();
        let mut messages = Vec::with_capacity(items.len());
        for item in items {
            let share = match &item.body {
                OutboxBody::Shared(_, share) => Some(Arc::clone(share)),
                _ => None,
            };
            let mut author = None;
            let body = match item.body {
                OutboxBody::Will(publication, by) => {
                    author = by;
                    Some(*publication)
                }
                OutboxBody::Message(id) | OutboxBody::Shared(id, _) => match self
                    .node
                    .bodies
                    .get(self.id, std::iter::once(id))
                    .pop()
                    .flatten()
                {
                    Some(body) => Some(body.as_ref().clone()),
                    None => self.bodies.read(id, &mut entry).unwrap_or_else(|error| {
                        tracing::error!(%error, shard = self.id, "reading a message of the outbox failed");
                        None
                    }),
                },
            };
            // In order and without gaps: what cannot be read now holds up what follows.
            let Some(publication) = body else { break };
            messages.push(Outboxed {
                number: item.number,
                publication,
                share,
                author,
            });
        }
        messages
    }
}

fn queued(item: &QueueItem, publication: Arc<Publication>) -> Queued {
    Queued {
        sequence: item.sequence,
        publication,
        qos: item.qos,
        retain: item.retain,
        subscription_ids: item.subscription_ids.clone(),
        received: item.received,
        from_share: item.from_share,
    }
}
