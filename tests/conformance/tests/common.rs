//! What the tests share: one broker for all of them, or one cluster, names of their own, packets made by hand.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Broker, BrokerOptions, Client, Cluster, ClusterOptions, ConnectOptions, Message};
use mqtt_codec::{ConnAck, Packet, Publish, ReasonCode};

/// Long enough for something that must not happen to have happened.
pub(crate) const MOMENT: Duration = Duration::from_millis(250);

/// With this in the environment the shared broker is a cluster of so many nodes, and each connection goes to the next of
/// them: what the standard demands of one server holds whichever nodes the clients are on.
const NODES: &str = "FLOTILLA_CONFORMANCE_NODES";
const SHARED_CONFIG: &str = "[mqtt]\nsys_interval = \"1s\"\n";

/// The broker that all tests share which need no settings of their own.
enum Shared {
    One(Broker),
    Many(Cluster),
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let nodes = std::env::var(NODES).map_or(1, |nodes| nodes.parse().expect("a number of nodes"));
        start(nodes).expect("the shared broker starts")
    })
}

fn start(nodes: usize) -> Result<Shared> {
    let config = SHARED_CONFIG.to_owned();
    if nodes == 1 {
        let options = BrokerOptions {
            config: Some(config),
            ..BrokerOptions::default()
        };
        return Broker::start(options).map(Shared::One);
    }
    let options = ClusterOptions {
        nodes,
        config,
        ..ClusterOptions::default()
    };
    Cluster::start(options).map(Shared::Many)
}

/// The node whose turn it is.
fn next_node(cluster: &Cluster) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % cluster.all().len()
}

/// A broker of its own with other settings.
pub(crate) fn with_config(config: &str) -> Result<Broker> {
    Broker::start(BrokerOptions {
        config: Some(format!("{config}\n")),
        ..BrokerOptions::default()
    })
}

/// Where the shared broker speaks MQTT; of a cluster, the next node.
pub(crate) fn address() -> SocketAddr {
    match shared() {
        Shared::One(broker) => broker.mqtt_addr(),
        Shared::Many(cluster) => cluster.mqtt_addr(next_node(cluster)),
    }
}

/// Where the shared broker speaks MQTT over WebSocket.
pub(crate) fn ws_address() -> SocketAddr {
    match shared() {
        Shared::One(broker) => broker.ws_addr(),
        Shared::Many(cluster) => cluster.ws_addr(next_node(cluster)),
    }
}

/// What the shared broker answers over HTTP; of a cluster, the answers of all nodes.
pub(crate) fn admin_get(path: &str) -> Result<String> {
    match shared() {
        Shared::One(broker) => broker.admin_get(path),
        Shared::Many(cluster) => {
            let nodes = cluster.all().into_iter();
            nodes.map(|node| cluster.admin_get(node, path)).collect()
        }
    }
}

