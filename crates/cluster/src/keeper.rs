//! Checkpoints of a node's groups, when they are due.

use std::sync::Arc;
use std::time::Duration;

use storage::RaftLog;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::chance;
use crate::group::Group;
use crate::meta::Meta;
use crate::node::Inner;
use crate::shard::Shard;

/// Checkpoints one group after the other, so that their writes and syncs do not come all at once.
pub(crate) async fn run_checkpoints(inner: Arc<Inner>) {
    let config = &inner.config;
    let mut taken = Instant::now();
    let mut look = interval(config.checkpoint_interval.min(Duration::from_secs(1)));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            _ = look.tick() => {}
        }
        // A group that has ended would look as if it were there, and serve what it knew then for ever.
        let mut groups = inner.slots.iter().filter_map(|slot| slot.replica());
        let failure = groups.find_map(|group| group.failure());
        if let Some(reason) = failure.or_else(|| inner.meta.failure()) {
            inner.log.fail(&reason);
            return;
        }
        let all = taken.elapsed() >= config.checkpoint_interval;
        let mut purged = false;
        for replica in inner.slots.iter().filter_map(|slot| slot.replica()) {
            if all || replica.machine.log_bytes() >= config.checkpoint_log_bytes {
                checkpoint_shard(&replica).await;
                purged = true;
            }
        }
        if all {
            checkpoint_meta(&inner.meta).await;
            taken = Instant::now();
        }
        if purged {
            collect_garbage(inner.log.clone()).await;
        }
    }
}

/// Checkpoints every group once: before the node stops.
pub(crate) async fn checkpoint_all(inner: &Inner) {
    for replica in inner.slots.iter().filter_map(|slot| slot.replica()) {
        checkpoint_shard(&replica).await;
    }
    checkpoint_meta(&inner.meta).await;
}

async fn checkpoint_shard(group: &Group<Shard>) {
    match group.checkpoint().await {
        Ok(()) => group.purge(group.machine.purgeable()).await,
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
    match chance::blocking(move || log.collect_garbage()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(%error, "old files of the Raft log were not removed"),
        Err(error) => tracing::error!(%error, "removing old files of the Raft log failed"),
    }
}
