//! Section 6: MQTT over WebSocket, spoken here by hand so that frames can be cut where the standard allows.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::*;

const BINARY: u8 = 0x2;
const TEXT: u8 = 0x1;
const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// MQTT is carried in binary frames; any other data frame ends the connection.
#[tokio::test]
async fn mqtt_6_0_0_1_text_frames_end_the_connection() -> Result<()> {
    let mut socket = WebSocket::connected().await?;
    socket.send(TEXT, true, &[0xc0, 0]).await?;
    socket.expect_end().await?;
    ensure_serving().await
}

/// Frames and packets begin and end where they like.
#[tokio::test]
async fn mqtt_6_0_0_2_packets_and_frames_are_not_aligned() -> Result<()> {
    let mut socket = WebSocket::connected().await?;
    let topic = unique("ws");
    // Several packets in one frame.
    let subscribe = subscribe_frame(1, &[], topic.as_bytes(), 0);
    socket
        .send(BINARY, true, &[&[0xc0, 0][..], &subscribe, &[0xc0, 0]].concat())
        .await?;
    let answers = socket.receive_bytes(2 + 6 + 2).await?;
    ensure!(
        answers == [&[0xd0, 0][..], &[0x90, 4, 0, 1, 0, 0], &[0xd0, 0]].concat(),
        "{answers:02x?}"
    );
    // One packet in frames of one byte each, and one in a message of several fragments.
    let publish = publish_frame(0, topic.as_bytes(), None, &[], b"in pieces");
    for byte in &publish {
        socket.send(BINARY, true, &[*byte]).await?;
    }
    ensure!(socket.receive_bytes(publish.len()).await? == publish);
    let (first, rest) = publish.split_at(3);
    socket.send(BINARY, false, first).await?;
    socket.send(CONTINUATION, false, &[]).await?;
    socket.send(CONTINUATION, true, rest).await?;
    ensure!(socket.receive_bytes(publish.len()).await? == publish);
    Ok(())
}

/// The subprotocol that the server selects is `mqtt`.
#[tokio::test]
async fn mqtt_6_0_0_4_the_selected_subprotocol_is_mqtt() -> Result<()> {
    for offered in ["mqtt", "other, mqtt", "mqtt, mqttv3.1"] {
        let (_, head) = WebSocket::upgraded(offered).await?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        let selected = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-protocol")
                .then(|| value.trim().to_owned())
        });
        ensure!(selected.as_deref() == Some("mqtt"), "offered {offered:?}: {head}");
    }
    Ok(())
}

#[tokio::test]
async fn half_an_upgrade_and_nonsense_hurt_nobody() -> Result<()> {
    let mut stream = TcpStream::connect(ws_address()).await?;
    stream.write_all(b"GET /mqtt HTTP/1.1\r\nUpgrade: webso").await?;
    let mut nonsense = TcpStream::connect(ws_address()).await?;
    nonsense
        .write_all(&connect_frame(b"not http", 2, &[], &[]))
        .await?;
    nonsense.shutdown().await?;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(15), nonsense.read_to_end(&mut answer)).await??;
    WebSocket::connected().await.map(|_| ())
}

