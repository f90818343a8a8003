//! How a node without a cluster comes to belong to one: it joins a cluster that one of its seeds knows, or all seeds
//! together found one, exactly once.
//!
//! Only the node with the smallest address founds, only when every seed has answered and none has a log, and only after
//! each of them has written down that it belongs to the new cluster. A founder that has lost its disk since finds nodes
//! with a log and joins them, or finds that nobody ever had one.

use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::{AdoptRequest, HelloRequest, HelloResponse, Introduction, Member};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::node::Inner;
use crate::said::Said;
use crate::{StartError, chance};

/// The version of the protocol between nodes.
pub(crate) const PROTOCOL: u32 = 1;
const ASK_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// What a round of questions came to.
enum Found {
    /// A cluster to join, and members of it.
    Cluster(String),
    /// All seeds, this node among them, without a cluster.
    Everybody(BTreeMap<u64, Introduction>),
    /// Not yet, for this reason.
    Wait(String),
}

impl Inner {
    pub(crate) fn introduction(&self) -> Introduction {
        let peers = self.peer_config();
        let mut seeds = peers.map(|peers| peers.seeds.clone()).unwrap_or_default();
        seeds.sort();
        Introduction {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            cluster_id: self.cluster_id(),
            node: self.node_id,
            incarnation: self.incarnation(),
            name: self.config.name.clone(),
            address: peers.map(|peers| peers.advertise.clone()).unwrap_or_default(),
            seeds: seeds.join(","),
            founded: self.is_founded(),
            shards: u32::from(self.config.shards),
        }
    }

    /// Whether this node has a log of the meta group, or a vote in it.
    pub(crate) fn is_founded(&self) -> bool {
        if self.was_founded {
            return true;
        }
        let metrics = self.meta.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.last_log_index.is_some() || metrics.current_term > 0 || metrics.last_applied.is_some()
    }

    /// As a member describes itself.
    pub(crate) fn myself(&self) -> Member {
        Member {
            node: self.node_id,
            incarnation: self.incarnation(),
            name: self.config.name.clone(),
            address: self
                .peer_config()
                .map(|peers| peers.advertise.clone())
                .unwrap_or_default(),
            down: false,
            leaving: false,
            zone: self.config.zone.clone(),
        }
    }

    /// Founds a cluster of this node alone.
    pub(crate) async fn found_alone(&self) -> Result<(), StartError> {
        self.adopt_cluster(&draw_cluster_id())?;
        let address = self.myself().address;
        self.meta
            .initialize(BTreeMap::from([(self.node_id, address)]))
            .await
    }

    /// Writes down the cluster this node belongs to.
    pub(crate) fn adopt_cluster(&self, cluster_id: &str) -> Result<(), StartError> {
        let adopted = self.data_dir.lock().adopt(cluster_id);
        adopted.map_err(|error| StartError::Storage(error.to_string()))?;
        *self.cluster_id.lock() = cluster_id.to_owned();
        Ok(())
    }

    /// Looks for the cluster until this node has its log, or there is one to ask for it.
    pub(crate) async fn run_formation(self: Arc<Self>) {
        let mut said = Said::default();
        while !self.is_founded() && !self.is_stopping() {
            let reason = match self.look_around().await {
                Found::Cluster(cluster_id) => match self.adopt_cluster(&cluster_id) {
                    Ok(()) => {
                        info!(cluster_id, "found the cluster; joining it");
                        return;
                    }
                    Err(error) => error.to_string(),
                },
                Found::Everybody(everybody) => match self.found(everybody).await {
                    Ok(()) => return,
                    Err(reason) => reason,
                },
                Found::Wait(reason) => reason,
            };
            if said.is_news(&reason) {
                info!(reason, "no cluster yet");
            }
            sleep(PAUSE).await;
        }
    }

