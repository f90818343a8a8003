//! One node leaves for good: whether it may, and how far it is. Several in a row are `scale_in`'s work.

use crate::scale_in::too_few_copies;
use crate::{Cluster, Status};

/// What is meant when a node leaves, though the others are worse off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaveTerms {
    /// There may be fewer nodes than each shard is to have copies.
    pub fewer_copies: bool,
    /// Other members may be down.
    pub beside_down: bool,
}

/// How far a node is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveState {
    /// It is a member, or not one yet.
    Staying,
    /// It hands over what it holds.
    Leaving,
    /// It is a member no more.
    Left,
}

impl Cluster {
    /// A node is to leave for good: its replicas move to others, and once it has none it is retired. Its id never comes back.
    ///
    /// # Errors
    /// Why it may not, in words.
    pub async fn leave(&self, node: u64, terms: LeaveTerms) -> Result<(), String> {
        let factor = self.0.peer_config().map_or(1, |peers| peers.replication_factor);
        match judge(&self.status(), node, factor, terms)? {
            LeaveState::Staying => self.send_away(node).await,
            LeaveState::Leaving | LeaveState::Left => Ok(()),
        }
    }

    /// How far this node itself is.
    pub fn leaving(&self) -> LeaveState {
        let status = self.status();
        match status.members.iter().find(|member| member.node == status.node) {
            Some(member) if member.leaving => LeaveState::Leaving,
            None if !status.members.is_empty() || self.0.is_retired() => LeaveState::Left,
            _ => LeaveState::Staying,
        }
    }
}

/// Where the node is, if it may go; what has begun is not judged again.
fn judge(status: &Status, node: u64, factor: usize, terms: LeaveTerms) -> Result<LeaveState, String> {
    let Some(member) = status.members.iter().find(|member| member.node == node) else {
        return Err("there is no such member".to_owned());
    };
    if member.leaving {
        return Ok(LeaveState::Leaving);
    }
    let others = status.members.iter().filter(|member| member.node != node);
    let staying = others
        .clone()
        .filter(|member| !member.leaving && !member.down)
        .count();
    if staying == 0 {
        return Err("it is the last member: there is nobody to take its shards".to_owned());
    }
    if let Some(silent) = others.clone().find(|member| member.down && !terms.beside_down) {
        return Err(format!(
            "{} does not answer, and what both of them hold could be left without a majority: bring it back, or \
             `flotilla ctl cluster forget {:016x}` if it is gone for good. --beside-down (beside_down=true) says that this is meant",
            silent.name, silent.node
        ));
    }
    if staying < factor && !terms.fewer_copies {
        return Err(too_few_copies(factor, staying));
    }
    Ok(LeaveState::Staying)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemberStatus;

    /// Members with the numbers from one on, of which these are down and these leave.
    fn cluster(members: u64, down: &[u64], leaving: &[u64]) -> Status {
        let member = |node| MemberStatus {
            node,
            name: format!("n-{node}"),
            address: String::new(),
            zone: String::new(),
            incarnation: 1,
            down: down.contains(&node),
            leaving: leaving.contains(&node),
            draining: false,
            replicas: 1,
            clock_ahead_ms: None,
        };
        Status {
            node: 1,
            members: (1..=members).map(member).collect(),
            ..Status::default()
        }
    }

    fn refusal(status: &Status, terms: LeaveTerms) -> String {
        judge(status, 1, 3, terms).unwrap_err()
    }

    #[test]
    fn one_of_four_may_go() {
        let four = cluster(4, &[], &[]);
        assert_eq!(judge(&four, 1, 3, LeaveTerms::default()), Ok(LeaveState::Staying));
        assert!(judge(&four, 5, 3, LeaveTerms::default()).is_err(), "who is that?");
    }

    #[test]
    fn fewer_nodes_than_copies_have_to_be_meant() {
        let meant = LeaveTerms {
            fewer_copies: true,
            ..LeaveTerms::default()
        };
        // Whoever leaves already is not counted on.
        for status in [cluster(3, &[], &[]), cluster(4, &[], &[2])] {
            let reason = refusal(&status, LeaveTerms::default());
            assert!(
                reason.contains("with 2 nodes") && reason.contains("--fewer-copies"),
                "{reason}"
            );
            assert_eq!(judge(&status, 1, 3, meant), Ok(LeaveState::Staying));
        }
    }

    #[test]
    fn nobody_goes_beside_a_dead_node_unless_that_is_meant() {
        let five = cluster(5, &[4], &[]);
        let reason = refusal(&five, LeaveTerms::default());
        assert!(
            reason.contains("n-4 does not answer") && reason.contains("--beside-down"),
            "{reason}"
        );
        let meant = LeaveTerms {
            beside_down: true,
            ..LeaveTerms::default()
        };
        assert_eq!(judge(&five, 1, 3, meant), Ok(LeaveState::Staying));
        // The dead node holds no copy that anybody could count on.
        assert!(refusal(&cluster(4, &[4], &[]), meant).contains("--fewer-copies"));
    }

    #[test]
    fn the_last_one_stays_whatever_is_meant() {
        let meant = LeaveTerms {
            fewer_copies: true,
            beside_down: true,
        };
        for status in [cluster(1, &[], &[]), cluster(2, &[2], &[]), cluster(2, &[], &[2])] {
            assert!(refusal(&status, meant).contains("the last member"));
        }
    }

    #[test]
    fn what_has_begun_is_not_judged_again() {
        let begun = cluster(3, &[2], &[1]);
        assert_eq!(
            judge(&begun, 1, 3, LeaveTerms::default()),
            Ok(LeaveState::Leaving)
        );
    }
}