/// A message has no limit of its own: what counts is the MQTT packet.
#[tokio::test]
async fn a_message_may_join_packets_beyond_the_largest_packet() -> Result<()> {
    let broker = with_config("[limits]\npacket_size_max = \"1KiB\"\npacket_size_before_connect = \"1KiB\"")?;
    let (mut socket, _) = WebSocket::upgraded_at(broker.ws_addr(), "mqtt").await?;
    socket
        .send(BINARY, true, &connect_frame(b"joiner", 2, &[], &[]))
        .await?;
    let connack = socket.receive_bytes(2).await?;
    socket.receive_bytes(connack[1].into()).await?;
    let publish = publish_frame(0, b"t", None, &[], &[b'x'; 90]);
    let packets = publish.repeat(3000);
    // As one frame, and as one message of many, with a ping between.
    socket.send(BINARY, true, &packets).await?;
    socket.send(BINARY, false, &[]).await?;
    for piece in packets.chunks(1000) {
        socket.send(CONTINUATION, false, piece).await?;
    }
    socket.send(PING, true, b"there?").await?;
    socket.send(CONTINUATION, true, &[0xc0, 0]).await?;
    let pong = socket.receive_frame().await?;
    ensure!(pong == Some((PONG, b"there?".to_vec())), "{pong:02x?}");
    ensure!(socket.receive_bytes(2).await? == [0xd0, 0]);
    let counted = async || {
        let metrics = broker.admin_get("/metrics").unwrap_or_default();
        metrics.contains("flotilla_messages_received_total{qos=\"0\"} 6000")
    };
    harness::wait_for(counted, Duration::from_secs(10)).await?;
    // The limit of a packet holds.
    let long = publish_frame(0, b"t", None, &[], &[b'x'; 2000]);
    socket.send(BINARY, true, &long).await?;
    socket.expect_end().await
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection() -> Result<()> {
    for bytes in [
        // A reserved bit, no mask, a continuation of nothing, a ping in pieces, and one that is too long.
        &[0xc2, 0x80, 0, 0, 0, 0][..],
        &[0x82, 0x02, 0xc0, 0],
        &[0x80, 0x80, 0, 0, 0, 0],
        &[0x09, 0x80, 0, 0, 0, 0],
        &[0x89, 0xfe, 0, 126, 0, 0, 0, 0],
        &[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut socket = WebSocket::connected().await?;
        socket.stream.write_all(bytes).await?;
        socket.expect_end().await?;
    }
    ensure_serving().await
}

struct WebSocket {
    stream: TcpStream,
    received: Vec<u8>,
}

impl WebSocket {
    /// A WebSocket connection whose CONNECT has been accepted.
    async fn connected() -> Result<WebSocket> {
        let (mut socket, head) = WebSocket::upgraded("mqtt").await?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        socket
            .send(BINARY, true, &connect_frame(unique("ws").as_bytes(), 2, &[], &[]))
            .await?;
        let connack = socket.receive_bytes(2).await?;
        ensure!(connack[0] == 0x20, "{connack:02x?}");
        let rest = socket.receive_bytes(connack[1].into()).await?;
        ensure!(rest[1] == 0, "{rest:02x?}");
        Ok(socket)
    }

    /// A connection after its HTTP upgrade, and what the server answered.
    async fn upgraded(protocols: &str) -> Result<(WebSocket, String)> {
        Self::upgraded_at(ws_address(), protocols).await
    }

    async fn upgraded_at(address: SocketAddr, protocols: &str) -> Result<(WebSocket, String)> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: {protocols}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(harness::LIMIT, stream.read_u8())
                .await
                .context("no answer to the upgrade")??;
            head.push(byte);
        }
        Ok((
            WebSocket {
                stream,
                received: Vec::new(),
            },
            String::from_utf8(head)?,
        ))
    }

    /// Sends one frame, masked as clients have to.
    async fn send(&mut self, opcode: u8, last: bool, payload: &[u8]) -> Result<()> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut frame = vec![if last { 0x80 | opcode } else { opcode }];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length @ 126..0x1_0000 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        Ok(self.stream.write_all(&frame).await?)
    }

    /// So many bytes of MQTT, from however many binary frames.
    async fn receive_bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.received.len() < count {
            let (opcode, payload) = self.receive_frame().await?.context("the broker closed")?;
            ensure!(
                matches!(opcode, BINARY | CONTINUATION),
                "a frame of type {opcode}"
            );
            self.received.extend(payload);
        }
        Ok(self.received.drain(..count).collect())
    }

    /// The connection ends, with a close frame or without; no more data comes.
    async fn expect_end(&mut self) -> Result<()> {
        while let Some((opcode, payload)) = self.receive_frame().await? {
            let disconnect = opcode == BINARY && payload.first() == Some(&0xe0);
            ensure!(
                opcode == CLOSE || disconnect,
                "a frame of type {opcode}: {payload:02x?}"
            );
            if opcode == CLOSE {
                // Answered, as RFC 6455 has it, so that the broker need not wait for it.
                self.send(CLOSE, true, &payload).await.ok();
            }
        }
        Ok(())
    }

    async fn receive_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let mut head = [0; 2];
        match timeout(harness::LIMIT, self.stream.read_exact(&mut head))
            .await
            .context("no frame came")?
        {
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
        ensure!(head[1] & 0x80 == 0, "the server masks its frames");
        let length = match head[1] {
            126 => usize::from(self.stream.read_u16().await?),
            127 => usize::try_from(self.stream.read_u64().await?)?,
            short => short.into(),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some((head[0] & 0x0f, payload)))
    }
}
