//! The flows of section 4.3 from the server's side: packets are fed, what is answered and asked of the broker is compared.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use mqtt_codec::{
    Acknowledgement, Connect, DecodeLimits, Decoder, MessageProperties, Packet, PacketId, ProtocolVersion,
    Publication, Publish, QoS, ReasonCode, Will, WriteQueue,
};
use mqtt_session::{Action, Delivery, Handshake, Outcome, ProtocolError, Resumed, ServerLimits, Session};
use mqtt_topic::TopicName;
use smallvec::SmallVec;

fn limits() -> Arc<ServerLimits> {
    Arc::new(ServerLimits {
        receive_maximum: 4,
        in_flight_max: 2,
        packet_size_max: 1 << 20,
        topic_alias_maximum: 2,
        topic_levels_max: 8,
        topic_bytes_max: 64,
        client_id_bytes_max: 32,
        session_expiry_max: 3600,
        will_delay_max: 60,
        keep_alive_max: 0,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        wildcard_subscription_available: true,
        shared_subscription_available: true,
        subscription_identifiers_available: true,
        queue_messages_max: 2,
        queue_bytes_max: 10_000,
        drop_oldest: true,
        validate_payload_format: true,
    })
}

struct Server {
    session: Session,
    out: WriteQueue,
    actions: Vec<Action>,
    reader: Decoder,
    now: u64,
}

impl Server {
    fn new(change: impl FnOnce(&mut Connect), resumed: Option<Resumed>) -> Self {
        let mut connect = Connect::new(ProtocolVersion::V5, "client".into());
        change(&mut connect);
        let handshake = Handshake::new(&connect, &limits(), || "fresh".into()).unwrap();
        Self {
            session: Session::new(&handshake, limits(), resumed, 0),
            out: WriteQueue::new(),
            actions: Vec::new(),
            reader: Decoder::client(connect.version, DecodeLimits::default()),
            now: 1_000,
        }
    }

    fn take(&mut self, packet: Packet) -> Result<(), ProtocolError> {
        self.session
            .handle(packet, self.now, &mut self.out, &mut self.actions)
    }

    fn sent(&mut self) -> Vec<Packet> {
        let mut bytes = self.out.copy_to_bytes(self.out.remaining());
        let mut packets = Vec::new();
        while let Some(packet) = self.reader.decode(&mut bytes).unwrap() {
            packets.push(packet);
        }
        assert!(bytes.is_empty());
        packets
    }

    fn deliver(&mut self, qos: QoS) -> Outcome {
        self.session.deliver(delivery(qos), self.now, &mut self.out)
    }
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn publication() -> Publication {
    Publication::new(
        TopicName::parse("a/b".into()).unwrap(),
        Bytes::from_static(b"payload"),
    )
}

fn delivery(qos: QoS) -> Delivery {
    Delivery {
        publication: publication(),
        qos,
        retain: false,
        subscription_ids: SmallVec::new(),
        expires_at: None,
        share: None,
    }
}

fn publish(qos: QoS, packet_id: Option<u16>) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: packet_id.map(id),
        topic_alias: None,
        subscription_ids: Default::default(),
        publication: publication(),
    })
}

fn ack(packet_id: PacketId) -> Acknowledgement {
    Acknowledgement::new(packet_id, ReasonCode::Success)
}

#[test]
fn a_qos_1_publish_is_acknowledged_when_the_broker_says_it_is_safe() {
    let mut server = Server::new(|_| {}, None);
    server.take(publish(QoS::AtLeastOnce, Some(7))).unwrap();
    assert!(matches!(
        server.actions[..],
        [Action::Publish {
            packet_id: Some(_),
            ..
        }]
    ));
    assert_eq!(server.sent(), []);
    server
        .session
        .publish_done(id(7), ReasonCode::Success, &mut server.out);
    assert_eq!(server.sent(), [Packet::PubAck(ack(id(7)))]);
}

