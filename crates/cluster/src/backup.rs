//! Sessions of all shards as parts of a backup: from this node's replica where there is one, else from the shard's leader.

use cluster_proto::{ReadSessions, SessionCopies, SessionPlace, call_request, call_response, failed::Reason};
use tokio::time::{Instant, sleep};
use transport::{Channel, PeerError};

use crate::chance;
use crate::node::Inner;
use crate::reads::{PAUSE, READ_WITHIN};
use crate::slot::{Slot, failed};
use crate::{Clock, Cluster, ProposeError, ShardId};

impl Cluster {
    /// Parts of a backup from a place in a shard on, a bounded number. Whatever was acknowledged before the call, and is not
    /// finished, is among them or behind them.
    ///
    /// # Errors
    /// The shard has no leader with a quorum.
    pub async fn session_copies(
        &self,
        shard: ShardId,
        from: SessionPlace,
    ) -> Result<SessionCopies, ProposeError> {
        self.0.read_sessions(shard, from).await
    }
}

impl Inner {
    async fn read_sessions(&self, shard: ShardId, from: SessionPlace) -> Result<SessionCopies, ProposeError> {
        let slot = self.slot(shard).ok_or(ProposeError::NoQuorum)?;
        let Some(replica) = slot.replica() else {
            return self.read_sessions_there(slot, from).await;
        };
        let index = self.read_index(shard, READ_WITHIN).await?;
        if !replica.wait_applied(index, READ_WITHIN).await {
            return Err(ProposeError::NoQuorum);
        }
        let now_ms = self.clock.now_ms();
        let copies = chance::blocking(move || replica.machine.session_copies(from, now_ms));
        copies.await.map_err(|_| ProposeError::Stopping)
    }

    async fn read_sessions_there(
        &self,
        slot: &Slot,
        from: SessionPlace,
    ) -> Result<SessionCopies, ProposeError> {
        let peers = self.peers.as_ref().ok_or(ProposeError::NoQuorum)?;
        let begun = Instant::now();
        loop {
            let body = call_request::Body::ReadSessions(ReadSessions {
                shard: u32::from(slot.id),
                from: Some(from.clone()),
            });
            let leader = slot.leader().unwrap_or(0);
            match peers.call(leader, Channel::Data, body, READ_WITHIN).await {
                Ok(call_response::Body::Sessions(copies)) => return Ok(copies),
                Err(PeerError::Failed(failed)) => slot.learn_leader(failed.leader),
                _ => slot.learn_leader(0),
            }
            if begun.elapsed() > READ_WITHIN {
                return Err(ProposeError::NoQuorum);
            }
            sleep(PAUSE).await;
        }
    }

    /// As the leader of a shard.
    pub(crate) async fn answer_sessions(&self, request: ReadSessions) -> call_response::Body {
        let group = match self.readable_leader(request.shard).await {
            Ok(group) => group,
            Err(refusal) => return refusal,
        };
        let (from, now_ms) = (request.from.unwrap_or_default(), self.clock.now_ms());
        match chance::blocking(move || group.machine.session_copies(from, now_ms)).await {
            Ok(copies) => call_response::Body::Sessions(copies),
            Err(_) => failed(Reason::Stopping, None),
        }
    }
}
