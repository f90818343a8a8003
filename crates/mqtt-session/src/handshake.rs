//! CONNECT judged, and the CONNACK it gets (MQTT 5.0 sections 3.1 and 3.2).

use bytestring::ByteString;
use mqtt_codec::{ConnAck, ConnAckProperties, Connect, Limit, ProtocolVersion, QoS, ReasonCode};

use crate::ProtocolError;
use crate::session::payload_is_as_said;

/// What the server offers and bounds. All values are announced to MQTT 5.0 clients where the standard allows.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// QoS 1 and 2 messages a client may have in flight to the server.
    pub receive_maximum: u16,
    /// Messages the server has in flight to a client that allows more.
    pub in_flight_max: u16,
    /// Bytes of one packet.
    pub packet_size_max: u32,
    /// Aliases a client may set, and the server uses.
    pub topic_alias_maximum: u16,
    /// Levels of a topic.
    pub topic_levels_max: usize,
    /// Bytes of a topic.
    pub topic_bytes_max: usize,
    /// Bytes of a client id.
    pub client_id_bytes_max: usize,
    /// Seconds.
    pub session_expiry_max: u32,
    /// Seconds.
    pub will_delay_max: u32,
    /// Seconds; 0: whatever the client asks for.
    pub keep_alive_max: u16,
    /// The highest QoS accepted and granted.
    pub maximum_qos: QoS,
    /// Whether RETAIN is accepted.
    pub retain_available: bool,
    /// Whether `+` and `#` are.
    pub wildcard_subscription_available: bool,
    /// Whether `$share` is.
    pub shared_subscription_available: bool,
    /// Whether subscription identifiers are.
    pub subscription_identifiers_available: bool,
    /// Messages waiting in memory for one session without persistence.
    pub queue_messages_max: usize,
    /// Bytes of the same.
    pub queue_bytes_max: usize,
    /// When that is full: the oldest goes (true) or the new one (false).
    pub drop_oldest: bool,
    /// Whether a payload that says it is UTF-8 is checked.
    pub validate_payload_format: bool,
}

/// A CONNECT that may be accepted, with what was agreed.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Of the connection.
    pub version: ProtocolVersion,
    /// The client's, or one that was assigned.
    pub client_id: ByteString,
    /// True if the client sent none.
    pub assigned: bool,
    /// As asked.
    pub clean_start: bool,
    /// Seconds the session outlives the connection, lowered to the server's maximum.
    pub session_expiry_interval: u32,
    /// Seconds; the client's, or the server's.
    pub keep_alive: u16,
    /// The client's Receive Maximum, at most the server's own bound.
    pub window: u16,
    /// The client's Maximum Packet Size; `u32::MAX`: none.
    pub client_packet_size_max: u32,
    /// Aliases the server may set.
    pub client_topic_alias_maximum: u16,
    /// Whether reason strings are wanted. [MQTT-3.1.2-29]
    pub problem_information: bool,
    keep_alive_changed: bool,
    expiry_changed: bool,
    response_information: bool,
}