#[test]
fn mqtt_4_3_3_10_a_repeated_qos_2_publish_is_answered_and_not_routed_again() {
    let mut server = Server::new(|_| {}, None);
    server.take(publish(QoS::ExactlyOnce, Some(7))).unwrap();
    server
        .session
        .publish_done(id(7), ReasonCode::Success, &mut server.out);
    server.take(publish(QoS::ExactlyOnce, Some(7))).unwrap();
    assert_eq!(
        server.sent(),
        [Packet::PubRec(ack(id(7))), Packet::PubRec(ack(id(7)))]
    );
    assert_eq!(server.actions.len(), 1);
    server.take(Packet::PubRel(ack(id(7)))).unwrap();
    assert!(matches!(server.actions[1], Action::Release(packet_id) if packet_id == id(7)));
    server.session.released(id(7), &mut server.out);
    assert_eq!(server.sent(), [Packet::PubComp(ack(id(7)))]);
}

#[test]
fn a_pubrel_for_an_unknown_packet_id_is_answered_with_0x92() {
    let mut server = Server::new(|_| {}, None);
    server.take(Packet::PubRel(ack(id(9)))).unwrap();
    let Packet::PubComp(answer) = server.sent().remove(0) else {
        panic!("a PUBCOMP was expected")
    };
    assert_eq!(answer.packet_id, id(9));
    assert_eq!(answer.reason_code, ReasonCode::PacketIdentifierNotFound);
}

#[test]
fn a_qos_2_delivery_sends_pubrel_only_when_the_pubrec_is_durable() {
    let mut server = Server::new(|_| {}, None);
    assert_eq!(server.deliver(QoS::ExactlyOnce), Outcome::Sent);
    server.sent();
    server.take(Packet::PubRec(ack(id(1)))).unwrap();
    assert_eq!(server.sent(), []);
    assert!(matches!(server.actions[..], [Action::Receive(0)]));
    server.session.received_stored(0, &mut server.out);
    assert_eq!(server.sent(), [Packet::PubRel(ack(id(1)))]);
    assert_eq!(server.session.in_flight(), 1, "PUBREC does not free the slot");
    server.take(Packet::PubComp(ack(id(1)))).unwrap();
    assert_eq!(server.session.in_flight(), 0);
}

#[test]
fn pubrels_go_in_the_order_of_the_pubrecs_whichever_is_known_to_be_durable_first() {
    let mut server = Server::new(|_| {}, None);
    for packet_id in [1, 2] {
        server.deliver(QoS::ExactlyOnce);
        server.take(Packet::PubRec(ack(id(packet_id)))).unwrap();
    }
    server.sent();
    server.session.received_stored(1, &mut server.out);
    assert_eq!(server.sent(), [], "a client has messages by their PUBRELs");
    server.session.received_stored(0, &mut server.out);
    assert_eq!(
        server.sent(),
        [Packet::PubRel(ack(id(1))), Packet::PubRel(ack(id(2)))]
    );
}

#[test]
fn a_refused_pubrec_ends_the_delivery() {
    let mut server = Server::new(|_| {}, None);
    server.deliver(QoS::ExactlyOnce);
    server
        .take(Packet::PubRec(Acknowledgement::new(
            id(1),
            ReasonCode::QuotaExceeded,
        )))
        .unwrap();
    assert!(server.actions.is_empty());
    assert_eq!(server.session.in_flight(), 0);
}

