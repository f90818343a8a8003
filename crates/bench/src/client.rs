//! One MQTT connection: handshakes one packet at a time, and batched reading and writing for the load.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::num::NonZeroU16;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use mqtt_codec::{
    Connect, ConnectProperties, DecodeLimits, Decoder, Disconnect, Packet, PacketId, ProtocolVersion,
    Publication, PublishHead, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFilter,
    SubscriptionOptions, WriteQueue, encode, encode_publish,
};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::stream::{Stream, Target};

/// No handshake takes longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// System calls write up to this many pieces at once.
const SLICES_MAX: usize = 64;

/// Who connects, with what session.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) client_id: String,
    pub(crate) version: ProtocolVersion,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) keep_alive: u16,
    /// The session outlives the connection.
    pub(crate) persistent: bool,
    /// Bytes asked for by one read.
    pub(crate) read_size: usize,
}

/// A connection after CONNACK.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    version: ProtocolVersion,
    decoder: Decoder,
    input: BytesMut,
    /// Received and not yet decoded.
    pending: Bytes,
    read_size: usize,
    out: WriteQueue,
    receive_maximum: u16,
    keep_alive: u16,
    session_present: bool,
}

impl Client {
    /// Opens the connection and completes CONNECT.
    pub(crate) async fn connect(target: &Target, identity: &Identity) -> anyhow::Result<Self> {
        let handshake = async {
            let stream = Stream::connect(target).await?;
            let mut client = Self::new(stream, identity);
            client
                .send(&Packet::Connect(Box::new(connect_packet(identity))))
                .await?;
            client.await_connack().await?;
            Ok(client)
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .context("no answer to CONNECT")?
    }

    fn new(stream: Stream, identity: &Identity) -> Self {
        let limits = DecodeLimits {
            packet_size_max: 268_435_460,
            topic_levels_max: u16::MAX,
            user_properties_max: u16::MAX,
        };
        Self {
            stream,
            version: identity.version,
            decoder: Decoder::client(identity.version, limits),
            input: BytesMut::new(),
            pending: Bytes::new(),
            read_size: identity.read_size,
            out: WriteQueue::new(),
            receive_maximum: u16::MAX,
            keep_alive: identity.keep_alive,
            session_present: false,
        }
    }

    /// Messages with QoS 1 and 2 the broker takes at a time.
    pub(crate) fn receive_maximum(&self) -> u16 {
        self.receive_maximum
    }

    /// Whether the broker knew the session.
    pub(crate) fn session_present(&self) -> bool {
        self.session_present
    }

    /// Seconds the broker lets the connection be silent; 0 is for ever.
    pub(crate) fn keep_alive(&self) -> u16 {
        self.keep_alive
    }

    /// Bytes encoded and not yet written.
    pub(crate) fn unwritten(&self) -> usize {
        self.out.len()
    }

    /// Encodes a packet; it leaves with the next flush.
    pub(crate) fn queue(&mut self, packet: &Packet) -> anyhow::Result<()> {
        encode(packet, self.version, &mut self.out).context("the packet cannot be encoded")
    }

    /// Encodes a message; it leaves with the next flush.
    pub(crate) fn queue_publish(
        &mut self,
        publication: &Publication,
        qos: QoS,
        retain: bool,
        packet_id: Option<PacketId>,
    ) {
        let head = PublishHead {
            dup: false,
            qos,
            retain,
            packet_id,
            subscription_ids: &[],
            topic_alias: None,
            omit_topic: false,
            message_expiry_interval: None,
        };
        encode_publish(publication, self.version, &head, &mut self.out);
    }

    /// Encodes SUBSCRIBE; the answer has this packet id.
    pub(crate) fn queue_subscribe(
        &mut self,
        filters: &[String],
        qos: QoS,
        packet_id: PacketId,
    ) -> anyhow::Result<()> {
        let options = SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAtSubscribe,
        };
        let filters = filters
            .iter()
            .map(|filter| SubscribeFilter {
                filter: ByteString::from(filter.as_str()),
                options,
            })
            .collect();
        self.queue(&Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: None,
            user_properties: Vec::new(),
            filters,
        }))
    }

    /// Writes what is queued.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.out.chunks_vectored(&mut slices);
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        match &self.stream {
            Stream::Tcp(_) => Poll::Ready(Ok(())),
            Stream::Tls(_) => Pin::new(&mut self.stream).poll_flush(context),
        }
    }

    /// Reads what has come; an end of the stream is an error.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Stream::Tcp(stream) = &self.stream {
            // Before any buffer is reserved: a thousand idle connections need none.
            ready!(stream.poll_read_ready(context))?;
        }
        let carried = std::mem::take(&mut self.pending);
        self.input.reserve(self.read_size + carried.len());
        self.input.extend_from_slice(&carried);
        drop(carried);
        let result = pin!(self.stream.read_buf(&mut self.input)).poll(context);
        self.pending = self.input.split().freeze();
        match ready!(result)? {
            0 => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the broker closed the connection",
            ))),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// The next packet of what was read.
    pub(crate) fn next_packet(&mut self) -> anyhow::Result<Option<Packet>> {
        let decoded = self.decoder.decode(&mut self.pending);
        decoded.map_err(|error| anyhow::anyhow!("the broker sent what cannot be decoded: {}", error.detail))
    }

    /// Sends one packet now.
    pub(crate) async fn send(&mut self, packet: &Packet) -> anyhow::Result<()> {
        self.queue(packet)?;
        Ok(self.flush().await?)
    }

    /// Writes all that is queued.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// Waits for one packet.
    pub(crate) async fn receive(&mut self) -> anyhow::Result<Packet> {
        loop {
            if let Some(packet) = self.next_packet()? {
                return Ok(packet);
            }
            poll_fn(|context| self.poll_fill(context)).await?;
        }
    }

    /// Subscribes to all filters and waits until they are granted. Nothing may be published to them yet.
    pub(crate) async fn subscribe(&mut self, filters: &[String], qos: QoS) -> anyhow::Result<()> {
        for chunk in filters.chunks(100) {
            self.queue_subscribe(chunk, qos, first_packet_id())?;
            self.flush().await?;
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.receive())
                .await
                .context("no answer to SUBSCRIBE")??
            {
                Packet::SubAck(ack) => ensure!(
                    ack.reason_codes.iter().all(|code| (*code as u8) < 0x80),
                    "subscription refused: {ack:?}"
                ),
                other => bail!("expected SUBACK, received {other:?}"),
            }
        }
        Ok(())
    }

    /// Says goodbye; the session of a persistent identity stays.
    pub(crate) async fn disconnect(mut self) -> anyhow::Result<()> {
        let disconnect = Disconnect {
            reason_code: ReasonCode::Success,
            session_expiry_interval: None,
            reason_string: None,
            server_reference: None,
            user_properties: Vec::new(),
        };
        self.send(&Packet::Disconnect(disconnect)).await?;
        // The broker may have closed first, which is its right after DISCONNECT.
        let _ = self.stream.shutdown().await;
        Ok(())
    }

    async fn await_connack(&mut self) -> anyhow::Result<()> {
        let connack = match self.receive().await? {
            Packet::ConnAck(connack) => connack,
            other => bail!("expected CONNACK, received {other:?}"),
        };
        ensure!(
            connack.reason_code == ReasonCode::Success,
            "connection refused: {:?}",
            connack.reason_code
        );
        self.session_present = connack.session_present;
        self.receive_maximum = connack
            .properties
            .receive_maximum
            .map_or(u16::MAX, NonZeroU16::get);
        self.keep_alive = connack.properties.server_keep_alive.unwrap_or(self.keep_alive);
        Ok(())
    }
}

/// The packet id of requests that are made one at a time.
pub(crate) fn first_packet_id() -> PacketId {
    PacketId::new(1).expect("1 is not 0")
}

fn connect_packet(identity: &Identity) -> Connect {
    let is_v5 = matches!(identity.version, ProtocolVersion::V5);
    let session_expiry_interval = (is_v5 && identity.persistent).then_some(3600);
    Connect {
        version: identity.version,
        client_id: ByteString::from(identity.client_id.as_str()),
        clean_start: !identity.persistent,
        keep_alive: identity.keep_alive,
        username: identity.username.as_deref().map(ByteString::from),
        password: identity.password.clone().map(Bytes::from),
        will: None,
        properties: ConnectProperties {
            session_expiry_interval,
            ..ConnectProperties::default()
        },
    }
}
