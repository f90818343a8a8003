//! This node as a member: it asks for its lease twice a second, joins when the cluster does not know it or has declared it
//! down, and counts as ready when it has caught up. Without a lease it closes its doors.

use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster_proto::{
    Barrier, Failed, JoinAnswer, JoinCluster, Lease as Granted, Member, RenewLease, call_request,
    call_response, failed::Reason, meta_command::Command,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};
use transport::{Channel, PeerError};

use crate::chance;
use crate::node::Inner;

const RENEW_EVERY: Duration = Duration::from_millis(500);
/// A new leader is to be found before the lease is over.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
const RENEW_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A leader that has not heard from a quorum for so long grants nothing.
const QUORUM_WITHIN: Duration = Duration::from_secs(1);
const JOIN_WITHIN: Duration = Duration::from_secs(3);
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);

impl Inner {
    /// Renews the lease for as long as the node runs.
    pub(crate) async fn run_lease(self: Arc<Self>) {
        let mut renew = interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = renew.tick() => {}
            }
            if self.cluster_id.lock().is_empty() || self.is_retired() {
                continue;
            }
            self.refresh_members();
            let asked = Instant::now();
            let lease = self.ask_lease().await;
            if let Some(lease) = &lease {
                self.compare_clocks(lease, asked);
            }
            match lease {
                Some(lease) if lease.granted => self.granted(asked, lease).await,
                Some(_) => self.join().await,
                None => {
                    self.look_for_leader();
                    renew.reset_after(ASK_AGAIN_AFTER);
                }
            }
        }
    }

    fn compare_clocks(&self, lease: &Granted, asked: Instant) {
        self.clock.take(lease, asked);
        self.break_clock();
        self.say_whose_clock_is_off();
    }

    /// A broken node, for a test that has to notice.
    fn break_clock(&self) {
        if self.config.broken.own_clocks {
            self.clock.follow_own();
        }
    }

    async fn granted(&self, asked: Instant, lease: Granted) {
        let meta_index = lease.meta_index;
        self.draining.hear(lease.draining);
        let length = self
            .peer_config()
            .map_or(Duration::from_secs(3), |peers| peers.lease);
        self.lease.renew(asked, length);
        if self.lease.is_ready() || !self.catch_up(meta_index).await || !self.lease.is_held() {
            return;
        }
        self.lease.set_ready(true);
        // What others were told not to wait for while this node was not ready, it has to know now.
        if self.lease.barrier_floor() > self.meta_applied() {
            self.lease.set_ready(false);
            return;
        }
        info!(incarnation = self.incarnation(), "this node is ready");
        self.wake_outboxes();
    }

    /// What waited in the outboxes of the shards led here while this node was not ready.
    fn wake_outboxes(&self) {
        for group in self.slots.iter().filter_map(|slot| slot.led_here()) {
            group.machine.set_leads(true);
        }
    }

    /// Closes the doors when the lease is over, whatever else this node waits for.
    pub(crate) async fn run_fence(self: Arc<Self>) {
        loop {
            let pause = self.lease.left().max(LOOK_EVERY);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            if !self.lease.is_held() && self.lease.set_ready(false) {
                self.fence("no meta leader with a quorum was heard of");
            }
        }
    }

    fn fence(&self, reason: &'static str) {
        warn!(reason, "this node stops serving until the cluster takes it back");
        self.slots.iter().for_each(|slot| slot.proposer.give_up());
        self.observer.fenced();
    }

    async fn ask_lease(&self) -> Option<Granted> {
        let request = RenewLease {
            node: self.node_id,
            incarnation: self.incarnation(),
            meta_index: self.meta_applied(),
            draining: self.is_stopping() || self.draining.is_on(),
            wall_ms: Some(self.clock.wall_ms()),
        };
        if self.meta.leads() {
            return self.judge_lease(&request);
        }
        let leader = self.meta_leader().filter(|leader| *leader != self.node_id)?;
        let body = call_request::Body::RenewLease(request);
        match self
            .peers
            .as_ref()?
            .call(leader, Channel::Raft, body, RENEW_WITHIN)
            .await
        {
            Ok(call_response::Body::Lease(lease)) => Some(lease),
            Err(PeerError::Failed(failed)) => {
                self.hear_refusal(&failed);
                None
            }
            _ => None,
        }
    }

    /// As the leader of the meta group: may the node serve? None: this node cannot say.
    pub(crate) fn judge_lease(&self, request: &RenewLease) -> Option<Granted> {
        if self.meta.since_quorum()? > QUORUM_WITHIN {
            return None;
        }
        let known = self.meta.machine.read(|state| {
            let member = state.member(request.node)?;
            Some(!member.down && member.incarnation == request.incarnation)
        });
        let granted = known.unwrap_or(false);
        if granted {
            self.heard.note(request.node, request.draining);
            self.clock.hear(request.node, request.wall_ms);
        }
        let metrics = self.meta.raft.metrics();
        let committed = metrics
            .borrow_watched()
            .cluster_committed
            .as_ref()
            .map_or(0, |id| id.index);
        let mut lease = Granted {
            granted,
            meta_index: committed,
            draining: self.heard.draining(),
            ..Granted::default()
        };
        self.clock.decide(&self.who_has_a_clock(), &mut lease);
        self.break_clock();
        Some(lease)
    }

    /// Live members, and those with whom the cluster begins and who have not joined yet.
    fn who_has_a_clock(&self) -> BTreeSet<u64> {
        let voters = self.meta.members().voters;
        self.meta.machine.read(|state| {
            let to_join = |node: &u64| state.member(*node).is_none() && !state.is_retired(*node);
            let live = state.members().filter(|member| !member.down);
            let live = live.map(|member| member.node);
            let voters = voters.into_iter().filter(to_join);
            live.chain(voters).chain([self.node_id]).collect()
        })
    }

    /// Who leads is not known: a member may know.
    fn look_for_leader(&self) {
        if self.meta.leader().is_some() {
            return;
        }
        let Some(peers) = &self.peers else { return };
        let known: Vec<u64> = peers.stats().into_iter().map(|stats| stats.node).collect();
        if !known.is_empty() {
            let other = known[chance::place(known.len())];
            self.meta_hint.store(other, Ordering::Relaxed);
        }
    }

    /// Becomes a member, or one again.
    async fn join(&self) {
        let known = self
            .meta
            .machine
            .read(|state| state.member(self.node_id).cloned());
        let over = known
            .as_ref()
            .is_some_and(|member| member.down || member.incarnation > self.incarnation());
        if over {
            self.begin_new_life();
        }
        match self.ask_join(self.myself()).await {
            Some(answer) if answer.accepted => {
                self.wait_meta(answer.meta_index, JOIN_WITHIN).await;
            }
            // This node may not have heard of its end yet.
            Some(answer) if answer.is_over => self.begin_new_life(),
            Some(answer) if answer.is_retired => self.retire(),
            Some(answer) if self.not_taken.lock().is_news(&answer.reason) => {
                warn!(
                    name = self.config.name,
                    reason = answer.reason,
                    "the cluster does not take this node"
                );
            }
            Some(_) | None => {}
        }
    }

    fn hear_refusal(&self, failed: &Failed) {
        self.meta_hint.store(failed.leader, Ordering::Relaxed);
        if failed.reason() == Reason::Retired {
            self.retire();
        }
    }

    /// This node has left for good. It cannot know by the log, which ends for it where it leaves: the others say so.
    fn retire(&self) {
        if self.retired.swap(true, Ordering::AcqRel) {
            return;
        }
        info!(
            target: "audit",
            event = "member left",
            node = format!("{:016x}", self.node_id),
            name = self.config.name,
            "this node has left the cluster for good: it can be stopped, and its data directory removed"
        );
        if self.lease.set_ready(false) {
            self.fence("this node has left the cluster");
        }
    }

    /// What this life had connected was given up by the others.
    fn begin_new_life(&self) {
        if self.lease.set_ready(false) {
            self.fence("this node was declared down");
        }
        let bumped = self.data_dir.lock().bump_incarnation();
        match bumped {
            Ok(identity) => self.incarnation.store(identity.incarnation, Ordering::Release),
            Err(error) => return error!(%error, "the incarnation was not written"),
        }
        self.announcer.announce_all();
    }

    async fn ask_join(&self, member: Member) -> Option<JoinAnswer> {
        if self.meta.leads() {
            return self.admit_member(member).await;
        }
        let leader = self.meta_leader().filter(|leader| *leader != self.node_id)?;
        let body = call_request::Body::JoinCluster(JoinCluster { member: Some(member) });
        match self
            .peers
            .as_ref()?
            .call(leader, Channel::Data, body, JOIN_WITHIN)
            .await
        {
            Ok(call_response::Body::Join(answer)) => Some(answer),
            Err(PeerError::Failed(failed)) => {
                self.hear_refusal(&failed);
                None
            }
            _ => None,
        }
    }

    /// As the leader of the meta group.
    pub(crate) async fn admit_member(&self, member: Member) -> Option<JoinAnswer> {
        let (node, incarnation) = (member.node, member.incarnation);
        let (name, address) = (member.name.clone(), member.address.clone());
        // Its new life begins now: the silence of the one before must not end it.
        self.heard.note(node, false);
        let join = cluster_proto::Join { member: Some(member) };
        let (meta_index, response) = self
            .meta_propose(Command::Join(join), Duration::from_secs(2))
            .await
            .ok()?;
        if response.accepted {
            self.heard.note(node, false);
            info!(
                target: "audit",
                event = "member joined",
                node = format!("{node:016x}"),
                name,
                address,
                incarnation,
                "a node joins, or comes back"
            );
        }
        let (is_over, is_retired) = self.meta.machine.read(|state| {
            let known = state.member(node);
            let is_over = known.is_some_and(|known| known.down || known.incarnation > incarnation);
            (is_over, state.is_retired(node))
        });
        Some(JoinAnswer {
            accepted: response.accepted,
            reason: response.reason,
            meta_index,
            is_over,
            is_retired,
        })
    }

    /// Whether this node knows what the cluster knew when the lease was granted, the others have announced what they want,
    /// and each replica here is up to date.
    async fn catch_up(&self, meta_index: u64) -> bool {
        if !self.wait_meta(meta_index, CATCH_UP_WITHIN).await {
            return false;
        }
        if self.is_alone() {
            return self.replicas_ready().await;
        }
        let Some(peers) = &self.peers else { return true };
        let asking = self.live_members().into_iter().map(|node| {
            let body = call_request::Body::Barrier(Barrier {
                meta_index: self.meta_applied(),
                announced: true,
            });
            peers.call(node, Channel::Data, body, CATCH_UP_WITHIN)
        });
        for answer in futures_util::future::join_all(asking).await {
            let Ok(call_response::Body::Barrier(answer)) = answer else {
                return false;
            };
            if !self.wait_meta(answer.meta_index, CATCH_UP_WITHIN).await {
                return false;
            }
        }
        self.replicas_ready().await
    }

    /// What waits for a node that was declared down is answered, once for each of its lives.
    fn give_up_down(&self, peers: &transport::Peers, addresses: &foldhash::HashMap<u64, String>) {
        let down: Vec<(u64, u64)> = self.meta.machine.read(|state| {
            let down = state.members().filter(|member| member.down);
            down.map(|member| (member.node, member.incarnation)).collect()
        });
        let mut given_up = self.given_up.lock();
        given_up.retain(|one| down.contains(one));
        for (node, incarnation) in down {
            if node != self.node_id && given_up.insert((node, incarnation)) {
                peers.forget(node);
                if let Some(address) = addresses.get(&node) {
                    peers.set_address(node, address);
                }
            }
        }
    }

    async fn replicas_ready(&self) -> bool {
        let placed: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| self.is_placed_here(slot.id))
            .collect();
        if placed.is_empty() && self.meta.machine.read(|state| state.replicas(0).is_empty()) {
            // The first placement is still to come.
            return false;
        }
        let ready = placed.into_iter().map(|slot| async move {
            let Some(replica) = slot.replica() else {
                return false;
            };
            let Ok(index) = self.read_index(slot.id, CATCH_UP_WITHIN).await else {
                return false;
            };
            replica.wait_applied(index, CATCH_UP_WITHIN).await
        });
        futures_util::future::join_all(ready)
            .await
            .into_iter()
            .all(|ready| ready)
    }

    pub(crate) fn is_placed_here(&self, shard: crate::ShardId) -> bool {
        self.meta
            .machine
            .read(|state| state.replicas(shard).contains(&self.node_id))
    }

    /// Brings what depends on the list of members up to date.
    pub(crate) fn refresh_members(&self) {
        let (count, me) = self.meta.machine.read(|state| {
            let me = state.member(self.node_id).is_some();
            (state.members().count(), me)
        });
        let raft = self.meta.members();
        let alone = count == 1 && me && raft.voters.len() + raft.learners.len() == 1;
        if self.is_alone() && !alone {
            self.lease.set_alone(false);
            info!("this node is not alone any more");
            self.announcer.announce_all();
        } else if alone && !self.is_alone() && self.meta.leads() {
            self.lease.set_alone(true);
            self.announcer.sleep();
        }
        let Some(peers) = &self.peers else { return };
        let addresses = self.addresses();
        for (node, address) in &addresses {
            if *node != self.node_id {
                peers.set_address(*node, address);
            }
        }
        self.give_up_down(peers, &addresses);
        let retired = self.meta.machine.read(|state| {
            peers
                .stats()
                .into_iter()
                .map(|stats| stats.node)
                .filter(|node| state.is_retired(*node))
                .collect::<Vec<_>>()
        });
        for node in retired {
            peers.forget(node);
            self.received.forget(node);
            self.applied.forget(node);
        }
    }
}
