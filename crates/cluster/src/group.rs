//! One Raft group on this node: started, elected, checkpointed, changed in its membership, stopped.

use openraft::async_runtime::WatchReceiver;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::error::Fatal;
use openraft::impls::BasicNode;
use openraft::raft::ReadPolicy;
use openraft::{ChangeMembers, Raft, ServerState, SnapshotPolicy};
use storage::{GroupId, GroupLog};
use tokio::time::timeout;

use crate::StartError;
use crate::config::Broken;
use crate::raft::{LogStore, Machine, Network, StateMachine, TypeConfig};

/// The longest a start or a checkpoint is waited for.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// The longest a change of the membership is waited for.
const CHANGE_MAX: Duration = Duration::from_secs(20);
/// Entries a replica may be behind the leader's last one to be worth leading, or voting.
const NEARLY: u64 = 64;

/// A little below two ticks: the second one sends it.
const HEARTBEAT_MS: u64 = 280;
/// Followers wait for the longest election timeout, which is also the leader's lease, and then for one of their own: a
/// leader that dies is followed by another after 1.3 to 1.6 seconds. With those of the meta group the others' leases have
/// to be renewed before they are over, or every node would fence itself when one dies.
const ELECTION_MIN_MS: u64 = 500;
const ELECTION_MAX_MS: u64 = 800;

/// A running group.
pub(crate) struct Group<M: Machine> {
    pub(crate) id: GroupId,
    node: u64,
    pub(crate) raft: Raft<TypeConfig, StateMachine<M>>,
    pub(crate) machine: Arc<M>,
}

/// Who has the group's log, as the last committed membership says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) voters: BTreeSet<u64>,
    pub(crate) learners: BTreeSet<u64>,
    /// A change is under way.
    pub(crate) is_joint: bool,
}

