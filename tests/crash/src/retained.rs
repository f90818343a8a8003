//! A client that writes retained numbers, one at a time, and one that looks what is there after a crash.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::ProtocolVersion;
use tokio::time::sleep;

use crate::{Identity, Run, payload};

/// Writes the same topics in turn until the run is over.
pub struct RetainedWriter {
    run: Run,
    identity: Identity,
    topics: Vec<String>,
    next_number: u64,
}

impl RetainedWriter {
    /// A writer that has not connected yet.
    pub fn new(run: Run, topics: &[String]) -> Self {
        let identity = Identity::new("writer of retained messages", ProtocolVersion::V5);
        RetainedWriter {
            run,
            identity,
            topics: topics.to_vec(),
            next_number: 0,
        }
    }

    /// Writes until the run is over. A write whose acknowledgement was lost is not repeated.
    pub async fn run(mut self) {
        while !self.run.is_over() {
            if self.connection().await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn connection(&mut self) -> Result<()> {
        let mut client = self.identity.connect(&self.run).await?;
        while !self.run.is_over() {
            let number = self.next_number;
            self.next_number += 1;
            for (topic, qos) in self.topics.iter().zip([1, 2].into_iter().cycle()) {
                self.run.history().retaining(topic, number);
                let message = Message::new(topic, payload::of_number(number)).qos(qos).retain();
                let reason_code = client.publish(message).await?;
                if (reason_code as u8) < 0x80 {
                    self.run.history().retained(topic, number);
                }
            }
            sleep(self.run.pause * 5).await;
        }
        client.disconnect().await
    }
}

/// What a client that has never been here finds retained under a topic.
pub async fn look(address: SocketAddr, topic: &str) -> Result<Option<u64>> {
    look_on(Client::open(address).await?, topic).await
}

/// As `look`, on a connection on which nothing has been sent.
pub async fn look_on(mut client: Client, topic: &str) -> Result<Option<u64>> {
    client.handshake(ConnectOptions::v5("looker")).await?;
    client.subscribe(topic, 0).await?;
    // What is retained comes right behind the SUBACK.
    let found = client.receive_all().await?;
    let number = match found.first() {
        Some(publish) => {
            Some(payload::number_of(&publish.publication.payload()).context("a damaged payload")?)
        }
        None => None,
    };
    client.disconnect().await?;
    Ok(number)
}
