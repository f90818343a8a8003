//! A subscriber with a persistent session that goes to the next address whenever its connection ends, and a publisher at the
//! last address: how long after the end of a connection the next message comes. Who ends a node meanwhile is somebody else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{Acknowledgement, Packet, Publication, QoS, ReasonCode};
use mqtt_topic::TopicName;

use crate::client::{Client, Identity, first_packet_id};
use crate::context::Context;
use crate::oracle::{Arrival, Tracker};
use crate::payload::Head;
use crate::report::{Latency, Report};
use crate::stats::new_histogram;
use crate::stream::Target;

/// Messages per second, unless something else is asked for.
const RATE: f64 = 50.0;
/// An address that does not answer is left for the next one after this.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

/// What the subscriber has seen.
#[derive(Default)]
struct Seen {
    arrivals: Tracker,
    /// From the end of a connection to the next new message.
    gaps: Vec<Duration>,
}

pub(crate) async fn run(context: &Context) -> anyhow::Result<Report> {
    let count = context.args.address.len();
    let topic = TopicName::parse(ByteString::from(format!("{}/0", context.root())))?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let targets: Vec<Target> = (0..count).map(|number| context.target(number)).collect();

    let identity = context.identity('s', 0, true);
    let mut first = Client::connect(&targets[0], &identity).await?;
    first
        .subscribe(&[topic.as_str().to_owned()], QoS::AtLeastOnce)
        .await?;
    let subscriber = tokio::spawn(follow(first, targets.clone(), identity, seen.clone()));

    let length = Duration::from_secs_f64(context.args.warm_up + context.args.seconds);
    let interval = Duration::from_secs_f64(1.0 / context.args.rate.unwrap_or(RATE));
    let mut publisher = Client::connect(&targets[count - 1], &context.identity('p', 0, false)).await?;
    let (began, mut published) = (Instant::now(), 0);
    while began.elapsed() < length {
        let sent = publish(context, &mut publisher, &topic, published).await;
        sent.context("the publisher, at the last address")?;
        published += 1;
        tokio::time::sleep(interval).await;
    }
    let elapsed = began.elapsed();
    let waited = Instant::now();
    while look(&seen).arrivals.lost(published) > 0 && waited.elapsed() < context.args.loss_timeout() {
        tokio::time::sleep(PAUSE).await;
    }
    ensure!(!subscriber.is_finished(), "the subscriber gave up");
    subscriber.abort();
    // Ended elsewhere: this is where nobody goes on with it.
    drop(subscriber.await);
    publisher.disconnect().await?;
    for target in targets.iter().rev() {
        if let Ok(client) = Client::connect(target, &context.identity('s', 0, false)).await {
            client.disconnect().await?;
            break;
        }
    }

    let seen = look(&seen);
    let mut report = Report::new(&context.args);
    report.connections = 2;
    report.persistent = true;
    report.lost = seen.arrivals.lost(published);
    report.delivered_in_all = published - report.lost;
    report.set_throughput(elapsed, published, report.delivered_in_all);
    let mut gaps = new_histogram();
    for gap in &seen.gaps {
        gaps.record(gap.as_nanos() as u64)?;
    }
    report.latency_us = (!seen.gaps.is_empty()).then(|| Latency::from_histogram(&gaps));
    Ok(report)
}

fn look(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes and waits for the acknowledgement.
async fn publish(
    context: &Context,
    publisher: &mut Client,
    topic: &TopicName,
    number: u64,
) -> anyhow::Result<()> {
    let head = Head {
        source: 0,
        sequence: number,
        sent_ns: context.stats.now_ns(),
    };
    let mut payload = head.to_bytes().to_vec();
    payload.resize(context.args.payload, b'.');
    let publication = Publication::new(topic.clone(), Bytes::from(payload));
    publisher.queue_publish(&publication, QoS::AtLeastOnce, false, Some(first_packet_id()));
    publisher.flush().await?;
    let answer = tokio::time::timeout(context.args.loss_timeout(), publisher.receive());
    match answer.await.context("no answer to PUBLISH")?? {
        Packet::PubAck(ack) if (ack.reason_code as u8) < 0x80 => Ok(()),
        other => anyhow::bail!("expected PUBACK, received {other:?}"),
    }
}

/// Receives and acknowledges for ever, at one address after the other.
async fn follow(mut client: Client, targets: Vec<Target>, identity: Identity, seen: Arc<Mutex<Seen>>) {
    let mut ended: Option<Instant> = None;
    for target in targets.iter().cycle().skip(1) {
        // Whatever ends the connection, the next address is tried.
        let _ = receive(&mut client, &seen, &mut ended).await;
        ended.get_or_insert_with(Instant::now);
        let connecting = tokio::time::timeout(CONNECT_WITHIN, Client::connect(target, &identity));
        if let Ok(Ok(connected)) = connecting.await {
            client = connected;
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn receive(client: &mut Client, seen: &Mutex<Seen>, ended: &mut Option<Instant>) -> anyhow::Result<()> {
    loop {
        let Packet::Publish(publish) = client.receive().await? else {
            continue;
        };
        if let Some(head) = Head::read(&publish.publication.payload()) {
            let mut seen = look(seen);
            if seen.arrivals.arrived(head.sequence) == Arrival::New {
                seen.gaps.extend(ended.take().map(|ended| ended.elapsed()));
            }
        }
        if let Some(packet_id) = publish.packet_id {
            let ack = Acknowledgement::new(packet_id, ReasonCode::Success);
            client.send(&Packet::PubAck(ack)).await?;
        }
    }
}
