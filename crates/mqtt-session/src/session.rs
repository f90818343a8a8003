//! One client's protocol after the CONNACK: a packet comes in, packets and actions go out.

use bytestring::ByteString;
use mqtt_codec::{
    Acknowledgement, Auth, Disconnect, Limit, Packet, PacketId, ProtocolVersion, Publication, PublishHead,
    QoS, ReasonCode, SubAck, UnsubAck, Unsubscribe, WriteQueue, encode_publish, encoded_len, publish_len,
};

use crate::ProtocolError;
use crate::aliases::{InboundAliases, OutboundAliases};
use crate::explain::{Words, explain, write};
use crate::handshake::{Handshake, ServerLimits};
use crate::inbound::{Inbound, Received};
use crate::outbound::{Delivery, Outbound, Outcome, Sending, Stage, packet_id_of};
use crate::subscribe::{self, SubscribeRequest};

/// What the broker has to do for the client.
#[derive(Debug)]
pub enum Action {
    /// Route a message. With a packet id it ends in `publish_done`.
    Publish {
        /// The message; its topic is valid and no alias.
        publication: Publication,
        /// As sent.
        qos: QoS,
        /// As sent.
        retain: bool,
        /// Present above QoS 0.
        packet_id: Option<PacketId>,
    },
    /// PUBREL came: forget the packet id, then `released`.
    Release(PacketId),
    /// PUBREC came: make it durable, then `received_stored`.
    Receive(u64),
    /// Ends in `subscribed`.
    Subscribe(SubscribeRequest),
    /// Ends in `unsubscribed`.
    Unsubscribe(Unsubscribe),
    /// A step of a re-authentication (section 4.12.1).
    Authenticate(Auth),
    /// The client is leaving.
    Disconnect(Disconnect),
}

/// The protocol of one connection, and the part of the session that is in memory.
#[derive(Debug)]
pub struct Session {
    version: ProtocolVersion,
    limits: std::sync::Arc<ServerLimits>,
    durable: bool,
    inbound: Inbound,
    outbound: Outbound,
    inbound_aliases: InboundAliases,
    outbound_aliases: OutboundAliases,
    client_packet_size_max: u32,
    problem_information: bool,
    keep_alive_ms: u64,
    last_packet_ms: u64,
    sent_before: u64,
}

/// What a durable session brings along from before.
#[derive(Clone, Debug, Default)]
pub struct Resumed {
    /// The first sequence number that is not acknowledged.
    pub first_sequence: u64,
    /// Below this, deliveries may have been sent before and carry DUP.
    pub sent_before: u64,
    /// QoS 2 packet ids whose PUBREL has not come.
    pub unreleased: Vec<PacketId>,
}

impl Session {
    /// A session as agreed in the handshake. `resumed` is present for a session that is kept durably:
    /// its messages are handed in with `send`, others with `deliver`.
    pub fn new(
        handshake: &Handshake,
        limits: std::sync::Arc<ServerLimits>,
        resumed: Option<Resumed>,
        now_ms: u64,
    ) -> Self {
        let durable = resumed.is_some();
        let resumed = resumed.unwrap_or_default();
        Self {
            version: handshake.version,
            durable,
            inbound: Inbound::new(limits.receive_maximum, resumed.unreleased),
            outbound: Outbound::new(usize::from(handshake.window), resumed.first_sequence, durable),
            inbound_aliases: InboundAliases::new(limits.topic_alias_maximum),
            outbound_aliases: OutboundAliases::new(handshake.client_topic_alias_maximum),
            client_packet_size_max: handshake.client_packet_size_max,
            problem_information: handshake.problem_information,
            keep_alive_ms: u64::from(handshake.keep_alive) * 1_500,
            last_packet_ms: now_ms,
            sent_before: resumed.sent_before,
            limits,
        }
    }

