//! Finds packets in a stream of bytes and hands each to its decoder.

use bytes::{Buf, Bytes};

use crate::PACKET_SIZE_MAX;
use crate::auth::Auth;
use crate::connack::ConnAck;
use crate::connect::{self, Connect};
use crate::disconnect::Disconnect;
use crate::error::{DecodeError, Limit};
use crate::packet::{Packet, PacketType};
use crate::puback::Acknowledgement;
use crate::publish;
use crate::reader::{Context, Variable, variable};
use crate::reason_code::ReasonCode;
use crate::suback::SubAck;
use crate::subscribe::Subscribe;
use crate::types::ProtocolVersion;
use crate::unsuback::UnsubAck;
use crate::unsubscribe::Unsubscribe;

/// What a peer may send at most. A packet above a limit is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeLimits {
    /// Bytes of a packet with its fixed header; judged before the body is there. Answered with 0x95.
    pub packet_size_max: u32,
    /// Levels of a topic name. Answered with 0x90.
    pub topic_levels_max: u16,
    /// User properties of one packet, and of a will. Answered with 0x97.
    pub user_properties_max: u16,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            packet_size_max: PACKET_SIZE_MAX,
            topic_levels_max: 128,
            user_properties_max: 64,
        }
    }
}

/// Takes packets off the front of a stream, as a server or as a client.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    /// `None` until a server has read the CONNECT.
    version: Option<ProtocolVersion>,
    limits: DecodeLimits,
    needed: usize,
    failed: Option<DecodeError>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Server,
    Client,
}

/// A fixed header. (2.1)
struct Header {
    first_byte: u8,
    packet_type: PacketType,
    len: usize,
    remaining_len: usize,
    minimal: bool,
}

impl Decoder {
    /// For a server: the first packet must be a CONNECT, which tells the version.
    pub fn server(limits: DecodeLimits) -> Self {
        Self {
            role: Role::Server,
            version: None,
            limits,
            needed: 0,
            failed: None,
        }
    }

    /// For a client, which chose the version itself.
    pub fn client(version: ProtocolVersion, limits: DecodeLimits) -> Self {
        Self {
            role: Role::Client,
            version: Some(version),
            limits,
            needed: 0,
            failed: None,
        }
    }

    /// The version spoken, once it is known. After a CONNECT of a version that is not: the one to refuse it in.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Reads on in this version, as if a CONNECT had named it.
    pub fn set_version(&mut self, version: ProtocolVersion) {
        self.version = Some(version);
    }

    /// Changes the limit for the packets to come.
    pub fn set_packet_size_max(&mut self, packet_size_max: u32) {
        self.limits.packet_size_max = packet_size_max;
    }

