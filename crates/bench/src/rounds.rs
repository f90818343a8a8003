//! What one client does in each round of a cycle, and how long the part takes that is measured.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{Acknowledgement, Packet, Publication, QoS, ReasonCode, Unsubscribe};
use mqtt_topic::TopicName;

use crate::args::{Args, Scenario};
use crate::client::{Client, Identity, first_packet_id};
use crate::context::Context;
use crate::stream::Target;

/// No step of a round takes longer.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// One letter of the client identifiers.
pub(crate) const ROLE: char = 'c';

/// Whether the clients have sessions that stay.
pub(crate) fn are_persistent(args: &Args) -> bool {
    args.persistent || args.scenario == Scenario::Takeover
}

/// One client of the crowd.
pub(crate) struct Rounds {
    kind: Kind,
    /// One per address, in turn.
    targets: Vec<Target>,
    identity: Identity,
    topic: TopicName,
    payload: Bytes,
    turn: usize,
    /// The connection of the round before, where rounds share one or take it over.
    client: Option<Client>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Connect, subscribe, publish, receive, disconnect: all of it is measured.
    Visit,
    /// Connect at the next address while the connection before is open: from connecting to CONNACK.
    Takeover,
    /// Subscribe to a new filter: from SUBSCRIBE to SUBACK. It is unsubscribed afterwards.
    Subscribe,
}

impl Rounds {
    /// The client with this number.
    pub(crate) fn new(context: &Context, number: usize) -> Self {
        let topic = ByteString::from(format!("{}/{number}", context.root()));
        Self {
            kind: match context.args.scenario {
                Scenario::Takeover => Kind::Takeover,
                Scenario::Subscribe => Kind::Subscribe,
                _ => Kind::Visit,
            },
            targets: (0..context.args.address.len())
                .map(|turn| context.target(number + turn))
                .collect(),
            identity: Identity {
                read_size: 1024,
                ..context.identity(ROLE, number, are_persistent(&context.args))
            },
            topic: TopicName::parse(topic).expect("--prefix was checked with the arguments"),
            payload: Bytes::from(vec![b'.'; context.args.payload]),
            turn: 0,
            client: None,
        }
    }

    /// One round; how long its measured part took.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Duration> {
        self.turn += 1;
        match self.kind {
            Kind::Visit => self.visit().await,
            Kind::Takeover => self.take_over().await,
            Kind::Subscribe => self.subscribe().await,
        }
    }

    /// Says goodbye, if a connection is left.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        match self.client {
            Some(client) => client.disconnect().await,
            None => Ok(()),
        }
    }

    async fn visit(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut client = Client::connect(&self.targets[0], &self.identity).await?;
        client
            .subscribe(&[self.topic.as_str().to_owned()], QoS::AtLeastOnce)
            .await?;
        let publication = Publication::new(self.topic.clone(), self.payload.clone());
        client.queue_publish(&publication, QoS::AtLeastOnce, false, Some(first_packet_id()));
        client.flush().await?;
        tokio::time::timeout(STEP_TIMEOUT, await_both(&mut client))
            .await
            .context("the message did not come back")??;
        client.disconnect().await?;
        Ok(began.elapsed())
    }

    async fn take_over(&mut self) -> anyhow::Result<Duration> {
        let target = &self.targets[self.turn % self.targets.len()];
        let began = Instant::now();
        let client = Client::connect(target, &self.identity).await?;
        let took = began.elapsed();
        if self.client.replace(client).is_some() {
            let client = self.client.as_ref();
            ensure!(
                client.is_some_and(Client::session_present),
                "the session was not there any more"
            );
        }
        Ok(took)
    }

    async fn subscribe(&mut self) -> anyhow::Result<Duration> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.targets[0], &self.identity).await?,
        };
        let filter = format!("{}/{}", self.topic.as_str(), self.turn);
        let began = Instant::now();
        client
            .subscribe(std::slice::from_ref(&filter), QoS::AtLeastOnce)
            .await?;
        let took = began.elapsed();
        client
            .send(&Packet::Unsubscribe(Unsubscribe {
                packet_id: first_packet_id(),
                user_properties: Vec::new(),
                filters: vec![ByteString::from(filter)],
            }))
            .await?;
        match tokio::time::timeout(STEP_TIMEOUT, client.receive())
            .await
            .context("no answer to UNSUBSCRIBE")??
        {
            Packet::UnsubAck(_) => {}
            other => bail!("expected UNSUBACK, received {other:?}"),
        }
        self.client = Some(client);
        Ok(took)
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
