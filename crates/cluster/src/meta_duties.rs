//! What the leader of the meta group sees to: who is down, who votes, and where the shards are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::{Found, Member, NodeDown, Place, meta_command::Command};
use cluster_state::spread;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::formation::first_voters;
use crate::node::Inner;
use crate::start::give_lead_away;

const LOOK_EVERY: Duration = Duration::from_millis(250);
const WITHIN: Duration = Duration::from_secs(2);
/// Before the first placement all nodes of the formation should be here, so that shards need not move at once.
const FIRST_PLACEMENT_WAIT: u32 = 40;

/// Looks after the cluster as long as this node leads the meta group.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waited = 0;
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = inner.meta.machine.changed.notified() => {}
            _ = look.tick() => {}
        }
        inner.refresh_members();
        let leads = inner.meta.leads();
        inner.heard.leading(leads);
        if !leads || inner.is_stopping() {
            continue;
        }
        // A node that is out of service may be elected all the same.
        if inner.draining.is_on() && give_lead_away(&inner.meta, &inner.successors()).await {
            continue;
        }
        inner.found_state().await;
        inner.declare_down().await;
        inner.arrange_voters().await;
        waited = inner.place_shards(waited).await;
    }
}

impl Inner {
    /// The first command of a cluster.
    async fn found_state(&self) {
        if self.meta.machine.read(|state| !state.cluster_id().is_empty()) {
            return;
        }
        let found = Found {
            cluster_id: self.cluster_id(),
            shards: u32::from(self.config.shards),
        };
        let _ = self.meta_propose(Command::Found(found), WITHIN).await;
    }

    async fn declare_down(&self) {
        let Some(config) = self.peer_config() else { return };
        for node in self.live_members() {
            if self.heard.silent_for(node) < config.down_after {
                continue;
            }
            let Some(incarnation) = self.incarnation_of(node) else {
                continue;
            };
            warn!(
                target: "audit",
                event = "member down",
                node = format!("{node:016x}"),
                "a node is silent: declared down"
            );
            let down = NodeDown {
                node,
                incarnation,
                ..NodeDown::default()
            };
            let _ = self.meta_propose(Command::NodeDown(down), WITHIN).await;
        }
    }

    fn incarnation_of(&self, node: u64) -> Option<u64> {
        self.meta
            .machine
            .read(|state| state.member(node).map(|member| member.incarnation))
    }

    /// Every member has the meta group's log; an odd number of them votes.
    async fn arrange_voters(&self) {
        let members: Vec<Member> = self.meta.machine.read(|state| state.members().cloned().collect());
        if members.is_empty() {
            return;
        }
        let raft = self.meta.members();
        let expected = |node: &u64| {
            let joined = members.iter().any(|member| member.node == *node);
            !joined && !self.meta.machine.read(|state| state.is_retired(*node))
        };
        // Those the group began with have their votes, whenever they join.
        if raft.is_joint || raft.voters.iter().any(expected) {
            return;
        }
        for member in &members {
            let known = raft.voters.contains(&member.node) || raft.learners.contains(&member.node);
            if !known && !member.down {
                info!(
                    node = format!("{:016x}", member.node),
                    name = member.name,
                    "a new member of the meta group"
                );
                if let Err(error) = self.meta.add_learner(member.node, &member.address).await {
                    warn!(error, "the member was not added");
                }
                return;
            }
        }
        let wanted = self.wanted_voters(&members, &raft.voters);
        // Fewer than there should be are no gain: who is missing may come back, or be replaced first.
        let count = self.wanted_count(&members);
        if wanted != raft.voters
            && wanted.len() == count
            && wanted
                .iter()
                .all(|node| *node == self.node_id || self.meta.is_caught_up(*node))
        {
            let ids: Vec<String> = wanted.iter().map(|node| format!("{node:016x}")).collect();
            info!(target: "audit", event = "voters", voters = ids.join(","), "the meta group's voters change");
            if let Err(error) = self.meta.set_voters_retaining(wanted).await {
                warn!(error, "the voters did not change");
            }
            return;
        }
        let strangers: BTreeSet<u64> = raft
            .learners
            .iter()
            .filter(|node| members.iter().all(|member| member.node != **node))
            .copied()
            .collect();
        if !strangers.is_empty()
            && let Err(error) = self.meta.remove_learners(strangers).await
        {
            warn!(error, "a former member was not removed");
        }
    }

    fn wanted_count(&self, members: &[Member]) -> usize {
        let most = self.peer_config().map_or(1, |config| config.meta_voters_max);
        let staying = members.iter().filter(|member| !member.leaving).count();
        first_voters(staying, most)
    }

    /// Those who vote already and can go on, filled up with others that are live.
    fn wanted_voters(&self, members: &[Member], voting: &BTreeSet<u64>) -> BTreeSet<u64> {
        let count = self.wanted_count(members);
        let able = |member: &&Member| !member.leaving && !member.down;
        let mut wanted: BTreeSet<u64> = BTreeSet::new();
        if members
            .iter()
            .any(|member| member.node == self.node_id && !member.leaving)
        {
            wanted.insert(self.node_id);
        }
        let groups: [Vec<&Member>; 3] = [
            members
                .iter()
                .filter(able)
                .filter(|member| voting.contains(&member.node))
                .collect(),
            // One that is down keeps its vote while nobody can take its place.
            members
                .iter()
                .filter(able)
                .filter(|member| !voting.contains(&member.node))
                .collect(),
            members
                .iter()
                .filter(|member| voting.contains(&member.node) && !member.leaving)
                .collect(),
        ];
        for member in groups.into_iter().flatten() {
            if wanted.len() < count {
                wanted.insert(member.node);
            }
        }
        wanted
    }

    /// One change at a time; each is carried out by the shard's leader.
    async fn place_shards(&self, waited: u32) -> u32 {
        let (members, placed, shards) = self.meta.machine.read(|state| {
            let members: Vec<Member> = state.members().cloned().collect();
            let placed: Vec<Vec<u64>> = (0..state.shards())
                .map(|shard| state.replicas(shard).to_vec())
                .collect();
            (members, placed, state.shards())
        });
        let factor = self.peer_config().map_or(1, |config| config.replication_factor);
        let first = placed.iter().any(Vec::is_empty);
        let expected = self.peer_config().map_or(1, |config| config.expect.max(1));
        if members.is_empty() || shards == 0 {
            return waited;
        }
        if first && members.len() < expected && waited < FIRST_PLACEMENT_WAIT {
            return waited + 1;
        }
        let long_down = |node: u64| {
            let after = self
                .peer_config()
                .map_or(Duration::MAX, |config| config.replace_after);
            self.heard.silent_for(node) >= after
        };
        let usable: Vec<Member> = members
            .into_iter()
            .filter(|member| !(member.leaving || member.down && long_down(member.node)))
            .collect();
        let wanted = spread(&placed, &usable, factor);
        let mut changed = 0;
        for (shard, nodes) in (0u32..).zip(wanted) {
            let known = &placed[shard as usize];
            if *known == nodes || nodes.is_empty() {
                continue;
            }
            let place = Place { shard, nodes };
            let _ = self.meta_propose(Command::Place(place), WITHIN).await;
            changed += 1;
            // All of the first placement; later moves one after the other.
            if !first && changed >= 1 {
                break;
            }
        }
        0
    }
}
