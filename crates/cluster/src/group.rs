//! One Raft group on this node: started, elected, checkpointed, stopped.

use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, Raft, ServerState, SnapshotPolicy};
use storage::{GroupId, GroupLog};

use crate::StartError;
use crate::raft::{LogStore, Machine, Network, StateMachine, TypeConfig};

/// The longest a start or a checkpoint is waited for.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// A running group.
pub(crate) struct Group<M: Machine> {
    id: GroupId,
    pub(crate) raft: Raft<TypeConfig, StateMachine<M>>,
    pub(crate) machine: Arc<M>,
}

impl<M: Machine> Group<M> {
    /// Starts a group whose only voter is this node and returns when it leads and its log is replayed.
    pub(crate) async fn start(
        id: GroupId,
        node_id: u64,
        log: GroupLog,
        machine: Arc<M>,
    ) -> Result<Self, StartError> {
        let failed = |reason: String| StartError::Group { group: id, reason };
        let config = config(id).validate().map_err(|error| failed(error.to_string()))?;
        let state_machine = StateMachine(machine.clone());
        let raft = Raft::new(
            node_id,
            Arc::new(config),
            Network,
            LogStore::new(log),
            state_machine,
        )
        .await;
        let raft = raft.map_err(|error| failed(error.to_string()))?;
        if raft
            .is_initialized()
            .await
            .map_err(|error| failed(error.to_string()))?
        {
            // Nobody else can lead: there is no timeout to wait for.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| failed(error.to_string()))?;
        } else {
            let members = std::collections::BTreeMap::from([(node_id, BasicNode::default())]);
            raft.initialize(members)
                .await
                .map_err(|error| failed(error.to_string()))?;
        }
        let wait = raft.wait(Some(WAIT_MAX));
        let leads = wait.metrics(
            |metrics| {
                metrics.state == ServerState::Leader
                    && metrics.last_applied.as_ref().map(|id| id.index) >= metrics.last_log_index
            },
            "this node leads and has applied its log",
        );
        leads.await.map_err(|error| failed(error.to_string()))?;
        Ok(Self { id, raft, machine })
    }

    /// Whether this node leads the group.
    pub(crate) fn leads(&self) -> bool {
        self.raft.is_leader()
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

fn config(id: GroupId) -> openraft::Config {
    openraft::Config {
        cluster_name: format!("group-{id}"),
        // A single voter has nobody to tell that it is alive and nobody to time out for: no timers, no idle cost.
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        heartbeat_interval: 300,
        election_timeout_min: 1500,
        election_timeout_max: 3000,
        enable_pre_vote: Some(true),
        // Checkpoints are asked for, and so are purges, which follow one checkpoint later.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}
