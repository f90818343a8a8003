//! A small MQTT client that does only what it is told: every step of every handshake can be taken by hand.
//!
//! Frames are cut out of the stream here, without the codec, so that a test can look at the bytes as they came.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use mqtt_codec::{
    Acknowledgement, ConnAck, DecodeLimits, Decoder, Disconnect, Packet, PacketId, ProtocolVersion, Publish,
    QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter, SubscriptionOptions, UnsubAck,
    Unsubscribe, WriteQueue, encode,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::options::{ConnectOptions, Message};

/// How long a client waits for a packet before the test fails.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A byte stream to a broker: TCP, TLS, or whatever a test makes.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// One connection to a broker. Dropping it closes the connection without DISCONNECT.
pub struct Client {
    transport: Box<dyn Transport>,
    version: ProtocolVersion,
    decoder: Decoder,
    received: BytesMut,
    set_aside: VecDeque<Packet>,
    last_packet_id: u16,
    connack: Option<ConnAck>,
    user: Option<ByteString>,
}

/// A subscription with options other than the plain ones. The default is QoS 2 with everything else 0.
pub fn subscription_options(qos: u8) -> SubscriptionOptions {
    SubscriptionOptions {
        qos: QoS::try_from(qos).expect("a test uses QoS 0, 1 or 2 here"),
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendAtSubscribe,
    }
}

/// Opening and connecting.
impl Client {
    /// A TCP connection on which nothing has been sent.
    pub async fn open(address: SocketAddr) -> Result<Client> {
        let stream = timeout(LIMIT, TcpStream::connect(address))
            .await
            .context("connecting timed out")??;
        stream.set_nodelay(true)?;
        Ok(Client::on(stream))
    }

    /// A client on a transport that the test has made.
    pub fn on(transport: impl Transport + 'static) -> Client {
        let version = ProtocolVersion::V5;
        Client {
            transport: Box::new(transport),
            version,
            decoder: decoder(version),
            received: BytesMut::new(),
            set_aside: VecDeque::new(),
            last_packet_id: 0,
            connack: None,
            user: None,
        }
    }

    /// Names this user in a CONNECT that names none.
    pub fn as_user(mut self, user: &str) -> Client {
        self.user = Some(ByteString::from(user));
        self
    }

    /// Connects over TCP; an error unless the broker accepts.
    pub async fn connect(address: SocketAddr, options: ConnectOptions) -> Result<Client> {
        let mut client = Client::open(address).await?;
        client.handshake(options).await?;
        Ok(client)
    }

    /// Sends CONNECT and waits for a CONNACK that accepts it.
    pub async fn handshake(&mut self, options: ConnectOptions) -> Result<ConnAck> {
        self.send_connect(options).await?;
        let connack = self.expect_connack().await?;
        ensure!(connack.reason_code == ReasonCode::Success, "refused: {connack:?}");
        Ok(connack)
    }

    /// Sends CONNECT and speaks its version from here on.
    pub async fn send_connect(&mut self, options: ConnectOptions) -> Result<()> {
        let mut connect = options.connect;
        self.speak(connect.version);
        connect.username = connect.username.or_else(|| self.user.clone());
        self.send(&Packet::Connect(Box::new(connect))).await
    }

    /// Sets the version without sending a CONNECT.
    pub fn speak(&mut self, version: ProtocolVersion) {
        self.version = version;
        self.decoder = decoder(version);
    }

    /// The CONNACK that accepted this connection.
    pub fn connack(&self) -> &ConnAck {
        self.connack.as_ref().expect("this client is connected")
    }
}

/// Sending.
impl Client {
    /// Sends a packet as it is.
    pub async fn send(&mut self, packet: &Packet) -> Result<()> {
        let bytes = encoded(packet, self.version)?;
        self.send_raw(&bytes).await
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(LIMIT, self.transport.write_all(bytes))
            .await
            .context("sending timed out")??;
        timeout(LIMIT, self.transport.flush())
            .await
            .context("flushing timed out")??;
        Ok(())
    }

