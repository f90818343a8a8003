//! What the broker reads of the replicated state: queues, sessions, totals.

use std::sync::Arc;

use cluster_proto::{Author, Publication, Totals};

/// One message of a session's queue.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The session's delivery number; the packet id is 1 + sequence mod 65535.
    pub sequence: u64,
    /// The message, shared by all sessions that have it.
    pub publication: Arc<Publication>,
    /// The lower one of the message's and the subscription's QoS.
    pub qos: u8,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    pub subscription_ids: Vec<u32>,
    /// Its PUBREC is committed: only the PUBREL is to be sent.
    pub received: bool,
    /// A shared subscription chose this session.
    pub from_share: bool,
}

/// One message of a shard's outbox.
#[derive(Clone, Debug)]
pub struct Outboxed {
    /// Its number; numbers are dense and grow.
    pub number: u64,
    /// The message.
    pub publication: Publication,
    /// Only a member of this shared subscription is to get it: another one has left it behind.
    pub share: Option<Arc<str>>,
    /// Of a will: by whom rules judge it.
    pub author: Option<Box<Author>>,
}

/// The answer to `Cluster::fetch`.
#[derive(Clone, Debug)]
pub enum Fetch {
    /// What there is, which may be nothing.
    Ready {
        /// Oldest first.
        messages: Vec<Queued>,
        /// Where the next fetch continues.
        next_sequence: u64,
    },
    /// Bodies are being read from disk; `queue_grew` is called when they are there.
    Loading,
    /// The session does not exist, or this epoch does not own it any more.
    Gone,
}

/// A session as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Whether a connection owns it now.
    pub connected: bool,
    /// The user name of the latest accepted CONNECT; empty: none.
    pub user: String,
    /// The number of the latest accepted CONNECT.
    pub epoch: u64,
    /// Messages not yet acknowledged.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Its durable subscriptions.
    pub subscriptions: u64,
}

/// All of them together.
pub(crate) fn sum(all: impl IntoIterator<Item = Totals>) -> Totals {
    all.into_iter().fold(Totals::default(), |sums, more| Totals {
        sessions: sums.sessions + more.sessions,
        connected: sums.connected + more.connected,
        queued_messages: sums.queued_messages + more.queued_messages,
        queued_bytes: sums.queued_bytes + more.queued_bytes,
        retained_messages: sums.retained_messages + more.retained_messages,
        retained_bytes: sums.retained_bytes + more.retained_bytes,
        subscriptions: sums.subscriptions + more.subscriptions,
    })
}
