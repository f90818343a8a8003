//! Nodes that are out of service for a while: they stay members and keep their replicas, and lead nothing that another node can
//! lead. Each says so when it asks for its lease, and hears with the answer who else does; nothing of it is replicated.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::Cluster;
use crate::node::Inner;

/// Who is out of service.
#[derive(Default)]
pub(crate) struct Draining {
    /// This node.
    on: AtomicBool,
    /// All, as the leader of the meta group last said.
    heard: Mutex<BTreeSet<u64>>,
}

impl Draining {
    /// Whether this node is.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    pub(crate) fn hear(&self, nodes: Vec<u64>) {
        *self.heard.lock() = nodes.into_iter().collect();
    }
}

impl Inner {
    /// Whether a node is out of service, as far as this one knows.
    pub(crate) fn is_draining(&self, node: u64) -> bool {
        match node == self.node_id {
            true => self.draining.is_on(),
            false => self.draining.heard.lock().contains(&node),
        }
    }

    /// Other members that may be given something to lead.
    pub(crate) fn successors(&self) -> Vec<u64> {
        let mut live = self.live_members();
        live.retain(|node| !self.is_draining(*node));
        live
    }
}

impl Cluster {
    /// Takes this node out of service: what it leads goes to others, and does not come back before `undrain`. Waits for up to
    /// four seconds until nothing is led here that another node could lead; the rest is seen to afterwards.
    pub async fn drain(&self) {
        self.0.draining.on.store(true, Ordering::Release);
        self.0.hand_over().await;
    }

    /// This node may lead again: what it is to lead comes back by itself.
    pub fn undrain(&self) {
        self.0.draining.on.store(false, Ordering::Release);
    }

    /// Whether there is another node that clients can be sent to: a member that is not down, leaving or out of service.
    pub fn others_serve(&self) -> bool {
        self.0.meta.machine.read(|state| {
            let mut members = state.members();
            members.any(|member| {
                let stays = !member.down && !member.leaving;
                stays && member.node != self.0.node_id && !self.0.is_draining(member.node)
            })
        })
    }
}
