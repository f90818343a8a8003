//! Clients that come and go: connect, subscribe, publish with QoS 1, receive it, disconnect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{Acknowledgement, Packet, Publication, QoS, ReasonCode};
use mqtt_topic::TopicName;

use crate::client::{Client, Identity, first_packet_id};
use crate::context::Context;
use crate::process;
use crate::report::{Latency, Report};
use crate::stats::{Stats, new_histogram};
use crate::stream::Target;

/// No step of a cycle takes longer.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Cycles from as many clients at a time as there are connections.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Report> {
    let count = context.args.connections.unwrap_or(10);
    let stopping = Arc::new(AtomicBool::new(false));
    let tasks = (0..count).map(|number| {
        let visitor = Visitor::new(context, number);
        let (stats, stopping) = (context.stats.clone(), stopping.clone());
        context
            .workers
            .handle(number)
            .spawn(async move { visitor.come_and_go(&stats, &stopping).await })
    });
    let tasks: Vec<_> = tasks.collect();
    watch(context, Duration::from_secs_f64(context.args.warm_up), "warm-up").await?;

    let stats = &context.stats;
    let (broker_before, own_before) = (context.sample_broker()?, process::sample(std::process::id())?);
    let (cycles, began) = (stats.delivered(), Instant::now());
    let latencies = watch(context, Duration::from_secs_f64(context.args.seconds), "measured").await?;
    let cycles = stats.delivered() - cycles;
    let (broker_after, own_after) = (context.sample_broker()?, process::sample(std::process::id())?);

    stopping.store(true, Ordering::Relaxed);
    let mut report = Report::new(&context.args);
    report.connections = count;
    report.set_throughput(began.elapsed(), cycles, cycles);
    report.latency_us = Some(Latency::from_histogram(&latencies));
    report.broker = broker_before
        .zip(broker_after)
        .map(|(before, after)| Context::process_use(before, after, cycles));
    report.generator = Some(Context::process_use(own_before, own_after, cycles));
    for task in tasks {
        report
            .failures
            .extend(task.await?.err().map(|error| format!("{error:#}")));
    }
    report.failures.truncate(10);
    Ok(report)
}

async fn watch(
    context: &Context,
    length: Duration,
    name: &str,
) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    let (mut total, began) = (new_histogram(), Instant::now());
    context.stats.take_latencies();
    while began.elapsed() < length {
        let (cycles, tick_began) = (context.stats.delivered(), Instant::now());
        tokio::time::sleep(Duration::from_secs(1).min(length.saturating_sub(began.elapsed()))).await;
        let latencies = context.stats.take_latencies();
        total.add(&latencies)?;
        let per_second = (context.stats.delivered() - cycles) as f64 / tick_began.elapsed().as_secs_f64();
        context.progress(|| {
            let p99 = latencies.value_at_quantile(0.99) as f64 / 1e6;
            format!(
                "{name} {:5.1} s: {per_second:7.0} cycles/s, p99 {p99:.3} ms",
                began.elapsed().as_secs_f64()
            )
        });
    }
    Ok(total)
}

/// One client of the crowd.
struct Visitor {
    target: Target,
    identity: Identity,
    topic: TopicName,
    payload: Bytes,
}

impl Visitor {
    fn new(context: &Context, number: usize) -> Self {
        let topic = ByteString::from(format!("{}/{number}", context.root()));
        Self {
            target: context.target(number),
            identity: Identity {
                read_size: 1024,
                ..context.identity('c', number, false)
            },
            topic: TopicName::parse(topic).expect("--prefix was checked with the arguments"),
            payload: Bytes::from(vec![b'.'; context.args.payload]),
        }
    }

    async fn come_and_go(self, stats: &Stats, stopping: &AtomicBool) -> anyhow::Result<()> {
        while !stopping.load(Ordering::Relaxed) {
            let began = stats.now_ns();
            self.cycle().await?;
            stats.add_published(1);
            stats.add_delivered(&[stats.now_ns() - began]);
        }
        Ok(())
    }

    async fn cycle(&self) -> anyhow::Result<()> {
        let mut client = Client::connect(&self.target, &self.identity).await?;
        client
            .subscribe(&[self.topic.as_str().to_owned()], QoS::AtLeastOnce)
            .await?;
        let publication = Publication::new(self.topic.clone(), self.payload.clone());
        client.queue_publish(&publication, QoS::AtLeastOnce, false, Some(first_packet_id()));
        client.flush().await?;
        tokio::time::timeout(STEP_TIMEOUT, await_both(&mut client))
            .await
            .context("the message did not come back")??;
        client.disconnect().await
    }
}

/// Waits for the acknowledgement and the message itself, in whichever order they come.
async fn await_both(client: &mut Client) -> anyhow::Result<()> {
    let (mut acknowledged, mut received) = (false, false);
    while !(acknowledged && received) {
        match client.receive().await? {
            Packet::PubAck(_) => acknowledged = true,
            Packet::Publish(publish) => {
                received = true;
                let packet_id = publish
                    .packet_id
                    .context("a message with QoS 1 has a packet id")?;
                client
                    .send(&Packet::PubAck(Acknowledgement::new(
                        packet_id,
                        ReasonCode::Success,
                    )))
                    .await?;
            }
            other => bail!("expected PUBACK or PUBLISH, received {other:?}"),
        }
    }
    Ok(())
}
