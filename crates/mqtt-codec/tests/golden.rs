//! Every property of MQTT 5.0 at its place on the wire: a round trip alone would not notice two that are swapped.

mod common;

use std::num::NonZeroU16;

use bytes::Bytes;
use mqtt_codec::*;

fn check(packet: Packet, sender: common::Sender, expected: &[u8]) {
    let encoded = common::encode_to_bytes(&packet, ProtocolVersion::V5);
    assert_eq!(encoded, expected, "{packet:?}");
    let decoded = common::decoder(sender, ProtocolVersion::V5, &packet).decode(&mut encoded.clone());
    assert_eq!(decoded, Ok(Some(packet)));
}

fn user_properties() -> UserProperties {
    vec![("k".into(), "v".into())]
}

#[test]
fn connect_with_everything() {
    let message = MessageProperties {
        payload_format_indicator: Some(true),
        content_type: Some("c".into()),
        response_topic: Some("r".into()),
        correlation_data: Some(Bytes::from_static(b"d")),
        user_properties: user_properties(),
    };
    let publication = Publication::from_parts(common::topic("w"), &message, Bytes::from_static(b"gone"))
        .with_message_expiry_interval(Some(5));
    let connect = Connect {
        version: ProtocolVersion::V5,
        client_id: "id".into(),
        clean_start: true,
        keep_alive: 60,
        username: Some("u".into()),
        password: Some(Bytes::from_static(b"p")),
        will: Some(Will {
            publication,
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_interval: 4,
        }),
        properties: ConnectProperties {
            session_expiry_interval: Some(1),
            receive_maximum: NonZeroU16::new(2),
            maximum_packet_size: Some(3),
            topic_alias_maximum: Some(4),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            authentication_method: Some("m".into()),
            authentication_data: Some(Bytes::from_static(b"x")),
            user_properties: user_properties(),
        },
    };
    let mut expected = b"\x10\x5B\0\x04MQTT\x05\xEE\0\x3C".to_vec();
    expected.extend_from_slice(b"\x23\x11\0\0\0\x01\x21\0\x02\x27\0\0\0\x03\x22\0\x04\x19\x01\x17\0");
    expected.extend_from_slice(b"\x15\0\x01m\x16\0\x01x\x26\0\x01k\0\x01v\0\x02id");
    expected.extend_from_slice(b"\x1F\x18\0\0\0\x04\x02\0\0\0\x05\x01\x01\x03\0\x01c\x08\0\x01r\x09\0\x01d");
    expected.extend_from_slice(b"\x26\0\x01k\0\x01v\0\x01w\0\x04gone\0\x01u\0\x01p");
    expected[1] = u8::try_from(expected.len() - 2).unwrap();
    check(
        Packet::Connect(Box::new(connect)),
        common::Sender::Client,
        &expected,
    );
}

#[test]
fn connack_with_everything() {
    let connack = ConnAck {
        session_present: true,
        reason_code: ReasonCode::Success,
        properties: ConnAckProperties {
            session_expiry_interval: Some(1),
            receive_maximum: NonZeroU16::new(2),
            maximum_qos: Some(QoS::AtLeastOnce),
            retain_available: Some(false),
            maximum_packet_size: Some(3),
            assigned_client_identifier: Some("i".into()),
            topic_alias_maximum: Some(4),
            reason_string: Some("s".into()),
            user_properties: user_properties(),
            wildcard_subscription_available: Some(true),
            subscription_identifiers_available: Some(false),
            shared_subscription_available: Some(true),
            server_keep_alive: Some(5),
            response_information: Some("r".into()),
            server_reference: Some("e".into()),
            authentication_method: Some("m".into()),
            authentication_data: Some(Bytes::from_static(b"x")),
        },
    };
    let mut expected =
        b"\x20\0\x01\0\0\x11\0\0\0\x01\x21\0\x02\x24\x01\x25\0\x27\0\0\0\x03\x12\0\x01i".to_vec();
    expected.extend_from_slice(b"\x22\0\x04\x1F\0\x01s\x26\0\x01k\0\x01v\x28\x01\x29\0\x2A\x01\x13\0\x05");
    expected.extend_from_slice(b"\x1A\0\x01r\x1C\0\x01e\x15\0\x01m\x16\0\x01x");
    expected[1] = u8::try_from(expected.len() - 2).unwrap();
    expected[4] = u8::try_from(expected.len() - 5).unwrap();
    check(
        Packet::ConnAck(Box::new(connack)),
        common::Sender::Server,
        &expected,
    );
}

#[test]
fn the_rest() {
    let packet_id = PacketId::new(7).unwrap();
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::SendIfNew,
    };
    let subscribe = Subscribe {
        packet_id,
        subscription_id: Some(300),
        user_properties: Vec::new(),
        filters: vec![SubscribeFilter {
            filter: "a/#".into(),
            options,
        }],
    };
    let expected = b"\x82\x0C\0\x07\x03\x0B\xAC\x02\0\x03a/#\x1E";
    check(Packet::Subscribe(subscribe), common::Sender::Client, expected);

    let disconnect = Disconnect {
        session_expiry_interval: Some(9),
        reason_string: Some("s".into()),
        ..Disconnect::new(ReasonCode::DisconnectWithWillMessage)
    };
    let expected = b"\xE0\x0B\x04\x09\x11\0\0\0\x09\x1F\0\x01s";
    check(Packet::Disconnect(disconnect), common::Sender::Client, expected);

    let disconnect = Disconnect {
        server_reference: Some("e".into()),
        ..Disconnect::new(ReasonCode::UseAnotherServer)
    };
    check(
        Packet::Disconnect(disconnect),
        common::Sender::Server,
        b"\xE0\x06\x9C\x04\x1C\0\x01e",
    );

    let pubrel = Acknowledgement::new(packet_id, ReasonCode::PacketIdentifierNotFound);
    check(
        Packet::PubRel(pubrel),
        common::Sender::Client,
        b"\x62\x03\0\x07\x92",
    );

    let unsuback = UnsubAck::new(
        packet_id,
        vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted],
    );
    check(
        Packet::UnsubAck(unsuback),
        common::Sender::Server,
        b"\xB0\x05\0\x07\0\0\x11",
    );
}
