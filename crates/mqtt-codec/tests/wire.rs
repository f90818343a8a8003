//! Packets as bytes, and what comes of them: the rules of the specification, one line each.

mod common;

use bytes::{Buf, Bytes};
use mqtt_codec::*;

use ProtocolVersion::{V3_1, V3_1_1, V5};
use ReasonCode::*;

/// A line of a table: who receives, what, and the code it is refused with, or `None`.
type Line = (Receiver, &'static str, &'static [u8], Option<ReasonCode>);

#[derive(Clone, Copy, Debug)]
enum Receiver {
    /// A server that waits for the CONNECT.
    New,
    Server(ProtocolVersion),
    Client(ProtocolVersion),
}

use Receiver::{Client, New, Server};

const LIMITS: DecodeLimits = DecodeLimits {
    packet_size_max: 200,
    topic_levels_max: 4,
    user_properties_max: 2,
};

fn check(table: &[Line]) {
    for (receiver, what, bytes, expected) in table {
        let result = decode(*receiver, bytes);
        match (expected, &result) {
            (None, Ok(Some(_))) => {}
            (Some(code), Err(error)) if error.reason_code == *code => {}
            _ => panic!("{what} at {receiver:?}: expected {expected:?}, got {result:?}"),
        }
    }
}

fn decode(receiver: Receiver, bytes: &[u8]) -> Result<Option<Packet>, DecodeError> {
    let mut decoder = match receiver {
        New => Decoder::server(LIMITS),
        Client(version) => Decoder::client(version, LIMITS),
        Server(version) => {
            let mut decoder = Decoder::server(LIMITS);
            decoder.set_version(version);
            decoder
        }
    };
    let mut buffer = Bytes::copy_from_slice(bytes);
    let packet = decoder.decode(&mut buffer)?;
    assert!(
        packet.is_none() || buffer.is_empty(),
        "bytes are left over: {bytes:?}"
    );
    Ok(packet)
}

#[test]
fn fixed_headers_are_judged_before_the_body_is_there() {
    check(&[
        (Server(V5), "type 0", b"\x00\x00", Some(MalformedPacket)),
        (
            Server(V3_1_1),
            "type 15 before 5.0",
            b"\xF0\x00",
            Some(MalformedPacket),
        ),
        (New, "not CONNECT first", b"\xC0\x00", Some(ProtocolError)),
        (New, "not CONNECT first, one byte", b"\x30", Some(ProtocolError)),
        (Server(V5), "CONNECT twice", b"\x10", Some(ProtocolError)),
        (
            Server(V5),
            "CONNACK at a server",
            b"\x20\x03\x00\x00\x00",
            Some(ProtocolError),
        ),
        (Server(V5), "SUBACK at a server", b"\x90", Some(ProtocolError)),
        (Server(V5), "UNSUBACK at a server", b"\xB0", Some(ProtocolError)),
        (
            Server(V5),
            "PINGRESP at a server",
            b"\xD0\x00",
            Some(ProtocolError),
        ),
        (Client(V5), "SUBSCRIBE at a client", b"\x82", Some(ProtocolError)),
        (
            Client(V5),
            "UNSUBSCRIBE at a client",
            b"\xA2",
            Some(ProtocolError),
        ),
        (
            Client(V5),
            "PINGREQ at a client",
            b"\xC0\x00",
            Some(ProtocolError),
        ),
        (Client(V5), "CONNECT at a client", b"\x10", Some(ProtocolError)),
        (
            Client(V3_1_1),
            "DISCONNECT at a 3.1.1 client",
            b"\xE0\x00",
            Some(ProtocolError),
        ),
        (Client(V5), "DISCONNECT at a 5.0 client", b"\xE0\x00", None),
        (Server(V5), "PINGREQ", b"\xC0\x00", None),
        (
            Server(V5),
            "PINGREQ with flags",
            b"\xC1\x00",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "PINGREQ with a body",
            b"\xC0\x01\x00",
            Some(MalformedPacket),
        ),
        (New, "CONNECT with flags", b"\x11", Some(MalformedPacket)),
        (
            Server(V5),
            "SUBSCRIBE without its flags",
            b"\x80",
            Some(MalformedPacket),
        ),
        (
            Server(V3_1_1),
            "PUBREL without its flags",
            b"\x60\x02\x00\x01",
            Some(MalformedPacket),
        ),
        (
            Server(V3_1_1),
            "PUBREL with DUP",
            b"\x6A\x02\x00\x01",
            Some(MalformedPacket),
        ),
        (Server(V3_1), "PUBREL with DUP in 3.1", b"\x6A\x02\x00\x01", None),
        (
            Server(V5),
            "length of five bytes",
            b"\x30\x80\x80\x80\x80",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "length not in its shortest form",
            b"\xC0\x80\x00",
            Some(MalformedPacket),
        ),
        (Server(V3_1_1), "the same before 5.0", b"\xC0\x80\x00", None),
        (
            Server(V5),
            "packet too large",
            b"\x30\xC6\x01",
            Some(PacketTooLarge),
        ),
        (
            New,
            "CONNECT too large",
            b"\x10\xFF\xFF\xFF\x7F",
            Some(PacketTooLarge),
        ),
    ]);
    assert_eq!(
        decode(Server(V5), b"\x30\xC5\x01"),
        Ok(None),
        "200 bytes are not too large"
    );
}

