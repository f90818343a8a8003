//! Sessions and subscriptions by the thousand, and subscribers who do not read.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::{Client, ConnectOptions, Message, subscription_options, wait_for};
use hostile::{CLOSED_WITHIN, Scene};
use mqtt_codec::ReasonCode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_bomb_ends_at_the_limit_of_its_client() -> Result<()> {
    let mut scene = Scene::begin("[limits]\nsubscriptions_per_client_max = 500\n").await?;
    let mut bomber = Client::connect(scene.broker.mqtt_addr(), ConnectOptions::v5("bomber")).await?;
    let mut granted = 0;
    for packet in 0..60 {
        let filters: Vec<String> = (0..100)
            .map(|number| format!("bomb/{packet}/+/{number}/#"))
            .collect();
        let filters: Vec<_> = filters
            .iter()
            .map(|filter| (filter.as_str(), subscription_options(1)))
            .collect();
        let codes = bomber.subscribe_many(&filters, None).await?.reason_codes;
        let refused = codes
            .iter()
            .filter(|code| **code == ReasonCode::QuotaExceeded)
            .count();
        granted += codes.len() - refused;
    }
    ensure!(granted == 500, "{granted}");
    scene.serve_on().await?;
    let counted = scene.metric("flotilla_rate_limited_total{kind=\"subscriptions\"}")?;
    ensure!(counted == 5_500.0, "{counted}");
    let too_many = vec![("a", subscription_options(0)); 101];
    bomber.send_subscribe(&too_many, None).await?;
    bomber.expect_disconnect(ReasonCode::QuotaExceeded).await?;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_bomb_ends_at_the_limit_of_all_sessions() -> Result<()> {
    const SESSIONS: usize = 200;
    let mut scene = Scene::begin(&format!("[limits]\nsessions_max = {SESSIONS}\n")).await?;
    let (mut kept, mut refused) = (Vec::new(), 0);
    for number in 0..SESSIONS * 3 {
        let mut client = Client::open(scene.broker.mqtt_addr()).await?;
        let name = format!("bomb-{number}");
        client
            .send_connect(ConnectOptions::v5(&name).persistent())
            .await?;
        match client.expect_connack().await?.reason_code {
            ReasonCode::Success => kept.push(name),
            ReasonCode::QuotaExceeded => refused += 1,
            other => bail!("{name}: {other:?}"),
        }
    }
    // The bystander has one.
    ensure!(kept.len() == SESSIONS - 1, "{} are kept", kept.len());
    scene
        .reaches("flotilla_connects_rejected_total{reason=\"sessions\"}", refused)
        .await?;
    for name in &kept[..20] {
        let options = ConnectOptions::v5(name).persistent();
        let client = Client::connect(scene.broker.mqtt_addr(), options).await?;
        ensure!(client.connack().session_present, "{name}");
    }
    scene.serve_on().await?;
    scene.ends_well().await
}

/// Filters of which each level is taken by both of its branches: a match that walked all ways would never end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_that_all_match_cost_what_they_deliver() -> Result<()> {
    let scene = Scene::begin("[limits]\nsubscriptions_per_client_max = 1024\n").await?;
    let mut branches = Client::connect(scene.broker.mqtt_addr(), ConnectOptions::v5("branches")).await?;
    let filters: Vec<String> = (0..1024_u32)
        .map(|bits| {
            let level = |place: u32| if bits >> place & 1 == 0 { "a" } else { "+" };
            (0..10).map(level).collect::<Vec<_>>().join("/")
        })
        .collect();
    for part in filters.chunks(100) {
        let part: Vec<_> = part
            .iter()
            .map(|filter| (filter.as_str(), subscription_options(1)))
            .collect();
        branches.subscribe_many(&part, None).await?;
    }
    let topic = ["a"; 10].join("/");
    for round in 0..200 {
        branches
            .publish(Message::new(&topic, round.to_string()).qos(1))
            .await?;
        let publish = branches.receive().await?;
        ensure!(publish.publication.payload() == round.to_string().as_bytes());
    }
    drop(branches);
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_closed_and_costs_what_its_queue_may_hold() -> Result<()> {
    let listener = "[[listeners]]\nname = \"impatient\"\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\ntcp_user_timeout = \"2s\"\n";
    let queues = "[queues]\nbytes_max = \"8MiB\"\n";
    let mut scene = Scene::begin(&[listener, queues].concat()).await?;
    let mut deaf = Vec::new();
    for (number, qos) in [0, 0, 1, 1].into_iter().enumerate() {
        let options = ConnectOptions::v5(format!("deaf-{number}"));
        let mut client = Client::connect(scene.broker.address("impatient"), options).await?;
        client.subscribe("busy", qos).await?;
        deaf.push(client);
    }
    let mut publisher = Client::connect(scene.broker.mqtt_addr(), ConnectOptions::v5("busy")).await?;
    let (payload, mut sent) = (vec![7; 64 * 1024], 0);
    let connected = |scene: &Scene| scene.metric("flotilla_connections");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(4) + CLOSED_WITHIN;
    while connected(&scene)? > 2.0 {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "after {sent} messages they are still there"
        );
        for _ in 0..50 {
            publisher.publish(Message::new("busy", &payload).qos(1)).await?;
            sent += 1;
        }
    }
    let dropped = scene.metric("flotilla_messages_dropped_total{reason=\"qos0_congested\"}")?
        + scene.metric("flotilla_messages_dropped_total{reason=\"queue_full\"}")?;
    ensure!(dropped > 0.0 && sent > 100, "{dropped} of {sent}");
    scene.serve_on().await?;
    drop((deaf, publisher));
    scene.ends_well().await
}

/// It keeps its connection alive by its own PINGREQs, and takes what it may: its window and its queue, no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_acknowledges_gets_its_window_and_fills_its_queue() -> Result<()> {
    let scene = Scene::begin("[queues]\nmessages_max = 200\n").await?;
    let options = ConnectOptions::v5("silent").receive_maximum(10);
    let mut silent = Client::connect(scene.broker.mqtt_addr(), options).await?;
    silent.subscribe("flow", 1).await?;
    let mut publisher = Client::connect(scene.broker.mqtt_addr(), ConnectOptions::v5("source")).await?;
    for _ in 0..1_000 {
        publisher.publish(Message::new("flow", [0; 1000]).qos(1)).await?;
    }
    let dropped = async || {
        let dropped = scene.metric("flotilla_messages_dropped_total{reason=\"queue_full\"}");
        dropped.is_ok_and(|dropped| dropped == 790.0)
    };
    wait_for(dropped, CLOSED_WITHIN).await?;
    for _ in 0..10 {
        silent.expect_publish().await?;
    }
    silent.expect_silence(Duration::from_millis(200)).await?;
    drop(silent);
    scene.ends_well().await
}
