//! What is encoded is decoded to the same packet, in every version and both directions.

mod common;

use bytes::{Buf, Bytes};
use common::{Sender, any_packet, decoder, encode_to_bytes, packet};
use mqtt_codec::{DecodeLimits, Decoder, Packet, PacketType, ProtocolVersion, WriteQueue, encode, fuzz};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_packet_survives_encoding_and_decoding((sender, version, packet) in any_packet()) {
        let mut bytes = encode_to_bytes(&packet, version);
        let decoded = decoder(sender, version, &packet).decode(&mut bytes).unwrap();
        prop_assert_eq!(decoded, Some(packet));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        fuzz::decode_stream(&bytes);
        fuzz::split_stream(&bytes);
    }

    #[test]
    fn damaged_packets_never_panic(
        (_, version, packet) in any_packet(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_to_bytes(&packet, version).to_vec();
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        fuzz::decode_stream(&bytes);
    }

    #[test]
    fn a_truncated_packet_is_awaited((sender, version, packet) in any_packet(), cut in any::<prop::sample::Index>()) {
        let whole = encode_to_bytes(&packet, version);
        let mut part = whole.slice(..cut.index(whole.len()));
        let mut decoder = decoder(sender, version, &packet);
        prop_assert_eq!(decoder.decode(&mut part), Ok(None));
        prop_assert!(decoder.needed() > 0 && part.len() + decoder.needed() <= whole.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_gives_the_same_packets_wherever_it_is_split(packets in vec(packet(Sender::Server, ProtocolVersion::V5), 1..4)) {
        let mut queue = WriteQueue::new();
        for packet in &packets {
            encode(packet, ProtocolVersion::V5, &mut queue).unwrap();
        }
        let stream = queue.copy_to_bytes(queue.remaining());
        for cut in 0..=stream.len().min(600) {
            prop_assert_eq!(&decode_in_parts(&[&stream[..cut], &stream[cut..]]), &packets);
        }
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&decode_in_parts(&bytewise), &packets);
    }

    #[test]
    fn a_queue_read_in_steps_gives_what_was_written(
        packets in vec(packet(Sender::Client, ProtocolVersion::V5), 1..8),
        steps in vec(1usize..3000, 1..30),
    ) {
        let (mut queue, mut written, mut read) = (WriteQueue::new(), Vec::new(), Vec::new());
        let mut steps = steps.into_iter().cycle();
        for packet in &packets {
            encode(packet, ProtocolVersion::V5, &mut queue).unwrap();
            written.extend_from_slice(&encode_to_bytes(packet, ProtocolVersion::V5));
            let step = steps.next().unwrap().min(queue.len());
            read.extend_from_slice(&queue.copy_to_bytes(step));
            prop_assert_eq!(queue.len() + read.len(), written.len());
            let mut slices = [std::io::IoSlice::new(&[]); 64];
            let filled = queue.chunks_vectored(&mut slices);
            let waiting: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            prop_assert_eq!(&waiting[..], &written[read.len()..]);
        }
        read.extend_from_slice(&queue.copy_to_bytes(queue.remaining()));
        prop_assert!(queue.is_empty() && queue.chunk().is_empty());
        prop_assert_eq!(read, written);
    }
}

fn decode_in_parts(parts: &[&[u8]]) -> Vec<Packet> {
    let mut decoder = Decoder::client(ProtocolVersion::V5, DecodeLimits::default());
    let (mut packets, mut pending) = (Vec::new(), Vec::new());
    for part in parts {
        pending.extend_from_slice(part);
        let mut buffer = Bytes::from(std::mem::take(&mut pending));
        while let Some(packet) = decoder.decode(&mut buffer).unwrap() {
            packets.push(packet);
        }
        pending = buffer.to_vec();
    }
    assert!(pending.is_empty());
    packets
}

#[test]
fn a_server_learns_the_version_from_connect() {
    for version in common::VERSIONS {
        let connect = Packet::Connect(Box::new(mqtt_codec::Connect::new(version, "client".into())));
        let mut bytes = encode_to_bytes(&connect, version);
        let mut decoder = Decoder::server(DecodeLimits::default());
        let decoded = decoder.decode(&mut bytes).unwrap().unwrap();
        assert_eq!(decoded.packet_type(), PacketType::Connect);
        assert_eq!(decoder.version(), Some(version));
    }
}