/// A name that no other test uses, for a client or a topic.
pub(crate) fn unique(word: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{word}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A version 5 client with a clean session and a name of its own.
pub(crate) async fn client(word: &str) -> Result<Client> {
    connected(ConnectOptions::v5(unique(word))).await
}

/// A client that the shared broker has accepted.
pub(crate) async fn connected(options: ConnectOptions) -> Result<Client> {
    Client::connect(address(), options).await
}

/// A connection to the shared broker on which nothing has been sent.
pub(crate) async fn opened() -> Result<Client> {
    Client::open(address()).await
}

/// A version 5 client that has subscribed to one filter.
pub(crate) async fn subscriber(filter: &str, qos: u8) -> Result<Client> {
    let mut client = client("subscriber").await?;
    let granted = client.subscribe(filter, qos).await?;
    ensure!(granted as u8 == qos, "subscribing to {filter} gave {granted:?}");
    Ok(client)
}

/// Publishes from a client of its own, and returns when the broker has acknowledged it.
pub(crate) async fn publish(message: Message) -> Result<()> {
    let mut publisher = client("publisher").await?;
    let reason = publisher.publish(message).await?;
    ensure!((reason as u8) < 0x80, "publishing gave {reason:?}");
    publisher.ping().await?;
    publisher.disconnect().await
}

/// Text of a payload.
pub(crate) fn text(publish: &Publish) -> String {
    String::from_utf8_lossy(publish.publication.payload_slice()).into_owned()
}

/// The next message has this text. Acknowledges it.
pub(crate) async fn expect_text(client: &mut Client, expected: &str) -> Result<Publish> {
    let publish = client.receive().await?;
    ensure!(
        text(&publish) == expected,
        "expected {expected:?}, got {publish:?}"
    );
    Ok(publish)
}

/// An MQTT string: two bytes of length, then the bytes.
pub(crate) fn string(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let length = u16::try_from(value.len()).expect("a short string");
    [&length.to_be_bytes(), value].concat()
}

/// A packet of a first byte and a body, with the remaining length in its shortest form.
pub(crate) fn frame(first: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut packet = vec![first];
    let mut left = body.len();
    loop {
        let more = if left > 0x7f { 0x80 } else { 0 };
        packet.push((left & 0x7f) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// A version 5 CONNECT made by hand: flags, property bytes, and the payload after the client id.
pub(crate) fn connect_frame(client_id: &[u8], flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    connect_frame_of(b"MQTT", 5, client_id, flags, properties, rest)
}

/// Like `connect_frame`, with a protocol name and version; property bytes are left out before version 5.
pub(crate) fn connect_frame_of(
    name: &[u8],
    version: u8,
    client_id: &[u8],
    flags: u8,
    properties: &[u8],
    rest: &[u8],
) -> Vec<u8> {
    let mut body = string(name);
    body.extend_from_slice(&[version, flags, 0, 0]);
    if version >= 5 {
        body.push(u8::try_from(properties.len()).expect("few properties"));
        body.extend_from_slice(properties);
    }
    body.extend(string(client_id));
    body.extend_from_slice(rest);
    frame(0x10, body)
}

/// A version 5 PUBLISH made by hand; the packet id is there when given.
pub(crate) fn publish_frame(
    flags: u8,
    topic: &[u8],
    packet_id: Option<u16>,
    properties: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut body = string(topic);
    body.extend(packet_id.iter().flat_map(|id| id.to_be_bytes()));
    body.push(u8::try_from(properties.len()).expect("few properties"));
    body.extend_from_slice(properties);
    body.extend_from_slice(payload);
    frame(0x30 | flags, body)
}

/// A version 5 SUBSCRIBE made by hand, with one filter.
pub(crate) fn subscribe_frame(packet_id: u16, properties: &[u8], filter: &[u8], options: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.push(u8::try_from(properties.len()).expect("few properties"));
    body.extend_from_slice(properties);
    body.extend(string(filter));
    body.push(options);
    frame(0x82, body)
}

/// Sends bytes as the first thing on a connection: they are refused with this reason and the connection ends.
pub(crate) async fn expect_refused(bytes: &[u8], reason: ReasonCode) -> Result<ConnAck> {
    let mut client = opened().await?;
    client.send_raw(bytes).await?;
    let connack = client.expect_connack().await?;
    ensure!(
        connack.reason_code == reason,
        "expected CONNACK {reason:?}, got {connack:?}"
    );
    ensure!(
        !connack.session_present,
        "a refusing CONNACK says session present: {connack:?}"
    );
    client.expect_closed().await?;
    ensure_serving().await?;
    Ok(connack)
}

/// Sends bytes as the first thing on a connection: it ends without a word.
pub(crate) async fn expect_hung_up(bytes: &[u8]) -> Result<()> {
    let mut client = opened().await?;
    client.send_raw(bytes).await?;
    client.expect_closed().await?;
    ensure_serving().await
}

/// Sends bytes on a good version 5 connection: it ends with this reason, and others do not notice.
pub(crate) async fn expect_fatal(bytes: &[u8], reason: ReasonCode) -> Result<()> {
    let mut witness = subscriber(&unique("witness"), 0).await?;
    let mut client = client("offender").await?;
    client.send_raw(bytes).await?;
    client
        .expect_disconnect(reason)
        .await
        .with_context(|| format!("after {bytes:02x?}"))?;
    witness.ping().await?;
    ensure_serving().await
}

/// Somebody else can connect, subscribe, publish and receive.
pub(crate) async fn ensure_serving() -> Result<()> {
    let topic = unique("serving");
    let mut client = client("serving").await?;
    client.subscribe(&topic, 1).await?;
    client.publish(Message::new(&topic, "on").qos(1)).await?;
    expect_text(&mut client, "on").await?;
    client.disconnect().await
}

/// The frame that answers `packet`, as it came.
pub(crate) async fn answer(client: &mut Client, packet: &Packet) -> Result<bytes::Bytes> {
    client.send(packet).await?;
    client
        .receive_frame()
        .await?
        .context("the broker closed instead of answering")
}
