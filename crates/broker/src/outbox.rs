//! Messages the replicated state wants published: QoS 2 messages of durable publishers after their PUBREL, wills, and what
//! members of shared subscriptions have left behind.
//! Each is sent to all its destinations before it is marked done; who got it before ignores it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use access::Principal;
use cluster::proto::{OutboxDone, Publication, Retain, ShardCommand, ShardResponse, shard_command::Command};
use cluster::{Outboxed, ProposeError, ShardId};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use mqtt_codec::{QoS, ReasonCode};
use mqtt_topic::TopicName;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::author;
use crate::message::from_stored;
use crate::observer::OutboxSignal;
use crate::pass::Denied;
use crate::proposal::Settled;
use crate::publisher::{Outgoing, Publisher};
use crate::refusals::Refused;
use crate::shared::Shared;
use crate::sources::Source;

/// Messages under way together.
const BATCH: usize = 256;
/// Bytes of them, unless one alone has more.
const PART_BYTES_MAX: usize = 1 << 20;

/// A shard whose messages could not be stored waits this long.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

/// A node that stops waits so long for batches under way.
const FINISH_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Empties the outboxes of the shards this node leads for as long as the node runs. One that has to wait holds up no other.
pub(crate) async fn run(shared: Arc<Shared>, signal: Arc<OutboxSignal>) {
    let mut draining = FuturesUnordered::new();
    let mut busy: HashSet<ShardId> = HashSet::new();
    loop {
        for shard in signal.take(|shard| !busy.contains(&shard)) {
            busy.insert(shard);
            draining.push(empty(&shared, &signal, shard));
        }
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => break,
            Some(shard) = draining.next() => drop(busy.remove(&shard)),
            () = signal.notify.notified() => {}
        }
    }
    // The batches under way may come to their end. What is left, or cut off here, is sent by whoever leads the shard next;
    // those who have it already know it by its number.
    let rest = async { while draining.next().await.is_some() {} };
    let _ = tokio::time::timeout(FINISH_WITHIN, rest).await;
}

async fn empty(shared: &Arc<Shared>, signal: &OutboxSignal, shard: ShardId) -> ShardId {
    if let Err(error) = drain(shared, shard).await {
        warn!(shard, %error, "outbox waits: its messages could not be stored yet");
        tokio::select! {
            biased;
            () = tokio::time::sleep(RETRY_AFTER) => {}
            () = shared.stopping.cancelled() => {}
        }
        signal.set(shard);
    }
    shard
}

async fn drain(shared: &Arc<Shared>, shard: ShardId) -> Result<(), ProposeError> {
    loop {
        let messages = shared.cluster.outbox(shard, BATCH);
        let Some(last) = messages.last() else {
            return Ok(());
        };
        let up_to = last.number;
        // A retained message ends a part: it has to be stored before it is routed. So do many bytes, since a part is one entry.
        let mut part = Vec::new();
        let mut bytes = 0;
        for message in messages {
            // What a member of a shared subscription left behind was allowed when it came.
            if message.share.is_none() && !is_allowed(shared, &message) {
                continue;
            }
            // What a member has left behind was retained when it came, if at all.
            let size = message.publication.payload.len() + message.publication.properties.len();
            bytes += size;
            if bytes > PART_BYTES_MAX {
                send(shared, shard, &mut part).await?;
                bytes = size;
            }
            if message.publication.retain && message.share.is_none() {
                send(shared, shard, &mut part).await?;
                retain(shared, shard, message.number, &message.publication).await?;
            }
            part.push(message);
        }
        send(shared, shard, &mut part).await?;
        let done = ShardCommand {
            command: Some(Command::OutboxDone(OutboxDone { up_to })),
        };
        shared.cluster.request(shard, done).await?;
        shared.sources.done(shard, up_to);
        if shared.stopping.is_cancelled() {
            return Ok(());
        }
    }
}

