//! Clients behind a proxy: whose header is believed, on every kind of listener, and what happens to the others.

use anyhow::{Context, Result, ensure};
use harness::{Broker, BrokerOptions, Client, ConnectOptions};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 1883\r\n";
const MALFORMED: &[u8] = b"PROXY TCP4 192.0.2.7\r\n";

/// Version 2: client 198.51.100.9 port 4712, and a verified certificate of `device-7`.
fn binary() -> Vec<u8> {
    let tls = b"\x20\x00\x10\x07\x00\x00\x00\x00\x22\x00\x08device-7";
    let addresses = [198, 51, 100, 9, 127, 0, 0, 1, 0x12, 0x68, 0x07, 0x5b];
    let length = u16::try_from(addresses.len() + tls.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, &addresses, tls].concat()
}

/// Version 2, command LOCAL: the proxy looks whether the broker is there.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn broker() -> Result<Broker> {
    let listener = |name: &str, protocol: &str, proxies: &str| {
        format!(
            "[[listeners]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nbind = \"127.0.0.1:0\"\n\
             allow_anonymous = true\nproxy_protocol = {proxies}\n"
        )
    };
    let listeners = [
        listener("required", "tcp", "\"required\""),
        listener("optional", "tcp", "\"optional\""),
        listener("off", "tcp", "\"off\""),
        listener(
            "elsewhere",
            "tcp",
            "\"optional\"\nproxy_trusted = [\"192.0.2.0/24\"]",
        ),
        listener(
            "elsewhere-only",
            "tcp",
            "\"required\"\nproxy_trusted = [\"192.0.2.0/24\"]",
        ),
        listener("mqtts", "tls", "\"required\""),
        listener("ws", "ws", "\"required\""),
    ];
    Broker::start(BrokerOptions {
        config: Some(listeners.concat()),
        tls: true,
        env: vec![("FLOTILLA__LOG__LEVEL".into(), "info,broker=debug".into())],
        ..BrokerOptions::default()
    })
}

/// Connects to a listener, sends these bytes first, then CONNECT; tells whether the broker has accepted it.
async fn accepted(broker: &Broker, listener: &str, first: &[u8], client_id: &str) -> Result<bool> {
    let mut client = Client::open(broker.address(listener)).await?;
    client.send_raw(first).await?;
    Ok(client.handshake(ConnectOptions::v5(client_id)).await.is_ok())
}

/// The address that the broker has for a client.
fn address_of(broker: &Broker, client_id: &str) -> Result<String> {
    let log = broker.log();
    let line = log
        .lines()
        .find(|line| line.contains(client_id) && line.contains("connected"))
        .with_context(|| format!("{client_id} is not in the log:\n{log}"))?;
    let address = line.split("address=").nth(1).context("an address")?;
    Ok(address.split_whitespace().next().unwrap_or_default().to_owned())
}

fn rejected(broker: &Broker, reason: &str) -> Result<u64> {
    let metrics = broker.admin_get("/metrics")?;
    let name = format!("flotilla_proxy_headers_rejected_total{{reason=\"{reason}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    Ok(value.with_context(|| name.clone())?.parse()?)
}

#[tokio::test]
async fn a_trusted_header_tells_the_clients_address() -> Result<()> {
    let broker = broker()?;
    for listener in ["required", "optional"] {
        let line = format!("line-{listener}");
        ensure!(accepted(&broker, listener, LINE, &line).await?);
        ensure!(address_of(&broker, &line)? == "192.0.2.7:4711");
        let binary_id = format!("binary-{listener}");
        ensure!(accepted(&broker, listener, &binary(), &binary_id).await?);
        ensure!(address_of(&broker, &binary_id)? == "198.51.100.9:4712");
        let local = format!("local-{listener}");
        ensure!(accepted(&broker, listener, LOCAL, &local).await?);
        ensure!(address_of(&broker, &local)?.starts_with("127.0.0.1:"));
    }
    ensure!(accepted(&broker, "optional", b"", "direct").await?);
    ensure!(address_of(&broker, "direct")?.starts_with("127.0.0.1:"));
    Ok(())
}

#[tokio::test]
async fn headers_that_are_missing_malformed_or_forged_end_the_connection() -> Result<()> {
    let broker = broker()?;
    ensure!(!accepted(&broker, "required", b"", "missing").await?);
    ensure!(!accepted(&broker, "required", MALFORMED, "malformed").await?);
    ensure!(!accepted(&broker, "optional", MALFORMED, "malformed").await?);
    ensure!(!accepted(&broker, "off", LINE, "not-expected").await?);
    ensure!(!accepted(&broker, "elsewhere", LINE, "forged").await?);
    ensure!(!accepted(&broker, "elsewhere-only", LINE, "forged").await?);
    ensure!(accepted(&broker, "elsewhere", b"", "honest").await?);
    ensure!(address_of(&broker, "honest")?.starts_with("127.0.0.1:"));
    for (reason, times) in [("missing", 1), ("malformed", 2), ("untrusted", 1), ("late", 0)] {
        let counted = rejected(&broker, reason)?;
        ensure!(counted == times, "{reason}: {counted}");
    }
    ensure!(!broker.log().contains("192.0.2.7"), "{}", broker.log());
    Ok(())
}

#[tokio::test]
async fn a_probe_that_says_nothing_is_not_worth_a_line() -> Result<()> {
    let broker = broker()?;
    for listener in ["required", "optional"] {
        drop(TcpStream::connect(broker.address(listener)).await?);
        let mut probe = TcpStream::connect(broker.address(listener)).await?;
        probe.write_all(LOCAL).await?;
        drop(probe);
    }
    // Accepted after the probes, so they have been dealt with when this one is.
    ensure!(accepted(&broker, "optional", b"", "after").await?);
    ensure!(!broker.log().contains("connection refused: "), "{}", broker.log());
    Ok(())
}

#[tokio::test]
async fn the_header_comes_before_tls_and_before_http() -> Result<()> {
    let broker = broker()?;
    let certificate = broker.certificate().context("a broker with TLS")?;
    let mut stream = TcpStream::connect(broker.mqtts_addr()).await?;
    stream.write_all(&binary()).await?;
    let connector = certificate.connector()?;
    let stream = connector
        .connect(ServerName::try_from("localhost")?, stream)
        .await?;
    Client::on(stream)
        .handshake(ConnectOptions::v5("through-tls"))
        .await?;
    ensure!(address_of(&broker, "through-tls")? == "198.51.100.9:4712");

    let mut stream = TcpStream::connect(broker.ws_addr()).await?;
    stream.write_all(LINE).await?;
    let upgrade = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
        Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    ensure!(&status == b"HTTP/1.1 101", "{}", String::from_utf8_lossy(&status));
    Ok(())
}
