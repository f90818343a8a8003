//! Any packet to bytes. A PUBLISH to many receivers goes through [`encode_publish`](crate::encode_publish).

use crate::error::EncodeError;
use crate::packet::Packet;
use crate::publish;
use crate::sink::{Counter, Sink, variable_len};
use crate::types::ProtocolVersion;
use crate::write_queue::WriteQueue;

/// Appends a packet. What `version` cannot say is left out: properties and most reason codes before MQTT 5.0.
///
/// A CONNECT is written in the version it names.
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut WriteQueue) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        return publish::encode(publish, version, out);
    }
    let remaining_len = remaining_len(packet, version)?;
    let total = 1 + variable_len(remaining_len) + remaining_len as usize;
    out.count_packet(packet.packet_type());
    let buffer = out.gather(total);
    let end = buffer.len() + total;
    buffer.put_u8(packet.packet_type().first_byte());
    buffer.put_variable(remaining_len);
    write_body(packet, version, buffer);
    debug_assert_eq!(buffer.len(), end, "counting and writing disagree");
    Ok(())
}

/// The length of what [`encode`] writes for the same arguments.
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> Result<usize, EncodeError> {
    if let Packet::Publish(publish) = packet {
        return publish::encoded_len(publish, version);
    }
    let remaining_len = remaining_len(packet, version)?;
    Ok(1 + variable_len(remaining_len) + remaining_len as usize)
}

fn remaining_len(packet: &Packet, version: ProtocolVersion) -> Result<u32, EncodeError> {
    match packet {
        Packet::ConnAck(connack) => connack.check(version)?,
        Packet::Auth(_) if version != ProtocolVersion::V5 => return Err(EncodeError::NotInThisVersion),
        _ => {}
    }
    let mut counter = Counter::default();
    write_body(packet, version, &mut counter);
    counter.finish()
}

fn write_body<S: Sink>(packet: &Packet, version: ProtocolVersion, out: &mut S) {
    match packet {
        Packet::Connect(connect) => connect.write(out),
        Packet::ConnAck(connack) => connack.write(version, out),
        Packet::PubAck(acknowledgement)
        | Packet::PubRec(acknowledgement)
        | Packet::PubRel(acknowledgement)
        | Packet::PubComp(acknowledgement) => acknowledgement.write(version, out),
        Packet::Subscribe(subscribe) => subscribe.write(version, out),
        Packet::SubAck(suback) => suback.write(version, out),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.write(version, out),
        Packet::UnsubAck(unsuback) => unsuback.write(version, out),
        Packet::Disconnect(disconnect) => disconnect.write(version, out),
        Packet::Auth(auth) => auth.write(out),
        // A PUBLISH has an encoder of its own.
        Packet::Publish(_) | Packet::PingReq | Packet::PingResp => {}
    }
}
