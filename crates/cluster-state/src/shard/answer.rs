//! Short ways to say what came of a command.

use cluster_proto::{Done, Rejected, ShardResponse, rejected::Reason, shard_response::Response};

pub(super) fn of(response: Response) -> ShardResponse {
    ShardResponse {
        response: Some(response),
    }
}

pub(super) fn done() -> ShardResponse {
    existed(Vec::new())
}

pub(super) fn existed(existed: Vec<bool>) -> ShardResponse {
    of(Response::Done(Done { existed }))
}

pub(super) fn rejected(reason: Reason) -> ShardResponse {
    of(Response::Rejected(Rejected {
        reason: reason.into(),
    }))
}

pub(super) fn malformed() -> ShardResponse {
    rejected(Reason::Malformed)
}
