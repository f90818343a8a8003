//! What a node sees to for its shards: that a replica runs where one is placed, and as a leader that the group has the
//! members it should, the sessions of dead nodes are given up, time passes, and routes are announced and taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::{
    Announce, ChangeRoutes, NodeDown, Retire, RouteChange, ShardCommand, ShareMember, Tick, Unannounce,
    route_change::Destination, shard_command, shard_response::Response,
};
use foldhash::HashMap;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::group::Group;
use crate::node::Inner;
use crate::shard::Shard;
use crate::slot::Slot;
use crate::start::group_of;
use crate::{Clock, ShardId};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two moves of one shard's leadership.
const TRANSFER_EVERY: Duration = Duration::from_secs(5);
/// The others initialize a group that its first replica has not initialized for so long.
const INITIALIZE_AFTER: Duration = Duration::from_secs(5);
/// Between two looks at the routes of a shard.
const ROUTES_EVERY: Duration = Duration::from_secs(2);
const ROUTES_MAX: usize = 512;
const ROUTES_LOOKED_AT: usize = 100_000;
const META_WITHIN: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Memory {
    transfers: HashMap<ShardId, Instant>,
    pristine_since: HashMap<ShardId, Instant>,
    led: BTreeSet<ShardId>,
    routes_seen: Option<Instant>,
    /// Filters that had no subscription at the last look, and those that have none at this one.
    idle: BTreeSet<(ShardId, String)>,
    idle_next: BTreeSet<(ShardId, String)>,
}

/// Sees to the shards for as long as the node runs.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = inner.meta.machine.changed.notified() => {}
            _ = look.tick() => {}
        }
        if inner.is_stopping() {
            continue;
        }
        for slot in inner.slots.iter() {
            inner.host(slot, &mut memory).await;
        }
        let routes = memory
            .routes_seen
            .is_none_or(|seen| seen.elapsed() >= ROUTES_EVERY);
        for slot in inner.slots.iter() {
            let Some(group) = slot.led_here() else {
                if memory.led.remove(&slot.id)
                    && let Some(group) = slot.replica()
                {
                    group.machine.set_leads(false);
                }
                continue;
            };
            if memory.led.insert(slot.id) {
                info!(shard = slot.id, "this node leads the shard");
                group.machine.set_leads(true);
                slot.proposer.retry_now();
            }
            inner.tick(slot, &group);
            inner.give_up_dead(slot, &group);
            inner.arrange_replicas(slot, &group).await;
            inner.move_leadership(slot, &group, &mut memory).await;
            if routes && !inner.is_alone() {
                inner.tend_routes(slot, &group, &mut memory).await;
            }
        }
        inner.retire_when_empty().await;
        if routes {
            memory.routes_seen = Some(Instant::now());
            memory.idle = std::mem::take(&mut memory.idle_next);
        }
    }
}

impl Inner {
    /// Starts a replica where one is placed, initializes it once, and ends it where none is placed any more.
    async fn host(&self, slot: &Arc<Slot>, memory: &mut Memory) {
        let (placed, initial) = self.meta.machine.read(|state| {
            (
                state.replicas(slot.id).to_vec(),
                state.initial_replicas(slot.id).to_vec(),
            )
        });
        let here = placed.contains(&self.node_id);
        let others = placed.iter().copied().filter(|node| *node != self.node_id);
        let others = others.filter(|node| self.is_live(*node)).collect();
        slot.set_others(others, |node| self.is_live(node));
        match slot.replica() {
            // One that is placed here, or was: it may have moved away while this node did not run, and is ended as any other.
            None if here || self.was_left_behind(slot.id, &placed) => {
                if let Err(error) = self.start_replica(slot).await {
                    warn!(%error, shard = slot.id, "the replica did not start");
                }
            }
            None => {}
            Some(group) if here => self.initialize(slot.id, &group, &initial, memory).await,
            Some(group) => self.end_replica(slot, &group).await,
        }
    }

    /// What is left of a replica must not come to life later, when the shard is placed here again: it knows an old membership.
    fn was_left_behind(&self, shard: ShardId, placed: &[u64]) -> bool {
        !self.config.broken.founds_again && !placed.is_empty() && self.log.is_left_behind(group_of(shard))
    }

