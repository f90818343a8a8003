//! A whole fleet that comes back at once. `FLOTILLA_STORM_CLIENTS` says how many they are (`cargo xtask storm`).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Client, ConnectOptions};
use hostile::Scene;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const FLEET: u64 = 2_000;
/// Files that this process needs for other things.
const FILES_APART: u64 = 200;
/// What the allocator may keep of the memory of each client for those who come next.
const LEFT_OF_EACH: u64 = 8 << 10;
const WITHIN: Duration = Duration::from_secs(120);
/// Addresses of this machine that the fleet comes from.
const SOURCES: usize = 50;
/// A connection that is not there by then is tried anew.
const KNOCK: Duration = Duration::from_secs(1);
/// In a storm somebody comes in at least this often: a rate, and not everybody at the end. More than a busy machine needs.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// As many as are wanted, if this process may have so many open files.
fn fleet() -> Result<usize> {
    let wanted = match std::env::var("FLOTILLA_STORM_CLIENTS") {
        Ok(number) => number.parse().context("FLOTILLA_STORM_CLIENTS is a number")?,
        Err(_) => FLEET,
    };
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it may not be raised, the fleet is smaller.
    let _ = setrlimit(Resource::Nofile, limit);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Ok(files.saturating_sub(FILES_APART).clamp(1, wanted) as usize)
}

/// A client that tries until it is in. What the kernel has no place for is tried again soon, and not at once by all: a
/// kernel left to itself doubles its pauses.
async fn return_home(address: SocketAddr, number: usize) -> Result<Client> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let arriving = async {
            // Each source address has ports of its own: with one for all, the kernel looks long for a free one.
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from(([127, 0, 1, (number % SOURCES) as u8 + 1], 0)))?;
            let stream = timeout(KNOCK, socket.connect(address)).await??;
            stream.set_nodelay(true)?;
            let mut client = Client::on(stream);
            let options = ConnectOptions::v5(format!("truck-{number}"));
            client.handshake(options).await?;
            anyhow::Ok(client)
        };
        match arriving.await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(200 + number as u64 % 800)).await,
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
    let (mut by_second, mut last) = (Vec::new(), Instant::now());
    while let Some(arrived) = arriving.join_next().await {
        clients.push(arrived?.context("one of the fleet did not come in")?);
        ensure!(
            last.elapsed() < SILENCE_MAX,
            "nobody came in for {:?}",
            last.elapsed()
        );
        last = Instant::now();
        let second = started.elapsed().as_secs() as usize;
        by_second.resize(by_second.len().max(second + 1), 0);
        by_second[second] += 1;
    }
    println!(
        "{fleet} clients were in after {:?}; in each second {by_second:?}",
        started.elapsed()
    );
    Ok(clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_comes_back_after_a_restart_comes_in_while_others_are_served() -> Result<()> {
    let fleet = fleet()?;
    let mut scene = Scene::begin("").await?;
    let clients = storm(scene.broker.mqtt_addr(), fleet).await?;
    println!("{}", scene.seen());
    drop(clients);
    scene.restart().await?;
    let mut clients = storm(scene.broker.mqtt_addr(), fleet).await?;
    scene.serve_on().await?;
    println!("{}", scene.seen());
    ensure!(scene.metric("flotilla_connections")? == (fleet + 1) as f64);
    for client in clients.iter_mut().step_by(100) {
        client.ping().await?;
    }
    drop(clients);
    scene.ends_well_leaving(fleet as u64 * LEFT_OF_EACH).await
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