impl Handshake {
    /// Checks a CONNECT. `fresh_id` is used where the client sent no id. [MQTT-3.1.3-6]
    ///
    /// # Errors
    /// The reason code for the CONNACK that refuses it.
    pub fn new(
        connect: &Connect,
        limits: &ServerLimits,
        fresh_id: impl FnOnce() -> ByteString,
    ) -> Result<Self, ProtocolError> {
        let v5 = connect.version == ProtocolVersion::V5;
        let assigned = connect.client_id.is_empty();
        if assigned && !connect.clean_start && !v5 {
            // [MQTT-3.1.3-8] of MQTT 3.1.1.
            return Err(ProtocolError::new(
                ReasonCode::ClientIdentifierNotValid,
                "empty client id needs clean session",
            ));
        }
        if connect.client_id.len() > limits.client_id_bytes_max {
            return Err(ProtocolError::beyond(
                Limit::ClientIdBytes,
                ReasonCode::ClientIdentifierNotValid,
                "client id is too long",
            ));
        }
        if let Some(will) = &connect.will {
            judge_will(will, limits)?;
        }
        let properties = &connect.properties;
        let asked = match connect.version {
            ProtocolVersion::V5 => properties.session_expiry_interval.unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        let session_expiry_interval = asked.min(limits.session_expiry_max);
        let over = limits.keep_alive_max != 0
            && (connect.keep_alive == 0 || connect.keep_alive > limits.keep_alive_max);
        let keep_alive = if v5 && over {
            limits.keep_alive_max
        } else {
            connect.keep_alive
        };
        let window = properties
            .receive_maximum
            .map_or(u16::MAX, u16::from)
            .min(limits.in_flight_max);
        Ok(Self {
            version: connect.version,
            client_id: if assigned {
                fresh_id()
            } else {
                connect.client_id.clone()
            },
            assigned,
            clean_start: connect.clean_start,
            session_expiry_interval,
            keep_alive,
            window,
            client_packet_size_max: properties.maximum_packet_size.unwrap_or(u32::MAX),
            client_topic_alias_maximum: properties
                .topic_alias_maximum
                .unwrap_or(0)
                .min(limits.topic_alias_maximum),
            problem_information: properties.request_problem_information.unwrap_or(true),
            keep_alive_changed: keep_alive != connect.keep_alive,
            expiry_changed: v5 && session_expiry_interval != asked,
            response_information: properties.request_response_information.unwrap_or(false),
        })
    }

    /// The CONNACK that accepts the connection, with every limit that differs from the standard's default.
    pub fn accept(&self, session_present: bool, limits: &ServerLimits) -> ConnAck {
        let mut properties = ConnAckProperties::default();
        if self.version == ProtocolVersion::V5 {
            properties.session_expiry_interval = self.expiry_changed.then_some(self.session_expiry_interval);
            properties.receive_maximum = std::num::NonZeroU16::new(limits.receive_maximum);
            properties.maximum_qos = (limits.maximum_qos < QoS::ExactlyOnce).then_some(limits.maximum_qos);
            properties.retain_available = (!limits.retain_available).then_some(false);
            properties.maximum_packet_size = Some(limits.packet_size_max);
            properties.assigned_client_identifier = self.assigned.then(|| self.client_id.clone());
            properties.topic_alias_maximum = Some(limits.topic_alias_maximum);
            properties.wildcard_subscription_available =
                (!limits.wildcard_subscription_available).then_some(false);
            properties.subscription_identifiers_available =
                (!limits.subscription_identifiers_available).then_some(false);
            properties.shared_subscription_available =
                (!limits.shared_subscription_available).then_some(false);
            properties.server_keep_alive = self.keep_alive_changed.then_some(self.keep_alive);
            if self.response_information {
                properties.response_information = Some(format!("response/{}", self.client_id).into());
            }
        }
        ConnAck {
            session_present,
            reason_code: ReasonCode::Success,
            properties,
        }
    }
}

fn judge_will(will: &mqtt_codec::Will, limits: &ServerLimits) -> Result<(), ProtocolError> {
    if will.qos > limits.maximum_qos {
        return Err(ProtocolError::new(
            ReasonCode::QoSNotSupported,
            "will QoS above Maximum QoS",
        )); // [MQTT-3.2.2-12]
    }
    if will.retain && !limits.retain_available {
        return Err(ProtocolError::new(
            ReasonCode::RetainNotSupported,
            "retained will, and retain is not available",
        ));
    }
    let topic = will.publication.topic();
    let refused = ProtocolError::new(ReasonCode::TopicNameInvalid, "will topic is not accepted");
    if topic.as_str().is_empty() || topic.is_dollar() {
        return Err(refused);
    }
    for (limit, is_exceeded) in [
        (Limit::TopicLevels, topic.levels() > limits.topic_levels_max),
        (Limit::TopicBytes, topic.as_str().len() > limits.topic_bytes_max),
    ] {
        if is_exceeded {
            return Err(ProtocolError {
                limit: Some(limit),
                ..refused
            });
        }
    }
    if limits.validate_payload_format && !payload_is_as_said(&will.publication) {
        return Err(ProtocolError::new(
            ReasonCode::PayloadFormatInvalid,
            "will payload is not UTF-8",
        ));
    }
    Ok(())
}
