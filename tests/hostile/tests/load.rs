//! Ten times the load that a node can carry: it answers everybody and keeps to its memory, and what it has acknowledged arrives.

mod asking;
mod carried;
mod publishers;
mod subscribers;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{BrokerOptions, Client, ConnectOptions, wait_for};
use hostile::Scene;
use tokio::time::Instant;

use asking::Pinging;
use carried::carried;
use publishers::{Publishers, Taken};
use subscribers::{Keeper, Slow};

/// Bytes of each payload.
const PAYLOAD: usize = 1024;
/// What the node may take beyond what it takes at rest.
const ROOM_MIB: u64 = 64;
/// What it carries is offered so many times.
const TIMES: f64 = 10.0;
const OFFERED_FOR: Duration = Duration::from_secs(10);
/// What was under way when the load ended has arrived by then, and memory is given back.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_times_the_load_leaves_a_node_responsive_and_inside_its_budget_and_loses_nothing_acknowledged()
-> Result<()> {
    let budget = (Scene::begin("").await?.resident()? >> 20) + ROOM_MIB;
    // What a single queue holds is another story's matter.
    let config = format!("[overload]\nmemory_max = \"{budget}MiB\"\n[queues]\nmessages_max = 1000000\n");
    let scene = Scene::begin_with(BrokerOptions {
        config: Some(config),
        ..BrokerOptions::default()
    })
    .await?;
    let address = scene.broker.mqtt_addr();
    let carried = [carried(address, 0).await?, carried(address, 1).await?];
    let offered = carried.map(|rate| rate * TIMES);

    let slow = Slow::connect(address).await?;
    let publishers = Publishers::connect(address).await?;
    let pinging = Pinging::connect(address).await?;
    let keeper = Keeper::connect(address).await?;
    let end = Instant::now() + OFFERED_FOR;
    let (publishing, pinging) = (
        tokio::spawn(publishers.offer(offered, end)),
        tokio::spawn(pinging.until(end)),
    );
    let (asked, level) = asking::until(&scene, end).await?;
    let pinged = pinging.await??;
    let Taken { written, sent } = publishing.await??;

    let peak = scene.resident_peak()?;
    let acknowledged: usize = sent.iter().map(|sent| sent.acknowledged.len()).sum();
    let messages = offered.map(|rate| rate * OFFERED_FOR.as_secs_f64());
    println!(
        "carried in a second: {:.0} messages with QoS 0, {:.0} with QoS 1; offered in {OFFERED_FOR:?}: {:.0} and {:.0}; \
         {written} written, {acknowledged} acknowledged; peak {} KiB of {budget} MiB, level {level}; {}, \
         pings within {pinged:?}, the admin listener within {asked:?}",
        carried[0],
        carried[1],
        messages[0],
        messages[1],
        peak >> 10,
        scene.seen(),
    );
    ensure!(peak <= budget << 20, "{} KiB of {budget} MiB", peak >> 10);
    ensure!(scene.metric("flotilla_rate_limited_total{kind=\"overload\"}")? > 0.0);
    for sent in &sent {
        let acknowledged = sent.acknowledged.len();
        ensure!(acknowledged > 0, "publisher {} was starved", sent.publisher);
    }
    keeper.has_all(&sent, SETTLED_WITHIN).await?;

    drop(slow);
    let newcomer = async || {
        let options = ConnectOptions::v5("newcomer");
        Client::connect(address, options).await.is_ok()
    };
    wait_for(newcomer, SETTLED_WITHIN)
        .await
        .context("newcomers are welcome again")?;
    scene.ends_well().await
}