#[test]
fn connect_is_checked_field_by_field() {
    check(&[
        (New, "3.1", b"\x10\x0F\0\x06MQIsdp\x03\x02\0\x0A\0\x01a", None),
        (
            New,
            "3.1 without a client id",
            b"\x10\x0E\0\x06MQIsdp\x03\x02\0\x0A\0\0",
            Some(ClientIdentifierNotValid),
        ),
        (
            New,
            "3.1 with a client id of 30 characters",
            b"\x10\x2C\0\x06MQIsdp\x03\x02\0\x0A\0\x1Eaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            None,
        ),
        (
            New,
            "3.1 with bit 0 of the flags",
            b"\x10\x0F\0\x06MQIsdp\x03\x03\0\x0A\0\x01a",
            None,
        ),
        (
            New,
            "3.1 with a flag but no user name",
            b"\x10\x0F\0\x06MQIsdp\x03\x82\0\x0A\0\x01a",
            None,
        ),
        (New, "3.1.1", b"\x10\x0D\0\x04MQTT\x04\x02\0\x0A\0\x01a", None),
        (New, "5.0", b"\x10\x0E\0\x04MQTT\x05\x02\0\x0A\0\0\x01a", None),
        (
            New,
            "3.1.1, empty client id, clean",
            b"\x10\x0C\0\x04MQTT\x04\x02\0\x0A\0\0",
            None,
        ),
        (
            New,
            "3.1.1, empty id, not clean",
            b"\x10\x0C\0\x04MQTT\x04\0\0\x0A\0\0",
            Some(ClientIdentifierNotValid),
        ),
        (
            New,
            "5.0, empty id, not clean",
            b"\x10\x0D\0\x04MQTT\x05\0\0\x0A\0\0\0",
            None,
        ),
        (
            New,
            "level 6",
            b"\x10\x0D\0\x04MQTT\x06\x02\0\x0A\0\x01a",
            Some(UnsupportedProtocolVersion),
        ),
        (
            New,
            "level 4 as a bridge",
            b"\x10\x0D\0\x04MQTT\x84\x02\0\x0A\0\x01a",
            Some(UnsupportedProtocolVersion),
        ),
        (
            New,
            "MQTT level 3",
            b"\x10\x0D\0\x04MQTT\x03\x02\0\x0A\0\x01a",
            Some(UnsupportedProtocolVersion),
        ),
        (
            New,
            "wrong name",
            b"\x10\x0D\0\x04MQTX\x04\x02\0\x0A\0\x01a",
            Some(UnsupportedProtocolVersion),
        ),
        (
            New,
            "reserved flag",
            b"\x10\x0D\0\x04MQTT\x04\x03\0\x0A\0\x01a",
            Some(MalformedPacket),
        ),
        (
            New,
            "will QoS without a will",
            b"\x10\x0D\0\x04MQTT\x04\x0A\0\x0A\0\x01a",
            Some(MalformedPacket),
        ),
        (
            New,
            "will retain without a will",
            b"\x10\x0D\0\x04MQTT\x04\x22\0\x0A\0\x01a",
            Some(MalformedPacket),
        ),
        (
            New,
            "will QoS 3",
            b"\x10\x13\0\x04MQTT\x04\x1E\0\x0A\0\x01a\0\x01t\0\x01p",
            Some(MalformedPacket),
        ),
        (
            New,
            "will",
            b"\x10\x13\0\x04MQTT\x04\x2E\0\x0A\0\x01a\0\x01t\0\x01p",
            None,
        ),
        (
            New,
            "will to a wildcard",
            b"\x10\x13\0\x04MQTT\x04\x2E\0\x0A\0\x01a\0\x01#\0\x01p",
            Some(TopicNameInvalid),
        ),
        (
            New,
            "will without a topic",
            b"\x10\x12\0\x04MQTT\x04\x2E\0\x0A\0\x01a\0\0\0\x01p",
            Some(ProtocolError),
        ),
        (
            New,
            "3.1.1 password alone",
            b"\x10\x10\0\x04MQTT\x04\x42\0\x0A\0\x01a\0\x01p",
            Some(MalformedPacket),
        ),
        (
            New,
            "5.0 password alone",
            b"\x10\x11\0\x04MQTT\x05\x42\0\x0A\0\0\x01a\0\x01p",
            None,
        ),
        (
            New,
            "user name missing",
            b"\x10\x0D\0\x04MQTT\x04\x82\0\x0A\0\x01a",
            Some(MalformedPacket),
        ),
        (
            New,
            "bytes after the end",
            b"\x10\x0E\0\x04MQTT\x04\x02\0\x0A\0\x01a!",
            Some(MalformedPacket),
        ),
        (
            New,
            "id not UTF-8",
            b"\x10\x0D\0\x04MQTT\x04\x02\0\x0A\0\x01\xFF",
            Some(MalformedPacket),
        ),
        (
            New,
            "id with a surrogate",
            b"\x10\x0F\0\x04MQTT\x04\x02\0\x0A\0\x03\xED\xA0\x80",
            Some(MalformedPacket),
        ),
        (
            New,
            "id with NUL",
            b"\x10\x0D\0\x04MQTT\x04\x02\0\x0A\0\x01\0",
            Some(MalformedPacket),
        ),
        (
            New,
            "5.0, length not shortest",
            b"\x10\x8E\0\0\x04MQTT\x05\x02\0\x0A\0\0\x01a",
            Some(MalformedPacket),
        ),
        (
            New,
            "3.1.1, length not shortest",
            b"\x10\x8D\0\0\x04MQTT\x04\x02\0\x0A\0\x01a",
            None,
        ),
        (
            New,
            "receive maximum",
            b"\x10\x11\0\x04MQTT\x05\x02\0\x0A\x03\x21\0\x01\0\x01a",
            None,
        ),
        (
            New,
            "receive maximum 0",
            b"\x10\x11\0\x04MQTT\x05\x02\0\x0A\x03\x21\0\0\0\x01a",
            Some(ProtocolError),
        ),
        (
            New,
            "maximum packet size 0",
            b"\x10\x13\0\x04MQTT\x05\x02\0\x0A\x05\x27\0\0\0\0\0\x01a",
            Some(ProtocolError),
        ),
        (
            New,
            "flag that is 2",
            b"\x10\x10\0\x04MQTT\x05\x02\0\x0A\x02\x17\x02\0\x01a",
            Some(ProtocolError),
        ),
        (
            New,
            "twice",
            b"\x10\x12\0\x04MQTT\x05\x02\0\x0A\x04\x17\x01\x17\x01\0\x01a",
            Some(ProtocolError),
        ),
        (
            New,
            "wrong packet",
            b"\x10\x10\0\x04MQTT\x05\x02\0\x0A\x02\x24\x01\0\x01a",
            Some(MalformedPacket),
        ),
        (
            New,
            "unknown property",
            b"\x10\x10\0\x04MQTT\x05\x02\0\x0A\x02\x7E\x01\0\x01a",
            Some(MalformedPacket),
        ),
        (
            New,
            "data without a method",
            b"\x10\x11\0\x04MQTT\x05\x02\0\x0A\x03\x16\0\0\0\x01a",
            Some(ProtocolError),
        ),
    ]);
}

