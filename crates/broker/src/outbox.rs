//! Messages the replicated state wants published: QoS 2 messages of durable publishers after their PUBREL, and wills.
//! Each is sent to all its destinations before it is marked done; a shard that got it before ignores it.

use std::sync::Arc;

use cluster::proto::{OutboxDone, Publication, Retain, ShardCommand, shard_command::Command};
use cluster::{ProposeError, ShardId};
use foldhash::{HashMap, HashMapExt};
use mqtt_codec::QoS;
use tracing::warn;

use crate::message::from_stored;
use crate::observer::OutboxSignal;
use crate::publisher::{Publisher, Source};
use crate::shared::Shared;

/// Messages under way together.
const BATCH: usize = 256;

/// Empties the outboxes of this node's shards for as long as the node runs.
pub(crate) async fn run(shared: Arc<Shared>, signal: Arc<OutboxSignal>) {
    loop {
        for shard in signal.take() {
            if let Err(error) = drain(&shared, shard).await {
                warn!(shard, %error, "outbox waits: its messages could not be stored yet");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                signal.set(shard);
            }
        }
        tokio::select! {
            () = signal.notify.notified() => {}
            () = shared.stopping.cancelled() => return,
        }
    }
}

async fn drain(shared: &Shared, shard: ShardId) -> Result<(), ProposeError> {
    loop {
        let messages = shared.cluster.outbox(shard, BATCH);
        let Some((last, _)) = messages.last() else {
            return Ok(());
        };
        let up_to = *last;
        // A retained message ends a part: it has to be stored before it is routed.
        let mut part = Vec::new();
        for (number, stored) in messages {
            if stored.retain {
                send(shared, shard, &mut part).await?;
                retain(shared, shard, number, &stored).await?;
            }
            part.push((number, stored));
        }
        send(shared, shard, &mut part).await?;
        let done = ShardCommand {
            command: Some(Command::OutboxDone(OutboxDone { up_to })),
        };
        shared.cluster.request(shard, done).await?;
    }
}

async fn retain(
    shared: &Shared,
    shard: ShardId,
    number: u64,
    stored: &Publication,
) -> Result<(), ProposeError> {
    let destination = shared.cluster.shard_of_topic(&stored.topic);
    let retain = Retain {
        publication: Some(stored.clone()),
        source_shard: Some(u32::from(shard)),
        source_number: number << 16,
    };
    shared
        .cluster
        .request(
            destination,
            ShardCommand {
                command: Some(Command::Retain(retain)),
            },
        )
        .await?;
    Ok(())
}

async fn send(
    shared: &Shared,
    shard: ShardId,
    part: &mut Vec<(u64, Publication)>,
) -> Result<(), ProposeError> {
    // The publisher's own name is part of the message: No Local and the hash of a share depend on it.
    let mut publishers: HashMap<String, Publisher<()>> = HashMap::new();
    let mut proposals = Vec::new();
    let mut previous: Option<String> = None;
    for (number, stored) in part.drain(..) {
        let Some(message) = from_stored(&stored) else {
            continue;
        };
        // In order between publishers too: what one has pending leaves before the next one's.
        if previous
            .as_ref()
            .is_some_and(|previous| *previous != stored.publisher)
            && let Some(publisher) = previous.as_ref().and_then(|name| publishers.get_mut(name))
        {
            proposals.extend(publisher.flush(shared));
        }
        let connection = shared
            .registry
            .get(&stored.publisher)
            .map_or(0, |connected| connected.mailbox.id);
        let publisher = publishers
            .entry(stored.publisher.clone())
            .or_insert_with(|| Publisher::new(stored.publisher.as_str().into(), connection));
        let routed = publisher.publish(shared, message, (), Some(Source { shard, number }));
        if !routed.matched && stored.qos > QoS::AtMostOnce as u32 {
            shared.metrics.no_subscribers.increment(1);
        }
        previous = Some(stored.publisher);
    }
    if let Some(publisher) = previous.as_ref().and_then(|name| publishers.get_mut(name)) {
        proposals.extend(publisher.flush(shared));
    }
    let mut waiting = Vec::with_capacity(proposals.len());
    for proposal in proposals {
        let (done, answer) = tokio::sync::oneshot::channel();
        let report = Box::new(move |result: Result<_, _>| drop(done.send(result.map(drop))));
        shared
            .cluster
            .propose_batch(proposal.shard, proposal.commands, report);
        waiting.push(answer);
    }
    for answer in waiting {
        answer.await.unwrap_or(Err(ProposeError::Stopping))?;
    }
    Ok(())
}
