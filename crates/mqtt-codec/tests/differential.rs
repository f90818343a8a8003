//! The same bytes through this codec and through mqtt-protocol-core, which was written by others.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Sender, decoder, encode_to_bytes, packet};
use mqtt_codec::{Packet, PacketType, ProtocolVersion};
use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
use proptest::collection::vec;
use proptest::prelude::*;

/// Parses the body as the other implementation does and writes it again; `None` if it refuses.
fn rewritten_v3_1_1(bytes: &Bytes) -> Option<Vec<u8>> {
    let (flags, body) = split(bytes);
    macro_rules! rewrite {
        ($packet:ident) => {
            complete(v3_1_1::$packet::parse(body), body).map(|packet| packet.to_continuous_buffer())
        };
    }
    match packet_type(bytes) {
        PacketType::Connect => rewrite!(Connect),
        PacketType::ConnAck => rewrite!(Connack),
        PacketType::Publish => complete(v3_1_1::Publish::parse(flags, Arc::from(body)), body)
            .map(|packet| packet.to_continuous_buffer()),
        PacketType::PubAck => rewrite!(Puback),
        PacketType::PubRec => rewrite!(Pubrec),
        PacketType::PubRel => rewrite!(Pubrel),
        PacketType::PubComp => rewrite!(Pubcomp),
        PacketType::Subscribe => rewrite!(Subscribe),
        PacketType::SubAck => rewrite!(Suback),
        PacketType::Unsubscribe => rewrite!(Unsubscribe),
        PacketType::UnsubAck => rewrite!(Unsuback),
        PacketType::PingReq => rewrite!(Pingreq),
        PacketType::PingResp => rewrite!(Pingresp),
        PacketType::Disconnect => rewrite!(Disconnect),
        PacketType::Auth => None,
    }
}

fn rewritten_v5(bytes: &Bytes) -> Option<Vec<u8>> {
    let (flags, body) = split(bytes);
    macro_rules! rewrite {
        ($packet:ident) => {
            complete(v5_0::$packet::parse(body), body).map(|packet| packet.to_continuous_buffer())
        };
    }
    match packet_type(bytes) {
        PacketType::Connect => rewrite!(Connect),
        PacketType::ConnAck => rewrite!(Connack),
        PacketType::Publish => complete(v5_0::Publish::parse(flags, Arc::from(body)), body)
            .map(|packet| packet.to_continuous_buffer()),
        PacketType::PubAck => rewrite!(Puback),
        PacketType::PubRec => rewrite!(Pubrec),
        PacketType::PubRel => rewrite!(Pubrel),
        PacketType::PubComp => rewrite!(Pubcomp),
        PacketType::Subscribe => rewrite!(Subscribe),
        PacketType::SubAck => rewrite!(Suback),
        PacketType::Unsubscribe => rewrite!(Unsubscribe),
        PacketType::UnsubAck => rewrite!(Unsuback),
        PacketType::PingReq => rewrite!(Pingreq),
        PacketType::PingResp => rewrite!(Pingresp),
        PacketType::Disconnect => rewrite!(Disconnect),
        PacketType::Auth => rewrite!(Auth),
    }
}

fn complete<P, E>(parsed: Result<(P, usize), E>, body: &[u8]) -> Option<P> {
    parsed
        .ok()
        .filter(|(_, consumed)| *consumed == body.len())
        .map(|(packet, _)| packet)
}

fn packet_type(bytes: &[u8]) -> PacketType {
    use PacketType::*;
    let types = [
        Connect,
        ConnAck,
        Publish,
        PubAck,
        PubRec,
        PubRel,
        PubComp,
        Subscribe,
        SubAck,
        Unsubscribe,
        UnsubAck,
        PingReq,
        PingResp,
        Disconnect,
        Auth,
    ];
    types[usize::from(bytes[0] >> 4) - 1]
}

/// The flags of the first byte, and the body.
fn split(bytes: &[u8]) -> (u8, &[u8]) {
    let length_len = 1 + bytes[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    (bytes[0] & 0x0F, &bytes[1 + length_len..])
}

fn rewritten(version: ProtocolVersion, bytes: &Bytes) -> Option<Vec<u8>> {
    if version == ProtocolVersion::V5 {
        rewritten_v5(bytes)
    } else {
        rewritten_v3_1_1(bytes)
    }
}

fn modern_packet() -> impl Strategy<Value = (Sender, ProtocolVersion, Packet)> {
    let senders = prop::sample::select(&[Sender::Client, Sender::Server]);
    let versions = prop::sample::select(&[ProtocolVersion::V3_1_1, ProtocolVersion::V5]);
    (senders, versions)
        .prop_flat_map(|(sender, version)| (Just(sender), Just(version), packet(sender, version)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn both_implementations_read_each_other((sender, version, packet) in modern_packet()) {
        let ours = encode_to_bytes(&packet, version);
        let theirs = rewritten(version, &ours);
        prop_assert!(theirs.is_some(), "refused: {:?}", ours);
        let mut theirs = Bytes::from(theirs.unwrap());
        let decoded = decoder(sender, version, &packet).decode(&mut theirs);
        prop_assert_eq!(decoded, Ok(Some(packet)));
        prop_assert!(theirs.is_empty());
    }

    /// A damaged packet that this codec takes, and the other one too, means the same to both.
    #[test]
    fn damaged_packets_that_both_take_mean_the_same(
        (sender, version, packet) in modern_packet(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut bytes = encode_to_bytes(&packet, version).to_vec();
        let body_len = split(&bytes).1.len();
        let head_len = bytes.len() - body_len;
        for (index, value) in damage.into_iter().filter(|_| body_len != 0) {
            bytes[head_len + index.index(body_len)] = value;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(Some(ours)) = decoder(sender, version, &packet).decode(&mut bytes.clone())
            && let Some(theirs) = rewritten(version, &bytes)
        {
            let theirs = decoder(sender, version, &packet).decode(&mut theirs.into());
            prop_assert_eq!(theirs, Ok(Some(ours)));
        }
    }
}