#[test]
fn the_window_holds_back_what_the_client_did_not_ask_for() {
    let mut server = Server::new(|_| {}, None);
    let outcomes: Vec<_> = (0..5).map(|_| server.deliver(QoS::AtLeastOnce)).collect();
    // Two in flight, two queued, and the oldest of the queue gives way to the fifth.
    let expected = [
        Outcome::Sent,
        Outcome::Sent,
        Outcome::Queued,
        Outcome::Queued,
        Outcome::QueueFull(1),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(
        server.deliver(QoS::AtMostOnce),
        Outcome::Sent,
        "QoS 0 has no window"
    );
    assert_eq!(server.sent().len(), 3);
    server.take(Packet::PubAck(ack(id(1)))).unwrap();
    let next = server.session.send_next(server.now, &mut server.out);
    let (outcome, qos, ..) = next.expect("the window has room again");
    assert_eq!((outcome, qos), (Outcome::Sent, QoS::AtLeastOnce));
    assert!(server.session.send_next(server.now, &mut server.out).is_none());
    assert_eq!(server.sent().len(), 1);
}

#[test]
fn a_large_message_takes_the_place_of_as_many_small_ones_as_its_bytes_need() {
    let mut server = Server::new(|_| {}, None);
    for _ in 0..4 {
        server.deliver(QoS::AtLeastOnce);
    }
    let large = Delivery {
        publication: Publication::new(
            TopicName::parse("a/b".into()).unwrap(),
            Bytes::from(vec![b'x'; 9_900]),
        ),
        ..delivery(QoS::AtLeastOnce)
    };

    let outcome = server.session.deliver(large, server.now, &mut server.out);

    assert_eq!(outcome, Outcome::QueueFull(2));
    let (messages, bytes) = server.session.queued();
    assert_eq!(messages, 1);
    assert!(bytes <= 11_000, "{bytes} bytes wait");
}

#[test]
fn the_remaining_expiry_is_passed_on_and_an_expired_message_is_not_sent() {
    let mut server = Server::new(|_| {}, None);
    let expiring = Delivery {
        expires_at: Some(11_000),
        ..delivery(QoS::AtMostOnce)
    };
    server.session.deliver(expiring.clone(), 4_500, &mut server.out);
    let Packet::Publish(sent) = server.sent().remove(0) else {
        panic!("a PUBLISH was expected")
    };
    assert_eq!(sent.publication.message_expiry_interval(), Some(7));
    assert_eq!(
        server.session.deliver(expiring, 11_000, &mut server.out),
        Outcome::Expired
    );
}

#[test]
fn a_packet_above_the_clients_maximum_is_not_sent() {
    let mut server = Server::new(|connect| connect.properties.maximum_packet_size = Some(16), None);
    assert_eq!(server.deliver(QoS::AtLeastOnce), Outcome::TooLarge);
    assert_eq!(server.sent(), []);
    assert_eq!(server.session.room(), 2);
}

#[test]
fn a_resumed_session_repeats_with_dup_under_the_packet_ids_it_had() {
    let resumed = Resumed {
        first_sequence: 65_534,
        sent_before: 65_535,
        unreleased: vec![id(3)],
    };
    let mut server = Server::new(|_| {}, Some(resumed));
    for sequence in [65_534, 65_535] {
        server
            .session
            .send_durable(sequence, &delivery(QoS::AtLeastOnce), 0, &mut server.out);
    }
    let sent = server.sent();
    let head = |packet: &Packet| match packet {
        Packet::Publish(publish) => (publish.packet_id, publish.dup),
        other => panic!("{other:?}"),
    };
    assert_eq!(head(&sent[0]), (Some(id(65_535)), true));
    assert_eq!(head(&sent[1]), (Some(id(1)), false));
    server.take(publish(QoS::ExactlyOnce, Some(3))).unwrap();
    assert_eq!(
        server.sent(),
        [Packet::PubRec(ack(id(3)))],
        "kept before the connection was lost"
    );
    server.take(Packet::PubAck(ack(id(65_535)))).unwrap();
    server.take(Packet::PubAck(ack(id(1)))).unwrap();
    assert_eq!(server.session.take_finished(), [(65_534, 65_535)]);
}

#[test]
fn a_message_that_fits_without_an_alias_is_sent_without_one() {
    // PUBLISH of QoS 0: two bytes, the topic's five, the properties' length, the payload's seven.
    const SIZE: u32 = 15;
    let limited = |connect: &mut Connect| {
        connect.properties.topic_alias_maximum = Some(1);
        connect.properties.maximum_packet_size = Some(SIZE);
    };
    let mut server = Server::new(limited, None);
    assert_eq!(server.deliver(QoS::AtMostOnce), Outcome::Sent);
    let Packet::Publish(sent) = server.sent().remove(0) else {
        panic!("a PUBLISH was expected")
    };
    assert_eq!(
        (sent.topic_alias, sent.publication.topic().as_str()),
        (None, "a/b")
    );
    // One that fits with the alias is told of it still.
    let short = Delivery {
        publication: Publication::new(
            TopicName::parse("a/b".into()).unwrap(),
            Bytes::from_static(b"pay"),
        ),
        ..delivery(QoS::AtMostOnce)
    };
    server.session.deliver(short, 0, &mut server.out);
    let Packet::Publish(sent) = server.sent().remove(0) else {
        panic!("a PUBLISH was expected")
    };
    assert_eq!(sent.topic_alias.map(|alias| alias.get()), Some(1));
    assert_eq!(sent.publication.topic().as_str(), "a/b");
}

#[test]
fn a_client_that_forgot_a_qos_2_publish_may_use_its_packet_id_for_qos_1() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let resumed = Resumed {
            unreleased: vec![id(7)],
            ..Resumed::default()
        };
        let mut server = Server::new(|connect| connect.version = version, Some(resumed));
        server.take(publish(QoS::AtLeastOnce, Some(7))).unwrap();
        assert!(matches!(server.actions[..], [Action::Publish { .. }]));
        server
            .session
            .publish_done(id(7), ReasonCode::Success, &mut server.out);
        assert_eq!(server.sent(), [Packet::PubAck(ack(id(7)))]);
        server.take(Packet::PubRel(ack(id(7)))).unwrap();
        assert!(matches!(server.actions[1], Action::Release(packet_id) if packet_id == id(7)));
    }
}

