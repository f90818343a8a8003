//! A client that sends anything to the session state machine, while the broker answers every action.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use libfuzzer_sys::fuzz_target;
use mqtt_codec::{DecodeLimits, Decoder, Packet, QoS, ReasonCode, WriteQueue};
use mqtt_session::{Action, Delivery, Handshake, Resumed, ServerLimits, Session};

/// A broker stops reading from a client that has this many messages without an answer.
const BROKER_STOPS_READING: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, stream)) = bytes.split_first() else {
        return;
    };
    let mut decoder = Decoder::server(DecodeLimits::default());
    let mut stream = Bytes::copy_from_slice(stream);
    let Ok(Some(Packet::Connect(connect))) = decoder.decode(&mut stream) else {
        return;
    };
    let limits = Arc::new(limits());
    let Ok(handshake) = Handshake::new(&connect, &limits, || ByteString::from_static("assigned")) else {
        return;
    };
    let resumed = (flags & 1 == 1).then(Resumed::default);
    let mut session = Session::new(&handshake, Arc::clone(&limits), resumed, 0);
    converse(&mut session, &mut decoder, stream);
    assert!(
        session.in_flight() <= usize::from(handshake.window),
        "more under way than the client allows"
    );
});

fn converse(session: &mut Session, decoder: &mut Decoder, mut stream: Bytes) {
    let (mut out, mut actions, mut now_ms) = (WriteQueue::new(), Vec::new(), 0);
    while let Ok(Some(packet)) = decoder.decode(&mut stream) {
        now_ms += 10;
        if session.handle(packet, now_ms, &mut out, &mut actions).is_err() {
            session.refuse(ReasonCode::ProtocolError, None, &mut out);
            return;
        }
        for action in actions.drain(..) {
            answer(session, action, now_ms, &mut out);
        }
        while session.send_next(now_ms, &mut out).is_some() {}
        out.clear();
        if session.unacknowledged() > BROKER_STOPS_READING {
            return;
        }
    }
}

/// What a broker does at once here, it does after a while in earnest. Everything published comes back to the publisher.
fn answer(session: &mut Session, action: Action, now_ms: u64, out: &mut WriteQueue) {
    match action {
        Action::Publish {
            publication,
            qos,
            retain,
            packet_id,
        } => {
            let expires_at = publication
                .message_expiry_interval()
                .map(|seconds| now_ms + u64::from(seconds) * 10);
            let subscription_ids = [1].into_iter().collect();
            let delivery = Delivery {
                publication,
                qos,
                retain,
                subscription_ids,
                expires_at,
                share: None,
            };
            if !session.is_durable() || qos == QoS::AtMostOnce {
                session.deliver(delivery, now_ms, out);
            } else if session.room() > 0 {
                session.send_durable(session.next_sequence(), &delivery, now_ms, out);
            }
            // Every third packet id leaves the message unanswered, so that the receive quota is used up.
            if let Some(packet_id) = packet_id.filter(|id| id.get() % 3 != 0) {
                session.publish_done(packet_id, ReasonCode::Success, out);
            }
        }
        Action::Release(packet_id) => session.released(packet_id, out),
        Action::Receive(sequence) => session.received_stored(sequence, out),
        Action::Subscribe(request) => {
            session.subscribed(
                request.packet_id,
                vec![ReasonCode::Success; request.entries.len()],
                out,
            );
        }
        Action::Unsubscribe(packet) => {
            session.unsubscribed(
                packet.packet_id,
                vec![ReasonCode::Success; packet.filters.len()],
                out,
            );
        }
        Action::Authenticate(_) | Action::Disconnect(_) => {}
    }
}

fn limits() -> ServerLimits {
    ServerLimits {
        receive_maximum: 8,
        in_flight_max: 8,
        packet_size_max: 1 << 20,
        topic_alias_maximum: 4,
        topic_levels_max: 16,
        topic_bytes_max: 200,
        client_id_bytes_max: 64,
        session_expiry_max: 3600,
        will_delay_max: 3600,
        keep_alive_max: 0,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        wildcard_subscription_available: true,
        shared_subscription_available: true,
        subscription_identifiers_available: true,
        queue_messages_max: 10,
        queue_bytes_max: 1000,
        drop_oldest: true,
        validate_payload_format: true,
    }
}