    async fn look_around(&self) -> Found {
        let (Some(config), Some(peers)) = (self.peer_config(), &self.peers) else {
            return Found::Wait("this node has no peers".to_owned());
        };
        let asking = config.seeds.iter().map(|seed| {
            let request = HelloRequest {
                introduction: Some(self.introduction()),
            };
            async move { (seed, peers.hello(seed, request, ASK_WITHIN).await) }
        });
        let me = self.introduction();
        let mut everybody = BTreeMap::from([(me.node, me.clone())]);
        let mut silent = Vec::new();
        for (seed, answer) in futures_util::future::join_all(asking).await {
            let Ok(HelloResponse {
                introduction: Some(other),
                meta_leader,
                members,
            }) = answer
            else {
                silent.push(seed.as_str());
                continue;
            };
            if other.node != self.node_id {
                peers.set_address(other.node, &other.address);
            }
            if other.founded && !other.cluster_id.is_empty() {
                for member in members.iter().filter(|member| member.node != self.node_id) {
                    peers.set_address(member.node, &member.address);
                }
                self.meta_hint.store(
                    if meta_leader != 0 { meta_leader } else { other.node },
                    std::sync::atomic::Ordering::Relaxed,
                );
                return Found::Cluster(other.cluster_id);
            }
            if other.seeds != me.seeds {
                return Found::Wait(format!(
                    "{seed} was configured with other seeds ({}) than this node ({}): they must agree",
                    other.seeds, me.seeds
                ));
            }
            if other.shards != me.shards {
                return Found::Wait(format!(
                    "{seed} is configured for {} shards, this node for {}: they must agree",
                    other.shards, me.shards
                ));
            }
            everybody.insert(other.node, other);
        }
        if !silent.is_empty() {
            return Found::Wait(format!("no answer from {}", silent.join(", ")));
        }
        if everybody.len() < config.expect {
            return Found::Wait(format!("{} of {} nodes are here", everybody.len(), config.expect));
        }
        Found::Everybody(everybody)
    }

    /// Everybody is here: the node with the smallest address founds the cluster.
    async fn found(&self, everybody: BTreeMap<u64, Introduction>) -> Result<(), String> {
        let founder = everybody.values().map(|one| (&one.address, one.node)).min();
        if founder.map(|(_, node)| node) != Some(self.node_id) {
            return Err("the node with the smallest address founds the cluster".to_owned());
        }
        let Some(peers) = &self.peers else {
            return Err("this node has no peers".to_owned());
        };
        let cluster_id = match self.cluster_id() {
            known if known.is_empty() => draw_cluster_id(),
            known => known,
        };
        self.adopt_cluster(&cluster_id)
            .map_err(|error| error.to_string())?;
        let request = AdoptRequest {
            cluster_id: cluster_id.clone(),
            shards: u32::from(self.config.shards),
            members: Vec::new(),
        };
        for other in everybody.values().filter(|other| other.node != self.node_id) {
            let answer = peers.adopt(&other.address, request.clone(), ASK_WITHIN).await;
            match answer {
                Ok(answer) if answer.accepted => {}
                Ok(answer) => return Err(format!("{} refused: {}", other.address, answer.reason)),
                Err(error) => return Err(format!("{}: {error}", other.address)),
            }
        }
        let voters = first_voters(
            everybody.len(),
            self.peer_config().map_or(5, |peers| peers.meta_voters_max),
        );
        // This node is one of them, whatever the order.
        let others = everybody.values().filter(|other| other.node != self.node_id);
        let voters: BTreeMap<u64, String> = std::iter::once((self.node_id, self.myself().address))
            .chain(others.map(|other| (other.node, other.address.clone())))
            .take(voters)
            .collect();
        info!(cluster_id, voters = voters.len(), "founding a cluster");
        self.meta
            .initialize(voters)
            .await
            .map_err(|error| error.to_string())
    }

    /// Another node founds: this one belongs to its cluster, unless it has a log already.
    pub(crate) fn judge_adoption(&self, request: &AdoptRequest) -> Result<(), String> {
        if self.is_founded() {
            return Err("this node has a cluster".to_owned());
        }
        if request.shards != u32::from(self.config.shards) {
            return Err("another number of shards".to_owned());
        }
        if self.peer_config().is_none_or(|peers| peers.seeds.is_empty()) {
            return Err("this node has no seeds: it is a cluster of its own".to_owned());
        }
        self.adopt_cluster(&request.cluster_id).map_err(|error| {
            warn!(%error, "the cluster's id was not written");
            error.to_string()
        })
    }
}

/// One voter has the whole say among two nodes; beyond that an odd number.
pub(crate) fn first_voters(nodes: usize, most: usize) -> usize {
    match nodes.min(most) {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// A name for a new cluster that no other has.
pub(crate) fn draw_cluster_id() -> String {
    format!("{:016x}{:016x}", chance::number(), chance::number())
}