#[test]
fn a_packet_id_in_use_on_the_same_connection_is_refused() {
    let mut server = Server::new(|_| {}, None);
    server.take(publish(QoS::ExactlyOnce, Some(7))).unwrap();
    server.take(publish(QoS::AtLeastOnce, Some(7))).unwrap();
    assert_eq!(server.actions.len(), 1, "only the first goes anywhere");
    server
        .session
        .publish_done(id(7), ReasonCode::Success, &mut server.out);
    let sent = server.sent();
    assert_eq!(sent[0], Packet::PubRec(ack(id(7))), "they are answered in order");
    let Packet::PubAck(answer) = &sent[1] else {
        panic!("{sent:?}")
    };
    assert_eq!(answer.reason_code, ReasonCode::PacketIdentifierInUse);
    server.take(Packet::PubRel(ack(id(7)))).unwrap();
    assert!(matches!(server.actions[1], Action::Release(_)));

    let mut server = Server::new(|connect| connect.version = ProtocolVersion::V3_1_1, None);
    server.take(publish(QoS::ExactlyOnce, Some(7))).unwrap();
    assert!(server.take(publish(QoS::AtLeastOnce, Some(7))).is_err());
}

#[test]
fn a_client_that_comes_back_with_much_unreleased_has_its_whole_quota() {
    let resumed = Resumed {
        unreleased: (1..=4).map(id).collect(),
        ..Resumed::default()
    };
    let mut server = Server::new(|_| {}, Some(resumed));
    for packet_id in 1..=4 {
        server.take(Packet::PubRel(ack(id(packet_id)))).unwrap();
    }
    server.take(publish(QoS::AtLeastOnce, Some(5))).unwrap();
    assert_eq!(server.actions.len(), 5);
}

#[test]
fn aliases_are_resolved_and_their_bounds_kept() {
    let mut server = Server::new(|_| {}, None);
    let aliased = |alias: u16, named: bool| {
        let Packet::Publish(mut packet) = publish(QoS::AtMostOnce, None) else {
            unreachable!()
        };
        packet.topic_alias = std::num::NonZeroU16::new(alias);
        if !named {
            packet.publication = packet.publication.with_topic(TopicName::empty());
        }
        Packet::Publish(packet)
    };
    server.take(aliased(1, true)).unwrap();
    server.take(aliased(1, false)).unwrap();
    for action in &server.actions {
        let Action::Publish { publication, .. } = action else {
            panic!("{action:?}")
        };
        assert_eq!(publication.topic().as_str(), "a/b");
    }
    assert_eq!(
        server.take(aliased(2, false)).unwrap_err().reason_code,
        ReasonCode::ProtocolError
    );
    assert_eq!(
        server.take(aliased(3, true)).unwrap_err().reason_code,
        ReasonCode::TopicAliasInvalid
    );
}