    /// A packet id that this client has not used lately.
    pub fn next_packet_id(&mut self) -> PacketId {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.last_packet_id).expect("counts from 1")
    }

    /// Sends PUBLISH and nothing else; returns the packet id of QoS 1 and 2.
    pub async fn send_publish(&mut self, message: Message) -> Result<Option<PacketId>> {
        let mut publish = message.build();
        if publish.qos != QoS::AtMostOnce && publish.packet_id.is_none() {
            publish.packet_id = Some(self.next_packet_id());
        }
        let packet_id = publish.packet_id;
        self.send(&Packet::Publish(publish)).await?;
        Ok(packet_id)
    }

    /// Publishes with the whole handshake. Returns the reason code of the first acknowledgement.
    pub async fn publish(&mut self, message: Message) -> Result<ReasonCode> {
        let qos = message.clone().build().qos;
        let Some(packet_id) = self.send_publish(message).await? else {
            return Ok(ReasonCode::Success);
        };
        if qos == QoS::AtLeastOnce {
            return Ok(self.expect_puback(packet_id).await?.reason_code);
        }
        let received = self.expect_pubrec(packet_id).await?.reason_code;
        if (received as u8) < 0x80 {
            self.send_pubrel(packet_id).await?;
            self.expect_pubcomp(packet_id).await?;
        }
        Ok(received)
    }

    /// Sends PUBACK.
    pub async fn send_puback(&mut self, packet_id: PacketId) -> Result<()> {
        self.send(&Packet::PubAck(Acknowledgement::new(
            packet_id,
            ReasonCode::Success,
        )))
        .await
    }

    /// Sends PUBREC.
    pub async fn send_pubrec(&mut self, packet_id: PacketId) -> Result<()> {
        self.send(&Packet::PubRec(Acknowledgement::new(
            packet_id,
            ReasonCode::Success,
        )))
        .await
    }

    /// Sends PUBREL.
    pub async fn send_pubrel(&mut self, packet_id: PacketId) -> Result<()> {
        self.send(&Packet::PubRel(Acknowledgement::new(
            packet_id,
            ReasonCode::Success,
        )))
        .await
    }

    /// Sends PUBCOMP.
    pub async fn send_pubcomp(&mut self, packet_id: PacketId) -> Result<()> {
        self.send(&Packet::PubComp(Acknowledgement::new(
            packet_id,
            ReasonCode::Success,
        )))
        .await
    }

    /// Subscribes to one filter with plain options. Returns its reason code.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<ReasonCode> {
        self.subscribe_with(filter, subscription_options(qos), None).await
    }

    /// Subscribes to one filter. Returns its reason code.
    pub async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Result<ReasonCode> {
        let suback = self.subscribe_many(&[(filter, options)], subscription_id).await?;
        suback
            .reason_codes
            .first()
            .copied()
            .context("a SUBACK without reason code")
    }

    /// Subscribes to several filters with one packet.
    pub async fn subscribe_many(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        subscription_id: Option<u32>,
    ) -> Result<SubAck> {
        let packet_id = self.send_subscribe(filters, subscription_id).await?;
        self.expect_suback(packet_id).await
    }

    /// Sends SUBSCRIBE and nothing else.
    pub async fn send_subscribe(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        subscription_id: Option<u32>,
    ) -> Result<PacketId> {
        let packet_id = self.next_packet_id();
        let filters = filters.iter().map(|(filter, options)| SubscribeFilter {
            filter: ByteString::from(*filter),
            options: *options,
        });
        let subscribe = Subscribe {
            packet_id,
            subscription_id,
            user_properties: Default::default(),
            filters: filters.collect(),
        };
        self.send(&Packet::Subscribe(subscribe)).await?;
        Ok(packet_id)
    }

    /// Unsubscribes from filters with one packet.
    pub async fn unsubscribe(&mut self, filters: &[&str]) -> Result<UnsubAck> {
        let packet_id = self.next_packet_id();
        let unsubscribe = Unsubscribe {
            packet_id,
            user_properties: Default::default(),
            filters: filters.iter().map(|filter| ByteString::from(*filter)).collect(),
        };
        self.send(&Packet::Unsubscribe(unsubscribe)).await?;
        self.expect_unsuback(packet_id).await
    }

    /// Sends PINGREQ and waits for the answer: when it comes, what was sent before has been read.
    pub async fn ping(&mut self) -> Result<()> {
        self.send(&Packet::PingReq).await?;
        self.expect(|packet| matches!(packet, Packet::PingResp), "PINGRESP")
            .await
            .map(|_| ())
    }

    /// Sends DISCONNECT with a reason and waits until the broker has closed.
    pub async fn disconnect_with(mut self, reason_code: ReasonCode) -> Result<()> {
        let disconnect = Disconnect {
            reason_code,
            session_expiry_interval: None,
            reason_string: None,
            server_reference: None,
            user_properties: Default::default(),
        };
        self.send(&Packet::Disconnect(disconnect)).await?;
        self.drain_until_closed().await
    }

    /// Ends the connection normally and waits until the broker has closed.
    pub async fn disconnect(self) -> Result<()> {
        self.disconnect_with(ReasonCode::Success).await
    }
}