#[test]
fn publish_is_checked_field_by_field() {
    check(&[
        (Server(V3_1_1), "QoS 0", b"\x30\x05\0\x01thi", None),
        (Server(V5), "QoS 1", b"\x32\x06\0\x01t\0\x01\0", None),
        (
            Server(V5),
            "QoS 3",
            b"\x36\x06\0\x01t\0\x01\0",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "DUP with QoS 0",
            b"\x38\x04\0\x01t\0",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "packet id 0",
            b"\x32\x06\0\x01t\0\0\0",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "no room for a packet id",
            b"\x32\x04\0\x01t\0",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "topic longer than the packet",
            b"\x30\x04\0\x09t\0",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "wildcard",
            b"\x30\x04\0\x01+\0",
            Some(TopicNameInvalid),
        ),
        (
            Server(V5),
            "NUL in the topic",
            b"\x30\x04\0\x01\0\0",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "topic not UTF-8",
            b"\x30\x04\0\x01\xC3\0",
            Some(MalformedPacket),
        ),
        (Server(V5), "4 levels", b"\x30\x06\0\x03///\0", None),
        (
            Server(V5),
            "5 levels",
            b"\x30\x07\0\x04////\0",
            Some(TopicNameInvalid),
        ),
        (
            Server(V5),
            "no topic, no alias",
            b"\x30\x03\0\0\0",
            Some(ProtocolError),
        ),
        (Server(V3_1_1), "no topic", b"\x30\x02\0\0", Some(ProtocolError)),
        (
            Server(V5),
            "alias for no topic",
            b"\x30\x06\0\0\x03\x23\0\x01",
            None,
        ),
        (
            Server(V5),
            "alias 0",
            b"\x30\x07\0\x01t\x03\x23\0\0",
            Some(TopicAliasInvalid),
        ),
        (
            Server(V5),
            "subscription id from a client",
            b"\x30\x06\0\x01t\x02\x0B\x01",
            Some(ProtocolError),
        ),
        (
            Client(V5),
            "subscription ids",
            b"\x30\x08\0\x01t\x04\x0B\x01\x0B\x01",
            None,
        ),
        (
            Client(V5),
            "subscription id 0",
            b"\x30\x06\0\x01t\x02\x0B\0",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "format indicator 2",
            b"\x30\x06\0\x01t\x02\x01\x02",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "response topic with a wildcard",
            b"\x30\x08\0\x01t\x04\x08\0\x01#",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "property section too long",
            b"\x30\x04\0\x01t\x05",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "property cut off",
            b"\x30\x06\0\x01t\x02\x02\0",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "three user properties where two are allowed",
            b"\x30\x13\0\x01t\x0F\x26\0\0\0\0\x26\0\0\0\0\x26\0\0\0\0",
            Some(QuotaExceeded),
        ),
        (
            Server(V5),
            "two user properties",
            b"\x30\x0E\0\x01t\x0A\x26\0\0\0\0\x26\0\0\0\0",
            None,
        ),
    ]);
}

