//! What must hold between any two commands. Tests ask after each one; it looks at everything.

use std::collections::BTreeSet;

use super::MetaState;
use crate::meta::Destination;

impl MetaState {
    /// Says which rule the state breaks, if any.
    ///
    /// # Errors
    /// The rule, in words.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), String> {
        for node in self.members.keys() {
            require(*node != 0 && !self.retired.contains(node), || {
                format!("{node} is a member")
            })?;
        }
        for (shard, nodes) in &self.placement {
            let distinct: BTreeSet<_> = nodes.iter().collect();
            let members = nodes.iter().all(|node| self.members.contains_key(node));
            require(
                !nodes.is_empty() && distinct.len() == nodes.len() && members,
                || format!("shard {shard} is on {nodes:?}"),
            )?;
        }
        self.check_routes()?;
        for (filter, member) in self.share_members() {
            require(member.shard.is_some() || member.node != 0, || {
                format!("{filter}: nobody keeps {member:?}")
            })?;
            require(member.node == 0 || self.is_live(member.node), || {
                format!("{filter}: {member:?} is connected to a node that is not there")
            })?;
        }
        Ok(())
    }

    fn check_routes(&self) -> Result<(), String> {
        let mut routes = 0;
        for (filter, destinations) in self.routes.iter() {
            require(destinations.iter().next().is_some(), || {
                format!("{filter} goes nowhere")
            })?;
            for destination in destinations.iter() {
                routes += 1;
                let listed = match destination {
                    Destination::Node { node, .. } => {
                        self.is_live(node) && self.routes_of_node(node).any(|route| route == filter)
                    }
                    Destination::Shard(shard) => self.routes_of_shard(shard).any(|route| route == filter),
                };
                require(listed, || format!("{filter}: {destination:?} is not in order"))?;
            }
        }
        require(routes == self.routes.listed(), || {
            format!("{routes} routes, {} listed", self.routes.listed())
        })
    }
}

fn require(holds: bool, rule: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule()) }
}