impl<M: Machine> Group<M> {
    /// Starts a replica, as it is on the disk.
    pub(crate) async fn start(
        id: GroupId,
        node: u64,
        log: GroupLog,
        machine: Arc<M>,
        network: Network,
        broken: Broken,
    ) -> Result<Self, StartError> {
        let failed = |reason: String| StartError::Group { group: id, reason };
        let config = config(id, broken)
            .validate()
            .map_err(|error| failed(error.to_string()))?;
        let state_machine = StateMachine(machine.clone());
        let raft = Raft::new(node, Arc::new(config), network, LogStore::new(log), state_machine).await;
        let raft = raft.map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            id,
            node,
            raft,
            machine,
        })
    }

    /// Why the group has ended, if nobody has stopped it.
    pub(crate) fn failure(&self) -> Option<String> {
        match &self.raft.metrics().borrow_watched().running_state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(failure) => Some(failure.to_string()),
        }
    }

    /// Whether this replica has neither a log nor a vote.
    pub(crate) async fn is_pristine(&self) -> Result<bool, StartError> {
        let initialized = self.raft.is_initialized().await;
        initialized.map(|is| !is).map_err(|error| self.failed(error))
    }

    /// Whether this replica has nothing of the log.
    pub(crate) fn is_empty(&self) -> bool {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().last_log_index.is_none()
    }

    /// Gives the group its first membership. All who do must name the same one.
    pub(crate) async fn initialize(&self, voters: BTreeMap<u64, String>) -> Result<(), StartError> {
        let members: BTreeMap<u64, BasicNode> = voters
            .into_iter()
            .map(|(id, address)| (id, BasicNode::new(address)))
            .collect();
        self.raft
            .initialize(members)
            .await
            .map_err(|error| self.failed(error))
    }

    /// The only voter leads at once: there is no timeout to wait for.
    pub(crate) async fn lead_if_alone(&self) -> Result<(), StartError> {
        if self.is_only_replica().await? && !self.leads() {
            let elected = self.raft.trigger().elect(false).await;
            elected.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Whether nobody else has the group's log. Asked of the group itself, since what it tells of itself may be late.
    pub(crate) async fn is_only_replica(&self) -> Result<bool, StartError> {
        let node = self.node;
        let asked = self.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective().membership();
            membership.nodes().map(|(id, _)| *id).eq([node])
        });
        asked.await.map_err(|error| self.failed(error))
    }

    /// Waits until this node leads and has applied its log.
    pub(crate) async fn wait_for_lead(&self) -> Result<(), StartError> {
        let wait = self.raft.wait(Some(WAIT_MAX));
        let leads = wait.metrics(
            |metrics| {
                metrics.state == ServerState::Leader
                    && metrics.last_applied.as_ref().map(|id| id.index) >= metrics.last_log_index
            },
            "this node leads and has applied its log",
        );
        leads.await.map(drop).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl ToString) -> StartError {
        StartError::Group {
            group: self.id,
            reason: error.to_string(),
        }
    }

    /// Whether this node leads the group, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// Whether it leads and has applied an entry of its own term, and with it all that was committed before.
    pub(crate) fn leads_surely(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let applied = metrics.last_applied.as_ref();
        metrics.state == ServerState::Leader
            && applied.is_some_and(|id| id.committed_leader_id().term == metrics.current_term)
    }

    /// Who leads, as far as this replica knows.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Time since a quorum last answered this leader; none when it does not lead.
    pub(crate) fn since_quorum(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return None;
        }
        if metrics.membership_config.membership().voter_ids().count() == 1 {
            return Some(Duration::ZERO);
        }
        metrics
            .last_quorum_acked
            .as_ref()
            .map(|acked| openraft::Instant::elapsed(&**acked))
    }

    /// The committed membership.
    pub(crate) fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        Members {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            is_joint: membership.get_joint_config().len() > 1
                || metrics.membership_config.log_id() != metrics.committed_membership_config.log_id(),
        }
    }

    /// Where the replicas are, as far as the membership says.
    pub(crate) fn addresses(&self) -> Vec<(u64, String)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes
            .filter(|(_, node)| !node.addr.is_empty())
            .map(|(id, node)| (*id, node.addr.clone()))
            .collect()
    }

    /// Whether a replica has nearly all of this leader's log.
    pub(crate) fn is_caught_up(&self, node: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(last) = metrics.last_log_index else {
            return true;
        };
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|replication| replication.get(&node));
        matched
            .and_then(Option::as_ref)
            .is_some_and(|id| id.index + NEARLY >= last)
    }

    /// Entries of this leader's log that the replica furthest behind lacks; none when it does not lead.
    pub(crate) fn lag(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let last = metrics.last_log_index?;
        let behind = replication
            .values()
            .map(|matched| last.saturating_sub(matched.as_ref().map_or(0, |id| id.index)));
        behind.max()
    }

    /// Adds a replica without a vote; it begins to catch up.
    pub(crate) async fn add_learner(&self, node: u64, address: &str) -> Result<(), String> {
        let adding = self.raft.add_learner(node, BasicNode::new(address), false);
        finished(adding).await
    }

    /// Makes exactly these the voters, all of whom are voters or learners already; the others leave the group.
    pub(crate) async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), String> {
        finished(
            self.raft
                .change_membership(ChangeMembers::ReplaceAllVoters(voters), false),
        )
        .await
    }

    /// Takes replicas without a vote out of the group.
    pub(crate) async fn remove_learners(&self, nodes: BTreeSet<u64>) -> Result<(), String> {
        finished(
            self.raft
                .change_membership(ChangeMembers::RemoveNodes(nodes), false),
        )
        .await
    }

    /// Makes these the voters and keeps the others as learners.
    pub(crate) async fn set_voters_retaining(&self, voters: BTreeSet<u64>) -> Result<(), String> {
        finished(
            self.raft
                .change_membership(ChangeMembers::ReplaceAllVoters(voters), true),
        )
        .await
    }

    /// What is committed now, once this leader is sure that it still leads.
    pub(crate) async fn read_index(&self) -> Result<u64, Option<u64>> {
        match self.raft.get_read_log_id(ReadPolicy::LeaseRead).await {
            Ok((read, _)) => Ok(read.index()),
            Err(error) => Err(error.forward_to_leader().and_then(|forward| forward.leader_id)),
        }
    }

    /// Waits until this replica has applied its log up to an index.
    pub(crate) async fn wait_applied(&self, index: u64, within: Duration) -> bool {
        if self.machine.applied_index() >= index {
            return true;
        }
        let wait = self.raft.wait(Some(within));
        wait.applied_index_at_least(Some(index), "a read index is applied")
            .await
            .is_ok()
    }

    /// Writes a checkpoint if something was applied since the last one; durable when this returns.
    pub(crate) async fn checkpoint(&self) -> Result<(), String> {
        let applied = self.machine.applied().log_id;
        let Some(target) = applied.as_ref().map(|id| id.index) else {
            return Ok(());
        };
        if self
            .machine
            .checkpointed()
            .and_then(|checkpointed| checkpointed.log_id)
            == applied
        {
            return Ok(());
        }
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|error| error.to_string())?;
        let wait = self.raft.wait(Some(WAIT_MAX));
        let taken = wait.metrics(
            |metrics| metrics.snapshot.as_ref().is_some_and(|id| id.index >= target),
            "the checkpoint is durable",
        );
        taken.await.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Lets the log go up to an index that the last checkpoint covers.
    pub(crate) async fn purge(&self, index: u64) {
        if index > 0
            && let Err(error) = self.raft.trigger().purge_log(index).await
        {
            tracing::warn!(%error, group = self.id, "the log was not purged");
        }
    }

    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, group = self.id, "the group did not stop in order");
        }
    }
}

async fn finished<T, E: ToString>(change: impl Future<Output = Result<T, E>>) -> Result<(), String> {
    match timeout(CHANGE_MAX, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the change of the membership takes too long".to_owned()),
    }
}

/// A leader sends entries to its followers while it writes them itself, so it may come back with less of its own term than
/// they have committed. It must not write on in that term: it has to be elected again, in a new one.
fn config(id: GroupId, broken: Broken) -> openraft::Config {
    openraft::Config {
        cluster_name: format!("group-{id}"),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        install_snapshot_timeout: 300_000,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(broken.leads_on),
        // Checkpoints are asked for, and so are purges, which follow one checkpoint later.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}