#[test]
fn the_other_packets_are_checked_too() {
    check(&[
        (Server(V5), "PUBACK short", b"\x40\x02\0\x01", None),
        (Server(V5), "PUBACK with a code", b"\x40\x03\0\x01\x10", None),
        (
            Server(V5),
            "PUBACK with an empty section",
            b"\x40\x04\0\x01\x10\0",
            None,
        ),
        (
            Server(V5),
            "PUBACK with packet id 0",
            b"\x40\x02\0\0",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "PUBACK with an unknown code",
            b"\x40\x03\0\x01\x05",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "PUBACK with the code of another packet",
            b"\x40\x03\0\x01\x8E",
            Some(ProtocolError),
        ),
        (
            Server(V3_1_1),
            "PUBACK with a code in 3.1.1",
            b"\x40\x03\0\x01\x10",
            Some(MalformedPacket),
        ),
        (Server(V5), "SUBSCRIBE", b"\x82\x07\0\x01\0\0\x01a\x01", None),
        (
            Server(V5),
            "SUBSCRIBE without a filter",
            b"\x82\x03\0\x01\0",
            Some(ProtocolError),
        ),
        (
            Server(V3_1_1),
            "SUBSCRIBE without a filter",
            b"\x82\x02\0\x01",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "SUBSCRIBE with packet id 0",
            b"\x82\x07\0\0\0\0\x01a\x01",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "SUBSCRIBE with QoS 3",
            b"\x82\x07\0\x01\0\0\x01a\x03",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "SUBSCRIBE, retain handling 3",
            b"\x82\x07\0\x01\0\0\x01a\x30",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "SUBSCRIBE, reserved bits",
            b"\x82\x07\0\x01\0\0\x01a\x40",
            Some(MalformedPacket),
        ),
        (
            Server(V3_1_1),
            "SUBSCRIBE, reserved bits",
            b"\x82\x06\0\x01\0\x01a\x04",
            Some(MalformedPacket),
        ),
        (
            Server(V3_1),
            "SUBSCRIBE, unused bits",
            b"\x82\x06\0\x01\0\x01a\x04",
            None,
        ),
        (
            Server(V5),
            "SUBSCRIBE, no options",
            b"\x82\x06\0\x01\0\0\x01a",
            Some(MalformedPacket),
        ),
        (
            Server(V5),
            "no local, shared",
            b"\x82\x10\0\x01\0\0\x0A$share/g/a\x04",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "subscription id twice",
            b"\x82\x0B\0\x01\x04\x0B\x01\x0B\x01\0\x01a\0",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "UNSUBSCRIBE without a filter",
            b"\xA2\x03\0\x01\0",
            Some(ProtocolError),
        ),
        (Client(V3_1_1), "SUBACK", b"\x90\x04\0\x01\x02\x80", None),
        (
            Client(V3_1_1),
            "SUBACK with a 5.0 code",
            b"\x90\x03\0\x01\x87",
            Some(MalformedPacket),
        ),
        (Client(V3_1_1), "UNSUBACK", b"\xB0\x02\0\x01", None),
        (Client(V5), "CONNACK", b"\x20\x03\x01\0\0", None),
        (
            Client(V5),
            "CONNACK with flags",
            b"\x20\x03\x02\0\0",
            Some(MalformedPacket),
        ),
        (
            Client(V5),
            "CONNACK refuses, session present",
            b"\x20\x03\x01\x87\0",
            Some(ProtocolError),
        ),
        (
            Client(V5),
            "CONNACK, maximum QoS 2",
            b"\x20\x05\0\0\x02\x24\x02",
            Some(ProtocolError),
        ),
        (Client(V3_1_1), "CONNACK 5", b"\x20\x02\0\x05", None),
        (
            Client(V3_1_1),
            "CONNACK 6",
            b"\x20\x02\0\x06",
            Some(MalformedPacket),
        ),
        (Server(V5), "DISCONNECT", b"\xE0\x00", None),
        (Server(V5), "DISCONNECT with will", b"\xE0\x01\x04", None),
        (
            Server(V5),
            "DISCONNECT as only a server says",
            b"\xE0\x01\x8E",
            Some(ProtocolError),
        ),
        (
            Client(V5),
            "session expiry from a server",
            b"\xE0\x07\0\x05\x11\0\0\0\x01",
            Some(MalformedPacket),
        ),
        (
            Server(V3_1_1),
            "DISCONNECT with a body",
            b"\xE0\x01\0",
            Some(MalformedPacket),
        ),
        (Server(V5), "AUTH", b"\xF0\x06\x18\x04\x15\0\x01m", None),
        (
            Server(V5),
            "AUTH without a method",
            b"\xF0\x02\x18\0",
            Some(ProtocolError),
        ),
        (
            Server(V5),
            "AUTH success from a client",
            b"\xF0\x00",
            Some(ProtocolError),
        ),
        (Client(V5), "AUTH success", b"\xF0\x00", None),
    ]);
}

