//! Waiting until every live node routes by what has been announced. A SUBACK says that.

use std::sync::Arc;
use std::time::Duration;

use cluster_proto::{Barrier, call_request, call_response};
use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use transport::Channel;

use crate::ProposeError;
use crate::node::Inner;

/// One question. A node that is down is not asked any more, however long this takes.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// Longer than a silent node takes to be declared down.
const WAIT_MAX: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);

/// How far each member is known to have applied the meta group's log.
#[derive(Default)]
pub(crate) struct Applied {
    members: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<u64>>>>,
}

impl Applied {
    fn of(&self, node: u64) -> Arc<tokio::sync::Mutex<u64>> {
        self.members.lock().entry(node).or_default().clone()
    }

    /// A member that starts a new life tells anew.
    pub(crate) fn forget(&self, node: u64) {
        self.members.lock().remove(&node);
    }
}

impl Inner {
    /// Returns when this node and every member that is not down have applied the meta group's log up to an index.
    pub(crate) async fn barrier(&self, index: u64) -> Result<(), ProposeError> {
        if !self.wait_meta(index, WAIT_MAX).await {
            return Err(ProposeError::NoQuorum);
        }
        let waiting = self
            .live_members()
            .into_iter()
            .map(|node| self.barrier_of(node, index));
        futures_util::future::try_join_all(waiting).await.map(drop)
    }

    async fn barrier_of(&self, node: u64, index: u64) -> Result<(), ProposeError> {
        let applied = self.applied.of(node);
        let begun = Instant::now();
        loop {
            // Those who wait behind this question mostly find their answer in its answer.
            let mut known = applied.lock().await;
            if *known >= index || !self.is_live(node) {
                return Ok(());
            }
            if let Some(reached) = self.ask_barrier(node, index).await {
                *known = (*known).max(reached);
                continue;
            }
            drop(known);
            if begun.elapsed() > WAIT_MAX {
                metrics::counter!("flotilla_route_barrier_timeouts_total").increment(1);
                return Err(ProposeError::NoQuorum);
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask_barrier(&self, node: u64, index: u64) -> Option<u64> {
        let barrier = Barrier {
            // What was applied here meanwhile will be waited for next.
            meta_index: index.max(self.meta_applied()),
            announced: false,
        };
        let body = call_request::Body::Barrier(barrier);
        let peers = self.peers.as_ref()?;
        match peers.call(node, Channel::Data, body, ASK_WITHIN).await {
            Ok(call_response::Body::Barrier(answer)) => Some(answer.meta_index),
            _ => None,
        }
    }
}
