//! WebSocket frames that are tiny, endless, or not what they say.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use hostile::{CLOSED_WITHIN, Scene, all_closed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMITS: &str = "[limits]\nconnect_timeout = \"2s\"\n";
const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
/// Version 5, client id `ws`, clean start.
const CONNECT: &[u8] = b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02ws";

/// A frame with an empty mask.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short frames");
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

async fn upgraded(scene: &Scene) -> Result<TcpStream> {
    let (stream, head) = asked(scene.broker.ws_addr(), REQUEST).await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok(stream)
}

/// The answer's head, with the connection.
async fn asked(address: SocketAddr, request: &[u8]) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok((stream, String::from_utf8(head)?))
}

/// Sends until the broker hangs up, or all of it.
async fn pour(stream: &mut TcpStream, bytes: &[u8], times: usize) {
    for _ in 0..times {
        if stream.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_content_do_not_stand_for_a_connect() -> Result<()> {
    let mut scene = Scene::begin(LIMITS).await?;
    let mut streams = vec![
        upgraded(&scene).await?,
        upgraded(&scene).await?,
        upgraded(&scene).await?,
    ];
    // Empty binary frames; a message whose fragments never end; a CONNECT of one byte each that stops before its end.
    pour(&mut streams[0], &frame(0x82, b"").repeat(1000), 200).await;
    pour(&mut streams[1], &frame(0x02, b""), 1).await;
    pour(&mut streams[1], &frame(0x00, b"").repeat(1000), 200).await;
    for byte in &CONNECT[..CONNECT.len() - 1] {
        pour(&mut streams[2], &frame(0x82, &[*byte]), 1).await;
    }
    scene.serve_on().await?;
    all_closed(&mut streams, CLOSED_WITHIN).await?;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_against_the_rules_end_their_connection() -> Result<()> {
    let scene = Scene::begin("").await?;
    let long_ping = [&[0x89, 0xfe, 0x01, 0x00, 0, 0, 0, 0][..], &[0; 256]].concat();
    let cases = [
        frame(0x81, b"text"),
        frame(0x80, b"a continuation of nothing"),
        frame(0xc2, b"a reserved bit"),
        vec![0x82, 0x04, 0x10, 0x00, 0x00, 0x00],
        long_ping,
        vec![
            0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        ],
    ];
    let mut streams = Vec::new();
    for case in &cases {
        for _ in 0..20 {
            let mut stream = upgraded(&scene).await?;
            pour(&mut stream, case, 1).await;
            streams.push(stream);
        }
    }
    // Long before the time for a CONNECT is over.
    all_closed(&mut streams, CLOSED_WITHIN.mul_f32(0.8)).await?;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_whose_answers_nobody_reads_are_not_gathered() -> Result<()> {
    let mut scene = Scene::begin("").await?;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = upgraded(&scene).await?;
        stream.write_all(&frame(0x82, CONNECT)).await?;
        let pings = frame(0x89, &[7; 125]).repeat(500);
        let pouring = pour(&mut stream, &pings, 2_000);
        // Where the broker stops reading, so does this.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), pouring).await;
        streams.push(stream);
    }
    scene.serve_on().await?;
    drop(streams);
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_of_somebody_else_does_not_get_in() -> Result<()> {
    let named = "[[listeners]]\nname = \"named\"\nprotocol = \"ws\"\nbind = \"127.0.0.1:0\"\n\
                 allowed_origins = [\"https://app.example\"]\n";
    let scene = Scene::begin(named).await?;
    let (usual, named) = (scene.broker.ws_addr(), scene.broker.address("named"));
    let status = async |address: SocketAddr, host: &str, origin: &str| {
        let request = String::from_utf8(REQUEST.to_vec())?
            .replace("Host: x\r\n", &format!("Host: {host}\r\nOrigin: {origin}\r\n"));
        let (_, head) = asked(address, request.as_bytes()).await?;
        anyhow::Ok(head.split(' ').nth(1).unwrap_or_default().to_owned())
    };
    let cases = [
        (usual, "127.0.0.1:8083", "https://evil.example", "403"),
        // A name of theirs that was made to mean this machine.
        (usual, "evil.example:8083", "http://evil.example:8083", "403"),
        (usual, "127.0.0.1:8083", "null", "403"),
        (usual, "127.0.0.1:8083", "https://app.example", "403"),
        (named, "127.0.0.1:8083", "https://app.example", "101"),
        (named, "127.0.0.1:8083", "https://evil.example", "403"),
        // The dashboard's page.
        (usual, "127.0.0.1:8083", "http://127.0.0.1:9100", "101"),
    ];
    for (address, host, origin, expected) in cases {
        let told = status(address, host, origin).await?;
        ensure!(told == expected, "{origin} at {host}: {told}");
    }
    scene
        .reaches("flotilla_connects_rejected_total{reason=\"websocket\"}", 5)
        .await?;
    let refusals = tokio::task::block_in_place(|| scene.broker.admin_get("/api/v1/refusals"))?;
    ensure!(refusals.contains("allowed_origins"), "{refusals}");
    scene.ends_well().await
}
