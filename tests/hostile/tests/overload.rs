//! A node whose memory runs short: it slows publishers, refuses newcomers, drops QoS 0, and keeps what it has acknowledged.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Broker, BrokerOptions, Client, ConnectOptions, Message, subscription_options, wait_for};
use hostile::{CLOSED_WITHIN, Scene};
use mqtt_codec::ReasonCode;

const LARGE: usize = 512 * 1024;
const WITHIN: Duration = Duration::from_secs(30);
/// For a level that follows from another budget: files are read and memory is looked at several times in it.
const MOMENT: Duration = Duration::from_millis(500);

/// What a broker takes that has nothing to do, and one bystander.
async fn resident_at_rest() -> Result<u64> {
    Scene::begin("").await?.resident()
}

async fn refusal(broker: &Broker, options: ConnectOptions) -> Result<ReasonCode> {
    let mut client = Client::open(broker.mqtt_addr()).await?;
    client.send_connect(options).await?;
    Ok(client.expect_connack().await?.reason_code)
}

/// Gives the node another budget, as an operator would.
fn set_budget(scene: &Scene, bytes: u64) -> Result<()> {
    let folder = scene
        .broker
        .data_dir()
        .parent()
        .context("the data has a parent")?;
    std::fs::write(
        folder.join("flotilla.toml"),
        format!("[overload]\nmemory_max = \"{bytes}B\"\n"),
    )?;
    scene.broker.reload()
}

