//! Statements of MQTT 5.0 without a test of their own: those that bind only clients, and those about something this
//! broker does not do.

/// Number, what it says in our words, and why there is no test.
pub(crate) const NOT_TESTED: &[(&str, &str, &str)] = &[
    (
        "3.1.2-20",
        "A client with a keep alive sends PINGREQ when it has nothing else to send.",
        CLIENT,
    ),
    (
        "3.1.2-30",
        "A client that named an authentication method sends only AUTH and DISCONNECT before CONNACK.",
        CLIENT,
    ),
    (
        "3.2.2-4",
        "A client without session state closes when it is told that a session is present.",
        CLIENT,
    ),
    (
        "3.2.2-5",
        "A client with session state discards it when it is told that no session is present.",
        CLIENT,
    ),
    (
        "3.2.2-21",
        "A client uses the keep alive of the CONNACK instead of its own.",
        "Binds clients; that the broker counts by it is tested with 3.1.2-21.",
    ),
    (
        "3.3.2-10",
        "A client accepts all topic aliases up to the maximum that it sent.",
        CLIENT,
    ),
    (
        "3.3.4-5",
        "A server that sends a copy for each matching subscription puts the identifier of that subscription in each.",
        "The broker sends one copy, with all identifiers: 3.3.4-4.",
    ),
    (
        "3.3.4-8",
        "A client holds back no other packets than PUBLISH when the receive maximum is reached.",
        CLIENT,
    ),
    (
        "4.5.0-2",
        "A client acknowledges each message as its QoS demands, whether it uses it or not.",
        CLIENT,
    ),
    (
        "4.6.0-1",
        "A client that sends PUBLISH packets again does so in their original order.",
        CLIENT,
    ),
    (
        "4.6.0-2",
        "A client sends PUBACK packets in the order of the PUBLISH packets.",
        CLIENT,
    ),
    (
        "4.6.0-3",
        "A client sends PUBREC packets in the order of the PUBLISH packets.",
        CLIENT,
    ),
    (
        "4.6.0-4",
        "A client sends PUBREL packets in the order of the PUBREC packets.",
        CLIENT,
    ),
    (
        "4.12.0-3",
        "A client answers such an AUTH with one of reason 0x18.",
        CLIENT,
    ),
    (
        "4.12.1-1",
        "A client that authenticates again names the method that it used at first.",
        CLIENT,
    ),
    (
        "6.0.0-3",
        "A client offers `mqtt` among its WebSocket subprotocols.",
        CLIENT,
    ),
];

const CLIENT: &str = "Binds clients only.";
