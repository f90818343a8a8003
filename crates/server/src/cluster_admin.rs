//! What the running node answers to operators that ask about the cluster.

use std::sync::{Arc, PoisonError, RwLock};

use admin::{
    AdminError, Change, ClusterAdmin, ClusterStatus, Leave, LeaveState, LeaveTerms, Leaving, MemberState,
    MemberStatus, ScaleIn, ScaleInState, Step,
};
use broker::Broker;
use broker::config::Config;

/// The broker, until a stop takes it away.
pub(crate) type SharedBroker = Arc<RwLock<Option<Broker>>>;

/// A node and its cluster.
pub(crate) struct NodeAdmin {
    broker: SharedBroker,
    name: String,
}

impl NodeAdmin {
    pub(crate) fn new(config: &Config, broker: SharedBroker) -> Self {
        Self {
            broker,
            name: config.node.shown_name(),
        }
    }

    /// What `ask` finds out from the broker, or that it is gone.
    fn with<T>(&self, ask: impl FnOnce(&Broker) -> T) -> Result<T, AdminError> {
        let broker = self.broker.read().unwrap_or_else(PoisonError::into_inner);
        match broker.as_ref() {
            Some(broker) => Ok(ask(broker)),
            None => Err(AdminError::Unavailable("the node is stopping".to_owned())),
        }
    }

    fn leaving_now(&self) -> Result<Leave, AdminError> {
        let operator = self.with(Broker::operator)?;
        let cluster = operator.cluster();
        let status = cluster.status();
        let mut members = status.members.iter();
        let own = members.find(|member| member.node == status.node);
        Ok(Leave {
            node: self.name.clone(),
            node_id: shown_id(status.node),
            state: match cluster.leaving() {
                cluster::LeaveState::Staying => LeaveState::Staying,
                cluster::LeaveState::Leaving => LeaveState::Leaving,
                cluster::LeaveState::Left => LeaveState::Left,
            },
            replicas: own.map_or(0, |member| member.replicas as u32),
            connections: operator.drain_progress().1 as u64,
        })
    }

    async fn leave_now(&self, terms: LeaveTerms) -> Result<Leave, AdminError> {
        let found = self.leaving_now()?;
        if found.state == LeaveState::Left {
            return Ok(found);
        }
        let (cluster, node) = self.with(|broker| (broker.cluster(), broker.node_id()))?;
        let terms = cluster::LeaveTerms {
            fewer_copies: terms.fewer_copies,
            beside_down: terms.beside_down,
        };
        cluster.leave(node, terms).await.map_err(AdminError::Conflict)?;
        self.leaving_now()
    }

    async fn forget_now(&self, wanted: &str) -> Result<(), AdminError> {
        let cluster = self.with(Broker::cluster)?;
        let members = cluster.status().members;
        let mut named = members
            .iter()
            .filter(|member| member.name == wanted || shown_id(member.node) == wanted);
        match (named.next(), named.next()) {
            (Some(member), None) => cluster.forget(member.node).await.map_err(AdminError::Conflict),
            (Some(_), Some(_)) => Err(AdminError::Conflict(format!(
                "`{wanted}` is the name of more than one node: use the node's identifier"
            ))),
            (None, _) => Err(AdminError::NotFound(format!("there is no node `{wanted}`"))),
        }
    }
}

impl ClusterAdmin for NodeAdmin {
    fn status(&self) -> ClusterStatus {
        let asked = self.with(|broker| (broker.cluster().status(), broker.is_ready()));
        let Ok((status, ready)) = asked else {
            return ClusterStatus {
                node: self.name.clone(),
                ..ClusterStatus::default()
            };
        };
        let members = status.members.iter().map(|member| shown(member, &status));
        let mut members: Vec<_> = members.collect();
        members.sort_by(|a, b| (&a.name, &a.node_id).cmp(&(&b.name, &b.node_id)));
        ClusterStatus {
            cluster_id: status.cluster_id,
            node: self.name.clone(),
            ready,
            shards: status.shards.len() as u32,
            members,
        }
    }

    fn leaving(&self) -> Result<Leave, AdminError> {
        self.leaving_now()
    }

    fn leave(&self, terms: LeaveTerms) -> Leaving<'_> {
        Box::pin(self.leave_now(terms))
    }

    fn forget(&self, node: &str) -> Change<'_> {
        let node = node.to_owned();
        Box::pin(async move { self.forget_now(&node).await })
    }

    fn scale_in(&self, to: u32, fewer_copies: bool) -> Result<ScaleIn, AdminError> {
        let cluster = self.with(Broker::cluster)?;
        let found = cluster.scale_in(to as usize, fewer_copies);
        Ok(on_its_way(
            to,
            found.map_err(AdminError::Conflict)?,
            &cluster.status(),
        ))
    }

    fn scale_in_step(&self, to: u32, fewer_copies: bool) -> Step<'_> {
        Box::pin(async move {
            let cluster = self.with(Broker::cluster)?;
            let found = cluster.scale_in_step(to as usize, fewer_copies).await;
            Ok(on_its_way(
                to,
                found.map_err(AdminError::Conflict)?,
                &cluster.status(),
            ))
        })
    }
}

/// A member as operators see it.
fn shown(member: &cluster::MemberStatus, status: &cluster::Status) -> MemberStatus {
    let led_there = |shard: &&cluster::ShardStatus| shard.leader == Some(member.node);
    let led = status.shards.iter().filter(led_there).count();
    MemberStatus {
        name: member.name.clone(),
        node_id: shown_id(member.node),
        address: member.address.clone(),
        zone: member.zone.clone(),
        state: match member {
            member if member.down => MemberState::Down,
            member if member.leaving => MemberState::Leaving,
            member if member.draining => MemberState::Draining,
            _ => MemberState::Up,
        },
        voter: status.meta_voters.contains(&member.node),
        leader: status.meta_leader == Some(member.node),
        shards_held: member.replicas as u32,
        shards_led: led as u32,
        clock_ahead_ms: member.clock_ahead_ms,
    }
}

fn on_its_way(to: u32, found: cluster::ScaleIn, status: &cluster::Status) -> ScaleIn {
    ScaleIn {
        to,
        members: found.members as u32,
        state: match found.state {
            cluster::ScaleInState::Ready => ScaleInState::Ready,
            cluster::ScaleInState::Leaving => ScaleInState::Leaving,
            cluster::ScaleInState::Settling => ScaleInState::Settling,
            cluster::ScaleInState::Done => ScaleInState::Done,
        },
        going: found.going.iter().map(|member| shown(member, status)).collect(),
    }
}

/// A node's identifier, as operators see it.
pub(crate) fn shown_id(node: u64) -> String {
    format!("{node:016x}")
}
