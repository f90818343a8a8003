//! Queues of sessions that are connected here while their shard has no replica here: read from the shard's leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::{FetchQueue, Fetched, call_request, call_response};
use parking_lot::Mutex;
use transport::{Channel, PeerError};

use crate::node::Inner;
use crate::slot::Slot;
use crate::{Fetch, Queued, SessionWaker};

const FETCH_WITHIN: Duration = Duration::from_secs(3);
/// After an answer that was none.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Sessions that nobody tells of anything look for themselves once in so many seconds.
const PARTS: usize = 8;

/// The sessions.
#[derive(Default)]
pub(crate) struct RemoteQueues {
    sessions: Mutex<BTreeMap<String, Session>>,
}

struct Session {
    epoch: u64,
    waker: Arc<dyn SessionWaker>,
    reading: Reading,
}

enum Reading {
    Idle,
    Asked,
    /// From this sequence on.
    Answered(u64, Fetched),
}

impl RemoteQueues {
    pub(crate) fn attach(&self, client: &str, epoch: u64, waker: Arc<dyn SessionWaker>) {
        let session = Session {
            epoch,
            waker,
            reading: Reading::Idle,
        };
        self.sessions.lock().insert(client.to_owned(), session);
    }

    pub(crate) fn detach(&self, client: &str, epoch: u64) {
        let mut sessions = self.sessions.lock();
        if sessions.get(client).is_some_and(|session| session.epoch == epoch) {
            sessions.remove(client);
        }
    }

    /// Whether the connection with this epoch reads its queue from afar.
    pub(crate) fn has(&self, client: &str, epoch: u64) -> bool {
        let sessions = self.sessions.lock();
        sessions.get(client).is_some_and(|session| session.epoch == epoch)
    }

    /// The connections among `of_shard`, for the replica that there is now.
    pub(crate) fn wakers(
        &self,
        of_shard: impl Fn(&str) -> bool,
    ) -> Vec<(Arc<str>, u64, Arc<dyn SessionWaker>)> {
        let sessions = self.sessions.lock();
        let of_shard = sessions.iter().filter(|(client, _)| of_shard(client));
        of_shard
            .map(|(client, session)| (client.as_str().into(), session.epoch, session.waker.clone()))
            .collect()
    }

    pub(crate) fn wake(&self, client: &str) {
        let waker = self
            .sessions
            .lock()
            .get(client)
            .map(|session| session.waker.clone());
        if let Some(waker) = waker {
            waker.queue_grew();
        }
    }

    /// A notice may have been lost with a leader: everybody looks again, one part of `PARTS` at a time, so that many idle
    /// sessions do not ask all at once.
    pub(crate) fn wake_part(&self, part: usize) {
        let wakers: Vec<_> = self
            .sessions
            .lock()
            .values()
            .skip(part % PARTS)
            .step_by(PARTS)
            .map(|session| session.waker.clone())
            .collect();
        for waker in wakers {
            waker.queue_grew();
        }
    }
}

impl Inner {
    /// See `Cluster::fetch`.
    pub(crate) fn fetch_remote(self: &Arc<Self>, slot: &Arc<Slot>, request: FetchQueue) -> Fetch {
        let mut sessions = self.remote_queues.sessions.lock();
        let Some(session) = sessions
            .get_mut(&request.client)
            .filter(|session| session.epoch == request.epoch)
        else {
            return Fetch::Gone;
        };
        match std::mem::replace(&mut session.reading, Reading::Asked) {
            Reading::Asked => Fetch::Loading,
            Reading::Answered(from, fetched) if from == request.from_sequence => {
                session.reading = Reading::Idle;
                drop(sessions);
                ready(fetched)
            }
            Reading::Idle | Reading::Answered(..) => {
                drop(sessions);
                tokio::spawn(self.clone().ask_queue(slot.clone(), request));
                Fetch::Loading
            }
        }
    }

    async fn ask_queue(self: Arc<Self>, slot: Arc<Slot>, request: FetchQueue) {
        let (client, epoch, from) = (request.client.clone(), request.epoch, request.from_sequence);
        let leader = slot.leader().unwrap_or(0);
        let body = call_request::Body::FetchQueue(request);
        let answer = match &self.peers {
            Some(peers) => peers.call(leader, Channel::Data, body, FETCH_WITHIN).await,
            None => return,
        };
        let reading = match answer {
            // An empty answer is no news: the next notice asks again.
            Ok(call_response::Body::Fetched(fetched)) => Reading::Answered(from, fetched),
            Err(PeerError::Failed(failed)) => {
                slot.learn_leader(failed.leader);
                Reading::Idle
            }
            _ => {
                slot.learn_leader(0);
                Reading::Idle
            }
        };
        let is_answered = matches!(reading, Reading::Answered(..));
        let waker = {
            let mut sessions = self.remote_queues.sessions.lock();
            let Some(session) = sessions.get_mut(&client).filter(|session| session.epoch == epoch) else {
                return;
            };
            session.reading = reading;
            session.waker.clone()
        };
        if !is_answered {
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
        waker.queue_grew();
    }
}

fn ready(fetched: Fetched) -> Fetch {
    if !fetched.owned {
        return Fetch::Gone;
    }
    let messages = fetched.messages.into_iter().map(|message| Queued {
        sequence: message.sequence,
        publication: Arc::new(message.publication.unwrap_or_default()),
        qos: message.qos as u8,
        retain: message.retain,
        subscription_ids: message.subscription_ids,
        received: message.received,
        from_share: message.from_share,
    });
    Fetch::Ready {
        messages: messages.collect(),
        next_sequence: fetched.next_sequence,
    }
}
