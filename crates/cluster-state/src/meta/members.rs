//! Nodes come, are declared down, come back with a new life, leave, and are retired for good.

use cluster_proto::{Join, Member, NodeDown, Recover};

use super::{MetaEffect, MetaState};

/// A lost node is down after a few seconds; two nodes of one machine have one name unless they are given others.
const NAME_IS_TAKEN: &str = "another live node has this name; give each its own with --node NAME or node.name, or wait until the other is down";

impl MetaState {
    pub(super) fn join(&mut self, command: Join, effects: &mut Vec<MetaEffect>) -> Result<(), &'static str> {
        let Some(mut member) = command.member else {
            return Err("no member");
        };
        let (node, incarnation) = (member.node, member.incarnation);
        if node == 0 {
            return Err("0 is no node");
        }
        if self.retired.contains(&node) {
            return Err("the node was retired: its id never comes back");
        }
        member.down = false;
        member.leaving = false;
        match self.members.get(&node) {
            Some(known) if known.incarnation > incarnation => {
                return Err("a later life of the node has joined");
            }
            // It has lost what it had connected, without knowing.
            Some(known) if known.incarnation == incarnation && known.down => {
                return Err("this life of the node was declared down");
            }
            Some(known) => {
                member.leaving = known.leaving;
                // What an earlier life had connected is gone.
                if known.incarnation < incarnation {
                    self.forget_connections(node, effects);
                }
            }
            None => self.replace_namesakes(&member, effects)?,
        }
        self.members.insert(node, member);
        self.dirty.members.insert(node);
        effects.push(MetaEffect::MemberJoined { node, incarnation });
        Ok(())
    }

    /// A node that lost its disk comes back under its name with a new id, which takes the place of the old one.
    fn replace_namesakes(&mut self, new: &Member, effects: &mut Vec<MetaEffect>) -> Result<(), &'static str> {
        if new.name.is_empty() {
            return Ok(());
        }
        if self.members_named(&new.name).any(|member| !member.down) {
            return Err(NAME_IS_TAKEN);
        }
        let old: Vec<u64> = self.members_named(&new.name).map(|member| member.node).collect();
        for old in old {
            self.take_from_placement(old, Some(new.node), effects);
            self.remove_member(old, effects);
        }
        Ok(())
    }

    pub(super) fn node_down(
        &mut self,
        command: NodeDown,
        effects: &mut Vec<MetaEffect>,
    ) -> Result<(), &'static str> {
        let Some(member) = self.members.get_mut(&command.node) else {
            return Err("no such member");
        };
        if member.incarnation > command.incarnation {
            return Err("a later life of the node has joined");
        }
        if member.down {
            return Ok(());
        }
        member.down = true;
        let (node, incarnation) = (member.node, member.incarnation);
        self.dirty.members.insert(node);
        self.forget_connections(node, effects);
        effects.push(MetaEffect::MemberDown { node, incarnation });
        Ok(())
    }

    pub(super) fn leave(&mut self, node: u64, effects: &mut Vec<MetaEffect>) -> Result<(), &'static str> {
        let Some(member) = self.members.get_mut(&node) else {
            return Err("no such member");
        };
        if !member.leaving {
            member.leaving = true;
            self.dirty.members.insert(node);
            effects.push(MetaEffect::MemberLeaving { node });
        }
        Ok(())
    }

    pub(super) fn retire(&mut self, node: u64, effects: &mut Vec<MetaEffect>) -> Result<(), &'static str> {
        if !self.members.contains_key(&node) {
            return Err("no such member");
        }
        if self.placement.values().any(|nodes| *nodes == [node]) {
            return Err("a shard has no other replica");
        }
        self.take_from_placement(node, None, effects);
        self.remove_member(node, effects);
        Ok(())
    }

    /// The cluster goes on with one node, under another id.
    pub(super) fn recover(
        &mut self,
        command: Recover,
        effects: &mut Vec<MetaEffect>,
    ) -> Result<(), &'static str> {
        if !self.members.contains_key(&command.node) {
            return Err("no such member");
        }
        if command.cluster_id.is_empty() {
            return Err("not a cluster");
        }
        self.cluster_id = command.cluster_id;
        self.dirty.cluster = true;
        let others: Vec<u64> = self.members.keys().copied().collect();
        for other in others.into_iter().filter(|node| *node != command.node) {
            self.remove_member(other, effects);
        }
        for (shard, nodes) in &mut self.placement {
            *nodes = vec![command.node];
            self.dirty.shards.insert(*shard);
            effects.push(MetaEffect::ShardPlaced { shard: *shard });
        }
        Ok(())
    }

    fn remove_member(&mut self, node: u64, effects: &mut Vec<MetaEffect>) {
        self.members.remove(&node);
        self.retired.insert(node);
        self.forget_connections(node, effects);
        self.dirty.members.insert(node);
        self.dirty.cluster = true;
        effects.push(MetaEffect::MemberRetired { node });
    }

    /// Removes a node from the lists of replicas, or puts another one in its place.
    fn take_from_placement(&mut self, old: u64, new: Option<u64>, effects: &mut Vec<MetaEffect>) {
        for (shard, nodes) in &mut self.placement {
            let Some(place) = nodes.iter().position(|node| *node == old) else {
                continue;
            };
            match new.filter(|new| !nodes.contains(new)) {
                Some(new) => nodes[place] = new,
                None => drop(nodes.remove(place)),
            }
            self.dirty.shards.insert(*shard);
            effects.push(MetaEffect::ShardPlaced { shard: *shard });
        }
    }

    /// Nothing is connected to the node any more.
    fn forget_connections(&mut self, node: u64, effects: &mut Vec<MetaEffect>) {
        self.routes.forget_node(node);
        self.shares.forget_node(node, effects);
    }
}
