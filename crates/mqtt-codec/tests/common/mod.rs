//! Generators of packets that have a form on the wire, and helpers to encode and decode them.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its part"
)]

use std::num::NonZeroU16;

use bytes::{Buf, Bytes};
use bytestring::ByteString;
use mqtt_codec::*;
use mqtt_topic::TopicName;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

pub const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V3_1,
    ProtocolVersion::V3_1_1,
    ProtocolVersion::V5,
];

/// Who sends a packet; the other one decodes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    Client,
    Server,
}

pub fn decoder(sender: Sender, version: ProtocolVersion, packet: &Packet) -> Decoder {
    match sender {
        Sender::Server => Decoder::client(version, DecodeLimits::default()),
        Sender::Client => {
            let mut decoder = Decoder::server(DecodeLimits::default());
            if packet.packet_type() != PacketType::Connect {
                decoder.set_version(version);
            }
            decoder
        }
    }
}

pub fn encode_to_bytes(packet: &Packet, version: ProtocolVersion) -> Bytes {
    let mut queue = WriteQueue::new();
    encode(packet, version, &mut queue).unwrap();
    assert_eq!(queue.len(), encoded_len(packet, version).unwrap());
    queue.copy_to_bytes(queue.remaining())
}

pub fn topic(name: &str) -> TopicName {
    TopicName::parse(ByteString::from(name)).unwrap()
}

fn text() -> impl Strategy<Value = ByteString> {
    "[a-zA-Z0-9 äß€🦀]{0,12}".prop_map(ByteString::from)
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => blob(), 1 => vec(any::<u8>(), 900..5000).prop_map(Bytes::from)]
}

fn topic_name() -> impl Strategy<Value = TopicName> {
    "[a-zA-Z0-9 /äß€$]{1,30}".prop_map(|name| topic(&name))
}

fn non_zero() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|value| NonZeroU16::new(value).unwrap())
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    non_zero().prop_map(PacketId::from)
}

fn qos() -> impl Strategy<Value = QoS> {
    (0u8..3).prop_map(|value| QoS::try_from(value).unwrap())
}

fn only_v5<T: std::fmt::Debug + Clone + 'static>(
    version: ProtocolVersion,
    value: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    if version == ProtocolVersion::V5 {
        of(value).boxed()
    } else {
        Just(None).boxed()
    }
}

fn user_properties(version: ProtocolVersion) -> BoxedStrategy<UserProperties> {
    if version == ProtocolVersion::V5 {
        vec((text(), text()), 0..4).boxed()
    } else {
        Just(vec![]).boxed()
    }
}

fn reason(version: ProtocolVersion, codes: &'static [u8]) -> BoxedStrategy<ReasonCode> {
    if version == ProtocolVersion::V5 {
        prop::sample::select(codes)
            .prop_map(|code| ReasonCode::try_from(code).unwrap())
            .boxed()
    } else {
        Just(ReasonCode::Success).boxed()
    }
}

fn publication(version: ProtocolVersion) -> impl Strategy<Value = Publication> {
    let properties = (
        only_v5(version, any::<bool>()),
        only_v5(version, text()),
        only_v5(version, "[a-z/]{1,10}".prop_map(ByteString::from)),
        only_v5(version, blob()),
        user_properties(version),
    );
    (
        topic_name(),
        properties,
        only_v5(version, any::<u32>()),
        payload(),
    )
        .prop_map(|(topic, properties, expiry, payload)| {
            let properties = MessageProperties {
                payload_format_indicator: properties.0,
                content_type: properties.1,
                response_topic: properties.2,
                correlation_data: properties.3,
                user_properties: properties.4,
            };
            Publication::from_parts(topic, &properties, payload).with_message_expiry_interval(expiry)
        })
}

