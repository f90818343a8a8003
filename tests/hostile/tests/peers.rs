//! The port for other nodes: HTTP/2 as nobody should speak it.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::free_address;
use hostile::{CLOSED_WITHIN, Scene, all_closed, crowd};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const END_OF_STREAM_AND_HEADERS: u8 = 5;
/// `POST`, `http`, `/`, all from the static table, and an authority.
const REQUEST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'x'];

async fn scene() -> Result<(Scene, std::net::SocketAddr)> {
    let address = free_address()?;
    let scene = Scene::begin(&format!("[cluster]\nlisten = \"{address}\"\n")).await?;
    Ok((scene, address))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short frames").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_as_soon_as_they_begin_end_the_connection() -> Result<()> {
    let (scene, address) = scene().await?;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut peer = TcpStream::connect(address).await?;
        peer.write_all(&[PREFACE, &SETTINGS].concat()).await?;
        for first in (0..20_000).step_by(100) {
            let mut part = Vec::new();
            for number in first..first + 100 {
                part.extend(frame(HEADERS, END_OF_STREAM_AND_HEADERS, 2 * number + 1, REQUEST));
                part.extend(frame(RESET, 0, 2 * number + 1, &[0, 0, 0, 8]));
            }
            if peer.write_all(&part).await.is_err() {
                break;
            }
        }
        streams.push(peer);
    }
    all_closed(&mut streams, CLOSED_WITHIN).await?;
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_are_cut_off() -> Result<()> {
    let (scene, address) = scene().await?;
    let mut peer = TcpStream::connect(address).await?;
    peer.write_all(&[PREFACE, &SETTINGS, &frame(HEADERS, 0, 1, REQUEST)].concat())
        .await?;
    // A literal header field, again and again, in CONTINUATION frames that never say that they are the last.
    let field = [&[0x00, 1, b'k', 100][..], &[b'v'; 100]].concat();
    let continuation = frame(9, 0, 1, &field.repeat(150));
    let mut sent = 0_usize;
    let flood = async {
        while peer.write_all(&continuation).await.is_ok() {
            sent += continuation.len();
            if sent > 256 << 20 {
                return false;
            }
        }
        true
    };
    let cut_off = tokio::time::timeout(CLOSED_WITHIN, flood).await.unwrap_or(false);
    ensure!(cut_off, "{sent} bytes of headers were taken");
    scene.ends_well().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_say_what_it_speaks_is_closed() -> Result<()> {
    let (scene, address) = scene().await?;
    let mut streams = crowd(address, 50, b"").await?;
    streams.append(&mut crowd(address, 50, &PREFACE[..10]).await?);
    // The limit for a preface is five seconds, and is not configured.
    all_closed(&mut streams, Duration::from_secs(5) + CLOSED_WITHIN).await?;
    scene.ends_well().await
}
