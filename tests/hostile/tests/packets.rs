//! Floods of the smallest packets.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::wait_for;
use hostile::{CLOSED_WITHIN, Scene};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNACK_OF_3: [u8; 4] = [0x20, 2, 0, 0];

/// Version 3.1.1, clean session, no keep alive.
async fn connected(scene: &Scene, client_id: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(scene.broker.mqtt_addr()).await?;
    let length = u8::try_from(client_id.len())?;
    let head = [
        0x10,
        12 + length,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        4,
        2,
        0,
        0,
        0,
        length,
    ];
    stream
        .write_all(&[&head[..], client_id.as_bytes()].concat())
        .await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    ensure!(connack == CONNACK_OF_3, "{connack:?}");
    Ok(stream)
}

/// Within the standard, so nobody is closed for it: it is answered, one by one, and costs nobody else their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn millions_of_pings_are_answered_and_slow_down_nobody() -> Result<()> {
    const PINGS: usize = 1_000_000;
    let mut scene = Scene::begin("").await?;
    let mut tasks = Vec::new();
    for number in 0..3 {
        let stream = connected(&scene, &format!("flood-{number}")).await?;
        tasks.push(tokio::spawn(async move {
            let (mut reading, mut writing) = stream.into_split();
            let flood = tokio::spawn(async move {
                let pings = [0xc0, 0].repeat(10_000);
                for _ in 0..PINGS / 10_000 {
                    writing.write_all(&pings).await?;
                }
                std::io::Result::Ok(writing)
            });
            let mut answers = vec![0; 2 * PINGS];
            reading.read_exact(&mut answers).await?;
            ensure!(answers.chunks(2).all(|answer| answer == [0xd0, 0]));
            flood.await??;
            anyhow::Ok(())
        }));
    }
    scene.serve_on().await?;
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await???;
    }
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_floods_and_reads_no_answer_is_no_longer_read() -> Result<()> {
    let mut scene = Scene::begin("").await?;
    let mut deaf = connected(&scene, "deaf").await?;
    let pings = [0xc0, 0].repeat(32 * 1024);
    // Buffers of both sides, and of the broker, are full before this is over.
    let mut sent = 0_usize;
    let flood = async {
        while sent < 64 << 20 {
            deaf.write_all(&pings).await?;
            sent += pings.len();
        }
        std::io::Result::Ok(())
    };
    let stopped = tokio::time::timeout(Duration::from_secs(8), flood).await;
    let stalled = stopped.is_err();
    scene.serve_on().await?;
    ensure!(stalled, "{sent} bytes were taken");
    let received = scene.metric("flotilla_packets_received_total")?;
    scene.serve_on().await?;
    // Of the bystander alone.
    let more = scene.metric("flotilla_packets_received_total")? - received;
    ensure!(more < 1_000.0, "{more}");
    drop(deaf);
    let alone = async || {
        scene
            .metric("flotilla_connections")
            .is_ok_and(|connections| connections == 1.0)
    };
    wait_for(alone, CLOSED_WITHIN).await?;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_after_connect_ends_the_connection() -> Result<()> {
    let scene = Scene::begin("").await?;
    let cases: [&[u8]; 5] = [
        &[0x00, 0x00],
        &[0xc1, 0x00],
        &[0x30, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x82, 0x03, 0x00, 0x00, 0x00],
        &[0x40, 0x01, 0x00],
    ];
    let mut streams = Vec::new();
    for round in 0..20 {
        for (number, case) in cases.iter().enumerate() {
            let mut stream = connected(&scene, &format!("nonsense-{round}-{number}")).await?;
            stream.write_all(case).await?;
            streams.push(stream);
        }
    }
    hostile::all_closed(&mut streams, CLOSED_WITHIN).await?;
    let counted = scene.metric("flotilla_connections_closed_total{reason=\"protocol_error\"}")?;
    ensure!(counted == 100.0, "{counted}");
    scene.ends_well().await
}
