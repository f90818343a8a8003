//! rumqttc against a running broker, MQTT 5.0: over TCP and TLS.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clients::{Reach, broker};
use harness::Broker;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWill, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn rumqttc_speaks_mqtt_5_over_tcp() -> Result<()> {
    all_stories(Reach::Tcp).await
}

#[tokio::test]
async fn rumqttc_speaks_mqtt_5_over_tls() -> Result<()> {
    all_stories(Reach::Tls).await
}

async fn all_stories(reach: Reach) -> Result<()> {
    let broker = broker()?;
    every_qos_arrives(&broker, reach)
        .await
        .context("every QoS arrives")?;
    a_retained_message_meets_who_comes_later(&broker, reach)
        .await
        .context("retained")?;
    a_will_follows_a_lost_connection(&broker, reach)
        .await
        .context("will")?;
    a_session_keeps_what_was_missed(&broker, reach)
        .await
        .context("session")
}

async fn every_qos_arrives(broker: &Broker, reach: Reach) -> Result<()> {
    let mut reader = Peer::connect(options(broker, reach, "reader")?).await?;
    let mut writer = Peer::connect(options(broker, reach, "writer")?).await?;
    reader.subscribe("news/#").await?;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        writer.publish("news/today", qos, false, "text").await?;
        let got = reader.message().await?;
        ensure!(
            (got.qos, got.retain, &got.payload[..]) == (qos, false, b"text"),
            "{got:?}"
        );
    }
    Ok(())
}

async fn a_retained_message_meets_who_comes_later(broker: &Broker, reach: Reach) -> Result<()> {
    let mut writer = Peer::connect(options(broker, reach, "writer")?).await?;
    writer.publish("state", QoS::AtLeastOnce, true, "old").await?;
    writer.publish("state", QoS::ExactlyOnce, true, "new").await?;
    let mut reader = Peer::connect(options(broker, reach, "reader")?).await?;
    reader.subscribe("state").await?;
    let got = reader.message().await?;
    ensure!(got.retain && &got.payload[..] == b"new", "{got:?}");
    Ok(())
}

async fn a_will_follows_a_lost_connection(broker: &Broker, reach: Reach) -> Result<()> {
    let mut watcher = Peer::connect(options(broker, reach, "watcher")?).await?;
    watcher.subscribe("wills/#").await?;
    let mut doomed = options(broker, reach, "doomed")?;
    doomed.set_last_will(LastWill::new(
        "wills/doomed",
        "gone",
        QoS::AtLeastOnce,
        false,
        None,
    ));
    drop(Peer::connect(doomed).await?);
    let got = watcher.message().await?;
    ensure!(
        (got.qos, &got.payload[..]) == (QoS::AtLeastOnce, b"gone"),
        "{got:?}"
    );
    Ok(())
}

async fn a_session_keeps_what_was_missed(broker: &Broker, reach: Reach) -> Result<()> {
    let mut sleeper = Peer::connect(persistent(broker, reach)?).await?;
    ensure!(!sleeper.session_present);
    sleeper.subscribe("queue").await?;
    drop(sleeper);
    let mut writer = Peer::connect(options(broker, reach, "writer")?).await?;
    for number in 0..20u8 {
        let qos = if number < 10 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        writer.publish("queue", qos, false, [number]).await?;
    }
    let mut sleeper = Peer::connect(persistent(broker, reach)?).await?;
    ensure!(sleeper.session_present, "the session is resumed");
    for number in 0..20u8 {
        let got = sleeper.message().await?;
        ensure!(got.payload[..] == [number], "message {number}: {got:?}");
    }
    Ok(())
}

fn options(broker: &Broker, reach: Reach, name: &str) -> Result<MqttOptions> {
    let mut options = MqttOptions::new(name, "localhost", reach.port(broker));
    options.set_keep_alive(Duration::from_secs(30));
    if let Some(certificate) = reach.trusted(broker) {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let ca = std::fs::read(certificate)?;
        let trusting = TlsConfiguration::Simple {
            ca,
            alpn: None,
            client_auth: None,
        };
        options.set_transport(Transport::tls_with_config(trusting));
    }
    Ok(options)
}

fn persistent(broker: &Broker, reach: Reach) -> Result<MqttOptions> {
    let mut options = options(broker, reach, "sleeper")?;
    options.set_clean_start(false);
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(3600);
    options.set_connect_properties(properties);
    Ok(options)
}

/// A connection that is driven only while something is awaited. Dropping it loses the connection.
struct Peer {
    client: AsyncClient,
    events: EventLoop,
    session_present: bool,
    early: Vec<Publish>,
}

impl Peer {
    async fn connect(options: MqttOptions) -> Result<Self> {
        let (client, events) = AsyncClient::new(options, 100);
        let mut peer = Peer {
            client,
            events,
            session_present: false,
            early: Vec::new(),
        };
        match peer
            .until("CONNACK", |event| {
                matches!(event, Event::Incoming(Packet::ConnAck(_)))
            })
            .await?
        {
            Event::Incoming(Packet::ConnAck(connack)) => peer.session_present = connack.session_present,
            other => anyhow::bail!("{other:?}"),
        }
        Ok(peer)
    }

    async fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.client.subscribe(filter, QoS::ExactlyOnce).await?;
        self.until("SUBACK", |event| {
            matches!(event, Event::Incoming(Packet::SubAck(_)))
        })
        .await
        .map(drop)
    }

    async fn publish(
        &mut self,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: impl Into<Vec<u8>>,
    ) -> Result<()> {
        self.client.publish(topic, qos, retain, payload.into()).await?;
        let done = |event: &Event| match qos {
            QoS::AtMostOnce => matches!(event, Event::Outgoing(Outgoing::Publish(_))),
            QoS::AtLeastOnce => matches!(event, Event::Incoming(Packet::PubAck(_))),
            QoS::ExactlyOnce => matches!(event, Event::Incoming(Packet::PubComp(_))),
        };
        self.until("acknowledgement", done).await.map(drop)
    }

    /// The next message; its acknowledgement is on its way when the one after is awaited.
    async fn message(&mut self) -> Result<Publish> {
        if !self.early.is_empty() {
            return Ok(self.early.remove(0));
        }
        match self
            .until("message", |event| {
                matches!(event, Event::Incoming(Packet::Publish(_)))
            })
            .await?
        {
            Event::Incoming(Packet::Publish(publish)) => Ok(publish),
            other => anyhow::bail!("{other:?}"),
        }
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        loop {
            let event = timeout(LIMIT, self.events.poll())
                .await
                .with_context(|| format!("no {what}"))??;
            match event {
                event if wanted(&event) => return Ok(event),
                Event::Incoming(Packet::Publish(publish)) => self.early.push(publish),
                _ => {}
            }
        }
    }
}
