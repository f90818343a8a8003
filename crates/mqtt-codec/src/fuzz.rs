//! Plain functions for a fuzzer to call with any bytes. They panic only if the codec is wrong.

use bytes::{Buf, Bytes};

use crate::{DecodeLimits, Decoder, Packet, ProtocolVersion, WriteQueue, encode, encoded_len};

/// Decodes a stream in every version and both roles; every packet found must survive encoding and decoding.
pub fn decode_stream(bytes: &[u8]) {
    for version in [
        ProtocolVersion::V3_1,
        ProtocolVersion::V3_1_1,
        ProtocolVersion::V5,
    ] {
        decode_all(Decoder::client(version, DecodeLimits::default()), bytes);
        let mut server = Decoder::server(DecodeLimits::default());
        server.set_version(version);
        decode_all(server, bytes);
    }
    decode_all(Decoder::server(DecodeLimits::default()), bytes);
}

/// Decodes a stream whole, and cut in two where the first byte says: the packets and the end must be the same.
pub fn split_stream(bytes: &[u8]) {
    let Some((cut, stream)) = bytes.split_first() else {
        return;
    };
    let cut = usize::from(*cut).min(stream.len());
    let whole = collect(&[stream]);
    assert_eq!(
        whole,
        collect(&[&stream[..cut], &stream[cut..]]),
        "a cut at {cut} changes the packets"
    );
}

fn decode_all(mut decoder: Decoder, bytes: &[u8]) {
    let mut buffer = Bytes::copy_from_slice(bytes);
    while let Ok(Some(packet)) = decoder.decode(&mut buffer) {
        if let Some(version) = decoder.version() {
            survives(&packet, version, bytes.len());
        }
    }
}

fn survives(packet: &Packet, version: ProtocolVersion, len_max: usize) {
    let mut queue = WriteQueue::new();
    encode(packet, version, &mut queue).expect("a packet that was decoded can be encoded");
    assert_eq!(
        Ok(queue.len()),
        encoded_len(packet, version),
        "the length foretold is not the length written"
    );
    assert!(queue.len() <= len_max, "encoding made the packet longer");
    let _ = queue.copy_to_bytes(queue.remaining());
}

fn collect(parts: &[&[u8]]) -> (Vec<Packet>, Option<crate::DecodeError>) {
    let mut decoder = Decoder::server(DecodeLimits::default());
    let mut packets = Vec::new();
    let mut pending = Vec::new();
    for part in parts {
        pending.extend_from_slice(part);
        let mut buffer = Bytes::from(std::mem::take(&mut pending));
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
        pending = buffer.to_vec();
    }
    (packets, None)
}
