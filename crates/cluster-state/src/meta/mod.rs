//! The replicated state of the meta group: members, where shards are, and which nodes and shards want which topics.

mod change;
mod check;
mod checkpoint;
mod members;
mod routes;
mod shares;

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    Found, Member, MetaCommand, MetaResponse, Place, PlacementRecord, ShareMember, meta_command::Command,
};

pub use routes::{Destination, Destinations};

use crate::ApplyContext;
use routes::Routes;
use shares::Shares;

/// What applying a command of the meta group tells this node.
#[derive(Clone, PartialEq, Debug)]
pub enum MetaEffect {
    /// A node started, for the first time or again.
    MemberJoined {
        /// The node.
        node: u64,
        /// Its life.
        incarnation: u64,
    },
    /// A node's life is over.
    MemberDown {
        /// The node.
        node: u64,
        /// The life that is over.
        incarnation: u64,
    },
    /// A node is to leave.
    MemberLeaving {
        /// The node.
        node: u64,
    },
    /// A node has left for good.
    MemberRetired {
        /// The node.
        node: u64,
    },
    /// A shard has other replicas.
    ShardPlaced {
        /// The shard.
        shard: u16,
    },
    /// What `for_each_destination` answers may have changed.
    RoutesChanged {
        /// `MetaState::routes_generation` now.
        generation: u64,
    },
    /// Somebody is a member of a shared subscription now, or in another way than before, or no longer.
    ShareMember {
        /// The whole `$share/name/filter`.
        filter: String,
        /// The member as it is now, or as it was.
        member: ShareMember,
        /// Whether it is a member now.
        added: bool,
    },
}

/// The state of the meta group.
#[derive(Default, Debug)]
pub struct MetaState {
    cluster_id: String,
    shards: u16,
    members: BTreeMap<u64, Member>,
    retired: BTreeSet<u64>,
    placement: BTreeMap<u16, Vec<u64>>,
    /// The first placement of each shard.
    initial: BTreeMap<u16, Vec<u64>>,
    routes: Routes,
    shares: Shares,
    dirty: Dirty,
}

/// What the last checkpoint does not know yet.
#[derive(Default, Debug)]
struct Dirty {
    cluster: bool,
    members: BTreeSet<u64>,
    shards: BTreeSet<u16>,
}

impl MetaState {
    /// A group without a cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one committed command.
    pub fn apply(
        &mut self,
        _context: &ApplyContext,
        command: MetaCommand,
        effects: &mut Vec<MetaEffect>,
    ) -> MetaResponse {
        let generation = self.routes.generation();
        let result = match command.command {
            Some(Command::Found(found)) => self.found(found),
            Some(Command::Join(join)) => self.join(join, effects),
            Some(Command::NodeDown(down)) => self.node_down(down, effects),
            Some(Command::Leave(leave)) => self.leave(leave.node, effects),
            Some(Command::Retire(retire)) => self.retire(retire.node, effects),
            Some(Command::Place(place)) => self.place(place, effects),
            Some(Command::Recover(recover)) => self.recover(recover, effects),
            Some(Command::ChangeRoutes(change)) => self.change_routes(change, effects),
            None => Err("no command"),
        };
        if self.routes.generation() != generation {
            self.dirty.cluster = true;
            effects.push(MetaEffect::RoutesChanged {
                generation: self.routes.generation(),
            });
        }
        match result {
            Ok(()) => MetaResponse {
                accepted: true,
                reason: String::new(),
            },
            Err(reason) => MetaResponse {
                accepted: false,
                reason: reason.to_owned(),
            },
        }
    }

    fn found(&mut self, command: Found) -> Result<(), &'static str> {
        if !self.cluster_id.is_empty() {
            return Err("the cluster exists");
        }
        let shards = u16::try_from(command.shards).map_err(|_| "too many shards")?;
        if command.cluster_id.is_empty() || shards == 0 || shards > crate::placement::SLOTS {
            return Err("not a cluster");
        }
        self.cluster_id = command.cluster_id;
        self.shards = shards;
        self.dirty.cluster = true;
        Ok(())
    }

    fn place(&mut self, command: Place, effects: &mut Vec<MetaEffect>) -> Result<(), &'static str> {
        let shard = u16::try_from(command.shard)
            .ok()
            .filter(|shard| *shard < self.shards)
            .ok_or("no such shard")?;
        let distinct: BTreeSet<_> = command.nodes.iter().collect();
        if command.nodes.is_empty() || distinct.len() != command.nodes.len() {
            return Err("a shard needs distinct nodes");
        }
        if !command.nodes.iter().all(|node| self.members.contains_key(node)) {
            return Err("a node is not a member");
        }
        self.initial.entry(shard).or_insert_with(|| command.nodes.clone());
        self.placement.insert(shard, command.nodes);
        self.dirty.shards.insert(shard);
        effects.push(MetaEffect::ShardPlaced { shard });
        Ok(())
    }

    /// The cluster's id; empty before it is founded.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// How many shards the cluster has.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// A member.
    pub fn member(&self, node: u64) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The members of a name, in the order of their ids.
    pub fn members_named(&self, name: &str) -> impl Iterator<Item = &Member> {
        self.members.values().filter(move |member| member.name == name)
    }

    /// Whether the node's id may never be used again.
    pub fn is_retired(&self, node: u64) -> bool {
        self.retired.contains(&node)
    }

    /// The nodes with a replica of a shard, the preferred leader first.
    pub fn replicas(&self, shard: u16) -> &[u64] {
        self.placement.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// The nodes of a shard's first placement: the voters with which its group begins.
    pub fn initial_replicas(&self, shard: u16) -> &[u64] {
        self.initial.get(&shard).map_or(&[], Vec::as_slice)
    }

    fn placement_record(&self, shard: u16) -> Option<PlacementRecord> {
        Some(PlacementRecord {
            nodes: self.placement.get(&shard)?.clone(),
            // Left out while it is the same.
            initial: self
                .initial
                .get(&shard)
                .filter(|initial| self.placement.get(&shard) != Some(initial))
                .cloned()
                .unwrap_or_default(),
        })
    }
}