fn publish(sender: Sender, version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let subscription_ids = if version == ProtocolVersion::V5 && sender == Sender::Server {
        vec(1u32..=268_435_455, 0..3).boxed()
    } else {
        Just(vec![]).boxed()
    };
    let head = (
        any::<bool>(),
        qos(),
        any::<bool>(),
        packet_id(),
        only_v5(version, non_zero()),
    );
    (head, subscription_ids, publication(version)).prop_map(
        |((dup, qos, retain, packet_id, topic_alias), subscription_ids, publication)| {
            let acknowledged = qos != QoS::AtMostOnce;
            Packet::Publish(Publish {
                dup: dup && acknowledged,
                qos,
                retain,
                packet_id: acknowledged.then_some(packet_id),
                topic_alias,
                subscription_ids,
                publication,
            })
        },
    )
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will> {
    let delay = if version == ProtocolVersion::V5 {
        any::<u32>().boxed()
    } else {
        Just(0).boxed()
    };
    (publication(version), qos(), any::<bool>(), delay).prop_map(
        |(publication, qos, retain, delay_interval)| Will {
            publication,
            qos,
            retain,
            delay_interval,
        },
    )
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let properties = (
        only_v5(version, any::<u32>()),
        only_v5(version, non_zero()),
        only_v5(version, 1..=u32::MAX),
        only_v5(version, any::<u16>()),
        only_v5(version, any::<bool>()),
        only_v5(version, any::<bool>()),
        only_v5(version, (text(), of(blob()))),
        user_properties(version),
    )
        .prop_map(|found| ConnectProperties {
            session_expiry_interval: found.0,
            receive_maximum: found.1,
            maximum_packet_size: found.2,
            topic_alias_maximum: found.3,
            request_response_information: found.4,
            request_problem_information: found.5,
            authentication_data: found.6.as_ref().and_then(|(_, data)| data.clone()),
            authentication_method: found.6.map(|(method, _)| method),
            user_properties: found.7,
        });
    let client_id = "[a-z0-9]{1,30}".prop_map(ByteString::from);
    (
        client_id,
        any::<bool>(),
        any::<u16>(),
        of((text(), of(blob()))),
        of(will(version)),
        properties,
    )
        .prop_map(
            move |(client_id, clean_start, keep_alive, login, will, properties)| {
                Packet::Connect(Box::new(Connect {
                    version,
                    client_id,
                    clean_start,
                    keep_alive,
                    password: login.as_ref().and_then(|(_, password)| password.clone()),
                    username: login.map(|(name, _)| name),
                    will,
                    properties,
                }))
            },
        )
}

fn connack(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    if version != ProtocolVersion::V5 {
        let codes = prop::sample::select(&[0u8, 0x84, 0x85, 0x86, 0x87, 0x88]);
        return (any::<bool>(), codes)
            .prop_map(move |(present, code)| {
                let present = present && code == 0 && version == ProtocolVersion::V3_1_1;
                Packet::ConnAck(Box::new(ConnAck::new(
                    present,
                    ReasonCode::try_from(code).unwrap(),
                )))
            })
            .boxed();
    }
    let numbers = (
        of(any::<u32>()),
        of(non_zero()),
        of((0u8..2).prop_map(|qos| QoS::try_from(qos).unwrap())),
        of(1..=u32::MAX),
        of(any::<u16>()),
        of(any::<u16>()),
    );
    let flags = (
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
    );
    let texts = (
        of(text()),
        of(text()),
        of(text()),
        of(text()),
        of(text()),
        of(blob()),
    );
    (
        any::<bool>(),
        reason(version, &[0, 0x80, 0x87, 0x95, 0x9F]),
        numbers,
        flags,
        texts,
        user_properties(version),
    )
        .prop_map(|(present, reason_code, numbers, flags, texts, user_properties)| {
            Packet::ConnAck(Box::new(ConnAck {
                session_present: present && !reason_code.is_error(),
                reason_code,
                properties: ConnAckProperties {
                    session_expiry_interval: numbers.0,
                    receive_maximum: numbers.1,
                    maximum_qos: numbers.2,
                    maximum_packet_size: numbers.3,
                    topic_alias_maximum: numbers.4,
                    server_keep_alive: numbers.5,
                    retain_available: flags.0,
                    wildcard_subscription_available: flags.1,
                    subscription_identifiers_available: flags.2,
                    shared_subscription_available: flags.3,
                    assigned_client_identifier: texts.0,
                    reason_string: texts.1,
                    response_information: texts.2,
                    server_reference: texts.3,
                    authentication_method: texts.4,
                    authentication_data: texts.5,
                    user_properties,
                },
            }))
        })
        .boxed()
}

fn acknowledgement(version: ProtocolVersion, codes: &'static [u8]) -> impl Strategy<Value = Acknowledgement> {
    (
        packet_id(),
        reason(version, codes),
        only_v5(version, text()),
        user_properties(version),
    )
        .prop_map(
            |(packet_id, reason_code, reason_string, user_properties)| Acknowledgement {
                packet_id,
                reason_code,
                reason_string,
                user_properties,
            },
        )
}

fn options(version: ProtocolVersion) -> BoxedStrategy<SubscriptionOptions> {
    if version != ProtocolVersion::V5 {
        return qos().prop_map(SubscriptionOptions::with_qos).boxed();
    }
    let handling = prop::sample::select(&[
        RetainHandling::SendAtSubscribe,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    (qos(), any::<bool>(), any::<bool>(), handling)
        .prop_map(
            |(qos, no_local, retain_as_published, retain_handling)| SubscriptionOptions {
                qos,
                no_local,
                retain_as_published,
                retain_handling,
            },
        )
        .boxed()
}

fn filter() -> impl Strategy<Value = ByteString> {
    prop::sample::select(&["a", "a/b", "+", "#", "a/+/c", "/+/#", "ä/€"]).prop_map(ByteString::from_static)
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let entry =
        (filter(), options(version)).prop_map(|(filter, options)| SubscribeFilter { filter, options });
    let id = only_v5(version, 1u32..=268_435_455);
    (packet_id(), id, user_properties(version), vec(entry, 1..5)).prop_map(
        |(packet_id, subscription_id, user_properties, filters)| {
            Packet::Subscribe(Subscribe {
                packet_id,
                subscription_id,
                user_properties,
                filters,
            })
        },
    )
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let codes: &'static [u8] = if version == ProtocolVersion::V5 {
        &[0, 1, 2, 0x80, 0x87, 0x8F, 0xA2]
    } else {
        &[0, 1, 2, 0x80]
    };
    let codes = prop::sample::select(codes).prop_map(|code| ReasonCode::try_from(code).unwrap());
    (
        packet_id(),
        vec(codes, 1..5),
        only_v5(version, text()),
        user_properties(version),
    )
        .prop_map(|(packet_id, reason_codes, reason_string, user_properties)| {
            Packet::SubAck(SubAck {
                packet_id,
                reason_codes,
                reason_string,
                user_properties,
            })
        })
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    (packet_id(), vec(filter(), 1..5), user_properties(version)).prop_map(
        |(packet_id, filters, user_properties)| {
            Packet::Unsubscribe(Unsubscribe {
                packet_id,
                filters,
                user_properties,
            })
        },
    )
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let count = if version == ProtocolVersion::V5 {
        1..5
    } else {
        0..1
    };
    let codes = vec(reason(version, &[0, 0x11, 0x80, 0x8F]), count);
    (
        packet_id(),
        codes,
        only_v5(version, text()),
        user_properties(version),
    )
        .prop_map(|(packet_id, reason_codes, reason_string, user_properties)| {
            Packet::UnsubAck(UnsubAck {
                packet_id,
                reason_codes,
                reason_string,
                user_properties,
            })
        })
}

fn disconnect(sender: Sender, version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let expiry = match sender {
        Sender::Client => only_v5(version, any::<u32>()),
        Sender::Server => Just(None).boxed(),
    };
    let reference = match sender {
        Sender::Client => Just(None).boxed(),
        Sender::Server => only_v5(version, text()),
    };
    let codes: &'static [u8] = match sender {
        Sender::Client => &[0, 4, 0x81, 0x93],
        Sender::Server => &[0, 0x81, 0x8D, 0x8E, 0x9C, 0xA2],
    };
    (
        reason(version, codes),
        expiry,
        only_v5(version, text()),
        reference,
        user_properties(version),
    )
        .prop_map(
            |(reason_code, session_expiry_interval, reason_string, server_reference, user_properties)| {
                Packet::Disconnect(Disconnect {
                    reason_code,
                    session_expiry_interval,
                    reason_string,
                    server_reference,
                    user_properties,
                })
            },
        )
}

fn auth(sender: Sender) -> impl Strategy<Value = Packet> {
    let codes: &'static [u8] = if sender == Sender::Client {
        &[0x18, 0x19]
    } else {
        &[0, 0x18]
    };
    (
        reason(ProtocolVersion::V5, codes),
        text(),
        of(blob()),
        of(text()),
        user_properties(ProtocolVersion::V5),
    )
        .prop_map(|(reason_code, method, data, reason_string, user_properties)| {
            Packet::Auth(Auth {
                reason_code,
                method: Some(method),
                data,
                reason_string,
                user_properties,
            })
        })
}

