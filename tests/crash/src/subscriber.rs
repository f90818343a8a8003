//! A client with a session that outlives its connections, which writes down what it gets, and is away now and then.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::Client;
use mqtt_codec::{Packet, ProtocolVersion, Publish, QoS};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::oracle::Promise;
use crate::{Identity, Run, payload};

/// One subscriber of some topics.
pub struct Subscriber {
    run: Run,
    identity: Identity,
    /// Topic, QoS of the subscription, and what that promises.
    topics: Vec<(String, u8, Promise)>,
    /// Packet ids of QoS 2 messages whose PUBREL has not come. [MQTT-4.3.3-10]
    kept: BTreeSet<u16>,
    sleepy: bool,
    random: SmallRng,
}

impl Subscriber {
    /// A subscriber that has not connected yet. A sleepy one leaves and comes back by itself.
    pub fn new(
        run: Run,
        version: ProtocolVersion,
        name: &str,
        topics: &[(String, u8, Promise)],
        sleepy: bool,
    ) -> Self {
        let identity = Identity::new(name, version);
        let random = SmallRng::seed_from_u64(name.len() as u64);
        Subscriber {
            run,
            identity,
            topics: topics.to_vec(),
            kept: BTreeSet::new(),
            sleepy,
            random,
        }
    }

    /// Subscribes; an error unless everything is granted.
    pub async fn subscribe(&mut self) -> Result<()> {
        let mut client = self.identity.connect(&self.run).await?;
        for (topic, qos, promise) in &self.topics {
            let granted = client.subscribe(topic, *qos).await?;
            ensure!(granted as u8 == *qos, "{topic}: granted {granted:?}");
            self.run
                .history()
                .subscribed(&self.identity.client_id, topic, *promise);
        }
        self.identity.leaves();
        client.disconnect().await
    }

    /// Receives until told to stop.
    pub async fn run(mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            // A lost connection and a nap end alike: the next one goes on with the same session.
            if self.connection(&stop).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn connection(&mut self, stop: &watch::Receiver<bool>) -> Result<()> {
        let mut client = self.identity.connect(&self.run).await?;
        let leave_at = Instant::now() + Duration::from_millis(self.random.random_range(100..1000));
        while !*stop.borrow() {
            if self.sleepy && Instant::now() > leave_at && !self.run.is_over() {
                self.identity.leaves();
                drop(client);
                sleep(Duration::from_millis(self.random.random_range(50..500))).await;
                return Ok(());
            }
            if let Ok(packet) = timeout(Duration::from_millis(50), client.receive_packet()).await {
                self.handle(&mut client, packet?).await?;
            }
        }
        client.disconnect().await
    }

    async fn handle(&mut self, client: &mut Client, packet: Packet) -> Result<()> {
        match packet {
            Packet::Publish(publish) => self.publish(client, publish).await,
            Packet::PubRel(ack) => {
                self.kept.remove(&ack.packet_id.get());
                client.send_pubcomp(ack.packet_id).await
            }
            other => bail!("not for a subscriber: {other:?}"),
        }
    }

    async fn publish(&mut self, client: &mut Client, publish: Publish) -> Result<()> {
        let packet_id = publish.packet_id.context("QoS 1 and 2 have a packet id")?;
        let new = publish.qos != QoS::ExactlyOnce || self.kept.insert(packet_id.get());
        if new {
            let topic = publish.publication.topic().as_str();
            // A damaged payload has no number; this one was never sent.
            let number = payload::number_of(&publish.publication.payload()).unwrap_or(u64::MAX);
            self.run
                .history()
                .received(&self.identity.client_id, topic, number, publish.dup);
        }
        match publish.qos {
            QoS::ExactlyOnce => client.send_pubrec(packet_id).await,
            _ => client.send_puback(packet_id).await,
        }
    }
}