    /// After `Ok(None)`: how many more bytes are needed at least before it makes sense to try again.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// Takes one packet off the front. `Ok(None)`: more bytes are needed.
    ///
    /// A PUBLISH shares the memory of `buffer`, and so do the strings of other packets; CONNECT, SUBSCRIBE and
    /// UNSUBSCRIBE, whose strings stay, get a copy of their own. An error is final: it is given again ever after.
    pub fn decode(&mut self, buffer: &mut Bytes) -> Result<Option<Packet>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.decode_next(buffer)
            .inspect_err(|error| self.failed = Some(*error))
    }

    #[inline]
    fn decode_next(&mut self, buffer: &mut Bytes) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = self.read_header(buffer)? else {
            return Ok(None);
        };
        let total = header.len + header.remaining_len;
        if buffer.len() < total {
            self.needed = total - buffer.len();
            return Ok(None);
        }
        let mut body = if buffer.len() == total {
            std::mem::take(buffer)
        } else {
            buffer.split_to(total)
        };
        body.advance(header.len);
        self.decode_body(&header, body).map(Some)
    }

    #[inline]
    fn read_header(&mut self, buffer: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some((&first_byte, rest)) = buffer.split_first() else {
            self.needed = 2;
            return Ok(None);
        };
        let packet_type = self.judge_first_byte(first_byte)?;
        let Variable::Complete { value, len, minimal } = variable(rest)? else {
            self.needed = 1;
            return Ok(None);
        };
        // [MQTT-1.5.5-1]; 3.1 and 3.1.1 have no such rule.
        if !minimal && self.version == Some(ProtocolVersion::V5) {
            return Err(DecodeError::malformed("a length is not in its shortest form"));
        }
        let header = Header {
            first_byte,
            packet_type,
            len: 1 + len,
            remaining_len: value as usize,
            minimal,
        };
        if header.len + header.remaining_len > self.limits.packet_size_max as usize {
            return Err(DecodeError::beyond(
                Limit::PacketSize,
                ReasonCode::PacketTooLarge,
                "packet larger than the maximum packet size",
            ));
        }
        Ok(Some(header))
    }

    /// Refuses what may not come now, or from this peer, or with these flags. [MQTT-2.1.3-1]
    #[inline]
    fn judge_first_byte(&self, byte: u8) -> Result<PacketType, DecodeError> {
        let Some(packet_type) = PacketType::from_first_byte(byte) else {
            return Err(DecodeError::malformed("packet type 0"));
        };
        let flags_are_good = match (packet_type, self.version) {
            (PacketType::Publish, _) => true,
            // In MQTT 3.1 these are sent with QoS 1, and with DUP when they are sent again.
            (
                PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe,
                Some(ProtocolVersion::V3_1),
            ) => byte & 0b0111 == 0b0010,
            _ => byte & 0x0F == packet_type.flags(),
        };
        self.judge_type(packet_type)?;
        if flags_are_good {
            Ok(packet_type)
        } else {
            Err(DecodeError::malformed("reserved flags of the fixed header"))
        }
    }

    #[inline]
    fn judge_type(&self, packet_type: PacketType) -> Result<(), DecodeError> {
        use PacketType::*;
        let is_v5 = self.version == Some(ProtocolVersion::V5);
        match (self.version, packet_type) {
            (None, Connect) => Ok(()),
            // [MQTT-3.1.0-1]
            (None, _) => Err(DecodeError::protocol("the first packet is not CONNECT")),
            (Some(ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1), Auth) => {
                Err(DecodeError::malformed("packet type 15"))
            }
            (Some(_), Publish | PubAck | PubRec | PubRel | PubComp | Auth) => Ok(()),
            // [MQTT-3.1.0-2]
            (Some(_), Connect) => Err(DecodeError::protocol("CONNECT in an open connection")),
            (Some(_), Subscribe | Unsubscribe | PingReq) if self.role == Role::Server => Ok(()),
            (Some(_), ConnAck | SubAck | UnsubAck | PingResp) if self.role == Role::Client => Ok(()),
            (Some(_), Disconnect) if self.role == Role::Server || is_v5 => Ok(()),
            _ => Err(DecodeError::protocol("a packet that this side never receives")),
        }
    }

    #[inline]
    fn decode_body(&mut self, header: &Header, body: Bytes) -> Result<Packet, DecodeError> {
        let Some(version) = self.version else {
            return self.decode_connect(header, &body);
        };
        let context = Context {
            version,
            limits: self.limits,
            from_server: self.role == Role::Client,
        };
        let context = &context;
        let acknowledgement = || Acknowledgement::decode(header.packet_type, &body, context);
        Ok(match header.packet_type {
            PacketType::Publish => Packet::Publish(publish::decode(header.first_byte, body, context)?),
            PacketType::PubAck => Packet::PubAck(acknowledgement()?),
            PacketType::PubRec => Packet::PubRec(acknowledgement()?),
            PacketType::PubRel => Packet::PubRel(acknowledgement()?),
            PacketType::PubComp => Packet::PubComp(acknowledgement()?),
            PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(&copy(&body), context)?),
            PacketType::SubAck => Packet::SubAck(SubAck::decode(&body, context)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(&copy(&body), context)?),
            PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(&body, context)?),
            PacketType::ConnAck => Packet::ConnAck(Box::new(ConnAck::decode(&body, context)?)),
            PacketType::PingReq => without_body(&body, Packet::PingReq)?,
            PacketType::PingResp => without_body(&body, Packet::PingResp)?,
            PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(&body, context)?),
            PacketType::Auth => Packet::Auth(Auth::decode(&body, context)?),
            PacketType::Connect => return Err(DecodeError::protocol("CONNECT in an open connection")),
        })
    }

    fn decode_connect(&mut self, header: &Header, body: &Bytes) -> Result<Packet, DecodeError> {
        // Also when the rest cannot be read: the refusal has to be in words the client knows.
        self.version = connect::version_for_answer(body);
        let connect = Connect::decode(&copy(body), self.limits, header.minimal)?;
        Ok(Packet::Connect(Box::new(connect)))
    }
}

/// Strings of the packet stay for long: they must not keep a whole read buffer alive.
fn copy(body: &Bytes) -> Bytes {
    Bytes::copy_from_slice(body)
}

fn without_body(body: &Bytes, packet: Packet) -> Result<Packet, DecodeError> {
    if body.is_empty() {
        Ok(packet)
    } else {
        Err(DecodeError::malformed("a ping with a body"))
    }
}
