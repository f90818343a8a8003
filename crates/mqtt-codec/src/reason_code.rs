//! Reason codes: one byte that says how an operation ended, and which packet may carry which. (2.4)

use crate::error::DecodeError;
use crate::packet::PacketType;

/// The result of an operation. Below 0x80 it is a success. (2.4)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum ReasonCode {
    /// Success, normal disconnection or QoS 0 granted.
    #[default]
    Success = 0x00,
    /// The subscription is accepted with maximum QoS 1.
    GrantedQoS1 = 0x01,
    /// The subscription is accepted with maximum QoS 2.
    GrantedQoS2 = 0x02,
    /// The client leaves and wants its will published.
    DisconnectWithWillMessage = 0x04,
    /// The message is accepted; nobody subscribes to it.
    NoMatchingSubscribers = 0x10,
    /// There was no such subscription to remove.
    NoSubscriptionExisted = 0x11,
    /// The exchange of authentication data goes on.
    ContinueAuthentication = 0x18,
    /// The client starts to authenticate again.
    ReAuthenticate = 0x19,
    /// No other code says it, or the sender does not want to say.
    UnspecifiedError = 0x80,
    /// The packet could not be parsed.
    MalformedPacket = 0x81,
    /// The packet is unexpected or breaks a rule no other code names.
    ProtocolError = 0x82,
    /// Valid, but this implementation does not take it.
    ImplementationSpecificError = 0x83,
    /// The server does not speak this version.
    UnsupportedProtocolVersion = 0x84,
    /// The client identifier is valid UTF-8 but not allowed.
    ClientIdentifierNotValid = 0x85,
    /// User name or password is refused.
    BadUserNameOrPassword = 0x86,
    /// The client may not do this.
    NotAuthorized = 0x87,
    /// The server cannot serve now.
    ServerUnavailable = 0x88,
    /// The server is busy; try again later.
    ServerBusy = 0x89,
    /// The client is banned by an administrator.
    Banned = 0x8A,
    /// The server is going down.
    ServerShuttingDown = 0x8B,
    /// The authentication method is not supported or not the one in use.
    BadAuthenticationMethod = 0x8C,
    /// Nothing was heard for one and a half keep alive intervals.
    KeepAliveTimeout = 0x8D,
    /// Another connection uses the same client identifier.
    SessionTakenOver = 0x8E,
    /// The topic filter is well-formed UTF-8 but not accepted.
    TopicFilterInvalid = 0x8F,
    /// The topic name is well-formed UTF-8 but not accepted.
    TopicNameInvalid = 0x90,
    /// The packet identifier is already in use.
    PacketIdentifierInUse = 0x91,
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92,
    /// More publications are in flight than receive maximum allows.
    ReceiveMaximumExceeded = 0x93,
    /// The topic alias is 0 or above topic alias maximum.
    TopicAliasInvalid = 0x94,
    /// The packet is larger than the receiver accepts.
    PacketTooLarge = 0x95,
    /// Data arrives too fast.
    MessageRateTooHigh = 0x96,
    /// A limit set by the implementation or an administrator is exceeded.
    QuotaExceeded = 0x97,
    /// The connection is closed by an administrator.
    AdministrativeAction = 0x98,
    /// The payload is not what its format indicator says.
    PayloadFormatInvalid = 0x99,
    /// The server does not support retained messages.
    RetainNotSupported = 0x9A,
    /// The QoS is above the server's maximum QoS.
    QoSNotSupported = 0x9B,
    /// Use another server for now.
    UseAnotherServer = 0x9C,
    /// Use another server from now on.
    ServerMoved = 0x9D,
    /// The server does not support shared subscriptions.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connections arrive too fast.
    ConnectionRateExceeded = 0x9F,
    /// The longest connect time allowed for this connection is over.
    MaximumConnectTime = 0xA0,
    /// The server does not support subscription identifiers.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// The server does not support wildcard subscriptions.
    WildcardSubscriptionsNotSupported = 0xA2,
}

#[allow(non_upper_case_globals, reason = "aliases of a variant read like variants")]
impl ReasonCode {
    /// 0x00 in DISCONNECT.
    pub const NormalDisconnection: Self = Self::Success;
    /// 0x00 in SUBACK.
    pub const GrantedQoS0: Self = Self::Success;
}