/// Any packet that `sender` may send in `version`.
pub fn packet(sender: Sender, version: ProtocolVersion) -> BoxedStrategy<Packet> {
    const PUBACK: &[u8] = &[0, 0x10, 0x80, 0x87, 0x97];
    const PUBREL: &[u8] = &[0, 0x92];
    let mut any_packet = vec![
        publish(sender, version).boxed(),
        publish(sender, version).boxed(),
        acknowledgement(version, PUBACK).prop_map(Packet::PubAck).boxed(),
        acknowledgement(version, PUBACK).prop_map(Packet::PubRec).boxed(),
        acknowledgement(version, PUBREL).prop_map(Packet::PubRel).boxed(),
        acknowledgement(version, PUBREL).prop_map(Packet::PubComp).boxed(),
    ];
    match sender {
        Sender::Client => any_packet.extend([
            connect(version).boxed(),
            subscribe(version).boxed(),
            unsubscribe(version).boxed(),
            Just(Packet::PingReq).boxed(),
            disconnect(sender, version).boxed(),
        ]),
        Sender::Server => any_packet.extend([
            connack(version),
            suback(version).boxed(),
            unsuback(version).boxed(),
            Just(Packet::PingResp).boxed(),
        ]),
    }
    if version == ProtocolVersion::V5 {
        any_packet.push(auth(sender).boxed());
        if sender == Sender::Server {
            any_packet.push(disconnect(sender, version).boxed());
        }
    }
    proptest::strategy::Union::new(any_packet).boxed()
}

/// A packet together with who sends it and in which version.
pub fn any_packet() -> impl Strategy<Value = (Sender, ProtocolVersion, Packet)> {
    let senders = prop::sample::select(&[Sender::Client, Sender::Server]);
    (senders, prop::sample::select(&VERSIONS))
        .prop_flat_map(|(sender, version)| (Just(sender), Just(version), packet(sender, version)))
}
