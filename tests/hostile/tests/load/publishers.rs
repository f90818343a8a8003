//! Publishers who keep to a schedule, whatever the node can take: those with QoS 0 write, those with QoS 1 fill their window.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Client, ConnectOptions, Message, encoded};
use hostile::crowd;
use mqtt_codec::{Packet, PacketId, ProtocolVersion, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::PAYLOAD;

/// How many there are with QoS 0, and with QoS 1.
const COUNTS: [usize; 2] = [10, 20];
/// Messages with QoS 0 that are written at once.
const TOGETHER: u64 = 32;
/// Messages with QoS 1 that are under way at once: Receive Maximum of the node.
const WINDOW: usize = 32;
/// Who is ahead of its schedule looks again after this.
const PAUSE: Duration = Duration::from_millis(2);
/// What is under way when the load ends is answered by then.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// All of them.
pub(crate) struct Publishers {
    floods: Vec<Flood>,
    publishers: Vec<Publisher>,
}

/// What the node has taken from them.
pub(crate) struct Taken {
    /// Messages with QoS 0 that their sockets took.
    pub(crate) written: u64,
    /// By each publisher with QoS 1.
    pub(crate) sent: Vec<Sent>,
}

/// What a publisher has sent: the numbers from 0 on.
pub(crate) struct Sent {
    pub(crate) publisher: usize,
    pub(crate) count: u64,
    /// The numbers of those that were acknowledged.
    pub(crate) acknowledged: BTreeSet<u64>,
}

impl Publishers {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let (mut floods, mut publishers) = (Vec::new(), Vec::new());
        for number in 0..COUNTS[0] {
            floods.push(Flood::connect(address, number).await?);
        }
        for number in 0..COUNTS[1] {
            publishers.push(Publisher::connect(address, number).await?);
        }
        Ok(Self { floods, publishers })
    }

    /// So many messages in a second until the end, with QoS 0 and with QoS 1, from all together.
    pub(crate) async fn offer(self, rates: [f64; 2], end: Instant) -> Result<Taken> {
        let rate_of_each = |qos: usize| rates[qos] / COUNTS[qos] as f64;
        let floods = self.floods.into_iter();
        let mut floods: JoinSet<_> = floods.map(|flood| flood.offer(rate_of_each(0), end)).collect();
        let publishers = self.publishers.into_iter();
        let mut publishers: JoinSet<_> = publishers
            .map(|publisher| publisher.offer(rate_of_each(1), end))
            .collect();
        let (mut written, mut sent) = (0, Vec::new());
        while let Some(flood) = floods.join_next().await {
            written += flood??;
        }
        while let Some(publisher) = publishers.join_next().await {
            sent.push(publisher??);
        }
        Ok(Taken { written, sent })
    }
}

/// How many messages are due.
fn due(rate: f64, began: Instant) -> u64 {
    (began.elapsed().as_secs_f64() * rate) as u64
}

/// Writes, and reads nothing: there is nothing to read.
struct Flood {
    stream: TcpStream,
    messages: Vec<u8>,
}

impl Flood {
    async fn connect(address: SocketAddr, number: usize) -> Result<Self> {
        let connect = ConnectOptions::v5(format!("flood-{number}")).connect;
        let connect = encoded(&Packet::Connect(Box::new(connect)), ProtocolVersion::V5)?;
        let mut streams = crowd(address, 1, &connect).await?;
        let mut stream = streams.pop().context("one was asked for")?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        ensure!(head[3] == ReasonCode::Success as u8, "refused: {head:?}");
        let publish = Message::new(&format!("load/live/{number}"), [0; PAYLOAD]).build();
        let message = encoded(&Packet::Publish(publish), ProtocolVersion::V5)?;
        Ok(Self {
            stream,
            messages: message.repeat(TOGETHER as usize),
        })
    }

    /// As many in a second until the end, if the socket takes them. Returns how many it took.
    async fn offer(mut self, rate: f64, end: Instant) -> Result<u64> {
        let (began, mut taken) = (Instant::now(), 0);
        while Instant::now() < end {
            if taken >= due(rate, began) {
                sleep(PAUSE).await;
                continue;
            }
            match timeout_at(end, self.stream.write_all(&self.messages)).await {
                Ok(written) => written?,
                Err(_) => break,
            }
            taken += TOGETHER;
        }
        Ok(taken)
    }
}

/// Publishes numbered messages with QoS 1, as many at a time as it may.
struct Publisher {
    client: Client,
    under_way: HashMap<PacketId, u64>,
    sent: Sent,
}

impl Publisher {
    async fn connect(address: SocketAddr, number: usize) -> Result<Self> {
        let options = ConnectOptions::v5(format!("publisher-{number}"));
        Ok(Self {
            client: Client::connect(address, options).await?,
            under_way: HashMap::new(),
            sent: Sent {
                publisher: number,
                count: 0,
                acknowledged: BTreeSet::new(),
            },
        })
    }

    /// As many in a second until the end, if the node acknowledges them; then what is under way is waited for.
    async fn offer(mut self, rate: f64, end: Instant) -> Result<Sent> {
        let (began, publisher) = (Instant::now(), self.sent.publisher);
        while Instant::now() < end {
            if self.sent.count >= due(rate, began) {
                sleep(PAUSE).await;
            } else if self.under_way.len() < WINDOW {
                self.publish().await?;
            } else {
                self.hear().await?;
            }
        }
        let answered = async {
            while !self.under_way.is_empty() {
                self.hear().await?;
            }
            anyhow::Ok(())
        };
        let answered = timeout_at(end + ANSWERED_WITHIN, answered).await;
        answered.with_context(|| format!("publisher {publisher} waits for PUBACK"))??;
        Ok(self.sent)
    }

    async fn publish(&mut self) -> Result<()> {
        let (publisher, number) = (self.sent.publisher, self.sent.count);
        let message = Message::new(&format!("load/kept/{publisher}"), numbered(publisher, number)).qos(1);
        let packet_id = self.client.send_publish(message).await?;
        self.under_way.insert(packet_id.context("QoS 1 has one")?, number);
        self.sent.count += 1;
        Ok(())
    }

    async fn hear(&mut self) -> Result<()> {
        let packet = self.client.receive_packet().await?;
        let Packet::PubAck(acknowledgement) = packet else {
            bail!("not a PUBACK: {packet:?}");
        };
        let number = self.under_way.remove(&acknowledgement.packet_id);
        let number = number.context("a PUBACK for nothing")?;
        if acknowledgement.reason_code == ReasonCode::Success {
            self.sent.acknowledged.insert(number);
        }
        Ok(())
    }
}

fn numbered(publisher: usize, number: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(PAYLOAD);
    payload.extend_from_slice(&(publisher as u64).to_be_bytes());
    payload.extend_from_slice(&number.to_be_bytes());
    payload.resize(PAYLOAD, 0);
    payload
}

/// Who has published a message, and its number.
pub(crate) fn number_of(payload: &[u8]) -> Result<(usize, u64)> {
    let word = |place: usize| -> Result<u64> {
        let bytes = payload.get(place..place + 8).context("a short payload")?;
        Ok(u64::from_be_bytes(bytes.try_into()?))
    };
    Ok((word(0)? as usize, word(8)?))
}
