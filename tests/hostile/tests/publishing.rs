//! Publishers who want more than they are granted: topics, aliases, properties, packet ids, retained messages.

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message};
use hostile::Scene;
use mqtt_codec::{Packet, PacketId, ReasonCode};

async fn newcomer(scene: &Scene, options: ConnectOptions) -> Result<Client> {
    Client::connect(scene.broker.mqtt_addr(), options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_deeper_or_longer_than_allowed_end_their_connection() -> Result<()> {
    let scene = Scene::begin("").await?;
    for topic in [["a"; 129].join("/"), "/".repeat(65_000), "x".repeat(1025)] {
        let mut client = newcomer(&scene, ConnectOptions::v5("deep")).await?;
        client.send_publish(Message::new(&topic, "x").qos(1)).await?;
        client.drain_until_closed().await?;
        let mut client = newcomer(&scene, ConnectOptions::v5("deep")).await?;
        let refused = client.subscribe(&topic, 0).await;
        ensure!(
            !refused.is_ok_and(|code| (code as u8) < 0x80),
            "a filter of {} bytes",
            topic.len()
        );
    }
    let mut client = newcomer(&scene, ConnectOptions::v5("deep")).await?;
    ensure!(
        client
            .publish(Message::new(&["a"; 128].join("/"), "x").qos(1))
            .await?
            == ReasonCode::NoMatchingSubscribers
    );
    drop(client);
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aliases_and_properties_beyond_what_was_said_end_the_connection() -> Result<()> {
    let scene = Scene::begin("").await?;
    for round in 0..20 {
        let mut client = newcomer(&scene, ConnectOptions::v5("alias")).await?;
        client
            .send_publish(Message::new("a", "x").topic_alias(33 + round))
            .await?;
        client.expect_disconnect(ReasonCode::TopicAliasInvalid).await?;
        let mut client = newcomer(&scene, ConnectOptions::v5("properties")).await?;
        let many = (0..65).fold(Message::new("a", "x"), |message, _| {
            message.user_property("k", "v")
        });
        client.send_publish(many).await?;
        client.expect_disconnect(ReasonCode::QuotaExceeded).await?;
        let mut client = newcomer(&scene, ConnectOptions::v5("large")).await?;
        // The head of a packet of 200 MiB is enough.
        client.send_raw(&[0x30, 0x80, 0x80, 0x80, 0x64]).await?;
        client.expect_disconnect(ReasonCode::PacketTooLarge).await?;
    }
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packet_ids_that_are_never_released_are_counted_against_their_client() -> Result<()> {
    let mut scene = Scene::begin("").await?;
    let mut client = newcomer(&scene, ConnectOptions::v5("greedy")).await?;
    for id in 1..=33 {
        client
            .send_publish(Message::new("a", "x").qos(2).packet_id(id))
            .await?;
    }
    let refused = async {
        for _ in 1..=32 {
            ensure!(matches!(client.receive_packet().await?, Packet::PubRec(_)));
        }
        client.expect_disconnect(ReasonCode::ReceiveMaximumExceeded).await
    };
    refused.await?;
    // Before MQTT 5.0 there is no such number: every packet id may be begun, and costs what an id costs.
    let mut client = newcomer(&scene, ConnectOptions::v311("greedier")).await?;
    for part in 0..16_u16 {
        let ids = part * 1000 + 1..=part * 1000 + 1000;
        for id in ids.clone() {
            client
                .send_publish(Message::new("a", "x").qos(2).packet_id(id))
                .await?;
        }
        for id in ids {
            let id = PacketId::new(id).expect("counts from 1");
            client.expect_pubrec(id).await?;
        }
    }
    scene.serve_on().await?;
    drop(client);
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_bomb_ends_at_the_limit_and_its_readers_get_it_piece_by_piece() -> Result<()> {
    let mut scene = Scene::begin("[limits]\nretained_bytes_max = \"16MiB\"\n").await?;
    let mut bomber = newcomer(&scene, ConnectOptions::v5("bomber")).await?;
    let payload = vec![1; 96 * 1024];
    let mut refused = 0;
    for part in 0..40 {
        let mut sent = Vec::new();
        for number in 0..25 {
            let message = Message::new(&format!("bomb/{part}/{number}"), &payload);
            sent.push(bomber.send_publish(message.qos(1).retain()).await?);
        }
        for packet_id in sent.into_iter().flatten() {
            let code = bomber.expect_puback(packet_id).await?.reason_code;
            refused += usize::from(code == ReasonCode::QuotaExceeded);
        }
    }
    let retained = scene.metric("flotilla_rate_limited_total{kind=\"retained\"}")?;
    ensure!(
        refused > 700 && retained == refused as f64,
        "{refused} {retained}"
    );
    // What room is left is less than one of them: it is filled by smaller ones.
    let mut small = 0;
    while bomber
        .publish(Message::new(&format!("small/{small}"), [4; 1000]).qos(1).retain())
        .await?
        != ReasonCode::QuotaExceeded
    {
        small += 1;
        ensure!(small < 200, "there is no end of it");
    }
    let mut heir = Client::open(scene.broker.mqtt_addr()).await?;
    let will = Message::new("bomb/will", vec![3; 60_000]).retain();
    heir.send_connect(ConnectOptions::v5("heir").will(will)).await?;
    ensure!(heir.expect_connack().await?.reason_code == ReasonCode::QuotaExceeded);
    // What is there already may change, or go.
    let replaced = bomber
        .publish(Message::new("bomb/0/0", [2; 1000]).qos(1).retain())
        .await?;
    ensure!(replaced != ReasonCode::QuotaExceeded, "{replaced:?}");
    let removed = bomber
        .publish(Message::new("bomb/0/1", "").qos(1).retain())
        .await?;
    ensure!(removed != ReasonCode::QuotaExceeded, "{removed:?}");
    drop(bomber);
    // Its acknowledgement has no word for it.
    let mut old = newcomer(&scene, ConnectOptions::v311("old")).await?;
    old.send_publish(Message::new("bomb/old", &payload).qos(1).retain())
        .await?;
    old.expect_closed().await?;
    scene.serve_on().await?;
    // Four who ask for all of it and read nothing.
    let mut readers = Vec::new();
    for number in 0..4 {
        let mut reader = newcomer(&scene, ConnectOptions::v5(format!("reader-{number}"))).await?;
        reader.subscribe("bomb/#", 0).await?;
        readers.push(reader);
    }
    scene.serve_on().await?;
    drop(readers);
    scene.ends_well().await
}
