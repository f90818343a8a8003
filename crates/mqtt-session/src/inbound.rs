//! Messages received from a client: the QoS 0, 1 and 2 handshakes and the receive quota.
//! Routing a message is the broker's work; it says with `complete` when the message is safe.

use std::collections::{BTreeSet, VecDeque};

use mqtt_codec::{Limit, PacketId, QoS, ReasonCode};

use crate::ProtocolError;

#[derive(Debug)]
struct Pending {
    packet_id: PacketId,
    qos: QoS,
    reason_code: Option<ReasonCode>,
}

/// What to do with a PUBLISH.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// Route it.
    Fresh,
    /// A QoS 2 message already taken: only PUBREC is repeated. [MQTT-4.3.3-10]
    Duplicate,
    /// As above, but the first one is still on its way to its destinations: its PUBREC will answer both.
    InProgress,
    /// Another QoS under the packet id of a QoS 2 message that was begun on this connection.
    InUse,
}

#[derive(Debug)]
pub(crate) struct Inbound {
    receive_maximum: u16,
    /// Acknowledgements leave in the order the messages came. [MQTT-4.6.0-2] [MQTT-4.6.0-3]
    pending: VecDeque<Pending>,
    /// QoS 2 packet ids between PUBLISH and PUBREL, begun on this connection.
    unreleased: BTreeSet<PacketId>,
    /// Those of earlier connections. The client may know nothing of them any more, and their PUBREL may never come.
    earlier: BTreeSet<PacketId>,
}

impl Inbound {
    pub(crate) fn new(receive_maximum: u16, earlier: impl IntoIterator<Item = PacketId>) -> Self {
        Self {
            receive_maximum,
            pending: VecDeque::new(),
            unreleased: BTreeSet::new(),
            earlier: earlier.into_iter().collect(),
        }
    }

    pub(crate) fn publish(
        &mut self,
        packet_id: PacketId,
        qos: QoS,
        enforce_quota: bool,
    ) -> Result<Received, ProtocolError> {
        if qos == QoS::ExactlyOnce && self.is_pending(packet_id) {
            return Ok(Received::InProgress);
        }
        if qos == QoS::ExactlyOnce && self.is_unreleased(packet_id) {
            return Ok(Received::Duplicate);
        }
        if enforce_quota && self.in_flight() >= usize::from(self.receive_maximum) {
            let reason = ReasonCode::ReceiveMaximumExceeded;
            return Err(ProtocolError::beyond(
                Limit::ReceiveMaximum,
                reason,
                "more PUBLISH packets in flight than Receive Maximum",
            ));
        }
        // A client that has forgotten its state uses the ids of earlier connections anew; QoS 1 needs no memory of them.
        if self.unreleased.contains(&packet_id) {
            return Ok(Received::InUse);
        }
        if qos == QoS::ExactlyOnce {
            self.unreleased.insert(packet_id);
        }
        self.pending.push_back(Pending {
            packet_id,
            qos,
            reason_code: None,
        });
        Ok(Received::Fresh)
    }

    /// Messages that count against the Receive Maximum: waiting for PUBACK, or for PUBREL. The quota begins anew with
    /// each connection (section 4.9).
    fn in_flight(&self) -> usize {
        let unacknowledged = self.pending.iter().filter(|p| p.qos == QoS::AtLeastOnce).count();
        unacknowledged + self.unreleased.len()
    }

    /// The destinations have the message (or refused it): calls `acknowledge` for every message whose turn it is.
    pub(crate) fn complete(
        &mut self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        mut acknowledge: impl FnMut(PacketId, QoS, ReasonCode),
    ) {
        if let Some(pending) = self
            .pending
            .iter_mut()
            .find(|p| p.packet_id == packet_id && p.reason_code.is_none())
        {
            pending.reason_code = Some(reason_code);
        }
        self.acknowledge(&mut acknowledge);
    }

    /// The message goes nowhere, whatever else is under way with its packet id.
    pub(crate) fn refuse(
        &mut self,
        packet_id: PacketId,
        qos: QoS,
        reason_code: ReasonCode,
        mut acknowledge: impl FnMut(PacketId, QoS, ReasonCode),
    ) {
        self.pending.push_back(Pending {
            packet_id,
            qos,
            reason_code: Some(reason_code),
        });
        self.acknowledge(&mut acknowledge);
    }

