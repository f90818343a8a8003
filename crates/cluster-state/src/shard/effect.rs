//! What applying a command asks of the node it is applied on. Every replica computes the same effects.

use std::sync::Arc;

use cluster_proto::{Publication, ShareMember};

use super::MessageId;

/// Something a node has to do or to know because a command was applied.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// The connection with this epoch, or an older one, does not own the session any more: it is to be closed.
    OwnerLost {
        /// The session's client id.
        client: Arc<str>,
        /// The node that holds the connection.
        node: u64,
        /// The life of that node.
        incarnation: u64,
        /// The fenced epoch.
        epoch: u64,
    },
    /// A session and all it held are gone.
    SessionEnded {
        /// Its client id.
        client: Arc<str>,
        /// Why.
        reason: EndReason,
    },
    /// The shard has its first plain subscription of this filter with a QoS above 0, or has lost its last one.
    RoutesChanged {
        /// The topic filter.
        filter: Arc<str>,
        /// Whether messages are wanted now.
        added: bool,
    },
    /// A session joined a share, changed its subscription there, or left it.
    SharedMember {
        /// The whole subscription filter, `$share/...`.
        filter: Arc<str>,
        /// As the meta group is to know it.
        member: ShareMember,
        /// Whether it is a member now.
        added: bool,
        /// The index of the entry: the version of this change.
        version: u64,
    },
    /// Something refers to this message now: its body is to be kept until it is released.
    MessageStored {
        /// Its name.
        id: MessageId,
        /// Its body.
        publication: Publication,
    },
    /// Nothing refers to this message any more.
    MessageReleased {
        /// Its name.
        id: MessageId,
    },
    /// A session with a connection has new messages.
    QueueGrew {
        /// Its client id.
        client: Arc<str>,
        /// The connection's epoch.
        epoch: u64,
    },
    /// The outbox has new messages.
    OutboxReady,
    /// Messages will not be delivered.
    Dropped {
        /// Why.
        reason: DropReason,
        /// How many deliveries.
        count: u64,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// The client connected with Clean Start. [MQTT-3.1.2-4]
    CleanStart,
    /// Its expiry interval has passed.
    Expired,
    /// It ended with its connection: the expiry interval was 0.
    Disconnected,
    /// An operator or a limit ended it.
    Requested,
}

impl EndReason {
    /// For labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CleanStart => "clean_start",
            Self::Expired => "expired",
            Self::Disconnected => "disconnected",
            Self::Requested => "requested",
        }
    }
}

/// Why a message was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// The session's queue was at its limit.
    QueueFull,
    /// Its expiry interval had passed. [MQTT-3.3.2-5]
    Expired,
    /// The session ended before it was delivered.
    SessionEnded,
}

impl DropReason {
    /// For labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::SessionEnded => "session_ended",
        }
    }
}