/// Reason strings of everything sent.
fn reason_strings(server: &mut Server) -> Vec<Option<String>> {
    let text = |packet| match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => ack.reason_string,
        Packet::SubAck(suback) => suback.reason_string,
        Packet::UnsubAck(unsuback) => unsuback.reason_string,
        other => panic!("not an acknowledgement: {other:?}"),
    };
    let texts = server.sent().into_iter().map(text);
    texts.map(|text| text.map(|text| text.to_string())).collect()
}

fn refuse_everything(server: &mut Server) {
    server.take(publish(QoS::AtLeastOnce, Some(1))).unwrap();
    server.take(publish(QoS::ExactlyOnce, Some(2))).unwrap();
    server.take(Packet::PubRel(ack(id(3)))).unwrap();
    let (session, out) = (&mut server.session, &mut server.out);
    session.publish_done(id(1), ReasonCode::QuotaExceeded, out);
    session.publish_done(id(2), ReasonCode::NotAuthorized, out);
    session.subscribed(
        id(4),
        vec![ReasonCode::Success, ReasonCode::TopicFilterInvalid],
        out,
    );
    session.unsubscribed(id(5), vec![ReasonCode::UnspecifiedError], out);
}

#[test]
fn negative_acknowledgements_say_why_and_positive_ones_nothing() {
    let mut server = Server::new(|_| {}, None);
    refuse_everything(&mut server);
    let texts = reason_strings(&mut server);
    assert_eq!(texts.len(), 5);
    assert!(texts.iter().all(Option::is_some), "{texts:?}");

    server.take(publish(QoS::AtLeastOnce, Some(1))).unwrap();
    server
        .session
        .publish_done(id(1), ReasonCode::Success, &mut server.out);
    server
        .session
        .subscribed(id(4), vec![ReasonCode::GrantedQoS1], &mut server.out);
    assert_eq!(reason_strings(&mut server), [None, None]);
}

#[test]
fn mqtt_3_1_2_29_who_wants_no_words_or_takes_only_small_packets_gets_the_code_alone() {
    let unwilling = |connect: &mut Connect| connect.properties.request_problem_information = Some(false);
    let small = |connect: &mut Connect| connect.properties.maximum_packet_size = Some(12);
    for mut server in [Server::new(unwilling, None), Server::new(small, None)] {
        refuse_everything(&mut server);
        assert_eq!(reason_strings(&mut server), [const { None }; 5]);
    }
}

#[test]
fn a_will_whose_payload_is_not_what_it_says_is_refused_where_that_is_checked() {
    let mut connect = Connect::new(ProtocolVersion::V5, "client".into());
    let properties = MessageProperties {
        payload_format_indicator: Some(true),
        ..MessageProperties::default()
    };
    let topic = TopicName::parse("gone".into()).unwrap();
    let publication = Publication::from_parts(topic, &properties, Bytes::from_static(b"\xff\xfe"));
    connect.will = Some(Will {
        publication,
        qos: QoS::AtMostOnce,
        retain: false,
        delay_interval: 0,
    });
    let refused = Handshake::new(&connect, &limits(), || "fresh".into()).unwrap_err();
    assert_eq!(refused.reason_code, ReasonCode::PayloadFormatInvalid);
}

#[test]
fn keep_alive_is_one_and_a_half_times_what_was_agreed() {
    let mut server = Server::new(|connect| connect.keep_alive = 10, None);
    assert_eq!(server.session.keep_alive_deadline(), Some(15_000));
    server.take(Packet::PingReq).unwrap();
    assert_eq!(server.sent(), [Packet::PingResp]);
    assert_eq!(server.session.keep_alive_deadline(), Some(16_000));
}

#[test]
fn a_second_connect_ends_the_connection() {
    let mut server = Server::new(|_| {}, None);
    let connect = Packet::Connect(Box::new(Connect::new(ProtocolVersion::V5, "again".into())));
    assert_eq!(
        server.take(connect).unwrap_err().reason_code,
        ReasonCode::ProtocolError
    );
}