/// Receiving. PUBLISH packets that come while something else is awaited are set aside, in order.
impl Client {
    /// The next packet.
    pub async fn receive_packet(&mut self) -> Result<Packet> {
        match self.set_aside.pop_front() {
            Some(packet) => Ok(packet),
            None => self
                .read_packet(LIMIT)
                .await?
                .context("the broker closed the connection"),
        }
    }

    /// The next packet as bytes, fixed header included. `None` at the end of the stream.
    pub async fn receive_frame(&mut self) -> Result<Option<Bytes>> {
        self.read_frame(LIMIT).await
    }

    /// The next PUBLISH, without acknowledging it.
    pub async fn expect_publish(&mut self) -> Result<Publish> {
        match self.receive_packet().await? {
            Packet::Publish(publish) => Ok(publish),
            other => Err(unexpected("PUBLISH", &other)),
        }
    }

    /// The next PUBLISH, acknowledged to the end.
    pub async fn receive(&mut self) -> Result<Publish> {
        let publish = self.expect_publish().await?;
        self.acknowledge(&publish).await?;
        Ok(publish)
    }

    /// Takes a received message through its handshake.
    pub async fn acknowledge(&mut self, publish: &Publish) -> Result<()> {
        match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => Ok(()),
            (QoS::AtLeastOnce, Some(packet_id)) => self.send_puback(packet_id).await,
            (QoS::ExactlyOnce, Some(packet_id)) => {
                self.send_pubrec(packet_id).await?;
                self.expect_pubrel(packet_id).await?;
                self.send_pubcomp(packet_id).await
            }
            (_, None) => bail!("a PUBLISH of QoS 1 or 2 without packet id"),
        }
    }

    /// CONNACK, whatever it says.
    pub async fn expect_connack(&mut self) -> Result<ConnAck> {
        match self.receive_packet().await? {
            Packet::ConnAck(connack) => {
                self.connack = Some((*connack).clone());
                Ok(*connack)
            }
            other => Err(unexpected("CONNACK", &other)),
        }
    }

    /// PUBACK of this packet id.
    pub async fn expect_puback(&mut self, packet_id: PacketId) -> Result<Acknowledgement> {
        let wanted = |packet: &Packet| matches!(packet, Packet::PubAck(ack) if ack.packet_id == packet_id);
        match self.expect(wanted, "PUBACK").await? {
            Packet::PubAck(acknowledgement) => Ok(acknowledgement),
            other => Err(unexpected("PUBACK", &other)),
        }
    }

    /// PUBREC of this packet id.
    pub async fn expect_pubrec(&mut self, packet_id: PacketId) -> Result<Acknowledgement> {
        let wanted = |packet: &Packet| matches!(packet, Packet::PubRec(ack) if ack.packet_id == packet_id);
        match self.expect(wanted, "PUBREC").await? {
            Packet::PubRec(acknowledgement) => Ok(acknowledgement),
            other => Err(unexpected("PUBREC", &other)),
        }
    }

    /// PUBREL of this packet id.
    pub async fn expect_pubrel(&mut self, packet_id: PacketId) -> Result<Acknowledgement> {
        let wanted = |packet: &Packet| matches!(packet, Packet::PubRel(ack) if ack.packet_id == packet_id);
        match self.expect(wanted, "PUBREL").await? {
            Packet::PubRel(acknowledgement) => Ok(acknowledgement),
            other => Err(unexpected("PUBREL", &other)),
        }
    }

    /// PUBCOMP of this packet id.
    pub async fn expect_pubcomp(&mut self, packet_id: PacketId) -> Result<Acknowledgement> {
        let wanted = |packet: &Packet| matches!(packet, Packet::PubComp(ack) if ack.packet_id == packet_id);
        match self.expect(wanted, "PUBCOMP").await? {
            Packet::PubComp(acknowledgement) => Ok(acknowledgement),
            other => Err(unexpected("PUBCOMP", &other)),
        }
    }

    /// SUBACK of this packet id.
    pub async fn expect_suback(&mut self, packet_id: PacketId) -> Result<SubAck> {
        let wanted = |packet: &Packet| matches!(packet, Packet::SubAck(ack) if ack.packet_id == packet_id);
        match self.expect(wanted, "SUBACK").await? {
            Packet::SubAck(suback) => Ok(suback),
            other => Err(unexpected("SUBACK", &other)),
        }
    }

    /// UNSUBACK of this packet id.
    pub async fn expect_unsuback(&mut self, packet_id: PacketId) -> Result<UnsubAck> {
        let wanted = |packet: &Packet| matches!(packet, Packet::UnsubAck(ack) if ack.packet_id == packet_id);
        match self.expect(wanted, "UNSUBACK").await? {
            Packet::UnsubAck(unsuback) => Ok(unsuback),
            other => Err(unexpected("UNSUBACK", &other)),
        }
    }

    /// DISCONNECT with this reason, and then the end of the connection.
    pub async fn expect_disconnect(&mut self, reason_code: ReasonCode) -> Result<Disconnect> {
        let packet = self
            .expect(|packet| matches!(packet, Packet::Disconnect(_)), "DISCONNECT")
            .await?;
        let Packet::Disconnect(disconnect) = packet else {
            return Err(unexpected("DISCONNECT", &packet));
        };
        let reason = disconnect.reason_code;
        ensure!(
            reason == reason_code,
            "expected DISCONNECT {reason_code:?}, got {reason:?}"
        );
        self.expect_closed().await?;
        Ok(disconnect)
    }

    /// The end of the connection, with no packet before it.
    pub async fn expect_closed(&mut self) -> Result<()> {
        ensure!(
            self.set_aside.is_empty(),
            "packets had come before: {:?}",
            self.set_aside
        );
        match self.read_packet(LIMIT).await? {
            None => Ok(()),
            Some(packet) => Err(unexpected("the end of the connection", &packet)),
        }
    }

    /// No packet for a while, and no end of the connection either.
    pub async fn expect_silence(&mut self, duration: Duration) -> Result<()> {
        ensure!(
            self.set_aside.is_empty(),
            "packets had come before: {:?}",
            self.set_aside
        );
        match timeout(duration, self.read_packet(LIMIT)).await {
            Err(_) => Ok(()),
            Ok(Ok(Some(packet))) => Err(unexpected("silence", &packet)),
            Ok(Ok(None)) => bail!("expected silence, but the broker closed the connection"),
            Ok(Err(error)) => Err(error.context("expected silence")),
        }
    }

    /// No PUBLISH: the answer to a ping comes first. Only sure for what the broker had already accepted from
    /// somebody who saw it acknowledged; give QoS 0 and other connections a moment with `expect_silence`.
    pub async fn expect_no_publish(&mut self, moment: Duration) -> Result<()> {
        tokio::time::sleep(moment).await;
        self.ping().await?;
        ensure!(self.set_aside.is_empty(), "unexpected: {:?}", self.set_aside);
        Ok(())
    }

    /// Everything the broker has for the client by now, acknowledged to the end.
    pub async fn receive_all(&mut self) -> Result<Vec<Publish>> {
        let mut received = Vec::new();
        loop {
            // The first answer says that the acknowledgements are read, the second that what they made room for has come.
            self.ping().await?;
            self.ping().await?;
            if self.set_aside.is_empty() {
                return Ok(received);
            }
            for packet in std::mem::take(&mut self.set_aside) {
                let Packet::Publish(publish) = packet else {
                    return Err(unexpected("PUBLISH", &packet));
                };
                self.acknowledge(&publish).await?;
                received.push(publish);
            }
        }
    }

    /// Reads until the connection has ended, whatever comes before.
    pub async fn drain_until_closed(&mut self) -> Result<()> {
        while self.read_frame(LIMIT).await?.is_some() {}
        Ok(())
    }

    async fn expect(&mut self, wanted: impl Fn(&Packet) -> bool, name: &str) -> Result<Packet> {
        loop {
            let packet = self
                .read_packet(LIMIT)
                .await
                .with_context(|| format!("waiting for {name}"))?
                .with_context(|| format!("the broker closed the connection instead of sending {name}"))?;
            match packet {
                packet if wanted(&packet) => return Ok(packet),
                Packet::Publish(_) => self.set_aside.push_back(packet),
                other => return Err(unexpected(name, &other)),
            }
        }
    }

    async fn read_packet(&mut self, limit: Duration) -> Result<Option<Packet>> {
        let Some(frame) = self.read_frame(limit).await? else {
            return Ok(None);
        };
        let mut buffer = frame.clone();
        let packet = self
            .decoder
            .decode(&mut buffer)
            .map_err(|error| anyhow!("the broker sent a packet that cannot be decoded: {error:?} {frame:?}"))?
            .with_context(|| format!("the broker sent a packet that ends early: {frame:?}"))?;
        ensure!(
            buffer.is_empty(),
            "the broker sent a packet with bytes left over: {frame:?}"
        );
        Ok(Some(packet))
    }

    /// Loses nothing when it is dropped half way: what has been read stays in `received`.
    async fn read_frame(&mut self, limit: Duration) -> Result<Option<Bytes>> {
        loop {
            if let Some(length) = frame_length(&self.received)?
                && self.received.len() >= length
            {
                return Ok(Some(self.received.split_to(length).freeze()));
            }
            let read = timeout(limit, self.transport.read_buf(&mut self.received)).await;
            match read.map_err(|_| anyhow!("no packet came within {limit:?}"))? {
                Ok(0) if self.received.is_empty() => return Ok(None),
                Ok(0) => bail!("the broker closed in the middle of a packet: {:?}", self.received),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A packet as bytes, for a test that wants to send it in pieces or damage it.
pub fn encoded(packet: &Packet, version: ProtocolVersion) -> Result<Bytes> {
    let mut queue = WriteQueue::new();
    encode(packet, version, &mut queue).map_err(|error| anyhow!("encoding {packet:?}: {error:?}"))?;
    Ok(queue.copy_to_bytes(queue.remaining()))
}

fn decoder(version: ProtocolVersion) -> Decoder {
    let limits = DecodeLimits {
        packet_size_max: 268_435_460,
        topic_levels_max: u16::MAX,
        user_properties_max: u16::MAX,
    };
    Decoder::client(version, limits)
}

/// The whole length of the first frame, once its header is there.
fn frame_length(buffer: &[u8]) -> Result<Option<usize>> {
    let mut remaining = 0;
    for (index, byte) in buffer.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(2 + index + remaining));
        }
    }
    ensure!(
        buffer.len() < 5,
        "the broker sent a remaining length of more than four bytes: {buffer:?}"
    );
    Ok(None)
}

fn unexpected(wanted: &str, packet: &Packet) -> anyhow::Error {
    anyhow!("expected {wanted}, got {packet:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_cut_where_its_header_says() {
        assert_eq!(frame_length(&[]).unwrap(), None);
        assert_eq!(frame_length(&[0x30]).unwrap(), None);
        assert_eq!(frame_length(&[0xd0, 0]).unwrap(), Some(2));
        assert_eq!(frame_length(&[0x30, 0x80]).unwrap(), None);
        assert_eq!(frame_length(&[0x30, 0x80, 0x01]).unwrap(), Some(131));
        assert!(frame_length(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
    }
}
