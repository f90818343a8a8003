//! Fewer nodes: which of them go, and whether they may. Nothing of it is kept but that a node leaves, so whoever looks and asks
//! again goes on where it was.

use std::cmp::Reverse;

use crate::{Cluster, MemberStatus, Status};

/// How far a cluster is on its way to fewer nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleInState {
    /// The next node may be told to go.
    Ready,
    /// A node hands over what it holds.
    Leaving,
    /// Nobody leaves, and replicas are still being moved or led by nobody.
    Settling,
    /// There are no more nodes than wanted, and every shard has its replicas.
    Done,
}

/// The way to fewer nodes, as this one sees it.
#[derive(Clone, Debug)]
pub struct ScaleIn {
    /// How far it is.
    pub state: ScaleInState,
    /// The members that go, in their order.
    pub going: Vec<MemberStatus>,
    /// All members that there are now.
    pub members: usize,
}

impl Cluster {
    /// Who goes if `to` nodes are to stay.
    ///
    /// # Errors
    /// Why that may not be, in words. With `fewer_copies` it may be less than `cluster.replication_factor`.
    pub fn scale_in(&self, to: usize, fewer_copies: bool) -> Result<ScaleIn, String> {
        let factor = self.0.peer_config().map_or(1, |peers| peers.replication_factor);
        let copies = if fewer_copies { 0 } else { factor };
        if self.0.is_retired() {
            return Err("this node has left the cluster: ask one that stays".to_owned());
        }
        let status = self.status();
        let mut found = plan(&status, to, copies)?;
        if found.state == ScaleInState::Done && !has_copies(&status, factor) {
            found.state = ScaleInState::Settling;
        }
        Ok(found)
    }

    /// Tells the next node to go if it is time for that, and answers how far it is then.
    ///
    /// # Errors
    /// Why that may not be, in words.
    pub async fn scale_in_step(&self, to: usize, fewer_copies: bool) -> Result<ScaleIn, String> {
        let found = self.scale_in(to, fewer_copies)?;
        let next = found.going.first().map(|member| member.node);
        match (found.state, next) {
            (ScaleInState::Ready, Some(node)) => {
                self.send_away(node).await?;
                self.scale_in(to, fewer_copies)
            }
            _ => Ok(found),
        }
    }
}

/// Whether every shard is placed on as many nodes as it can be.
fn has_copies(status: &Status, factor: usize) -> bool {
    let most = factor.min(status.members.len());
    status.shards.iter().all(|shard| shard.placed.len() >= most)
}

fn plan(status: &Status, to: usize, copies: usize) -> Result<ScaleIn, String> {
    let members = status.members.len();
    if to == 0 {
        return Err("at least one node has to stay: to end a cluster, stop its nodes".to_owned());
    }
    if to > members {
        return Err(format!(
            "there are {members} nodes: to have {to}, start others that join"
        ));
    }
    let staying = status.members.iter().filter(|member| !member.leaving).count();
    if staying < to {
        return Err(format!(
            "only {staying} nodes stay, the others leave already, and a leave is not taken back"
        ));
    }
    let going = going(status, to);
    let is_leaving = going.iter().any(|member| member.leaving);
    let silent = status.members.iter().find(|member| match is_leaving {
        // What is under way is waited for, unless it cannot end.
        true => member.down && member.leaving,
        false => member.down && !going.is_empty(),
    });
    if let Some(member) = silent {
        return Err(format!(
            "{} does not answer: bring it back, or `flotilla ctl cluster forget {:016x}` if it is gone for good",
            member.name, member.node
        ));
    }
    let state = match going.is_empty() {
        _ if is_leaving => ScaleInState::Leaving,
        _ if !status.is_settled() || status.meta_leader.is_none() => ScaleInState::Settling,
        true => ScaleInState::Done,
        false if to < copies => {
            return Err(too_few_copies(copies, to));
        }
        false => ScaleInState::Ready,
    };
    Ok(ScaleIn {
        state,
        going,
        members,
    })
}

/// Why so few nodes are not enough.
pub(crate) fn too_few_copies(copies: usize, nodes: usize) -> String {
    format!(
        "cluster.replication_factor is {copies}: with {nodes} nodes every shard would have fewer copies than that. \
         --fewer-copies (fewer_copies=true) says that this is meant"
    )
}

/// Those that leave already, then the highest ordinals as a StatefulSet takes them, or the last names. The node that is asked
/// goes last: it does not hear of the cluster any more when it has left.
fn going(status: &Status, to: usize) -> Vec<MemberStatus> {
    let ordinals = status
        .members
        .iter()
        .all(|member| ordinal(&member.name).is_some());
    let place = |member: &MemberStatus| {
        let ordinal = if ordinals { ordinal(&member.name) } else { None };
        (
            !member.leaving,
            Reverse((ordinal, member.name.clone(), member.node)),
        )
    };
    let mut all = status.members.clone();
    all.sort_by_cached_key(place);
    all.truncate(status.members.len() - to);
    all.sort_by_key(|member| !member.leaving && member.node == status.node);
    all
}