    /// Of the connection.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// Whether the session is kept durably.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// The topic of a PUBLISH from the client, before it is handled: an alias stands for what it was set to.
    pub fn topic_received<'a>(
        &'a self,
        publish: &'a mqtt_codec::Publish,
    ) -> Option<&'a mqtt_topic::TopicName> {
        self.inbound_aliases.topic_of(publish)
    }

    /// The topic of a PUBLISH to the client.
    pub fn topic_sent<'a>(&'a self, publish: &'a mqtt_codec::Publish) -> Option<&'a mqtt_topic::TopicName> {
        self.outbound_aliases.topic_of(publish)
    }

    /// When the client has been silent for too long, in milliseconds; `None`: it may be silent for ever. [MQTT-3.1.2-22]
    pub fn keep_alive_deadline(&self) -> Option<u64> {
        (self.keep_alive_ms > 0).then_some(self.last_packet_ms + self.keep_alive_ms)
    }

    /// Takes one packet from the client.
    ///
    /// # Errors
    /// The client broke the protocol: `refuse` it and close.
    pub fn handle(
        &mut self,
        packet: Packet,
        now_ms: u64,
        out: &mut WriteQueue,
        actions: &mut Vec<Action>,
    ) -> Result<(), ProtocolError> {
        self.last_packet_ms = now_ms;
        match packet {
            Packet::Publish(publish) => self.publish(publish, out, actions)?,
            Packet::PubAck(ack) => self.acknowledged(ack.packet_id, Stage::AwaitsPubAck),
            Packet::PubRec(ack) => self.pubrec(&ack, out, actions),
            Packet::PubRel(ack) => self.pubrel(ack.packet_id, out, actions)?,
            Packet::PubComp(ack) => self.acknowledged(ack.packet_id, Stage::AwaitsPubComp),
            Packet::Subscribe(packet) => {
                actions.push(Action::Subscribe(subscribe::judge(packet, &self.limits)?))
            }
            Packet::Unsubscribe(packet) => actions.push(Action::Unsubscribe(packet)),
            Packet::PingReq => self.send(&Packet::PingResp, out),
            Packet::Disconnect(packet) => actions.push(Action::Disconnect(packet)),
            Packet::Auth(packet) => actions.push(Action::Authenticate(packet)),
            Packet::Connect(_) => return Err(ProtocolError::violation("second CONNECT")), // [MQTT-3.1.0-2]
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return Err(ProtocolError::violation("a packet that only servers send"));
            }
        }
        Ok(())
    }

    fn publish(
        &mut self,
        mut publish: mqtt_codec::Publish,
        out: &mut WriteQueue,
        actions: &mut Vec<Action>,
    ) -> Result<(), ProtocolError> {
        if self.version == ProtocolVersion::V5 {
            self.inbound_aliases.resolve(&mut publish)?;
        }
        self.judge_publish(&publish)?;
        let (qos, retain, packet_id) = (publish.qos, publish.retain, publish.packet_id);
        if let Some(packet_id) = packet_id {
            match self
                .inbound
                .publish(packet_id, qos, self.version == ProtocolVersion::V5)?
            {
                Received::Fresh => {}
                Received::InProgress => return Ok(()),
                // Only since MQTT 5.0 there are words for it. [MQTT-2.2.1-3]
                Received::InUse if self.version == ProtocolVersion::V5 => {
                    let words = self.words();
                    let reason = ReasonCode::PacketIdentifierInUse;
                    self.inbound
                        .refuse(packet_id, qos, reason, acknowledging(words, out));
                    return Ok(());
                }
                Received::InUse => {
                    return Err(ProtocolError::violation("packet identifier is in use"));
                }
                Received::Duplicate => {
                    self.send(
                        &Packet::PubRec(Acknowledgement::new(packet_id, ReasonCode::Success)),
                        out,
                    );
                    return Ok(());
                }
            }
        }
        if self.limits.validate_payload_format && !payload_is_as_said(&publish.publication) {
            let reason = ReasonCode::PayloadFormatInvalid;
            // QoS 0 has no acknowledgement to say it with.
            let Some(packet_id) = packet_id else {
                return Err(ProtocolError::new(reason, "payload is not UTF-8"));
            };
            self.publish_done(packet_id, reason, out);
            return Ok(());
        }
        actions.push(Action::Publish {
            publication: publish.publication,
            qos,
            retain,
            packet_id,
        });
        Ok(())
    }

    fn judge_publish(&self, publish: &mqtt_codec::Publish) -> Result<(), ProtocolError> {
        if publish.qos > self.limits.maximum_qos {
            return Err(ProtocolError::new(
                ReasonCode::QoSNotSupported,
                "QoS above Maximum QoS",
            )); // [MQTT-3.2.2-11]
        }
        if publish.retain && !self.limits.retain_available {
            return Err(ProtocolError::new(
                ReasonCode::RetainNotSupported,
                "retain is not available",
            )); // [MQTT-3.2.2-14]
        }
        let topic = publish.publication.topic().as_str();
        if topic.len() > self.limits.topic_bytes_max {
            return Err(ProtocolError::beyond(
                Limit::TopicBytes,
                ReasonCode::TopicNameInvalid,
                "topic is too long",
            ));
        }
        if !publish.subscription_ids.is_empty() {
            // [MQTT-3.3.4-6]
            return Err(ProtocolError::violation(
                "subscription identifier in a PUBLISH from a client",
            ));
        }
        Ok(())
    }

    /// A routed message is safe, or was refused: answers PUBACK or PUBREC, in the order of arrival.
    pub fn publish_done(&mut self, packet_id: PacketId, reason_code: ReasonCode, out: &mut WriteQueue) {
        let words = self.words();
        self.inbound
            .complete(packet_id, reason_code, acknowledging(words, out));
    }

    /// Whether a message of the client that waits for its acknowledgement has QoS 2.
    pub fn is_exactly_once(&self, packet_id: PacketId) -> bool {
        self.inbound.is_unreleased(packet_id)
    }

    /// Messages whose acknowledgement is outstanding. The broker stops reading at its own bound.
    pub fn unacknowledged(&self) -> usize {
        self.inbound.pending()
    }

    fn pubrel(
        &mut self,
        packet_id: PacketId,
        out: &mut WriteQueue,
        actions: &mut Vec<Action>,
    ) -> Result<(), ProtocolError> {
        if self.inbound.is_pending(packet_id) {
            return Err(ProtocolError::violation("PUBREL before the PUBREC was sent"));
        }
        if self.inbound.is_unreleased(packet_id) {
            actions.push(Action::Release(packet_id));
        } else {
            let unknown = Acknowledgement::new(packet_id, ReasonCode::PacketIdentifierNotFound);
            self.words().write_acknowledgement(unknown, out, Packet::PubComp);
        }
        Ok(())
    }

    /// The packet id of a QoS 2 message is free again: answers PUBCOMP.
    pub fn released(&mut self, packet_id: PacketId, out: &mut WriteQueue) {
        self.inbound.release(packet_id);
        self.send(
            &Packet::PubComp(Acknowledgement::new(packet_id, ReasonCode::Success)),
            out,
        );
    }

    fn acknowledged(&mut self, packet_id: PacketId, expected: Stage) {
        if let Some((sequence, stage)) = self.outbound.find(packet_id)
            && stage == expected
        {
            self.outbound.advance_to(sequence, Stage::Done);
        }
    }

    fn pubrec(&mut self, ack: &Acknowledgement, out: &mut WriteQueue, actions: &mut Vec<Action>) {
        match self.outbound.find(ack.packet_id) {
            // A PUBREC with an error ends the delivery. [MQTT-4.3.3-4]
            Some((sequence, Stage::AwaitsPubRec)) if ack.reason_code as u8 >= 0x80 => {
                self.outbound.advance_to(sequence, Stage::Done);
            }
            // A successful PUBREC does not free the slot: the send quota comes back with PUBCOMP. [MQTT-4.9.0-2]
            Some((sequence, Stage::AwaitsPubRec)) => {
                self.outbound.store_pubrec(sequence);
                actions.push(Action::Receive(sequence));
            }
            Some((_, Stage::AwaitsPubComp)) => self.pubrel_for(ack.packet_id, ReasonCode::Success, out),
            Some((_, Stage::StoringPubRec)) => {}
            _ => self.pubrel_for(ack.packet_id, ReasonCode::PacketIdentifierNotFound, out),
        }
    }

    fn pubrel_for(&mut self, packet_id: PacketId, reason_code: ReasonCode, out: &mut WriteQueue) {
        let pubrel = Acknowledgement::new(packet_id, reason_code);
        self.words().write_acknowledgement(pubrel, out, Packet::PubRel);
    }

    /// The PUBREC of a delivery is durable: the PUBLISH will never be sent again, and PUBREL goes out, behind those of earlier PUBRECs.
    pub fn received_stored(&mut self, sequence: u64, out: &mut WriteQueue) {
        self.outbound.pubrec_stored(sequence);
        while let Some(sequence) = self.outbound.next_pubrel() {
            self.pubrel_for(packet_id_of(sequence), ReasonCode::Success, out);
        }
    }

    /// Answers a SUBSCRIBE.
    pub fn subscribed(&mut self, packet_id: PacketId, reason_codes: Vec<ReasonCode>, out: &mut WriteQueue) {
        let reason_string = reason_codes.iter().copied().find_map(explain);
        self.words().write(reason_string, out, |reason_string| {
            Packet::SubAck(SubAck {
                packet_id,
                reason_codes: reason_codes.clone(),
                reason_string,
                user_properties: Vec::new(),
            })
        });
    }

    /// Answers an UNSUBSCRIBE.
    pub fn unsubscribed(&mut self, packet_id: PacketId, reason_codes: Vec<ReasonCode>, out: &mut WriteQueue) {
        let reason_string = reason_codes.iter().copied().find_map(explain);
        self.words().write(reason_string, out, |reason_string| {
            Packet::UnsubAck(UnsubAck {
                packet_id,
                reason_codes: reason_codes.clone(),
                reason_string,
                user_properties: Vec::new(),
            })
        });
    }

    /// How many deliveries above QoS 0 may be sent now.
    pub fn room(&self) -> usize {
        self.outbound.room()
    }

    /// Deliveries above QoS 0 that the client has not finished with.
    pub fn in_flight(&self) -> usize {
        self.outbound.in_flight()
    }

    /// The sequence number the next delivery of a durable session is looked for at.
    pub fn next_sequence(&self) -> u64 {
        self.outbound.next_sequence()
    }

    /// Whether a delivery of a durable session may be sent before those under way are finished.
    pub fn reaches(&self, sequence: u64) -> bool {
        self.outbound.reaches(sequence)
    }

    /// Sends a delivery of a durable session. The caller has asked `room` and `reaches` before.
    pub fn send_durable(
        &mut self,
        sequence: u64,
        delivery: &Delivery,
        now_ms: u64,
        out: &mut WriteQueue,
    ) -> Outcome {
        let outcome = self.transmit(sequence, delivery.sending(), now_ms, out);
        if outcome != Outcome::Sent {
            self.outbound.begin(sequence, Stage::Done);
        }
        outcome
    }

    /// A delivery of a durable session that the client is not to have: finished without having been sent.
    pub fn skip_durable(&mut self, sequence: u64) {
        self.outbound.begin(sequence, Stage::Done);
    }

    /// A delivery of a durable session whose PUBREC came before the connection was lost: PUBREL only.
    pub fn send_pubrel(&mut self, sequence: u64, out: &mut WriteQueue) {
        self.outbound.begin(sequence, Stage::AwaitsPubComp);
        self.pubrel_for(packet_id_of(sequence), ReasonCode::Success, out);
    }

    /// Sends a QoS 0 message, or one to a session in memory: now, or when the window has room.
    pub fn deliver(&mut self, delivery: Delivery, now_ms: u64, out: &mut WriteQueue) -> Outcome {
        match self.may_send(delivery.qos) {
            true => self.deliver_now(delivery, now_ms, out),
            false => self.deliver_later(delivery),
        }
    }

    /// Whether a message need not wait behind others, or for room in the window.
    pub fn may_send(&self, qos: QoS) -> bool {
        qos == QoS::AtMostOnce || (self.outbound.room() > 0 && self.outbound.queued().0 == 0)
    }

    /// As `deliver`, of a message that stays its owner's and is of no shared subscription. The caller has asked `may_send`.
    pub fn send_now(&mut self, sending: Sending<'_>, now_ms: u64, out: &mut WriteQueue) -> Outcome {
        self.transmit(self.outbound.next_sequence(), sending, now_ms, out)
    }

    /// Puts a message above QoS 0 to a session in memory behind those that wait, whether the window has room or not.
    pub fn deliver_later(&mut self, delivery: Delivery) -> Outcome {
        let mut dropped = 0;
        while self.has_no_room_for(&delivery) {
            let gives_way = self.limits.drop_oldest && self.outbound.dequeue().is_some();
            if !gives_way {
                return Outcome::QueueFull(dropped + 1);
            }
            dropped += 1;
        }
        // Waiting may take long: the message must not pin the buffer it was read into.
        let publication = delivery.publication.compact();
        self.outbound.enqueue(Delivery {
            publication,
            ..delivery
        });
        match dropped {
            0 => Outcome::Queued,
            dropped => Outcome::QueueFull(dropped),
        }
    }

    /// A message that is larger than the whole queue has room when nothing else waits.
    fn has_no_room_for(&self, delivery: &Delivery) -> bool {
        let (messages, bytes) = self.outbound.queued();
        let too_many = messages >= self.limits.queue_messages_max;
        too_many || (messages > 0 && bytes + delivery.publication.size() > self.limits.queue_bytes_max)
    }

    /// Sends the oldest message that waits in memory, if there is one and the window has room for it. Answers with what
    /// became of it, its QoS, the length of its payload and its size.
    pub fn send_next(&mut self, now_ms: u64, out: &mut WriteQueue) -> Option<(Outcome, QoS, usize, usize)> {
        if self.outbound.room() == 0 {
            return None;
        }
        let delivery = self.outbound.dequeue()?;
        let (qos, payload, size) = (
            delivery.qos,
            delivery.publication.payload_len(),
            delivery.publication.size(),
        );
        Some((self.deliver_now(delivery, now_ms, out), qos, payload, size))
    }

    fn deliver_now(&mut self, delivery: Delivery, now_ms: u64, out: &mut WriteQueue) -> Outcome {
        let sequence = self.outbound.next_sequence();
        let outcome = self.transmit(sequence, delivery.sending(), now_ms, out);
        if outcome == Outcome::Sent && delivery.qos == QoS::AtLeastOnce && delivery.share.is_some() {
            self.outbound.remember_shared(sequence, delivery);
        }
        outcome
    }

    fn transmit(
        &mut self,
        sequence: u64,
        delivery: Sending<'_>,
        now_ms: u64,
        out: &mut WriteQueue,
    ) -> Outcome {
        let packet_id = (delivery.qos > QoS::AtMostOnce).then(|| packet_id_of(sequence));
        let repeated = packet_id.is_some() && self.durable && sequence < self.sent_before;
        let remaining = match delivery.expires_at {
            // What was sent once is sent again, expired or not. [MQTT-4.3.3-7]
            Some(expires_at) if expires_at <= now_ms && !repeated => return Outcome::Expired,
            // The client gets what is left of the interval. [MQTT-3.3.2-6]
            Some(expires_at) => Some(expires_at.saturating_sub(now_ms).div_ceil(1000) as u32),
            None => None,
        };
        let mut head = PublishHead {
            dup: repeated,
            qos: delivery.qos,
            retain: delivery.retain,
            packet_id,
            subscription_ids: delivery.subscription_ids,
            topic_alias: None,
            omit_topic: false,
            message_expiry_interval: remaining,
        };
        let topic = delivery.publication.topic();
        let mut alias = self.outbound_aliases.alias(topic);
        head.topic_alias = alias.map(|(alias, _)| alias);
        head.omit_topic = alias.is_some_and(|(_, known)| known);
        if !self.fits(delivery.publication, &head) {
            // To tell the client of an alias takes three bytes, which may be those that are too many.
            let is_new = alias.take_if(|(_, known)| !*known).is_some();
            head.topic_alias = None;
            if !is_new || !self.fits(delivery.publication, &head) {
                return Outcome::TooLarge;
            }
        }
        if let Some((alias, false)) = alias {
            self.outbound_aliases.learn(topic, alias);
        }
        encode_publish(delivery.publication, self.version, &head, out);
        match delivery.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.outbound.begin(sequence, Stage::AwaitsPubAck),
            QoS::ExactlyOnce => self.outbound.begin(sequence, Stage::AwaitsPubRec),
        }
        Outcome::Sent
    }

    /// Whether the client takes a packet of this size. [MQTT-3.1.2-24]
    fn fits(&self, publication: &Publication, head: &PublishHead<'_>) -> bool {
        self.client_packet_size_max == u32::MAX
            || publish_len(publication, self.version, head) <= self.client_packet_size_max as usize
    }

    /// Messages and bytes that wait in memory.
    pub fn queued(&self) -> (usize, usize) {
        self.outbound.queued()
    }

    /// Whether there is something for `take_finished`.
    pub fn has_finished(&self) -> bool {
        self.outbound.has_finished()
    }

    /// How many deliveries `take_finished` would report.
    pub fn finished_count(&self) -> u64 {
        self.outbound.finished_count()
    }

    /// Ranges of deliveries of a durable session that the client has finished with, each reported once.
    pub fn take_finished(&mut self) -> Vec<(u64, u64)> {
        self.outbound.take_finished()
    }

    /// At the end of a session in memory: shared messages for another member of their group.
    pub fn take_shared(&mut self) -> Vec<Delivery> {
        self.outbound.take_shared()
    }

    /// The last packet of a connection that the server ends; nothing for versions before 5. [MQTT-3.14.0-1]
    pub fn refuse(&mut self, reason_code: ReasonCode, detail: Option<&'static str>, out: &mut WriteQueue) {
        if self.version != ProtocolVersion::V5 {
            return;
        }
        self.words().write(detail, out, |reason_string| {
            Packet::Disconnect(Disconnect {
                reason_code,
                reason_string,
                ..Disconnect::default()
            })
        });
    }

    /// Sends the client to another server, by name where one is given, if this version has words for it. (4.13)
    pub fn redirect(&mut self, server_reference: Option<ByteString>, out: &mut WriteQueue) {
        if self.version != ProtocolVersion::V5 {
            return;
        }
        let referring = Packet::Disconnect(Disconnect {
            reason_code: ReasonCode::UseAnotherServer,
            server_reference,
            ..Disconnect::default()
        });
        // No property makes it larger than the client takes. [MQTT-3.14.2-3]
        let fits = encoded_len(&referring, self.version)
            .is_ok_and(|length| length <= self.client_packet_size_max as usize);
        match fits {
            true => self.send(&referring, out),
            false => self.send(
                &Packet::Disconnect(Disconnect::new(ReasonCode::UseAnotherServer)),
                out,
            ),
        }
    }

    fn words(&self) -> Words {
        Words {
            version: self.version,
            wanted: self.problem_information && self.version == ProtocolVersion::V5,
            packet_size_max: self.client_packet_size_max as usize,
        }
    }

    fn send(&mut self, packet: &Packet, out: &mut WriteQueue) {
        write(packet, self.version, out);
    }
}

/// Writes PUBACK or PUBREC.
fn acknowledging(words: Words, out: &mut WriteQueue) -> impl FnMut(PacketId, QoS, ReasonCode) {
    move |packet_id, qos, reason_code| {
        let acknowledgement = Acknowledgement::new(packet_id, reason_code);
        words.write_acknowledgement(acknowledgement, out, |acknowledgement| match qos {
            QoS::ExactlyOnce => Packet::PubRec(acknowledgement),
            _ => Packet::PubAck(acknowledgement),
        });
    }
}

/// Whether a payload that says it is UTF-8 is.
pub(crate) fn payload_is_as_said(publication: &Publication) -> bool {
    publication.properties().payload_format_indicator != Some(true)
        || std::str::from_utf8(publication.payload_slice()).is_ok()
}
