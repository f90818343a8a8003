//! Why a peer did not answer, and what is known about the fate of the request.

use cluster_proto::{Failed, failed};
use prost::Message;
use tonic::{Code, Status};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// Nothing was sent.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// The connection ended before the answer: whether anything was done is not known.
    #[error("the connection to the peer was lost: {0}")]
    Lost(String),
    /// The caller's deadline passed: whether anything was done is not known.
    #[error("the peer did not answer in time")]
    Late,
    /// Too much is under way already. Nothing was sent.
    #[error("too much is under way to this peer")]
    Busy,
    /// Larger than a message may be. Nothing was sent.
    #[error("{0} bytes are more than a message may have")]
    TooLarge(usize),
    /// No such node, or it was forgotten meanwhile.
    #[error("the node is not known, or no longer")]
    Gone,
    /// The peer's own answer.
    #[error("the peer refused: {}", .0.detail)]
    Failed(Failed),
}

impl PeerError {
    /// Whether it is certain that the peer did nothing.
    pub fn is_harmless(&self) -> bool {
        match self {
            PeerError::Unreachable(_) | PeerError::Busy | PeerError::TooLarge(_) => true,
            PeerError::Lost(_) | PeerError::Late | PeerError::Gone => false,
            PeerError::Failed(failed) => matches!(
                failed.reason(),
                failed::Reason::NotLeader
                    | failed::Reason::Busy
                    | failed::Reason::NoReplica
                    | failed::Reason::Refused
                    | failed::Reason::Retired
            ),
        }
    }
}

/// An answer of failure.
pub(crate) fn failed(reason: failed::Reason, detail: impl Into<String>) -> Failed {
    Failed {
        reason: reason.into(),
        leader: 0,
        detail: detail.into(),
    }
}

/// A failure where the answer of the protocol has no place for one.
pub(crate) fn status_of(failed: &Failed) -> Status {
    Status::with_details(
        Code::FailedPrecondition,
        failed.detail.clone(),
        failed.encode_to_vec().into(),
    )
}

/// What [`status_of`] made; any other status is the end of a connection.
pub(crate) fn error_of(status: &Status) -> PeerError {
    match Failed::decode(status.details()) {
        Ok(failed) if status.code() == Code::FailedPrecondition => PeerError::Failed(failed),
        _ => PeerError::Lost(text_of(status)),
    }
}

/// A status in few words.
pub(crate) fn text_of(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