/// A will may fire a day after its client left, under other rules.
fn is_allowed(shared: &Shared, message: &Outboxed) -> bool {
    let stored = &message.publication;
    if !shared.authenticator.has_rules() {
        return true;
    }
    let Ok(topic) = TopicName::parse(stored.topic.as_str().into()) else {
        return true;
    };
    let (tenant, client_id, topic) = shared.tenants.as_written(&stored.publisher, topic);
    let authenticator = &shared.authenticator;
    let (is_allowed, principal) = match message.author.as_deref().and_then(author::principal) {
        Some(principal) => {
            let permissions = authenticator.permissions(&principal);
            (
                permissions.is_none_or(|rules| rules.may_publish(&topic)),
                principal,
            )
        }
        // Of what has no author, or one of a version that did not say it, the session's user and its id are left; without a
        // session, there has been no time for rules to change.
        None => {
            let Some(session) = shared.cluster.session_info(&stored.publisher) else {
                return true;
            };
            // A name may have been claimed where nobody asked for a proof.
            let nobody = Principal {
                tenant,
                ..Principal::anonymous(client_id, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
            };
            let user = Principal {
                user: Some(session.user).filter(|user| !user.is_empty()),
                ..nobody.clone()
            };
            let might = |who| authenticator.might_publish(who, &topic);
            (might(&user) || might(&nobody), user)
        }
    };
    if !is_allowed {
        shared.metrics.denied(Denied::Will);
        let user = principal.user.unwrap_or_default();
        // Where it was connected from is not known of those without an author.
        let address = Some(principal.address.to_canonical()).filter(|address| !address.is_unspecified());
        let address = address.map(|address| address.to_string());
        if let Some(left_out) = shared.denials.line() {
            info!(target: "audit", event = "denied", action = Denied::Will.as_str(), topic = ?stored.topic,
                client_id = ?stored.publisher, ?user, address = address.as_ref().map(tracing::field::display), left_out);
        }
        shared.refused(Refused {
            action: Denied::Will.as_str(),
            client_id: stored.publisher.clone(),
            user,
            address: address.unwrap_or_default(),
            topic: stored.topic.clone(),
            reason_code: Some(ReasonCode::NotAuthorized),
            reason: "no rule allows it any more".to_owned(),
            ..Refused::connect()
        });
    }
    is_allowed
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

async fn send(shared: &Arc<Shared>, shard: ShardId, part: &mut Vec<Outboxed>) -> Result<(), ProposeError> {
    // The publisher's own name is part of the message: No Local and the hash of a share depend on it. But all of them go
    // by one lane, so that the numbers grow wherever they arrive.
    let lane: Arc<str> = format!("outbox {shard}").into();
    let mut publishers: HashMap<String, Publisher<()>> = HashMap::new();
    let mut outgoing = Outgoing::new();
    let mut previous: Option<String> = None;
    for Outboxed {
        number,
        publication: stored,
        share,
        author: _,
    } in part.drain(..)
    {
        let Some(message) = from_stored(&stored) else {
            continue;
        };
        // In order between publishers too: what one has pending leaves before the next one's.
        if previous
            .as_ref()
            .is_some_and(|previous| *previous != stored.publisher)
            && let Some(publisher) = previous.as_ref().and_then(|name| publishers.get_mut(name))
        {
            outgoing.append(publisher.flush(shared));
        }
        let publisher = publishers
            .entry(stored.publisher.clone())
            .or_insert_with(|| Publisher::in_lane(stored.publisher.as_str().into(), Arc::clone(&lane)));
        let source = Source { shard, number };
        let matched = match &share {
            None => publisher.publish(shared, message, (), Some(source)).matched,
            Some(share) => match shared.router.group(share) {
                Some(group) => {
                    publisher.publish_shared(shared, message, (), source, &group);
                    true
                }
                None => false,
            },
        };
        if !matched && stored.qos > QoS::AtMostOnce as u32 {
            shared.metrics.no_subscribers.increment(1);
        }
        previous = Some(stored.publisher);
    }
    if let Some(publisher) = previous.as_ref().and_then(|name| publishers.get_mut(name)) {
        outgoing.append(publisher.flush(shared));
    }
    for answer in dispatch(shared, &lane, outgoing) {
        answer.await.unwrap_or(Err(ProposeError::Stopping))?;
    }
    Ok(())
}

/// Sends a part: all that goes to one destination at once, so that it takes all of it or nothing. One that took a later
/// message and not an earlier one would take that for one it has, by its number. Each that has to answer has an answer.
fn dispatch(
    shared: &Arc<Shared>,
    lane: &Arc<str>,
    outgoing: Outgoing<()>,
) -> Vec<oneshot::Receiver<Result<(), ProposeError>>> {
    let Outgoing { proposals, forwards } = outgoing;
    let mut answers = Vec::new();
    for proposal in proposals {
        let (done, answer) = oneshot::channel();
        let (shared_later, mut fate) = (Arc::clone(shared), proposal.fate);
        let report = Box::new(move |result: Result<Vec<ShardResponse>, ProposeError>| {
            fate.settle(&shared_later, result, |settled| {
                let result =
                    settled.and_then(|Settled { handed_over, .. }| match handed_over as u8 >= 0x80 {
                        true => Err(ProposeError::Busy),
                        false => Ok(()),
                    });
                drop(done.send(result));
            });
        });
        shared
            .cluster
            .propose_batch(proposal.shard, proposal.commands, report);
        answers.push(answer);
    }
    for batch in forwards {
        let (done, answer) = oneshot::channel();
        if !batch.tickets.is_empty() {
            answers.push(answer);
        }
        batch.send(shared, lane, move |_, reason_code| {
            let failed = reason_code as u8 >= 0x80;
            let result = if failed { Err(ProposeError::Busy) } else { Ok(()) };
            drop(done.send(result));
        });
    }
    answers
}
