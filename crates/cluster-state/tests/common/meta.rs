//! The meta group that a test drives.

use std::collections::BTreeMap;

use cluster_proto::meta_command::Command;
use cluster_proto::{
    ChangeRoutes, Found, Join, Leave, Member, MetaCommand, NodeDown, Place, Recover, Retire, RouteChange,
    ShareMember, route_change::Destination as To,
};
use cluster_state::meta::Destination;
use cluster_state::{ApplyContext, MetaEffect, MetaState};

/// A meta group, what it asked for, and the records of its checkpoints.
#[derive(Default)]
pub struct Meta {
    pub state: MetaState,
    pub index: u64,
    /// Of the last command.
    pub effects: Vec<MetaEffect>,
    /// Of the last command, if it was refused.
    pub reason: String,
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Meta {
    /// A cluster of nodes 1 to 3 with 16 shards.
    pub fn new() -> Self {
        let mut meta = Self::default();
        assert!(meta.apply(found("one")));
        for node in 1..=3 {
            assert!(meta.apply(join(node, 1)));
        }
        meta
    }

    /// Whether the command was accepted.
    pub fn apply(&mut self, command: Command) -> bool {
        self.index += 1;
        let context = ApplyContext {
            index: self.index,
            command: 0,
            now_ms: 0,
            shard: 0,
        };
        self.effects.clear();
        let before = self.state.digest();
        let command = MetaCommand {
            command: Some(command),
        };
        let response = self.state.apply(&context, command, &mut self.effects);
        self.state
            .check()
            .unwrap_or_else(|rule| panic!("after command {}: {rule}", self.index));
        if !response.accepted {
            assert!(
                self.effects.is_empty() && self.state.digest() == before,
                "refused"
            );
        }
        self.reason = response.reason;
        response.accepted
    }

    pub fn place(&mut self, shard: u32, nodes: &[u64]) -> bool {
        let nodes = nodes.to_vec();
        self.apply(Command::Place(Place { shard, nodes }))
    }

    pub fn destinations(&self, topic: &str) -> Vec<Destination> {
        let mut found = Vec::new();
        self.state
            .for_each_destination(topic, |destination| found.push(destination));
        found.sort();
        found
    }

    /// The members of shares: filter, client, node.
    pub fn members(&self) -> Vec<(String, String, u64)> {
        let members = self.state.share_members();
        members
            .map(|(filter, member)| (filter.to_owned(), member.client.clone(), member.node))
            .collect()
    }

    /// Takes a checkpoint and goes on from it, as after a restart.
    pub fn restart(&mut self) {
        for (key, value) in self.state.take_dirty() {
            match value {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        let all: BTreeMap<_, _> = self.state.records().into_iter().collect();
        self.state = MetaState::restore(&self.records).expect("a checkpoint can be restored");
        assert!(
            self.state.records().into_iter().eq(all),
            "what changed adds up to everything: {:?}",
            self.state
        );
        self.state.check().expect("a restored state is sound");
    }
}

pub fn found(cluster_id: &str) -> Command {
    let cluster_id = cluster_id.into();
    Command::Found(Found {
        cluster_id,
        shards: 16,
    })
}

pub fn member(node: u64, incarnation: u64, name: &str) -> Member {
    Member {
        node,
        incarnation,
        name: name.into(),
        address: format!("{name}:7000"),
        ..Member::default()
    }
}

pub fn join_as(member: Member) -> Command {
    Command::Join(Join { member: Some(member) })
}

pub fn join(node: u64, incarnation: u64) -> Command {
    join_as(member(node, incarnation, &format!("node-{node}")))
}

pub fn down(node: u64, incarnation: u64) -> Command {
    Command::NodeDown(NodeDown {
        node,
        incarnation,
        ..NodeDown::default()
    })
}

pub fn leave(node: u64) -> Command {
    Command::Leave(Leave { node })
}

pub fn retire(node: u64) -> Command {
    Command::Retire(Retire { node })
}

pub fn recover(node: u64, cluster_id: &str) -> Command {
    let cluster_id = cluster_id.into();
    Command::Recover(Recover { node, cluster_id })
}

pub fn change(filter: &str, destination: To, added: bool) -> RouteChange {
    RouteChange {
        filter: filter.into(),
        destination: Some(destination),
        added,
        ..RouteChange::default()
    }
}

/// Changes that nobody in particular proposes.
pub fn routes(changes: Vec<RouteChange>) -> Command {
    routes_by(0, 0, changes)
}

pub fn routes_by(node: u64, incarnation: u64, changes: Vec<RouteChange>) -> Command {
    Command::ChangeRoutes(ChangeRoutes {
        changes,
        node,
        incarnation,
    })
}

pub fn node_route(filter: &str, node: u64, added: bool) -> Command {
    routes(vec![change(filter, To::Node(node), added)])
}

pub fn shard_route(filter: &str, shard: u32, added: bool, version: u64) -> Command {
    let change = change(filter, To::Shard(shard), added);
    routes(vec![RouteChange { version, ..change }])
}

/// A member whose session ends with its connection.
pub fn connected(client: &str, node: u64, epoch: u64) -> ShareMember {
    ShareMember {
        client: client.into(),
        qos: 1,
        node,
        epoch,
        ..ShareMember::default()
    }
}

/// A member that shard 5 keeps.
pub fn kept(client: &str, node: u64, epoch: u64) -> ShareMember {
    ShareMember {
        shard: Some(5),
        ..connected(client, node, epoch)
    }
}

/// A change of a member of `$share/g/t` that a node in its first life proposes.
pub fn share(proposer: u64, member: ShareMember, added: bool, version: u64) -> Command {
    let change = change("$share/g/t", To::Member(member), added);
    routes_by(proposer, 1, vec![RouteChange { version, ..change }])
}
