//! The background work of a node's groups: checkpoints when they are due, ticks when a deadline has passed.

use std::sync::Arc;
use std::time::Duration;

use cluster_proto::{ShardCommand, Tick, shard_command::Command};
use storage::RaftLog;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::group::Group;
use crate::meta::Meta;
use crate::proposer::Proposer;
use crate::shard::Shard;
use crate::{Clock, Config};

/// A shard group with the queue of its proposals.
pub(crate) struct ShardGroup {
    pub(crate) group: Group<Shard>,
    pub(crate) proposer: Arc<Proposer>,
}

/// Proposes the passing of time to shards in which something is due, each second.
pub(crate) async fn run_ticks(
    shards: Arc<[ShardGroup]>,
    clock: Arc<dyn Clock>,
    mut stop: watch::Receiver<bool>,
) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            _ = seconds.tick() => {}
        }
        let now_ms = clock.now_ms();
        for shard in shards.iter() {
            let due = shard.group.machine.read(|state| state.next_deadline_ms());
            if due.is_some_and(|due| due <= now_ms) {
                let tick = ShardCommand {
                    command: Some(Command::Tick(Tick {})),
                };
                // When it is refused, the next second tries again.
                shard.proposer.propose(vec![tick], Box::new(|_| ()));
            }
        }
    }
}

/// Checkpoints one group after the other, so that their writes and syncs do not come all at once.
pub(crate) async fn run_checkpoints(
    meta: Arc<Group<Meta>>,
    shards: Arc<[ShardGroup]>,
    log: Arc<RaftLog>,
    config: Config,
    mut stop: watch::Receiver<bool>,
) {
    let mut taken = Instant::now();
    let mut look = interval(config.checkpoint_interval.min(Duration::from_secs(1)));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            _ = look.tick() => {}
        }
        let all = taken.elapsed() >= config.checkpoint_interval;
        let mut purged = false;
        for shard in shards.iter() {
            if all || shard.group.machine.log_bytes() >= config.checkpoint_log_bytes {
                checkpoint_shard(shard).await;
                purged = true;
            }
        }
        if all {
            checkpoint_meta(&meta).await;
            taken = Instant::now();
        }
        if purged {
            collect_garbage(log.clone()).await;
        }
    }
}

/// Checkpoints every group once: before the node stops.
pub(crate) async fn checkpoint_all(meta: &Group<Meta>, shards: &[ShardGroup]) {
    for shard in shards {
        checkpoint_shard(shard).await;
    }
    checkpoint_meta(meta).await;
}

async fn checkpoint_shard(shard: &ShardGroup) {
    match shard.group.checkpoint().await {
        Ok(()) => shard.group.purge(shard.group.machine.purgeable()).await,
        Err(error) => tracing::error!(error, "a shard's checkpoint failed"),
    }
}

async fn checkpoint_meta(meta: &Group<Meta>) {
    match meta.checkpoint().await {
        Ok(()) => meta.purge(meta.machine.purgeable()).await,
        Err(error) => tracing::error!(error, "the meta group's checkpoint failed"),
    }
}

async fn collect_garbage(log: Arc<RaftLog>) {
    match tokio::task::spawn_blocking(move || log.collect_garbage()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(%error, "old files of the Raft log were not removed"),
        Err(error) => tracing::error!(%error, "removing old files of the Raft log failed"),
    }
}