    async fn initialize(&self, shard: ShardId, group: &Group<Shard>, initial: &[u64], memory: &mut Memory) {
        // A replica that was here before and comes again is as empty as one of a group that nobody has founded: it waits for the
        // leader of the group that there is.
        let was_here = self.log.was_removed(group_of(shard)) && !self.config.broken.founds_again;
        if !initial.contains(&self.node_id) || was_here || !group.is_pristine().await.unwrap_or(false) {
            memory.pristine_since.remove(&shard);
            return;
        }
        let since = *memory.pristine_since.entry(shard).or_insert_with(Instant::now);
        if initial.first() != Some(&self.node_id) && since.elapsed() < INITIALIZE_AFTER {
            return;
        }
        let addresses = self.addresses();
        // The very same set on every node that does this: it is in the meta group's log.
        let voters: BTreeMap<u64, String> = initial
            .iter()
            .map(|node| (*node, addresses.get(node).cloned().unwrap_or_default()))
            .collect();
        if let Err(error) = group.initialize(voters).await {
            warn!(%error, shard, "the shard's group was not initialized");
        }
    }

    /// A replica goes when the group itself has let it go, which only its leader knows for sure.
    async fn end_replica(&self, slot: &Arc<Slot>, group: &Arc<Group<Shard>>) {
        let Some(replicas) = self.replicas_by_leader(slot).await else {
            return;
        };
        if replicas.contains(&self.node_id) {
            return;
        }
        info!(shard = slot.id, "the shard has moved away");
        slot.set_replica(None);
        // The connections of its sessions read from afar now.
        for (client, epoch, waker) in group.machine.take_wakers() {
            self.remote_queues.attach(&client, epoch, waker.clone());
            waker.queue_grew();
        }
        group.stop().await;
        self.remove_replica(slot.id).await;
    }

    /// A node that is to leave goes when its clients have gone, no shard is placed here, no replica is left, and it has no
    /// vote in the meta group.
    async fn retire_when_empty(&self) {
        let leaving = self.meta.machine.read(|state| {
            let me = state.member(self.node_id);
            me.is_some_and(|member| member.leaving)
        });
        let has_some = |slot: &Arc<Slot>| slot.replica().is_some() || self.is_placed_here(slot.id);
        let has_clients = leaving && !self.observer.leaving();
        if !leaving
            || has_clients
            || self.slots.iter().any(has_some)
            || self.meta.members().voters.contains(&self.node_id)
        {
            return;
        }
        let retire = Retire { node: self.node_id };
        let retire = cluster_proto::meta_command::Command::Retire(retire);
        if self.meta_propose(retire, META_WITHIN).await.is_ok() {
            info!("this node has left the cluster: nothing is kept here any more");
            if self.lease.set_ready(false) {
                self.observer.fenced();
            }
        }
    }

    fn tick(&self, slot: &Slot, group: &Group<Shard>) {
        if !self.clock.is_known() {
            return;
        }
        let now_ms = self.clock.now_ms();
        let due = group.machine.read(|state| state.next_deadline_ms());
        if due.is_some_and(|due| due <= now_ms) && group.machine.tick_due(now_ms) {
            // When it is refused, the next look tries again.
            slot.proposer.propose(
                vec![command(shard_command::Command::Tick(Tick {}))],
                Box::new(|_| ()),
            );
        }
    }

    /// What was connected to a life of a node that is over is not connected any more.
    fn give_up_dead(&self, slot: &Slot, group: &Group<Shard>) {
        let connected: Vec<(u64, u64)> = group.machine.read(|state| state.connected_nodes().collect());
        if connected.is_empty() {
            return;
        }
        let over: Vec<NodeDown> = self.meta.machine.read(|state| {
            let over = |(node, incarnation): (u64, u64)| {
                let last = match state.member(node) {
                    Some(member) if member.down => member.incarnation,
                    Some(member) => member.incarnation.saturating_sub(1),
                    None if state.is_retired(node) => u64::MAX,
                    None => return None,
                };
                (incarnation <= last).then_some(NodeDown {
                    node,
                    incarnation: last,
                    ..NodeDown::default()
                })
            };
            connected.into_iter().filter_map(over).collect()
        });
        let with_shares = |down: NodeDown| NodeDown {
            hand_over: self.observer.shares_left_behind(slot.id, down.node),
            ..down
        };
        let commands: Vec<ShardCommand> = over
            .into_iter()
            .map(|down| command(shard_command::Command::NodeDown(with_shares(down))))
            .collect();
        if !commands.is_empty() {
            slot.proposer.propose(commands, Box::new(|_| ()));
        }
    }

