//! Before CONNECT: who says nothing, half of something, or too much of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{BrokerOptions, Client, ConnectOptions};
use hostile::{CLOSED_WITHIN, Scene, all_closed, crowd, served_within};
use rustix::process::{Resource, getrlimit};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// On each listener more than it lets in at a time.
const CROWD: usize = 120;
const HALF_A_CONNECT: &[u8] = b"\x10\x20\x00\x04MQTT\x05\x02";
const HALF_A_HELLO: &[u8] =
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a greeting of TLS that does not end";
const HALF_AN_UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: webso";
const HALF_A_HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 127.0";

fn proxied(name: &str, keys: &str) -> String {
    format!(
        "[[listeners]]\nname = \"{name}\"\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
         allow_anonymous = true\n{keys}\n"
    )
}

async fn impatient() -> Result<Scene> {
    let limits = "[limits]\nconnect_timeout = \"1s\"\nhandshakes_max = 60\n";
    Scene::begin_with(BrokerOptions {
        config: Some([limits, &proxied("proxied", "")].concat()),
        tls: true,
        ..BrokerOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_half_way_to_connect_is_closed_and_holds_nobody_up() -> Result<()> {
    let mut scene = impatient().await?;
    let broker = &scene.broker;
    let phases = [
        (broker.mqtt_addr(), &b""[..]),
        (broker.mqtt_addr(), HALF_A_CONNECT),
        (broker.mqtts_addr(), HALF_A_HELLO),
        (broker.ws_addr(), HALF_AN_UPGRADE),
        (broker.address("proxied"), HALF_A_HEADER),
    ];
    let mut streams = Vec::new();
    for (address, half) in phases {
        streams.append(&mut crowd(address, CROWD, half).await?);
    }
    // They come in turns of `handshakes_max`, each of which has its second, or less.
    let turns = Duration::from_secs((CROWD * 2 / 60) as u64);
    all_closed(&mut streams, turns + CLOSED_WITHIN).await?;
    scene.serve_on().await?;
    Client::connect(scene.broker.mqtt_addr(), ConnectOptions::v5("newcomer")).await?;
    // Late, or silent while others waited. A header that is late is counted with the headers.
    scene
        .reaches("flotilla_connects_rejected_total", 4 * CROWD)
        .await?;
    scene.ends_well().await
}

/// Says this on a connection, and nothing more; comes again whenever it is closed.
async fn hold_a_place(address: SocketAddr, first: &'static [u8]) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            stream.write_all(first).await.ok();
            all_closed(&mut [stream], Duration::from_secs(600)).await.ok();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Newcomers come one after the other while thousands hold places and renew them. Without them a place is free after a minute.
async fn newcomers_among(first: &'static [u8], within: Duration) -> Result<()> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let silent = files.saturating_sub(500).min(3000);
    let mut scene = Scene::begin("[limits]\nconnect_timeout = \"1m\"\nhandshakes_max = 600\n").await?;
    let address = scene.broker.mqtt_addr();
    let mut holding = JoinSet::new();
    for _ in 0..silent {
        holding.spawn(hold_a_place(address, first));
    }
    scene
        .reaches("flotilla_connects_rejected_total{reason=\"handshakes\"}", 600)
        .await?;
    let mut worst = Duration::ZERO;
    for number in 0..10 {
        let began = Instant::now();
        let coming = Client::connect(address, ConnectOptions::v5(format!("newcomer-{number}")));
        let late = || format!("newcomer {number} waited for {within:?} among {silent}");
        let mut client = timeout(within, coming).await.with_context(late)??;
        worst = worst.max(began.elapsed());
        client.ping().await?;
    }
    println!("among {silent} others a newcomer came in within {worst:?}");
    scene.serve_on().await?;
    holding.shutdown().await;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_at_once_who_it_is_comes_in_while_thousands_are_silent() -> Result<()> {
    newcomers_among(b"", served_within()?.max(Duration::from_secs(1))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_at_once_who_it_is_comes_in_while_thousands_stop_half_way() -> Result<()> {
    // Those have a second each.
    newcomers_among(HALF_A_CONNECT, served_within()? + Duration::from_secs(10)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_now_and_then_buys_no_time() -> Result<()> {
    let scene = impatient().await?;
    let mut streams = crowd(scene.broker.mqtt_addr(), 20, HALF_A_CONNECT).await?;
    let dripping = async {
        for _ in 0..100 {
            for stream in &mut streams {
                stream.write_all(b"\0").await.ok();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let gone = scene.metric("flotilla_connects_rejected_total{reason=\"timeout\"}")?;
            if gone >= 20.0 {
                return Ok(());
            }
        }
        anyhow::bail!("connections that drip were never closed")
    };
    dripping.await?;
    all_closed(&mut streams, CLOSED_WITHIN).await?;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_tls_handshakes_leaves_the_others_their_turn() -> Result<()> {
    let scene = impatient().await?;
    let certificate = scene.broker.certificate().context("started with TLS")?;
    let connector = certificate.connector()?;
    let address = scene.broker.mqtts_addr();
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let connector = connector.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..25 {
                let name = ServerName::try_from("localhost")?;
                let stream = TcpStream::connect(address).await?;
                let secured = connector.connect(name, stream).await?;
                drop(secured);
                let mut garbage = TcpStream::connect(address).await?;
                garbage.write_all(b"\x16\x03\x01\x00\x05hello").await?;
                all_closed(&mut [garbage], CLOSED_WITHIN).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    scene
        .reaches("flotilla_connects_rejected_total{reason=\"tls\"}", 200)
        .await?;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_somebody_who_is_no_proxy_is_not_believed() -> Result<()> {
    let listener = proxied("elsewhere", "proxy_trusted = [\"192.0.2.0/24\"]");
    let scene = Scene::begin(&listener).await?;
    let spoofed = b"PROXY TCP4 10.0.0.1 127.0.0.1 4711 1883\r\n";
    let mut streams = crowd(scene.broker.address("elsewhere"), CROWD, spoofed).await?;
    // Where no header is asked for, it is no CONNECT either.
    streams.append(&mut crowd(scene.broker.mqtt_addr(), CROWD, spoofed).await?);
    all_closed(&mut streams, CLOSED_WITHIN).await?;
    let untrusted = "flotilla_proxy_headers_rejected_total{reason=\"untrusted\"}";
    scene.reaches(untrusted, CROWD).await?;
    let no_connect = "flotilla_connects_rejected_total{reason=\"protocol\"}";
    scene.reaches(no_connect, CROWD).await?;
    scene.ends_well().await
}
