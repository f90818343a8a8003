//! Retained messages: how fast they are stored, and how fast new subscribers of all of them are served.

use std::time::Instant;

use anyhow::ensure;
use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{Publication, QoS};
use mqtt_topic::TopicName;

use crate::client::first_packet_id;
use crate::context::Context;
use crate::fleet::{Fleet, PublishOptions, connect_all};
use crate::load::wait_until;
use crate::plan::{Plan, SubscriberPlan};
use crate::process;
use crate::report::{Phase, Report};

/// Store, read, remove.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Report> {
    let plan = plan(context);
    let options = PublishOptions {
        retain: true,
        numbered_topics: true,
        limit: Some(context.args.messages),
        ..PublishOptions::default()
    };
    let (broker_before, own_before) = (context.sample_broker()?, process::sample(std::process::id())?);

    let mut fleet = Fleet::new(context, &plan, options);
    let storing = Instant::now();
    fleet.start_publishers(context, &plan, options).await?;
    let is_stored = wait_until(context, || fleet.has_published(context.args.messages)).await;
    let stored = Phase::new("stored", fleet.published(), storing.elapsed());
    ensure!(
        is_stored,
        "the broker stopped taking messages after {}",
        fleet.published()
    );
    context.progress(|| format!("stored {} messages, {:.0}/s", stored.count, stored.per_second));
    if context.args.qos() == QoS::AtMostOnce {
        await_last_stored(context, &plan).await?;
    }

    let reading = Instant::now();
    let mut clients = connect_all(context, 's', false, vec![Vec::new(); plan.subscribers.len()]).await?;
    for (client, subscriber) in clients.iter_mut().zip(&plan.subscribers) {
        client.queue_subscribe(&subscriber.filters, context.args.qos(), first_packet_id())?;
    }
    fleet.drive_subscribers(context, clients, &plan.subscribers, options);
    wait_until(context, || fleet.has_all(&context.stats)).await;
    let read = Phase::new("read", context.stats.delivered(), reading.elapsed());
    let (broker_after, own_after) = (context.sample_broker()?, process::sample(std::process::id())?);

    let mut report = Report::new(&context.args);
    report.connections = plan.subscribers.len() + plan.topics.len();
    report.set_throughput(storing.elapsed(), fleet.published(), context.stats.delivered());
    report.broker = broker_before
        .zip(broker_after)
        .map(|(before, after)| Context::process_use(before, after, read.count));
    report.generator = Some(Context::process_use(own_before, own_after, read.count));
    report.phases = vec![stored, read];
    let mut report = report.with_verdict(fleet.stop(&plan).await?);
    // Retained messages of different topics have no order among each other.
    report.out_of_order = None;
    remove_all(context, &plan).await?;
    Ok(report)
}

fn plan(context: &Context) -> Plan {
    let root = context.root();
    let topics = (0..context.args.pairs)
        .map(|index| format!("{root}/{index}"))
        .collect();
    let subscriber = SubscriberPlan {
        filters: vec![format!("{root}/#")],
        sources: 0..context.args.pairs,
    };
    let receivers = u16::try_from(context.args.subscribers).expect("checked with the arguments");
    Plan {
        topics,
        subscribers: vec![subscriber; context.args.subscribers],
        receivers,
    }
}

/// With QoS 0 nothing says that the broker has the messages, so a reader of each publisher's last one asks for it.
async fn await_last_stored(context: &Context, plan: &Plan) -> anyhow::Result<()> {
    let last = context.args.messages.saturating_sub(1);
    let filters: Vec<_> = plan
        .topics
        .iter()
        .map(|topic| format!("{topic}/{last}"))
        .collect();
    let mut client = connect_all(context, 'r', false, vec![Vec::new()])
        .await?
        .remove(0);
    client.queue_subscribe(&filters, QoS::AtMostOnce, first_packet_id())?;
    client.flush().await?;
    let mut missing = filters.len();
    while missing > 0 {
        let packet = tokio::time::timeout(context.args.loss_timeout(), client.receive()).await;
        ensure!(packet.is_ok(), "the last retained messages were not stored");
        if let Ok(mqtt_codec::Packet::Publish(_)) = packet? {
            missing -= 1;
        }
    }
    client.disconnect().await
}

/// An empty retained message removes the one before it. [MQTT-3.3.1-6]
async fn remove_all(context: &Context, plan: &Plan) -> anyhow::Result<()> {
    let mut client = connect_all(context, 'r', false, vec![Vec::new()])
        .await?
        .remove(0);
    for topic in &plan.topics {
        for number in 0..context.args.messages {
            let topic = TopicName::parse(ByteString::from(format!("{topic}/{number}")))
                .expect("the same topic was published to");
            client.queue_publish(
                &Publication::new(topic, Bytes::new()),
                QoS::AtMostOnce,
                true,
                None,
            );
        }
        client.flush().await?;
    }
    client.disconnect().await
}
