//! What a PUBLISH costs: to decode it once, and to encode it for each further receiver. Both targets stand in the
//! contract of the crate: decode at most 100 ns, a further receiver at most 20 ns.
#![allow(missing_docs, reason = "criterion's macros write undocumented functions")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use criterion::{Criterion, criterion_group, criterion_main};
use mqtt_codec::{
    DecodeLimits, Decoder, MessageProperties, PacketId, ProtocolVersion, Publication, PublishHead, QoS,
    WriteQueue, encode_publish,
};
use mqtt_topic::TopicName;

const TOPIC: &str = "building/7/floor/3/room/12/temperature";
const PACKETS: usize = 64;

fn publication(with_properties: bool) -> Publication {
    let topic = TopicName::parse(TOPIC.into()).expect("a topic name");
    let payload = Bytes::from(vec![b'x'; 64]);
    if !with_properties {
        return Publication::new(topic, payload);
    }
    let properties = MessageProperties {
        payload_format_indicator: Some(true),
        content_type: Some("text/plain".into()),
        user_properties: vec![("unit".into(), "celsius".into())],
        ..MessageProperties::default()
    };
    Publication::from_parts(topic, &properties, payload)
}

fn head() -> PublishHead<'static> {
    PublishHead {
        qos: QoS::AtLeastOnce,
        packet_id: PacketId::new(258),
        ..PublishHead::default()
    }
}

/// A read buffer with as many packets as a busy connection finds in one read.
fn stream(publication: &Publication) -> Bytes {
    let mut queue = WriteQueue::new();
    for _ in 0..PACKETS {
        encode_publish(publication, ProtocolVersion::V5, &head(), &mut queue);
    }
    queue.copy_to_bytes(queue.remaining())
}

fn decode(criterion: &mut Criterion) {
    for (name, with_properties) in [("no properties", false), ("3 properties", true)] {
        let stream = stream(&publication(with_properties));
        criterion.bench_function(&format!("decode PUBLISH, {name}"), |bencher| {
            bencher.iter_custom(|count| {
                let mut decoder = Decoder::server(DecodeLimits::default());
                decoder.set_version(ProtocolVersion::V5);
                let mut buffer = stream.clone();
                per_packet(count, || {
                    if buffer.is_empty() {
                        buffer = stream.clone();
                    }
                    black_box(decoder.decode(&mut buffer)).expect("a valid packet");
                })
            });
        });
    }
}

fn encode(criterion: &mut Criterion) {
    for (name, with_properties) in [("no properties", false), ("3 properties", true)] {
        let publication = publication(with_properties);
        criterion.bench_function(&format!("encode for a further receiver, {name}"), |bencher| {
            bencher.iter_custom(|count| {
                let mut queue = WriteQueue::new();
                per_packet(count, || {
                    encode_publish(
                        black_box(&publication),
                        ProtocolVersion::V5,
                        black_box(&head()),
                        &mut queue,
                    );
                    if queue.len() > 16 * 1024 {
                        queue.advance(queue.len());
                    }
                })
            });
        });
    }
}

fn per_packet(count: u64, mut one: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        one();
    }
    start.elapsed()
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
