//! What the running node answers to operators that ask about the cluster.

use std::sync::{Arc, PoisonError, RwLock};

use admin::{AdminError, Change, ClusterAdmin, ClusterStatus, MemberState, MemberStatus};
use broker::Broker;
use broker::config::Config;

/// The broker, until a stop takes it away.
pub(crate) type SharedBroker = Arc<RwLock<Option<Broker>>>;

/// A node that is alone.
pub(crate) struct NodeAdmin {
    broker: SharedBroker,
    name: String,
    address: String,
    zone: String,
}

impl NodeAdmin {
    pub(crate) fn new(config: &Config, broker: SharedBroker) -> Self {
        Self {
            broker,
            name: config.node.shown_name(),
            address: config.cluster.advertised().unwrap_or_default(),
            zone: config.cluster.zone.clone(),
        }
    }
}

impl ClusterAdmin for NodeAdmin {
    fn status(&self) -> ClusterStatus {
        let broker = self.broker.read().unwrap_or_else(PoisonError::into_inner);
        let Some(broker) = broker.as_ref() else {
            return ClusterStatus {
                node: self.name.clone(),
                ..ClusterStatus::default()
            };
        };
        let shards = u32::from(broker.shards());
        let alone = MemberStatus {
            name: self.name.clone(),
            node_id: format!("{:016x}", broker.node_id()),
            address: self.address.clone(),
            zone: self.zone.clone(),
            state: MemberState::Up,
            voter: true,
            leader: true,
            shards_held: shards,
            shards_led: shards,
        };
        ClusterStatus {
            cluster_id: broker.cluster_id(),
            node: self.name.clone(),
            ready: broker.is_ready(),
            shards,
            members: vec![alone],
        }
    }

    fn leave(&self) -> Change<'_> {
        let reason = "this node is alone in its cluster: there is nothing to leave; stop it with SIGTERM";
        Box::pin(async { Err(AdminError::NotImplemented(reason.to_owned())) })
    }

    fn forget(&self, _node: &str) -> Change<'_> {
        let reason = "this node is alone in its cluster: there is no other node to forget";
        Box::pin(async { Err(AdminError::NotImplemented(reason.to_owned())) })
    }
}