    fn acknowledge(&mut self, acknowledge: &mut impl FnMut(PacketId, QoS, ReasonCode)) {
        while let Some(Pending {
            reason_code: Some(reason_code),
            packet_id,
            qos,
        }) = self.pending.front()
        {
            let (packet_id, qos, reason_code) = (*packet_id, *qos, *reason_code);
            // A PUBREC with an error ends the exchange: the packet id is free again. [MQTT-4.3.3-9]
            if qos == QoS::ExactlyOnce && reason_code as u8 >= 0x80 {
                self.unreleased.remove(&packet_id);
            }
            self.pending.pop_front();
            acknowledge(packet_id, qos, reason_code);
        }
    }

    pub(crate) fn is_unreleased(&self, packet_id: PacketId) -> bool {
        self.unreleased.contains(&packet_id) || self.earlier.contains(&packet_id)
    }

    /// Whether a QoS 2 message is on its way to its destinations, and its PUBREC was not sent.
    pub(crate) fn is_pending(&self, packet_id: PacketId) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|pending| pending.packet_id == packet_id && pending.qos == QoS::ExactlyOnce)
    }

    pub(crate) fn release(&mut self, packet_id: PacketId) -> bool {
        self.unreleased.remove(&packet_id) || self.earlier.remove(&packet_id)
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    #[test]
    fn acknowledgements_leave_in_the_order_of_arrival() {
        let mut inbound = Inbound::new(10, []);
        for value in 1..=3 {
            assert_eq!(
                inbound.publish(id(value), QoS::AtLeastOnce, true),
                Ok(Received::Fresh)
            );
        }
        let mut order = Vec::new();
        for value in [2, 3, 1] {
            inbound.complete(id(value), ReasonCode::Success, |packet_id, _, _| {
                order.push(packet_id.get())
            });
        }
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn a_repeated_qos_2_publish_is_taken_once() {
        let mut inbound = Inbound::new(10, []);
        assert_eq!(
            inbound.publish(id(7), QoS::ExactlyOnce, true),
            Ok(Received::Fresh)
        );
        assert_eq!(
            inbound.publish(id(7), QoS::ExactlyOnce, true),
            Ok(Received::InProgress)
        );
        inbound.complete(id(7), ReasonCode::Success, |_, _, _| {});
        assert_eq!(
            inbound.publish(id(7), QoS::ExactlyOnce, true),
            Ok(Received::Duplicate)
        );
        assert!(inbound.release(id(7)));
        assert_eq!(
            inbound.publish(id(7), QoS::ExactlyOnce, true),
            Ok(Received::Fresh)
        );
    }

    #[test]
    fn more_than_receive_maximum_in_flight_is_an_error() {
        let mut inbound = Inbound::new(2, []);
        inbound.publish(id(1), QoS::AtLeastOnce, true).unwrap();
        inbound.publish(id(2), QoS::ExactlyOnce, true).unwrap();
        let error = inbound.publish(id(3), QoS::AtLeastOnce, true).unwrap_err();
        assert_eq!(error.reason_code, ReasonCode::ReceiveMaximumExceeded);
    }

    #[test]
    fn ids_of_earlier_connections_do_not_count_against_receive_maximum() {
        let mut inbound = Inbound::new(2, [id(1), id(2), id(3)]);
        for value in [7, 8] {
            assert_eq!(
                inbound.publish(id(value), QoS::ExactlyOnce, true),
                Ok(Received::Fresh)
            );
        }
        let error = inbound.publish(id(9), QoS::AtLeastOnce, true).unwrap_err();
        assert_eq!(error.reason_code, ReasonCode::ReceiveMaximumExceeded);
        assert_eq!(
            inbound.publish(id(3), QoS::ExactlyOnce, true),
            Ok(Received::Duplicate)
        );
        assert!(inbound.release(id(3)));
        assert!(!inbound.is_unreleased(id(3)));
    }

    #[test]
    fn the_id_of_an_earlier_connection_serves_qos_1_and_still_awaits_its_pubrel() {
        let mut inbound = Inbound::new(2, [id(7)]);
        assert_eq!(
            inbound.publish(id(7), QoS::AtLeastOnce, true),
            Ok(Received::Fresh)
        );
        assert!(!inbound.is_pending(id(7)), "its PUBREL may come");
        assert_eq!(
            inbound.publish(id(7), QoS::ExactlyOnce, true),
            Ok(Received::Duplicate)
        );
        inbound.complete(id(7), ReasonCode::QuotaExceeded, |_, _, _| {});
        assert!(inbound.is_unreleased(id(7)));
    }

    #[test]
    fn a_refused_qos_2_publish_frees_its_packet_id() {
        let mut inbound = Inbound::new(2, []);
        inbound.publish(id(1), QoS::ExactlyOnce, true).unwrap();
        inbound.complete(id(1), ReasonCode::QuotaExceeded, |_, _, _| {});
        assert!(!inbound.is_unreleased(id(1)));
    }
}
