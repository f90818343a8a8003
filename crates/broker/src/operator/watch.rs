//! Looking on as messages pass: a subscription without a client, for an operator who wants to see what is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use cluster::ProposeError;
use mqtt_codec::QoS;
use mqtt_topic::TopicFilter;
use smallvec::SmallVec;
use tokio::sync::OwnedSemaphorePermit;

use super::Operator;
use crate::mailbox::{Event, Grant, Mailbox};
use crate::router::Subscriber;
use crate::shared::Shared;

/// Why nobody can look on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The filter is none.
    #[error("{0}")]
    Filter(String),
    /// Others look on already.
    #[error("too many operators look on")]
    Busy,
    /// The other nodes could not be told.
    #[error(transparent)]
    Cluster(#[from] ProposeError),
}

/// A message that passed.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Where it was published.
    pub topic: String,
    /// With this QoS.
    pub qos: u8,
    /// As its publisher set it.
    pub retain: bool,
    /// What it says.
    pub payload: Bytes,
}

/// Looks on until it is dropped. What it is too slow for is dropped and counted, as for any subscriber.
pub struct Watch {
    shared: Arc<Shared>,
    filter: TopicFilter,
    mailbox: Arc<Mailbox>,
    events: Vec<Event>,
    taken: VecDeque<Watched>,
    _permit: OwnedSemaphorePermit,
}

impl Operator {
    /// Shows every message of the cluster whose topic matches, from now on.
    ///
    /// # Errors
    /// The filter is none, too many look on, or the other nodes could not be told.
    pub async fn watch(&self, filter: &str) -> Result<Watch, WatchError> {
        let filter =
            TopicFilter::parse(filter.into()).map_err(|error| WatchError::Filter(error.to_string()))?;
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&shared.watches).try_acquire_owned();
        let permit = permit.map_err(|_| WatchError::Busy)?;
        let bytes_max = shared.live().queues.live_bytes_max.as_usize();
        let mailbox = Mailbox::new(
            shared.next_connection(),
            "".into(),
            bytes_max,
            bytes_max,
            &shared.memory,
        );
        let grant = Grant {
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            subscription_ids: SmallVec::new(),
        };
        let subscriber = Subscriber {
            mailbox: Arc::clone(&mailbox),
            grant: Arc::new(grant),
            own_grant: None,
            durable: false,
        };
        shared.router.subscribe(&filter, subscriber);
        shared.cluster.want(filter.as_str(), false);
        let watch = Watch {
            shared,
            filter,
            mailbox,
            events: Vec::new(),
            taken: VecDeque::new(),
            _permit: permit,
        };
        watch.shared.cluster.announced(None).await?;
        Ok(watch)
    }
}

impl Watch {
    /// The next message; none when the node stops.
    pub async fn next(&mut self) -> Option<Watched> {
        let stopping = self.shared.stopping.clone();
        tokio::select! {
            watched = std::future::poll_fn(|context| self.poll_next(context)) => Some(watched),
            () = stopping.cancelled() => None,
        }
    }

    fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> Poll<Watched> {
        if let Some(watched) = self.taken.pop_front() {
            return Poll::Ready(watched);
        }
        self.mailbox.take(&mut self.events, context.waker());
        for event in self.events.drain(..) {
            let Event::Deliver { batch, .. } = event else {
                continue;
            };
            self.taken.extend(batch.messages.iter().map(|message| Watched {
                topic: message.publication.topic().as_str().to_owned(),
                qos: message.qos as u8,
                retain: message.retain,
                payload: message.publication.payload(),
            }));
        }
        match self.taken.pop_front() {
            Some(watched) => Poll::Ready(watched),
            None => Poll::Pending,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.router.unsubscribe(&self.filter, self.mailbox.id);
        self.shared.cluster.unwant(self.filter.as_str(), false);
    }
}
