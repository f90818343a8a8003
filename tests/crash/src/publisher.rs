//! A client that publishes numbers with QoS 1 or 2 and, after each lost connection, goes on where the standard says.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::{Client, Message};
use mqtt_codec::{Packet, PacketId, ProtocolVersion, ReasonCode};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{Identity, Run, payload};

/// Messages under way at once; below every receive maximum.
const WINDOW: usize = 8;

/// One publisher of one topic.
pub struct Publisher {
    run: Run,
    identity: Identity,
    topic: String,
    qos: u8,
    next_number: u64,
    next_send: Instant,
    last_packet_id: u16,
    /// In the order of sending; kept over lost connections as a client has to. [MQTT-4.4.0-1]
    under_way: VecDeque<UnderWay>,
}

struct UnderWay {
    number: u64,
    packet_id: u16,
    /// QoS 2 after PUBREC: only PUBREL is sent again.
    released: bool,
}

impl Publisher {
    /// A publisher that has not connected yet.
    pub fn new(run: Run, version: ProtocolVersion, topic: &str, qos: u8) -> Self {
        let identity = Identity::new(&format!("publisher of {topic}"), version);
        let under_way = VecDeque::new();
        Publisher {
            run,
            identity,
            topic: topic.to_owned(),
            qos,
            next_number: 0,
            next_send: Instant::now(),
            last_packet_id: 0,
            under_way,
        }
    }

    /// Publishes until the run is over and everything sent is acknowledged.
    pub async fn run(mut self) {
        while self.connection().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connection(&mut self) -> Result<()> {
        let mut client = self.identity.connect(&self.run).await?;
        self.send_again(&mut client).await?;
        loop {
            if self.run.is_over() && self.under_way.is_empty() {
                return client.disconnect().await;
            }
            let now = Instant::now();
            if !self.run.is_over() && self.under_way.len() < WINDOW && now >= self.next_send {
                self.next_send = now + self.run.pause;
                self.send_next(&mut client).await?;
            }
            // Dropping the read half way loses nothing of the stream.
            if let Ok(packet) = timeout_at(now + self.run.pause, client.receive_packet()).await {
                self.handle(&mut client, packet?).await?;
            }
        }
    }

    async fn send_again(&mut self, client: &mut Client) -> Result<()> {
        for message in &self.under_way {
            if message.released {
                client.send_pubrel(id(message.packet_id)).await?;
            } else {
                self.run.history().sending(&self.topic, message.number);
                client
                    .send_publish(self.message(message.number, message.packet_id).dup())
                    .await?;
            }
        }
        Ok(())
    }

    async fn send_next(&mut self, client: &mut Client) -> Result<()> {
        let number = self.next_number;
        let packet_id = self.free_packet_id();
        self.next_number += 1;
        self.under_way.push_back(UnderWay {
            number,
            packet_id,
            released: false,
        });
        self.run.history().sending(&self.topic, number);
        client.send_publish(self.message(number, packet_id)).await?;
        Ok(())
    }

    fn message(&self, number: u64, packet_id: u16) -> Message {
        Message::new(&self.topic, payload::of_number(number))
            .qos(self.qos)
            .packet_id(packet_id)
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if self
                .under_way
                .iter()
                .all(|message| message.packet_id != self.last_packet_id)
            {
                return self.last_packet_id;
            }
        }
    }

    async fn handle(&mut self, client: &mut Client, packet: Packet) -> Result<()> {
        match packet {
            Packet::PubAck(ack) => self.acknowledged(ack.packet_id, ack.reason_code, true),
            Packet::PubRec(ack) => {
                self.acknowledged(ack.packet_id, ack.reason_code, false)?;
                client.send_pubrel(ack.packet_id).await
            }
            Packet::PubComp(ack) => {
                self.under_way
                    .retain(|message| message.packet_id != ack.packet_id.get());
                Ok(())
            }
            other => bail!("not for a publisher: {other:?}"),
        }
    }

    /// A refusal (no quorum, quota) is no acknowledgement: the connection is given up and the message sent again.
    fn acknowledged(&mut self, packet_id: PacketId, reason_code: ReasonCode, done: bool) -> Result<()> {
        ensure!((reason_code as u8) < 0x80, "refused: {reason_code:?}");
        let found = self
            .under_way
            .iter_mut()
            .find(|message| message.packet_id == packet_id.get());
        let Some(message) = found else { return Ok(()) };
        message.released = true;
        self.run.history().acknowledged(&self.topic, message.number);
        if done {
            self.under_way
                .retain(|message| message.packet_id != packet_id.get());
        }
        Ok(())
    }
}

fn id(packet_id: u16) -> PacketId {
    PacketId::new(packet_id).expect("packet ids count from 1")
}
