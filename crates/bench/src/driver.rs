//! The life of a loaded connection: one task that writes a batch, reads a batch, answers it, and publishes what there is room for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mqtt_codec::{Acknowledgement, Packet, ReasonCode};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::client::Client;
use crate::oracle::Tracker;
use crate::publisher::Publisher;
use crate::stats::Stats;
use crate::subscriber::Subscriber;

/// What the connections are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Publish and receive.
    Load,
    /// Receive only, until all has come.
    Drain,
    /// Disconnect.
    Stop,
}

/// One connection with its roles.
#[derive(Debug)]
pub(crate) struct Driver {
    client: Client,
    stats: Arc<Stats>,
    publisher: Option<Publisher>,
    subscriber: Option<Subscriber>,
    ping: Option<Interval>,
}

/// What a connection has seen when it ends.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Why it ended before it was told to.
    pub(crate) error: Option<anyhow::Error>,
    /// The judges of the publishers it listened to, in their order.
    pub(crate) trackers: Vec<Tracker>,
    /// Messages from outside this run.
    pub(crate) unexpected: u64,
    /// Times the publisher stopped waiting for messages under way.
    pub(crate) given_up: u64,
}

impl Driver {
    /// Takes over a connection whose handshakes are done.
    pub(crate) fn new(
        client: Client,
        stats: Arc<Stats>,
        publisher: Option<Publisher>,
        subscriber: Option<Subscriber>,
    ) -> Self {
        let ping = (client.keep_alive() > 0).then(|| {
            let mut interval = tokio::time::interval(Duration::from_secs(u64::from(client.keep_alive())) / 2);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval.reset();
            interval
        });
        Self {
            client,
            stats,
            publisher,
            subscriber,
            ping,
        }
    }

    /// Runs until told to stop or until the connection fails.
    pub(crate) async fn run(mut self, mut stages: watch::Receiver<Stage>) -> Outcome {
        if let Some(publisher) = &mut self.publisher {
            publisher.window = publisher
                .window
                .min(publisher.unacknowledged_max(self.client.receive_maximum()));
        }
        let error = loop {
            let stage = *stages.borrow_and_update();
            if stage == Stage::Stop {
                break None;
            }
            if let Err(error) = self.run_stage(stage, &mut stages).await {
                break Some(error);
            }
        };
        let Self {
            client,
            publisher,
            subscriber,
            ..
        } = self;
        if error.is_none() {
            // The measurement is over; a broker that is gone by now is reported by whoever started it.
            let _ = tokio::time::timeout(Duration::from_secs(2), client.disconnect()).await;
        }
        let given_up = publisher.map_or(0, |publisher| publisher.given_up);
        let (trackers, unexpected) = subscriber
            .map(|subscriber| (subscriber.trackers, subscriber.unexpected))
            .unwrap_or_default();
        Outcome {
            error,
            trackers,
            unexpected,
            given_up,
        }
    }

    async fn run_stage(&mut self, stage: Stage, stages: &mut watch::Receiver<Stage>) -> anyhow::Result<()> {
        let mut changed = pin!(stages.changed());
        poll_fn(|context| {
            // The sender going away means the run was abandoned.
            if let Poll::Ready(result) = changed.as_mut().poll(context) {
                return Poll::Ready(result.context("the run was abandoned"));
            }
            self.poll_work(stage, context)
        })
        .await
    }

    /// Goes on until nothing is left to do, and then waits for whichever comes first.
    fn poll_work(&mut self, stage: Stage, context: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        loop {
            if let Poll::Ready(Err(error)) = self.client.poll_flush(context) {
                return Poll::Ready(Err(error.into()));
            }
            let mut has_worked = match self.client.poll_fill(context) {
                Poll::Ready(Ok(())) => match self.receive_batch() {
                    Ok(()) => true,
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => false,
            };
            if let (Some(publisher), Stage::Load) = (&mut self.publisher, stage) {
                has_worked |= publisher.publish(&mut self.client, &self.stats, context);
            }
            if let Err(error) = self.ping(context) {
                return Poll::Ready(Err(error));
            }
            if !has_worked && self.client.unwritten() == 0 {
                return Poll::Pending;
            }
            if !has_worked {
                // Bytes are left: either they leave now, or the socket is full and its readiness wakes this task.
                match self.client.poll_flush(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
    }

    fn receive_batch(&mut self) -> anyhow::Result<()> {
        let now_ns = self.stats.now_ns();
        while let Some(packet) = self.client.next_packet()? {
            self.receive(packet, now_ns)?;
        }
        if let Some(subscriber) = &mut self.subscriber {
            subscriber.report(&self.stats);
        }
        Ok(())
    }

    fn receive(&mut self, packet: Packet, now_ns: u64) -> anyhow::Result<()> {
        match packet {
            Packet::Publish(publish) => {
                let Some(subscriber) = &mut self.subscriber else {
                    bail!("a publisher received {publish:?}")
                };
                if let Some(answer) = subscriber.receive(&publish, now_ns)? {
                    self.client.queue(&answer)?;
                }
            }
            Packet::PubRel(release) => {
                if let Some(subscriber) = &mut self.subscriber {
                    subscriber.release(release.packet_id);
                }
                self.client.queue(&Packet::PubComp(Acknowledgement::new(
                    release.packet_id,
                    ReasonCode::Success,
                )))?;
            }
            Packet::PubRec(ack) if (ack.reason_code as u8) < 0x80 => {
                self.client.queue(&Packet::PubRel(Acknowledgement::new(
                    ack.packet_id,
                    ReasonCode::Success,
                )))?;
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                if let Some(publisher) = &self.publisher {
                    publisher.acknowledged(ack.packet_id);
                }
            }
            Packet::Disconnect(disconnect) => bail!("the broker disconnected: {:?}", disconnect.reason_code),
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, context: &mut Context<'_>) -> anyhow::Result<()> {
        while let Some(interval) = &mut self.ping
            && interval.poll_tick(context).is_ready()
        {
            self.client.queue(&Packet::PingReq)?;
        }
        Ok(())
    }
}