#[test]
fn an_error_is_final() {
    let mut decoder = Decoder::server(LIMITS);
    let error = decoder.decode(&mut Bytes::from_static(b"\xC0\x00")).unwrap_err();
    let connect = b"\x10\x0D\0\x04MQTT\x04\x02\0\x0A\0\x01a";
    assert_eq!(decoder.decode(&mut Bytes::from_static(connect)), Err(error));
}

#[test]
fn properties_for_the_server_leave_the_forwarded_ones_in_order() {
    // content type "c", expiry 7, user property a=b, alias 9, correlation data "d"
    let bytes = b"\x30\x1D\0\x01t\x17\x03\0\x01c\x02\0\0\0\x07\x26\0\x01a\0\x01b\x23\0\x09\x09\0\x01dhi";
    let Ok(Some(Packet::Publish(publish))) = decode(Server(V5), bytes) else {
        panic!("a PUBLISH")
    };
    assert_eq!(publish.topic_alias.map(|alias| alias.get()), Some(9));
    assert_eq!(publish.publication.message_expiry_interval(), Some(7));
    assert_eq!(
        publish.publication.properties_wire(),
        &b"\x03\0\x01c\x26\0\x01a\0\x01b\x09\0\x01d"[..]
    );
    assert_eq!(publish.publication.payload_slice(), b"hi");
    let properties = publish.publication.properties();
    assert_eq!(properties.content_type.as_deref(), Some("c"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"d"[..]));
    assert_eq!(properties.user_properties, [("a".into(), "b".into())]);
    assert_eq!(publish.publication.compact(), publish.publication);
}

