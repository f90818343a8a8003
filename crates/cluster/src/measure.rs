//! What Prometheus sees of the groups of this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use transport::PeerStats;

use crate::chance;
use crate::node::Inner;
use crate::{MemberStatus, Status};

/// Gauges are as old as this at most.
const EVERY: Duration = Duration::from_secs(2);

/// What is done with a snapshot, for the metric.
#[derive(Clone, Copy)]
pub(crate) enum Snapshotting {
    /// A checkpoint is written.
    Write,
    /// It goes to a peer, until that has installed it.
    Send,
    /// It came from a peer.
    Install,
}

/// Notes how long that took. It is rare: the handle is looked up each time.
pub(crate) fn snapshot(what: Snapshotting, took: Duration) {
    let step = match what {
        Snapshotting::Write => "write",
        Snapshotting::Send => "send",
        Snapshotting::Install => "install",
    };
    histogram!("flotilla_snapshot_duration_seconds", "step" => step).record(took);
}

/// Looks at the rest for one at the files of the state store.
const LOOKS_PER_STORE: u64 = 5;

struct Handles {
    members: [(&'static str, Gauge); 3],
    has_quorum: Gauge,
    leads_meta: Gauge,
    shards_led: Gauge,
    replicas: Gauge,
    lag: Gauge,
    leader_changes: Counter,
    log_bytes: Gauge,
    state_bytes: Gauge,
}

impl Handles {
    fn new() -> Self {
        describe();
        // So that it is there from the start, at 0.
        let _ = histogram!("flotilla_replication_commit_duration_seconds");
        for step in ["write", "send", "install"] {
            let _ = histogram!("flotilla_snapshot_duration_seconds", "step" => step);
        }
        let _ = counter!("flotilla_route_barrier_timeouts_total");
        let _ = counter!("flotilla_cluster_peers_refused_total");
        Self {
            members: ["up", "down", "leaving"]
                .map(|state| (state, gauge!("flotilla_cluster_members", "state" => state))),
            has_quorum: gauge!("flotilla_cluster_has_quorum"),
            leads_meta: gauge!("flotilla_cluster_is_leader"),
            shards_led: gauge!("flotilla_cluster_shards_led"),
            replicas: gauge!("flotilla_cluster_shard_replicas"),
            lag: gauge!("flotilla_replication_lag_entries"),
            leader_changes: counter!("flotilla_replication_leader_changes_total"),
            log_bytes: gauge!("flotilla_storage_log_size_bytes"),
            state_bytes: gauge!("flotilla_storage_state_size_bytes"),
        }
    }
}

/// What is shown of the connections to one peer.
struct Link {
    connected: Gauge,
    rtt: Gauge,
    queue_bytes: Gauge,
    clock_skew: Gauge,
}

impl Link {
    fn new(name: &str) -> Self {
        let of = |metric: &'static str| gauge!(metric, "peer" => name.to_owned());
        Self {
            connected: of("flotilla_cluster_peer_connected"),
            rtt: of("flotilla_cluster_peer_rtt_seconds"),
            queue_bytes: of("flotilla_cluster_peer_queue_bytes"),
            clock_skew: of("flotilla_cluster_peer_clock_skew_seconds"),
        }
    }

    fn set(&self, stats: Option<&PeerStats>) {
        let connected = stats.is_some_and(|stats| stats.raft.connected);
        self.connected.set(f64::from(u8::from(connected)));
        let rtt = stats.and_then(|stats| stats.raft.rtt).unwrap_or_default();
        self.rtt.set(rtt.as_secs_f64());
        let queued = stats.map_or(0, |stats| {
            let lanes = stats.lanes.iter().map(|lane| lane.bytes).sum::<usize>();
            stats.raft.bytes + stats.data.bytes + lanes
        });
        self.queue_bytes.set(queued as f64);
    }
}

impl Inner {
    /// Keeps the gauges, until the node stops.
    pub(crate) async fn run_measure(self: Arc<Self>) {
        let handles = Handles::new();
        let mut leaders = BTreeMap::new();
        let mut links = BTreeMap::new();
        for look in 0_u64.. {
            let status = self.status();
            self.measure(&status, &handles, &mut leaders);
            if look % LOOKS_PER_STORE == 0 {
                self.measure_store(&handles).await;
            }
            self.measure_links(&status.members, &mut links);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Its files are looked at.
    async fn measure_store(&self, handles: &Handles) {
        let kv = self.shard_parts.kv.clone();
        if let Ok(Ok(bytes)) = chance::blocking(move || kv.size_on_disk()).await {
            handles.state_bytes.set(bytes as f64);
        }
    }

    /// The connections to the other members; of one that is a member no more, nothing is connected.
    fn measure_links(&self, members: &[MemberStatus], links: &mut BTreeMap<String, Link>) {
        let Some(peers) = &self.peers else { return };
        let stats = peers.stats();
        for member in members.iter().filter(|member| member.node != self.node_id) {
            links
                .entry(member.name.clone())
                .or_insert_with(|| Link::new(&member.name));
        }
        for (name, link) in links {
            let member = members.iter().find(|member| member.name == *name);
            link.set(member.and_then(|member| stats.iter().find(|stats| stats.node == member.node)));
            let ahead_ms = member.and_then(|member| member.clock_ahead_ms).unwrap_or(0);
            link.clock_skew.set(ahead_ms as f64 / 1000.0);
        }
    }

    fn measure(&self, status: &Status, handles: &Handles, leaders: &mut BTreeMap<u64, u64>) {
        if !status.cluster_id.is_empty() {
            gauge!("flotilla_cluster_info", "cluster_id" => status.cluster_id.clone()).set(1.0);
        }
        for (state, gauge) in &handles.members {
            let own = status.members.iter().map(|member| match () {
                () if member.down => "down",
                () if member.leaving => "leaving",
                () => "up",
            });
            gauge.set(own.filter(|own| own == state).count() as f64);
        }
        handles.has_quorum.set(f64::from(u8::from(self.lease.is_held())));
        handles.leads_meta.set(f64::from(u8::from(self.meta.leads())));
        handles.shards_led.set(
            status
                .shards
                .iter()
                .filter(|shard| shard.leader == Some(status.node))
                .count() as f64,
        );
        handles.replicas.set(
            status
                .shards
                .iter()
                .filter(|shard| shard.applied.is_some())
                .count() as f64,
        );
        let replicas = self.slots.iter().filter_map(|slot| slot.replica());
        let lag = replicas.filter_map(|replica| replica.lag()).max().unwrap_or(0);
        handles.lag.set(lag.max(self.meta.lag().unwrap_or(0)) as f64);
        let seen = status.shards.iter().map(|shard| {
            let group = u64::from(shard.shard) + 1;
            (group, shard.leader)
        });
        for (group, leader) in seen.chain([(0, status.meta_leader)]) {
            let Some(leader) = leader else { continue };
            if leaders
                .insert(group, leader)
                .is_some_and(|before| before != leader)
            {
                handles.leader_changes.increment(1);
            }
        }
        handles.log_bytes.set(self.log.size_on_disk() as f64);
    }
}

fn describe() {
    describe_gauge!(
        "flotilla_cluster_members",
        "Members of the cluster as this node knows them, by state"
    );
    describe_gauge!(
        "flotilla_cluster_has_quorum",
        "1 while this node hears from a leader that has a quorum"
    );
    describe_gauge!(
        "flotilla_cluster_is_leader",
        "1 while this node leads the meta group"
    );
    describe_gauge!(
        "flotilla_cluster_peer_connected",
        "1 while the stream of Raft calls to the peer is open"
    );
    describe_gauge!(
        "flotilla_cluster_peer_rtt_seconds",
        "From the last answered Raft call to the peer until its answer, its sync to the disk included"
    );
    describe_gauge!(
        "flotilla_cluster_peer_queue_bytes",
        "Bytes of calls and messages to the peer that it has not answered"
    );
    describe_gauge!(
        "flotilla_cluster_peer_clock_skew_seconds",
        "How far the peer's clock is ahead of the cluster's time, which is that of most clocks; negative: behind"
    );
    describe_gauge!(
        "flotilla_cluster_info",
        "Always 1; the label says which cluster the node belongs to"
    );
    describe_gauge!("flotilla_cluster_shards_led", "Shards this node leads");
    describe_gauge!(
        "flotilla_cluster_shard_replicas",
        "Shards this node has a replica of"
    );
    describe_gauge!(
        "flotilla_replication_lag_entries",
        "Entries that the replica furthest behind lacks, of the groups this node leads"
    );
    describe_counter!(
        "flotilla_replication_leader_changes_total",
        "Changes of the leader of a group, as far as this node has seen them"
    );
    describe_histogram!(
        "flotilla_replication_commit_duration_seconds",
        "From the making of an entry on this node until it is committed and applied"
    );
    describe_histogram!(
        "flotilla_snapshot_duration_seconds",
        "Duration of writing a checkpoint of a group, of sending one to a peer until that has installed it, and of installing one \
         that came, by step"
    );
    describe_counter!(
        "flotilla_route_barrier_timeouts_total",
        "Times a subscription waited for another node in vain"
    );
    describe_counter!(
        "flotilla_cluster_peers_refused_total",
        "Peers that were refused, since their certificate is not for the host of the node they said they were"
    );
    describe_gauge!(
        "flotilla_storage_log_size_bytes",
        "Bytes of the Raft log on the disk"
    );
    describe_gauge!(
        "flotilla_storage_state_size_bytes",
        "Bytes of the state store with the checkpoints on the disk; looked at every ten seconds"
    );
}
