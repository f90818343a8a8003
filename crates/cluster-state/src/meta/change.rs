//! `ChangeRoutes`: what a node or a shard wants from now on, checked before anything is changed.

use bytestring::ByteString;
use cluster_proto::{ChangeRoutes, RouteChange, ShareMember, route_change::Destination as To};
use mqtt_topic::{SubscriptionFilter, TopicFilter};

use super::{MetaEffect, MetaState};

/// Names are no longer than on the wire. [MQTT-1.5.4]
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// A change that can be made.
enum Change {
    AddNode(TopicFilter, u64, bool),
    RemoveNode(TopicFilter, u64),
    AddShard(TopicFilter, u16, u64),
    RemoveShard(TopicFilter, u16, u64),
    Member(MemberChange),
}

/// A change of one member of a shared subscription.
pub(super) struct MemberChange {
    /// The whole `$share/name/filter`.
    pub(super) filter: String,
    pub(super) member: ShareMember,
    pub(super) added: bool,
    pub(super) version: u64,
}

impl MetaState {
    /// All of a batch or nothing.
    pub(super) fn change_routes(
        &mut self,
        command: ChangeRoutes,
        effects: &mut Vec<MetaEffect>,
    ) -> Result<(), &'static str> {
        if command.node != 0 {
            self.check_life(command.node, command.incarnation)?;
        }
        let parsed = command.changes.into_iter().map(|change| self.parse(change));
        let changes: Vec<Change> = parsed.collect::<Result<_, _>>()?;
        for change in changes {
            match change {
                Change::AddNode(filter, node, qos_0_only) => self.routes.add_node(&filter, node, qos_0_only),
                Change::RemoveNode(filter, node) => self.routes.remove_node(&filter, node),
                Change::AddShard(filter, shard, version) => self.routes.add_shard(&filter, shard, version),
                Change::RemoveShard(filter, shard, version) => {
                    self.routes.remove_shard(&filter, shard, version);
                }
                Change::Member(change) => self.shares.change(change, command.node, effects),
            }
        }
        Ok(())
    }

    /// Whether this is the life that a member lives now.
    fn check_life(&self, node: u64, incarnation: u64) -> Result<(), &'static str> {
        match self.members.get(&node) {
            Some(member) if member.down || member.incarnation > incarnation => Err("a life that is over"),
            Some(member) if member.incarnation < incarnation => Err("a life that has not joined yet"),
            Some(_) => Ok(()),
            None => Err("a life that is over: not a member"),
        }
    }

    fn parse(&self, change: RouteChange) -> Result<Change, &'static str> {
        let RouteChange {
            added,
            qos_0_only,
            version,
            ..
        } = change;
        match change.destination {
            Some(To::Node(node)) => {
                let filter = plain(change.filter)?;
                if !added {
                    return Ok(Change::RemoveNode(filter, node));
                }
                if !self.is_live(node) {
                    return Err("a route to a node that is not a member or is down");
                }
                Ok(Change::AddNode(filter, node, qos_0_only))
            }
            Some(To::Shard(shard)) => {
                let (filter, shard) = (plain(change.filter)?, narrow(shard)?);
                Ok(match added {
                    true => Change::AddShard(filter, shard, version),
                    false => Change::RemoveShard(filter, shard, version),
                })
            }
            Some(To::Member(member)) => {
                let member = self.parse_member(member, added)?;
                let filter = shared(change.filter)?;
                Ok(Change::Member(MemberChange {
                    filter,
                    member,
                    added,
                    version,
                }))
            }
            None => Err("a route needs a destination"),
        }
    }

    fn parse_member(&self, mut member: ShareMember, added: bool) -> Result<ShareMember, &'static str> {
        if member.client.is_empty() || member.client.len() > NAME_BYTES_MAX || member.qos > 2 {
            return Err("not a member of a share");
        }
        if let Some(shard) = member.shard {
            narrow(shard)?;
        } else if added && !self.is_live(member.node) {
            return Err("a member that no shard keeps is connected to a node that is a member");
        }
        // A shard may not know yet that its client's node died.
        if member.shard.is_some() && !self.is_live(member.node) {
            member.node = 0;
        }
        Ok(member)
    }

    pub(super) fn is_live(&self, node: u64) -> bool {
        self.members.get(&node).is_some_and(|member| !member.down)
    }
}

fn plain(filter: String) -> Result<TopicFilter, &'static str> {
    match SubscriptionFilter::parse(ByteString::from(filter)) {
        Ok(SubscriptionFilter::Plain(filter)) => Ok(filter),
        _ => Err("not a topic filter"),
    }
}

fn shared(filter: String) -> Result<String, &'static str> {
    if filter.len() > NAME_BYTES_MAX {
        return Err("not a shared subscription");
    }
    match SubscriptionFilter::parse(ByteString::from(filter.as_str())) {
        Ok(SubscriptionFilter::Shared { .. }) => Ok(filter),
        _ => Err("not a shared subscription"),
    }
}

fn narrow(shard: u32) -> Result<u16, &'static str> {
    u16::try_from(shard).map_err(|_| "no such shard")
}