    /// Brings the group's membership towards its placement: add first, remove afterwards.
    async fn arrange_replicas(&self, slot: &Slot, group: &Group<Shard>) {
        let placed: BTreeSet<u64> = self
            .meta
            .machine
            .read(|state| state.replicas(slot.id).iter().copied().collect());
        let members = group.members();
        if placed.is_empty() || members.is_joint {
            return;
        }
        let addresses = self.addresses();
        let missing = placed
            .iter()
            .find(|node| !members.voters.contains(node) && !members.learners.contains(node));
        let result = match missing {
            Some(node) => {
                let address = addresses.get(node).cloned().unwrap_or_default();
                group.add_learner(*node, &address).await
            }
            None if members.voters != placed => {
                let ready = placed
                    .iter()
                    .all(|node| *node == self.node_id || group.is_caught_up(*node));
                match ready {
                    true => {
                        info!(shard = slot.id, "the shard's voters change");
                        group.set_voters(placed).await
                    }
                    false => Ok(()),
                }
            }
            None => {
                let extra: BTreeSet<u64> = members.learners.difference(&placed).copied().collect();
                match extra.is_empty() {
                    true => Ok(()),
                    false => group.remove_learners(extra).await,
                }
            }
        };
        if let Err(error) = result {
            warn!(error, shard = slot.id, "the shard's replicas did not change");
        }
    }

    /// The first replica of a placement is to lead, so that leaders are spread; a node that is out of service leads nothing
    /// that another one can lead.
    async fn move_leadership(&self, slot: &Slot, group: &Group<Shard>, memory: &mut Memory) {
        let preferred = self.meta.machine.read(|state| {
            let replicas = state.replicas(slot.id);
            let live = |node: u64| state.member(node).is_some_and(|member| !member.down);
            let may_lead = |node: &u64| live(*node) && !self.is_draining(*node);
            let first = replicas.first().copied().filter(may_lead);
            let gives_away = self.draining.is_on();
            first.or_else(|| replicas.iter().copied().filter(|_| gives_away).find(may_lead))
        });
        let Some(preferred) = preferred.filter(|node| *node != self.node_id) else {
            return;
        };
        let recently = memory
            .transfers
            .get(&slot.id)
            .is_some_and(|at| at.elapsed() < TRANSFER_EVERY || self.config.broken.moves_once);
        if recently || !group.members().voters.contains(&preferred) || !group.is_caught_up(preferred) {
            return;
        }
        memory.transfers.insert(slot.id, Instant::now());
        if let Err(error) = group.raft.trigger().transfer_leader(preferred).await {
            warn!(%error, shard = slot.id, "the leadership was not moved");
        }
    }

    /// Announces what has subscribers and is not announced, and takes back what has none any more.
    async fn tend_routes(&self, slot: &Slot, group: &Group<Shard>, memory: &mut Memory) {
        let (version, wanting, unused) = group.machine.read_applied(|state, index| {
            (
                index,
                state.unannounced_routes(ROUTES_MAX),
                state.unused_announcements(ROUTES_MAX),
            )
        });
        if !wanting.is_empty() {
            let _ = self.announce_shard(slot.id, wanting, version).await;
        }
        // Also what the meta group has without this shard's knowledge.
        let routed: Vec<String> = self.meta.machine.read(|state| {
            let routed = state.routes_of_shard(slot.id);
            routed.map(ToString::to_string).take(ROUTES_LOOKED_AT).collect()
        });
        let idle = group.machine.read(|state| {
            let mut idle = routed;
            idle.retain(|filter| state.has_no_use_for(filter));
            idle
        });
        let mut unused: BTreeSet<String> = unused.into_iter().chain(idle).take(ROUTES_MAX).collect();
        if !unused.is_empty() {
            // What lost its last subscription just now may get another one soon.
            unused.retain(|filter| {
                memory.idle.contains(&(slot.id, filter.clone())) || {
                    memory.idle_next.insert((slot.id, filter.clone()));
                    false
                }
            });
        }
        if !unused.is_empty() {
            self.unannounce(slot, unused.into_iter().collect()).await;
        }
        self.tend_shares(slot, group).await;
    }

