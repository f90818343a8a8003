//! A whole fleet that comes back at once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Client, ConnectOptions};
use hostile::Scene;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const FLEET_MAX: u64 = 2_000;
/// Files that this process needs for other things.
const FILES_APART: u64 = 200;
const WITHIN: Duration = Duration::from_secs(60);

/// As many as this process may have open files.
fn fleet() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it may not be raised, the fleet is smaller.
    let _ = setrlimit(Resource::Nofile, limit);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    files.saturating_sub(FILES_APART).clamp(1, FLEET_MAX) as usize
}

/// A client that tries until it is in.
async fn return_home(address: SocketAddr, number: usize) -> Result<Client> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let options = ConnectOptions::v5(format!("truck-{number}"));
        match Client::connect(address, options).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// All at once; returns them when the last one is in.
async fn storm(address: SocketAddr, fleet: usize) -> Result<Vec<Client>> {
    let started = Instant::now();
    let mut arriving = JoinSet::new();
    for number in 0..fleet {
        arriving.spawn(return_home(address, number));
    }
    let mut clients = Vec::with_capacity(fleet);
    while let Some(arrived) = arriving.join_next().await {
        clients.push(arrived?.context("one of the fleet did not come in")?);
    }
    println!("{fleet} clients were in after {:?}", started.elapsed());
    Ok(clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_comes_back_after_a_restart_comes_in_while_others_are_served() -> Result<()> {
    let fleet = fleet();
    let mut scene = Scene::begin("").await?;
    let clients = storm(scene.broker.mqtt_addr(), fleet).await?;
    drop(clients);
    scene.restart().await?;
    let mut clients = storm(scene.broker.mqtt_addr(), fleet).await?;
    scene.serve_on().await?;
    ensure!(scene.metric("flotilla_connections")? == (fleet + 1) as f64);
    for client in clients.iter_mut().step_by(100) {
        client.ping().await?;
    }
    drop(clients);
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_connects_lets_a_fleet_in_one_after_the_other() -> Result<()> {
    let mut scene = Scene::begin("[limits]\nconnects_per_second_max = 100\n").await?;
    let started = Instant::now();
    let clients = storm(scene.broker.mqtt_addr(), 400).await?;
    // A second's worth comes at once; the clock of the broker is not this one, so half a second is forgiven.
    ensure!(
        started.elapsed() > Duration::from_millis(2_500),
        "{:?}",
        started.elapsed()
    );
    ensure!(scene.metric("flotilla_rate_limited_total{kind=\"connects\"}")? > 0.0);
    scene.serve_on().await?;
    drop(clients);
    scene.ends_well().await
}
