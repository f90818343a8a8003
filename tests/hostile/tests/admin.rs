//! The port for operators: silent, slow and huge requests.

use std::time::Duration;

use anyhow::{Result, ensure};
use hostile::{CLOSED_WITHIN, Scene, all_closed, crowd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than the listener has places for.
const CROWD: usize = 300;

/// What the probes of an orchestrator do: if this failed, the node would be restarted.
fn is_alive(scene: &Scene) -> Result<()> {
    let answer = tokio::task::block_in_place(|| scene.broker.admin_get("/livez"))?;
    ensure!(answer == "ok\n", "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_slow_requests_give_way_to_others() -> Result<()> {
    let mut scene = Scene::begin("").await?;
    let address = scene.broker.admin_addr();
    let mut streams = crowd(address, CROWD, b"").await?;
    is_alive(&scene)?;
    streams.append(&mut crowd(address, CROWD, b"GET /metrics HTTP/1.1\r\nHost: ").await?);
    is_alive(&scene)?;
    // Answered once, and kept open.
    streams.append(&mut crowd(address, CROWD, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await?);
    is_alive(&scene)?;
    // Asked for everything, and nothing of it read.
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200);
    streams.append(&mut crowd(address, CROWD, &request).await?);
    is_alive(&scene)?;
    scene.serve_on().await?;
    // The first have given way to the last.
    all_closed(&mut streams[..2 * CROWD], CLOSED_WITHIN).await?;
    drop(streams);
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_too_large_are_refused() -> Result<()> {
    let scene = Scene::begin("").await?;
    let address = scene.broker.admin_addr();
    let head = [
        &b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: "[..],
        &vec![b'x'; 4 << 20],
    ]
    .concat();
    let length = 16 << 20;
    let body = format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    for _ in 0..10 {
        let mut stream = TcpStream::connect(address).await?;
        // It may hang up in the middle.
        stream.write_all(&head).await.ok();
        all_closed(&mut [stream], CLOSED_WITHIN).await?;

        let stream = TcpStream::connect(address).await?;
        let (mut reading, mut writing) = stream.into_split();
        let request = [body.as_bytes(), &vec![b' '; length]].concat();
        let pouring = tokio::spawn(async move {
            writing.write_all(&request).await.ok();
        });
        let mut answer = [0; 12];
        tokio::time::timeout(CLOSED_WITHIN, reading.read_exact(&mut answer)).await??;
        pouring.abort();
        ensure!(
            answer.starts_with(b"HTTP/1.1 413"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    is_alive(&scene)?;
    scene.ends_well().await
}

/// HTTP/2 as a client speaks it that knows beforehand that the server understands it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_not_spoken() -> Result<()> {
    let scene = Scene::begin("").await?;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(scene.broker.admin_addr()).await?;
        stream.write_all(PREFACE).await?;
        let mut answer = Vec::new();
        // A reset is an end, too.
        let read = tokio::time::timeout(CLOSED_WITHIN, stream.read_to_end(&mut answer)).await;
        ensure!(read.is_ok(), "it is still open");
        ensure!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{answer:?}"
        );
    }
    is_alive(&scene)?;
    scene.ends_well().await
}

/// Somebody who looks on as messages pass, and reads nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_on_and_does_not_read_loses_messages_and_nobody_else_does() -> Result<()> {
    let mut scene = Scene::begin("").await?;
    let request = b"GET /api/v1/watch?filter=%23 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let streams = crowd(scene.broker.admin_addr(), 16, request).await?;
    let options = harness::ConnectOptions::v5("talker");
    let mut talker = harness::Client::connect(scene.broker.mqtt_addr(), options).await?;
    for _ in 0..500 {
        talker
            .publish(harness::Message::new("talk", vec![b'x'; 60_000]).qos(1))
            .await?;
    }
    scene.serve_on().await?;
    is_alive(&scene)?;
    tokio::time::timeout(Duration::from_secs(5), talker.disconnect()).await??;
    drop(streams);
    scene.ends_well().await
}
