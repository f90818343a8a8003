//! Why connections are refused and clients held up, in the words of the metrics.

/// Why a connection was refused, before or with CONNACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rejected {
    /// No complete CONNECT, TLS or WebSocket handshake within `limits.connect_timeout`.
    Timeout,
    /// The client closed before its CONNECT was complete.
    Closed,
    /// It was silent while another one needed its place: `limits.handshakes_max`
    Handshakes,
    Tls,
    WebSocket,
    /// What came was no CONNECT, or one against the standard.
    Protocol,
    NotReady,
    /// Memory is short.
    Overload,
    /// The node is out of service, on purpose.
    Draining,
    Connections,
    ConnectionsPerAddress,
    ConnectionsPerUser,
    /// `tenants.connections_max`
    ConnectionsPerTenant,
    /// It is of no tenant, or of one whose name cannot be.
    Tenant,
    /// User, password, token, certificate or exchange.
    Credentials,
    Will,
    /// The session's shard has no leader with a quorum.
    Unavailable,
    /// The client id was taken again meanwhile.
    Takeover,
    /// The CONNECT is beyond a limit of packets.
    Limit,
    /// `limits.sessions_max`
    Sessions,
    /// `tenants.sessions_max`
    SessionsPerTenant,
}

impl Rejected {
    pub(crate) fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// By number.
    pub(crate) const WORDS: [&'static str; 21] = [
        "timeout",
        "closed",
        "handshakes",
        "tls",
        "websocket",
        "protocol",
        "not_ready",
        "overload",
        "draining",
        "connections",
        "connections_per_address",
        "connections_per_user",
        "connections_per_tenant",
        "tenant",
        "credentials",
        "will",
        "unavailable",
        "takeover",
        "limit_exceeded",
        "sessions",
        "sessions_per_tenant",
    ];
}

/// What held a client up, or refused it something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limited {
    /// `limits.publish_messages_per_second_max`
    Messages,
    /// `limits.publish_bytes_per_second_max`
    Bytes,
    /// Memory is short.
    Overload,
    /// `limits.connects_per_second_max`
    Connects,
    /// `limits.subscriptions_per_client_max`
    Subscriptions,
    /// `limits.retained_messages_max`, `limits.retained_bytes_max`
    Retained,
    /// `limits.deliver_messages_per_second_max`
    DeliveredMessages,
    /// `limits.deliver_bytes_per_second_max`
    DeliveredBytes,
    /// `limits.retained_messages_per_user_max`, `limits.retained_bytes_per_user_max`
    RetainedPerUser,
    /// `tenants.publish_messages_per_second_max`, `tenants.publish_bytes_per_second_max`
    Tenant,
    /// `tenants.retained_messages_max`, `tenants.retained_bytes_max`
    RetainedPerTenant,
    /// `tenants.subscriptions_max`
    SubscriptionsPerTenant,
}

impl Limited {
    /// By number.
    pub(crate) const WORDS: [&'static str; 12] = [
        "messages",
        "bytes",
        "overload",
        "connects",
        "subscriptions",
        "retained",
        "delivered_messages",
        "delivered_bytes",
        "retained_per_user",
        "tenant",
        "retained_per_tenant",
        "subscriptions_per_tenant",
    ];
}
