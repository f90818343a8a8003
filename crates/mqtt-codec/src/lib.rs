//! The MQTT wire format: bytes to packets and back, for MQTT 3.1, 3.1.1 and 5.0, as a server and as a client.
//!
//! Nothing here does IO or keeps a session: a [`Decoder`] takes packets off the front of a buffer, [`encode`] and
//! [`encode_publish`] append them to a [`WriteQueue`]. A packet that leaves the decoder is well-formed and keeps
//! every rule that can be judged from that packet, its version and its direction alone; rules that need to know
//! what happened before belong to the session. Section numbers name the MQTT 5.0 specification.

mod auth;
mod connack;
mod connect;
mod decoder;
mod disconnect;
mod encode;
mod error;
pub mod fuzz;
mod packet;
mod properties;
mod puback;
mod publication;
mod publish;
mod reader;
mod reason_code;
mod sink;
mod suback;
mod subscribe;
mod types;
mod unsuback;
mod unsubscribe;
mod write_queue;

pub use auth::Auth;
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will};
pub use decoder::{DecodeLimits, Decoder};
pub use disconnect::Disconnect;
pub use encode::{encode, encoded_len};
pub use error::{DecodeError, EncodeError, Limit};
pub use packet::{Packet, PacketCounts, PacketType};
pub use puback::Acknowledgement;
pub use publication::{MessageProperties, Publication};
pub use publish::{Publish, PublishHead, SubscriptionIds, encode_publish, publish_len};
pub use reason_code::ReasonCode;
pub use suback::SubAck;
pub use subscribe::{RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions};
pub use types::{PacketId, ProtocolVersion, QoS, UserProperties};
pub use unsuback::UnsubAck;
pub use unsubscribe::Unsubscribe;
pub use write_queue::WriteQueue;

/// The largest packet MQTT can express: a fixed header of 5 bytes and a remaining length of 268,435,455. (2.1.4)
pub const PACKET_SIZE_MAX: u32 = 5 + sink::VARIABLE_BYTE_INTEGER_MAX;