    /// Announces all routes to the shards that this node has, which nobody needed while it was alone. False: not all of them.
    pub(crate) async fn announce_shards(&self) -> bool {
        for slot in self.slots.iter() {
            let Some(group) = slot.replica() else { continue };
            let (version, wanting) = group
                .machine
                .read_applied(|state, index| (index, state.unannounced_routes(usize::MAX)));
            for filters in wanting.chunks(ROUTES_MAX) {
                match self.announce_shard(slot.id, filters.to_vec(), version).await {
                    Ok(index) if self.wait_meta(index, META_WITHIN).await => {}
                    _ => return false,
                }
            }
            self.tend_shares(slot, &group).await;
        }
        true
    }

    /// Adds routes to a shard, then tells the shard that they are there.
    pub(crate) async fn announce_shard(
        &self,
        shard: ShardId,
        filters: Vec<String>,
        version: u64,
    ) -> Result<u64, crate::ProposeError> {
        let changes = filters
            .iter()
            .map(|filter| shard_route(shard, filter, true, version))
            .collect();
        let (index, response) = self.change_routes(changes).await?;
        if !response {
            return Err(crate::ProposeError::NoQuorum);
        }
        let announce = shard_command::Command::Announce(Announce { filters, version });
        if let Some(slot) = self.slot(shard) {
            slot.proposer
                .propose_soon(command(announce), Duration::from_millis(50));
        }
        Ok(index)
    }

    async fn unannounce(&self, slot: &Slot, filters: Vec<String>) {
        let unannounce = shard_command::Command::Unannounce(Unannounce { filters });
        let Ok(response) = self.shard_request(slot.id, command(unannounce)).await else {
            return;
        };
        let Some(Response::Unannounced(taken)) = response.response else {
            return;
        };
        let changes = taken
            .filters
            .iter()
            .map(|filter| shard_route(slot.id, filter, false, taken.index))
            .collect();
        // Should this fail, the route stays: messages come that nobody wants, and the next leader takes it back.
        let _ = self.change_routes(changes).await;
    }

    /// Members of shares that are kept in this shard, as the meta group has them and as they are.
    async fn tend_shares(&self, slot: &Slot, group: &Group<Shard>) {
        let (version, here) = group.machine.read_applied(|state, index| {
            let members: BTreeMap<(String, String), ShareMember> = state
                .shared_members(slot.id)
                .map(|(filter, member)| ((filter.to_string(), member.client.clone()), member))
                .collect();
            (index, members)
        });
        let there: BTreeSet<(String, String)> = self.meta.machine.read(|state| {
            state
                .share_members()
                .filter(|(_, member)| member.shard == Some(u32::from(slot.id)))
                .map(|(filter, member)| (filter.to_string(), member.client.clone()))
                .collect()
        });
        let mut changes = Vec::new();
        for (key, member) in &here {
            if !there.contains(key) {
                changes.push(share_route(&key.0, member.clone(), true, version));
            }
        }
        for (filter, client) in there.into_iter().filter(|key| !here.contains_key(key)) {
            let member = ShareMember {
                client,
                shard: Some(u32::from(slot.id)),
                ..ShareMember::default()
            };
            changes.push(share_route(&filter, member, false, version));
        }
        changes.truncate(ROUTES_MAX);
        if !changes.is_empty() {
            let _ = self.change_routes(changes).await;
        }
    }

    /// Changes of routes that are nobody's own.
    async fn change_routes(&self, changes: Vec<RouteChange>) -> Result<(u64, bool), crate::ProposeError> {
        let change = ChangeRoutes {
            changes,
            node: 0,
            incarnation: 0,
        };
        let change = cluster_proto::meta_command::Command::ChangeRoutes(change);
        let (index, response) = self.meta_propose(change, META_WITHIN).await?;
        Ok((index, response.accepted))
    }
}

pub(crate) fn command(command: shard_command::Command) -> ShardCommand {
    ShardCommand {
        command: Some(command),
    }
}

fn shard_route(shard: ShardId, filter: &str, added: bool, version: u64) -> RouteChange {
    RouteChange {
        filter: filter.to_owned(),
        destination: Some(Destination::Shard(u32::from(shard))),
        added,
        qos_0_only: false,
        version,
    }
}

fn share_route(filter: &str, member: ShareMember, added: bool, version: u64) -> RouteChange {
    RouteChange {
        filter: filter.to_owned(),
        destination: Some(Destination::Member(member)),
        added,
        qos_0_only: false,
        version,
    }
}