impl ReasonCode {
    /// The byte on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether it says that the operation failed.
    pub fn is_error(self) -> bool {
        self.code() >= 0x80
    }

    /// Reads the code of a packet of type `packet`, sent by a server or by a client.
    pub(crate) fn decode(value: u8, packet: PacketType, from_server: bool) -> Result<Self, DecodeError> {
        let code = Self::try_from(value).map_err(|_| DecodeError::malformed("unknown reason code"))?;
        if code.may_be_in(packet, from_server) {
            Ok(code)
        } else {
            Err(DecodeError::protocol("reason code that this packet cannot carry"))
        }
    }

    fn may_be_in(self, packet: PacketType, from_server: bool) -> bool {
        match packet {
            PacketType::ConnAck => {
                matches!(self.code(), 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
            }
            PacketType::PubAck | PacketType::PubRec => {
                matches!(
                    self.code(),
                    0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
                )
            }
            PacketType::PubRel | PacketType::PubComp => matches!(self.code(), 0x00 | 0x92),
            PacketType::SubAck => {
                matches!(
                    self.code(),
                    0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
                )
            }
            PacketType::UnsubAck => matches!(self.code(), 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            PacketType::Disconnect if from_server => {
                matches!(self.code(), 0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2)
            }
            PacketType::Disconnect => {
                matches!(self.code(), 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
            }
            PacketType::Auth if from_server => matches!(self.code(), 0x00 | 0x18),
            PacketType::Auth => matches!(self.code(), 0x18 | 0x19),
            _ => false,
        }
    }
}

impl TryFrom<u8> for ReasonCode {
    type Error = u8;

    fn try_from(value: u8) -> Result<Self, u8> {
        Ok(match value {
            0x00 => Self::Success,
            0x01 => Self::GrantedQoS1,
            0x02 => Self::GrantedQoS2,
            0x04 => Self::DisconnectWithWillMessage,
            0x10 => Self::NoMatchingSubscribers,
            0x11 => Self::NoSubscriptionExisted,
            0x18 => Self::ContinueAuthentication,
            0x19 => Self::ReAuthenticate,
            0x80 => Self::UnspecifiedError,
            0x81 => Self::MalformedPacket,
            0x82 => Self::ProtocolError,
            0x83 => Self::ImplementationSpecificError,
            0x84 => Self::UnsupportedProtocolVersion,
            0x85 => Self::ClientIdentifierNotValid,
            0x86 => Self::BadUserNameOrPassword,
            0x87 => Self::NotAuthorized,
            0x88 => Self::ServerUnavailable,
            0x89 => Self::ServerBusy,
            0x8A => Self::Banned,
            0x8B => Self::ServerShuttingDown,
            0x8C => Self::BadAuthenticationMethod,
            0x8D => Self::KeepAliveTimeout,
            0x8E => Self::SessionTakenOver,
            0x8F => Self::TopicFilterInvalid,
            0x90 => Self::TopicNameInvalid,
            0x91 => Self::PacketIdentifierInUse,
            0x92 => Self::PacketIdentifierNotFound,
            0x93 => Self::ReceiveMaximumExceeded,
            0x94 => Self::TopicAliasInvalid,
            0x95 => Self::PacketTooLarge,
            0x96 => Self::MessageRateTooHigh,
            0x97 => Self::QuotaExceeded,
            0x98 => Self::AdministrativeAction,
            0x99 => Self::PayloadFormatInvalid,
            0x9A => Self::RetainNotSupported,
            0x9B => Self::QoSNotSupported,
            0x9C => Self::UseAnotherServer,
            0x9D => Self::ServerMoved,
            0x9E => Self::SharedSubscriptionsNotSupported,
            0x9F => Self::ConnectionRateExceeded,
            0xA0 => Self::MaximumConnectTime,
            0xA1 => Self::SubscriptionIdentifiersNotSupported,
            0xA2 => Self::WildcardSubscriptionsNotSupported,
            other => return Err(other),
        })
    }
}