/// The number behind the last `-` of a pod's name.
fn ordinal(name: &str) -> Option<u32> {
    let (_, last) = name.rsplit_once('-')?;
    let digits = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| last.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardStatus;

    /// Members of these names with their numbers as identifiers, all of which have the one shard; asked is the first.
    fn cluster(names: &[&str]) -> Status {
        let members = (1..).zip(names).map(|(node, name)| MemberStatus {
            node,
            name: (*name).to_owned(),
            address: String::new(),
            zone: String::new(),
            incarnation: 1,
            down: false,
            leaving: false,
            draining: false,
            replicas: 1,
            clock_ahead_ms: None,
        });
        let members: Vec<_> = members.collect();
        let nodes: Vec<u64> = members.iter().map(|member| member.node).collect();
        Status {
            node: 1,
            meta_leader: Some(1),
            shards: vec![ShardStatus {
                shard: 0,
                placed: nodes.clone(),
                leader: Some(1),
                voters: Some(nodes),
                applied: Some(1),
            }],
            members,
            ..Status::default()
        }
    }

    fn names(found: &ScaleIn) -> Vec<&str> {
        found.going.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn the_highest_ordinals_go_first() {
        let status = cluster(&[
            "flotilla-2",
            "flotilla-10",
            "flotilla-0",
            "flotilla-9",
            "flotilla-1",
        ]);
        let found = plan(&status, 3, 3).unwrap();
        assert_eq!(names(&found), ["flotilla-10", "flotilla-9"]);
        assert_eq!(found.state, ScaleInState::Ready);
    }

    #[test]
    fn without_ordinals_the_last_names_go() {
        let status = cluster(&["amsterdam", "berlin-2", "oslo", "lima"]);
        assert_eq!(names(&plan(&status, 2, 1).unwrap()), ["oslo", "lima"]);
    }

    #[test]
    fn the_node_that_is_asked_goes_last() {
        let mut status = cluster(&["n-0", "n-1", "n-2", "n-3"]);
        status.node = 4;
        assert_eq!(names(&plan(&status, 2, 1).unwrap()), ["n-2", "n-3"]);
    }

    #[test]
    fn what_was_begun_is_ended_before_another_one_goes() {
        let mut status = cluster(&["n-0", "n-1", "n-2", "n-3", "n-4"]);
        status.members[3].leaving = true;
        let found = plan(&status, 3, 3).unwrap();
        assert_eq!(found.state, ScaleInState::Leaving);
        assert_eq!(names(&found), ["n-3", "n-4"]);
        // A node that leaves is not called back, and is not replaced by another one.
        assert_eq!(names(&plan(&status, 4, 3).unwrap()), ["n-3"]);
        let reason = plan(&status, 5, 3).unwrap_err();
        assert!(reason.contains("only 4 nodes stay"), "{reason}");
    }

    #[test]
    fn nobody_goes_while_replicas_move_or_nobody_leads() {
        let mut status = cluster(&["n-0", "n-1"]);
        status.shards[0].voters = Some(vec![1]);
        assert_eq!(plan(&status, 1, 1).unwrap().state, ScaleInState::Settling);
        assert_eq!(plan(&status, 2, 1).unwrap().state, ScaleInState::Settling);
        let mut status = cluster(&["n-0", "n-1"]);
        status.meta_leader = None;
        assert_eq!(plan(&status, 1, 1).unwrap().state, ScaleInState::Settling);
    }

    #[test]
    fn enough_is_done_and_stays_so() {
        let found = plan(&cluster(&["n-0", "n-1", "n-2"]), 3, 3).unwrap();
        assert_eq!((found.state, found.going.len()), (ScaleInState::Done, 0));
    }

    #[test]
    fn a_shard_has_its_copies_when_no_node_could_take_another_one() {
        let mut status = cluster(&["n-0", "n-1"]);
        assert!(has_copies(&status, 3));
        status.shards[0].placed.pop();
        assert!(!has_copies(&status, 3) && has_copies(&status, 1));
    }

    #[test]
    fn what_would_lose_something_is_refused_with_what_to_do() {
        let three = cluster(&["n-0", "n-1", "n-2"]);
        let mut down = three.clone();
        down.members[1].down = true;
        let mut silent_leaver = down.clone();
        silent_leaver.members[1].leaving = true;
        for (status, to, copies, reason) in [
            (&three, 0, 3, "at least one node has to stay"),
            (&three, 4, 3, "start others"),
            (&three, 2, 3, "--fewer-copies"),
            (&down, 2, 1, "forget 0000000000000002"),
            (&silent_leaver, 2, 1, "forget 0000000000000002"),
        ] {
            let refused = plan(status, to, copies).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        assert_eq!(plan(&three, 2, 0).unwrap().state, ScaleInState::Ready);
    }
}
