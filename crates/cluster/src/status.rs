//! The cluster as an operator sees it from one node, and the operator's wish to forget a dead node.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_proto::{Leave, Retire, meta_command::Command};
use tracing::info;

use crate::node::Inner;
use crate::{Cluster, ProposeError};

const WITHIN: Duration = Duration::from_secs(10);

/// The cluster.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its random name; empty while this node has no cluster.
    pub cluster_id: String,
    /// This node.
    pub node: u64,
    /// Whether it serves clients.
    pub is_ready: bool,
    /// Who leads the meta group, as far as this node knows.
    pub meta_leader: Option<u64>,
    /// Who votes in the meta group.
    pub meta_voters: Vec<u64>,
    /// How far this node has applied the meta group's log.
    pub meta_applied: u64,
    /// All members.
    pub members: Vec<MemberStatus>,
    /// All shards.
    pub shards: Vec<ShardStatus>,
}

/// A member.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its random number.
    pub node: u64,
    /// Of its pod or host.
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// How often it was started or taken back.
    pub incarnation: u64,
    /// It was declared down.
    pub down: bool,
    /// Its replicas are moving away.
    pub leaving: bool,
    /// It is being taken out of service, or is out of it, for a while.
    pub draining: bool,
    /// Replicas that are placed there.
    pub replicas: usize,
    /// By how many milliseconds its clock is ahead of the cluster's time, as far as that is known.
    pub clock_ahead_ms: Option<i64>,
}

impl Status {
    /// Whether every shard with a replica here has the voters it is placed with, and a leader.
    pub fn is_settled(&self) -> bool {
        self.shards.iter().all(|shard| {
            let placed: BTreeSet<u64> = shard.placed.iter().copied().collect();
            let voting = shard.voters.as_ref();
            shard.leader.is_some() && voting.is_none_or(|voting| placed.iter().eq(voting))
        })
    }
}

/// A shard.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// Where its replicas are placed, the preferred leader first.
    pub placed: Vec<u64>,
    /// Who leads it, as far as this node knows.
    pub leader: Option<u64>,
    /// Who votes in the shard's group; none where there is no replica here, or while that changes.
    pub voters: Option<Vec<u64>>,
    /// How far this node's replica has applied the log; none where there is no replica here.
    pub applied: Option<u64>,
}

impl Inner {
    pub(crate) fn status(&self) -> Status {
        let (cluster_id, members, placed) = self.meta.machine.read(|state| {
            let placed: Vec<Vec<u64>> = self
                .slots
                .iter()
                .map(|slot| state.replicas(slot.id).to_vec())
                .collect();
            let left = |node| node == self.node_id && self.is_retired();
            let members = state.members().filter(|member| !left(member.node));
            let members: Vec<_> = members.cloned().collect();
            (state.cluster_id().to_owned(), members, placed)
        });
        let ahead = self.clock.ahead_ms();
        let members = members.into_iter().map(|member| MemberStatus {
            clock_ahead_ms: ahead.get(&member.node).copied(),
            replicas: placed.iter().filter(|nodes| nodes.contains(&member.node)).count(),
            node: member.node,
            name: member.name,
            address: member.address,
            zone: member.zone,
            incarnation: member.incarnation,
            down: member.down,
            leaving: member.leaving,
            draining: self.is_draining(member.node),
        });
        let members = members.collect();
        let shards = self.slots.iter().zip(placed).map(|(slot, placed)| ShardStatus {
            shard: slot.id,
            placed,
            leader: slot.known_leader(),
            voters: slot.replica().and_then(|replica| {
                let members = replica.members();
                (!members.is_joint).then(|| members.voters.into_iter().collect())
            }),
            applied: slot.replica().map(|replica| {
                use crate::raft::Machine;
                replica.machine.applied_index()
            }),
        });
        Status {
            cluster_id,
            node: self.node_id,
            is_ready: self.is_ready(),
            meta_leader: self.meta_leader(),
            meta_voters: self.meta.members().voters.into_iter().collect(),
            meta_applied: self.meta_applied(),
            members,
            shards: shards.collect(),
        }
    }
}

impl Cluster {
    /// A node that is down will never come back: its replicas are made anew on others.
    ///
    /// # Errors
    /// Why it may not, in words: it is not down, or a shard would be left without a majority of its replicas.
    pub async fn forget(&self, node: u64) -> Result<(), String> {
        let status = self.status();
        let Some(member) = status.members.iter().find(|member| member.node == node) else {
            return Err("there is no such member".to_owned());
        };
        if !member.down {
            return Err("the node is not down: let it leave instead".to_owned());
        }
        let down: BTreeSet<u64> = status
            .members
            .iter()
            .filter(|member| member.down)
            .map(|member| member.node)
            .collect();
        for shard in status.shards.iter().filter(|shard| shard.placed.contains(&node)) {
            let live = shard.placed.iter().filter(|node| !down.contains(node)).count();
            if live * 2 <= shard.placed.len() {
                return Err(format!(
                    "shard {} has only {live} of its {} replicas left: bring one of the others back first",
                    shard.shard,
                    shard.placed.len()
                ));
            }
        }
        self.change(Command::Retire(Retire { node })).await?;
        info!(
            target: "audit",
            event = "member forgotten",
            node = format!("{node:016x}"),
            name = member.name,
            "a node is retired that was down: its id never comes back"
        );
        Ok(())
    }

    pub(crate) async fn send_away(&self, node: u64) -> Result<(), String> {
        self.change(Command::Leave(Leave { node })).await?;
        info!(
            target: "audit",
            event = "member leaving",
            node = format!("{node:016x}"),
            "a node is told to leave for good"
        );
        Ok(())
    }

    pub(crate) async fn change(&self, command: Command) -> Result<(), String> {
        match self.0.meta_propose(command, WITHIN).await {
            Ok((index, response)) if response.accepted => {
                // So that this node's own status has it.
                self.0.wait_meta(index, WITHIN).await;
                Ok(())
            }
            Ok((_, response)) => Err(response.reason),
            Err(error @ ProposeError::NoQuorum) => Err(format!("{error}; whether it was done is not known")),
            Err(error) => Err(error.to_string()),
        }
    }
}