/// Lowers the budget until the node is so short of memory.
async fn press(scene: &Scene, budget: &mut u64, wanted: f64) -> Result<()> {
    let level = || scene.metric("flotilla_overload_level");
    while level()? < wanted {
        ensure!(*budget > 1 << 20, "level {} with {budget} bytes", level()?);
        set_budget(scene, *budget)?;
        let reached = wait_for(async || level().is_ok_and(|level| level >= wanted), MOMENT);
        if reached.await.is_err() {
            *budget -= *budget / 20;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_short_of_memory_refuses_newcomers_sheds_qos_0_and_loses_nothing_acknowledged() -> Result<()> {
    let mut scene = Scene::begin("").await?;
    let address = scene.broker.mqtt_addr();
    let payload = vec![9; LARGE];
    let large = |topic: &str| Message::new(topic, &payload).qos(1);
    let keeper = ConnectOptions::v5("keeper").persistent();
    let mut kept = Client::connect(address, keeper.clone()).await?;
    kept.subscribe("fill/#", 1).await?;
    kept.disconnect().await?;
    let mut light = Client::connect(address, ConnectOptions::v5("light")).await?;
    light.subscribe("light", 0).await?;
    let mut heavy = Client::connect(address, ConnectOptions::v5("heavy")).await?;
    let mut acknowledged = BTreeSet::new();
    for number in 0..100 {
        let topic = format!("fill/{number}");
        ensure!(heavy.publish(large(&topic).retain()).await? == ReasonCode::Success);
        acknowledged.insert(topic);
    }

    let mut budget = scene.resident()?;
    // What gives way may lead it back: it is pressed again before each look.
    press(&scene, &mut budget, 2.0).await?;
    let ready = tokio::task::block_in_place(|| scene.broker.admin_get("/readyz?verbose"))?;
    ensure!(ready.contains("new connections are refused"), "{ready}");
    press(&scene, &mut budget, 2.0).await?;
    let node = tokio::task::block_in_place(|| scene.broker.admin_get("/api/v1/node"))?;
    ensure!(
        node.contains("\"overload_level\":2") || node.contains("\"overload_level\":3"),
        "{node}"
    );
    press(&scene, &mut budget, 2.0).await?;
    ensure!(refusal(&scene.broker, ConnectOptions::v5("newcomer")).await? == ReasonCode::ServerBusy);
    press(&scene, &mut budget, 2.0).await?;
    ensure!(refusal(&scene.broker, ConnectOptions::v311("newcomer")).await? == ReasonCode::ServerUnavailable);
    ensure!(scene.metric("flotilla_connects_rejected_total{reason=\"overload\"}")? == 2.0);
    press(&scene, &mut budget, 2.0).await?;
    ensure!(heavy.publish(large("fill/more").retain()).await? == ReasonCode::QuotaExceeded);
    for number in 0..3 {
        press(&scene, &mut budget, 2.0).await?;
        let topic = format!("fill/slow/{number}");
        ensure!(heavy.publish(large(&topic)).await? == ReasonCode::Success);
        acknowledged.insert(topic);
    }
    ensure!(scene.metric("flotilla_rate_limited_total{kind=\"overload\"}")? > 0.0);

    press(&scene, &mut budget, 3.0).await?;
    light.publish(Message::new("light", "shed")).await?;
    let shed = || scene.metric("flotilla_messages_dropped_total{reason=\"overload\"}");
    wait_for(async || shed().is_ok_and(|shed| shed >= 1.0), CLOSED_WITHIN).await?;
    light.expect_silence(Duration::from_millis(100)).await?;
    press(&scene, &mut budget, 3.0).await?;
    scene.serve_on().await?;
    // What is acknowledged is stored at this level, too.
    ensure!(heavy.publish(Message::new("fill/last", "x").qos(1)).await? == ReasonCode::Success);
    acknowledged.insert("fill/last".to_owned());

    set_budget(&scene, scene.resident()? * 4)?;
    let again = async || {
        let code = refusal(&scene.broker, ConnectOptions::v5("newcomer")).await;
        code.is_ok_and(|code| code == ReasonCode::Success)
    };
    wait_for(again, WITHIN)
        .await
        .context("with memory newcomers are welcome")?;
    // What was acknowledged is there, all of it.
    let mut kept = Client::connect(address, keeper).await?;
    while let Some(topic) = acknowledged.first() {
        let late = || format!("{topic} and {} more", acknowledged.len() - 1);
        let publish = kept.receive().await.with_context(late)?;
        kept.acknowledge(&publish).await?;
        acknowledged.remove(publish.publication.topic().as_str());
    }
    ensure!(scene.broker.is_running());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_less_than_it_needs_serves_nobody_and_says_why() -> Result<()> {
    let config = "[overload]\nmemory_max = \"1MiB\"\n".to_owned();
    let broker = tokio::task::block_in_place(|| {
        Broker::start(BrokerOptions {
            config: Some(config),
            ..BrokerOptions::default()
        })
    })?;
    let refused = async || {
        let code = refusal(&broker, ConnectOptions::v5("anybody")).await;
        code.is_ok_and(|code| code == ReasonCode::ServerBusy)
    };
    wait_for(refused, CLOSED_WITHIN).await?;
    ensure!(broker.log().contains("memory is used up"), "{}", broker.log());
    Ok(())
}

/// Fills whatever a session may keep, under one client id after the other, until that is not welcome any more.
async fn hoard(address: SocketAddr, number: usize) -> Result<ReasonCode> {
    let will = Message::new("hoard/will", [7; 40 * 1024]).qos(1);
    let options = ConnectOptions::v5(format!("hoard-{number}")).persistent();
    let mut client = Client::open(address).await?;
    client.send_connect(options.delayed_will(will, 86_400)).await?;
    let code = client.expect_connack().await?.reason_code;
    if code != ReasonCode::Success {
        return Ok(code);
    }
    let names: Vec<String> = (0..50)
        .map(|filter| format!("hoard/{number}/{filter}/{}", "x".repeat(900)))
        .collect();
    let filters: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), subscription_options(1)))
        .collect();
    let codes = client.subscribe_many(&filters, None).await?.reason_codes;
    let retained = Message::new(&format!("hoard/{number}"), [7; 32 * 1024])
        .qos(1)
        .retain();
    let retained = client.publish(retained).await?;
    let refused = codes
        .into_iter()
        .chain([retained])
        .find(|code| *code as u8 >= 0x80);
    Ok(refused.unwrap_or(ReasonCode::Success))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_for_clients_that_are_away_never_keeps_others_out() -> Result<()> {
    let budget = (resident_at_rest().await? >> 20) + 160;
    let mut scene = Scene::begin(&format!("[overload]\nmemory_max = \"{budget}MiB\"\n")).await?;
    let address = scene.broker.mqtt_addr();
    let mut known = Client::connect(address, ConnectOptions::v5("known").persistent()).await?;
    ensure!(known.subscribe("own", 1).await? == ReasonCode::GrantedQoS1);
    let mut refused = 0;
    for number in 0..4_000 {
        match hoard(address, number).await? {
            ReasonCode::Success => refused = 0,
            ReasonCode::ServerBusy | ReasonCode::QuotaExceeded => refused += 1,
            other => bail!("{number}: {other:?}"),
        }
        if refused == 200 {
            break;
        }
    }
    ensure!(refused == 200, "all was kept");
    ensure!(scene.metric("flotilla_connects_rejected_total{reason=\"overload\"}")? > 0.0);
    for is_restarted in [false, true] {
        // Who keeps nothing comes in, and so does who is known; what was subscribed to before may be asked for again.
        let mut brief = Client::connect(address, ConnectOptions::v5("brief")).await?;
        ensure!(brief.subscribe("own", 1).await? == ReasonCode::GrantedQoS1);
        let mut known = Client::connect(address, ConnectOptions::v5("known").persistent()).await?;
        ensure!(known.connack().session_present);
        ensure!(known.subscribe("own", 1).await? == ReasonCode::GrantedQoS1);
        brief.publish(Message::new("own", "x").qos(1)).await?;
        known.receive().await?;
        if !is_restarted {
            drop((brief, known));
            scene.restart().await?;
        }
    }
    ensure!(scene.metric("flotilla_overload_level")? < 2.0);
    ensure!(scene.broker.is_running());
    Ok(())
}