#[test]
fn a_decoded_publish_shares_the_read_buffer() {
    let mut buffer = Bytes::copy_from_slice(b"\x30\x0A\0\x01t\x04\x03\0\x01chi\x30");
    let range = buffer.as_ptr_range();
    let mut decoder = Decoder::client(V5, LIMITS);
    let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut buffer) else {
        panic!("a PUBLISH")
    };
    let publication = publish.publication;
    let parts = [
        publication.topic().as_str().as_bytes(),
        &publication.properties_wire(),
        publication.payload_slice(),
    ];
    assert!(parts.iter().all(|part| range.contains(&part.as_ptr())));
    let compact = publication.compact();
    assert!(!range.contains(&compact.payload_slice().as_ptr()));
}

#[test]
fn each_receiver_gets_a_head_of_its_own() {
    let publication = Publication::new(common::topic("a/b"), Bytes::from_static(b"hi"));
    let head = PublishHead {
        qos: QoS::AtLeastOnce,
        packet_id: PacketId::new(258),
        topic_alias: std::num::NonZeroU16::new(3),
        omit_topic: true,
        message_expiry_interval: Some(5),
        subscription_ids: &[200],
        ..PublishHead::default()
    };
    let mut queue = WriteQueue::new();
    encode_publish(&publication, V5, &head, &mut queue);
    let expected: &[u8] = b"\x32\x12\0\0\x01\x02\x0B\x23\0\x03\x02\0\0\0\x05\x0B\xC8\x01hi";
    assert_eq!(publish_len(&publication, V5, &head), expected.len());
    assert_eq!(queue.copy_to_bytes(queue.remaining()), expected);
    encode_publish(&publication, V3_1_1, &head, &mut queue);
    assert_eq!(
        queue.copy_to_bytes(queue.remaining()),
        &b"\x32\x09\0\x03a/b\x01\x02hi"[..]
    );
}

#[test]
fn a_large_payload_is_queued_by_reference() {
    let payload = Bytes::from(vec![7; 5000]);
    let publication = Publication::new(common::topic("t"), payload.clone());
    let mut queue = WriteQueue::new();
    encode_publish(&publication, V3_1_1, &PublishHead::default(), &mut queue);
    assert_eq!(queue.len(), 5006);
    queue.advance(6);
    assert_eq!(queue.chunk().as_ptr(), payload.as_ptr());
}

#[test]
fn what_an_old_version_cannot_say_is_left_out_or_refused() {
    let mut queue = WriteQueue::new();
    let packet_id = PacketId::new(1).unwrap();
    let suback = SubAck {
        reason_string: Some("no".into()),
        ..SubAck::new(packet_id, vec![NotAuthorized])
    };
    encode(&Packet::SubAck(suback), V3_1_1, &mut queue).unwrap();
    assert_eq!(queue.copy_to_bytes(queue.remaining()), &b"\x90\x03\0\x01\x80"[..]);
    let connack = |code| Packet::ConnAck(Box::new(ConnAck::new(true, code)));
    encode(&connack(Banned), V3_1_1, &mut queue).unwrap();
    assert_eq!(queue.copy_to_bytes(queue.remaining()), &b"\x20\x02\0\x05"[..]);
    assert_eq!(
        encode(&connack(MalformedPacket), V3_1_1, &mut queue),
        Err(EncodeError::NoReturnCode)
    );
    assert_eq!(
        encode(&Packet::Auth(Auth::default()), V3_1_1, &mut queue),
        Err(EncodeError::NotInThisVersion)
    );
    let long = Connect::new(V5, "x".repeat(70_000).into());
    assert_eq!(
        encode(&Packet::Connect(Box::new(long)), V5, &mut queue),
        Err(EncodeError::FieldTooLong)
    );
    assert!(queue.is_empty());
}
