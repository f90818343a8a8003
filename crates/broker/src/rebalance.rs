//! Evening out the connections of a cluster: a node that has more than its share asks the rest to go elsewhere, at a bounded
//! rate. Where they go is the load balancer's business.

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::drain::{Asking, TICK};
use crate::shared::Shared;

/// A node that serves, and what becomes of its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Its identifier.
    pub node: u64,
    /// Those it has.
    pub connections: u64,
    /// Those of them that are to go elsewhere.
    pub excess: u64,
}

/// What each node has beyond its share; one that is above it by a twentieth or less is left alone.
pub(crate) fn shares(connections: &[(u64, u64)]) -> Vec<Share> {
    let total: u64 = connections.iter().map(|(_, connections)| connections).sum();
    let share = total.div_ceil(connections.len().max(1) as u64);
    let of = |&(node, connections): &(u64, u64)| Share {
        node,
        connections,
        excess: match connections > share + share / 20 {
            true => connections - share,
            false => 0,
        },
    };
    connections.iter().map(of).collect()
}

/// Asks the clients that came last to go elsewhere, in a task of its own. False: one does so already.
pub(crate) fn move_some(shared: &Arc<Shared>, count: usize, per_second: u32) -> bool {
    let Ok(permit) = Arc::clone(&shared.moves).try_acquire_owned() else {
        return false;
    };
    let mut chosen = shared.registry.newest_first();
    chosen.truncate(count);
    info!(
        count = chosen.len(),
        per_second, "clients are asked to go to other nodes"
    );
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _permit = permit;
        let mut asking = Asking::these(chosen, per_second);
        // A drain asks them, too.
        while !asking.waiting.is_empty() && !shared.drain.is_asking() {
            asking.ask(Instant::now());
            sleep(TICK).await;
        }
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excess(connections: &[u64]) -> Vec<u64> {
        let nodes: Vec<_> = (0..).zip(connections.iter().copied()).collect();
        shares(&nodes).into_iter().map(|share| share.excess).collect()
    }

    #[test]
    fn only_what_is_beyond_the_share_is_to_go() {
        assert_eq!(excess(&[900, 0, 0]), [600, 0, 0]);
        assert_eq!(excess(&[500, 400, 0]), [200, 100, 0]);
        assert_eq!(excess(&[310, 300, 290]), [0, 0, 0], "near enough");
        assert_eq!(excess(&[5, 0, 0]), [3, 0, 0]);
        assert_eq!(excess(&[7]), [0]);
        assert_eq!(excess(&[]), [0; 0]);
    }
}
