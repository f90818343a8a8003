//! Sections 3.12, 3.14 and 4.13: PINGREQ, DISCONNECT, and how errors end a connection.

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use mqtt_codec::{Disconnect, Packet, ReasonCode};

use crate::common::*;

/// PINGREQ is answered by PINGRESP.
#[tokio::test]
async fn mqtt_3_12_4_1_pingreq_is_answered_by_pingresp() -> Result<()> {
    let mut client = client("ping").await?;
    for _ in 0..3 {
        client.send_raw(&[0xc0, 0]).await?;
        let answer = client.receive_frame().await?.expect("a PINGRESP");
        ensure!(answer[..] == [0xd0, 0], "{answer:?}");
    }
    Ok(())
}

/// A server sends no DISCONNECT before a CONNACK that accepts.
#[tokio::test]
async fn mqtt_3_14_0_1_no_disconnect_before_connack() -> Result<()> {
    for bytes in [
        vec![0xc0, 0],
        publish_frame(0, b"a", None, &[], b"x"),
        connect_frame(b"x", 3, &[], &[]),
        frame(0x10, [0, 4, b'M']),
    ] {
        let mut client = opened().await?;
        client.send_raw(&bytes).await?;
        while let Some(frame) = client.receive_frame().await? {
            ensure!(frame[0] == 0x20, "{frame:?} after {bytes:02x?}");
        }
    }
    Ok(())
}

/// The reserved flags of DISCONNECT are zero; anything else is answered with 0x81.
#[tokio::test]
async fn mqtt_3_14_1_1_the_flags_of_disconnect_are_checked() -> Result<()> {
    for first in [0xe1, 0xe2, 0xef] {
        expect_fatal(&[first, 0], ReasonCode::MalformedPacket).await?;
    }
    Ok(())
}

/// The reason in a server's DISCONNECT is one that servers may use.
#[tokio::test]
async fn mqtt_3_14_2_1_the_reason_is_one_of_disconnect() -> Result<()> {
    let of_servers = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
    for frame in last_words().await? {
        ensure!(
            frame[0] == 0xe0 && frame.len() > 2 && of_servers.contains(&frame[2]),
            "{frame:?}"
        );
    }
    Ok(())
}

/// A server's DISCONNECT has no session expiry interval.
#[tokio::test]
async fn mqtt_3_14_2_2_no_session_expiry_in_a_servers_disconnect() -> Result<()> {
    for (bytes, reason) in offences() {
        let mut client = connected(ConnectOptions::v5(unique("expiry")).session_expiry(30)).await?;
        client.send_raw(&bytes).await?;
        let disconnect = client.expect_disconnect(reason).await?;
        ensure!(disconnect.session_expiry_interval.is_none(), "{disconnect:?}");
    }
    Ok(())
}

/// No reason string makes a DISCONNECT too large for the client.
#[tokio::test]
async fn mqtt_3_14_2_3_a_reason_string_does_not_make_disconnect_too_large() -> Result<()> {
    for (bytes, _) in offences() {
        let mut client = connected(ConnectOptions::v5(unique("small")).maximum_packet_size(8)).await?;
        client.send_raw(&bytes).await?;
        let frame = client.receive_frame().await?.expect("a DISCONNECT");
        ensure!(frame[0] == 0xe0 && frame.len() <= 8, "{frame:?}");
    }
    Ok(())
}

/// No user property makes a DISCONNECT too large for the client.
#[tokio::test]
async fn mqtt_3_14_2_4_user_properties_do_not_make_disconnect_too_large() -> Result<()> {
    let id = unique("small");
    let mut client = connected(ConnectOptions::v5(&id).maximum_packet_size(5)).await?;
    let _other = connected(ConnectOptions::v5(&id)).await?;
    let frame = client.receive_frame().await?.expect("a DISCONNECT");
    ensure!(
        frame[0] == 0xe0 && frame[2] == 0x8e && frame.len() <= 5,
        "{frame:?}"
    );
    Ok(())
}

/// Nothing follows a DISCONNECT.
#[tokio::test]
async fn mqtt_3_14_4_1_nothing_follows_a_disconnect() -> Result<()> {
    let topic = unique("after");
    let mut client = subscriber(&topic, 0).await?;
    // The offence has company behind it, which is not answered any more.
    let bytes = [
        publish_frame(6, b"a", Some(1), &[], b"x"),
        vec![0xc0, 0],
        vec![0xc0, 0],
    ]
    .concat();
    client.send_raw(&bytes).await?;
    client
        .expect_disconnect(ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// After a DISCONNECT the server closes the connection, and so it does when it received one.
#[tokio::test]
async fn mqtt_3_14_4_2_disconnect_is_followed_by_the_end_of_the_connection() -> Result<()> {
    for (bytes, reason) in offences() {
        let mut client = client("end").await?;
        client.send_raw(&bytes).await?;
        client.expect_disconnect(reason).await?;
    }
    let mut client = client("end").await?;
    client.send_raw(&[0xe0, 0]).await?;
    client.expect_closed().await
}

/// After DISCONNECT with reason 0x00 the will is discarded.
#[tokio::test]
async fn mqtt_3_14_4_3_a_normal_disconnect_discards_the_will() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    for bytes in [&[0xe0, 0][..], &[0xe0, 1, 0], &[0xe0, 2, 0, 0]] {
        let options = ConnectOptions::v5(unique("w")).session_expiry(60);
        let mut client = connected(options.will(Message::new(&topic, "gone").qos(1))).await?;
        client.send_raw(bytes).await?;
        client.expect_closed().await?;
    }
    watcher.expect_no_publish(MOMENT).await
}

/// A malformed packet or a protocol error for which there is a reason code ends the connection.
#[tokio::test]
async fn mqtt_4_13_1_1_errors_end_the_connection() -> Result<()> {
    for (bytes, reason) in offences() {
        expect_fatal(&bytes, reason).await?;
    }
    Ok(())
}

/// A reason of 0x80 or more in CONNACK or DISCONNECT means that the connection ends.
#[tokio::test]
async fn mqtt_4_13_2_1_a_failing_reason_ends_the_connection() -> Result<()> {
    expect_refused(
        &connect_frame(b"x", 2, &[0x21, 0, 0], &[]),
        ReasonCode::ProtocolError,
    )
    .await?;
    // `last_words` waits for the end after each.
    for frame in last_words().await? {
        ensure!(frame[2] >= 0x80, "{frame:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_expiry_in_disconnect_replaces_the_one_of_connect() -> Result<()> {
    let id = unique("shorten");
    let mut client = connected(ConnectOptions::v5(&id).session_expiry(600)).await?;
    client
        .send(&Packet::Disconnect(disconnect_with_expiry(0)))
        .await?;
    client.expect_closed().await?;
    let client = connected(ConnectOptions::v5(&id).persistent()).await?;
    ensure!(
        !client.connack().session_present,
        "the session outlived its new expiry interval of 0"
    );
    Ok(())
}

#[tokio::test]
async fn a_session_expiry_above_zero_in_disconnect_is_an_error_where_connect_said_zero() -> Result<()> {
    let mut client = client("extend").await?;
    client
        .send(&Packet::Disconnect(disconnect_with_expiry(60)))
        .await?;
    client
        .expect_disconnect(ReasonCode::ProtocolError)
        .await
        .map(|_| ())
}

#[tokio::test]
async fn packets_of_servers_are_protocol_errors() -> Result<()> {
    for bytes in [
        frame(0x20, [0, 0, 0]),
        frame(0x90, [0, 1, 0, 0]),
        frame(0xb0, [0, 1, 0, 0]),
        vec![0xd0, 0],
    ] {
        expect_fatal(&bytes, ReasonCode::ProtocolError).await?;
    }
    Ok(())
}

#[tokio::test]
async fn packet_type_zero_is_malformed() -> Result<()> {
    expect_fatal(&[0x00, 0], ReasonCode::MalformedPacket).await
}

fn disconnect_with_expiry(seconds: u32) -> Disconnect {
    Disconnect {
        reason_code: ReasonCode::Success,
        session_expiry_interval: Some(seconds),
        reason_string: None,
        server_reference: None,
        user_properties: Default::default(),
    }
}

/// Packets that a server has to answer with DISCONNECT, and the reason it gives.
fn offences() -> Vec<(Vec<u8>, ReasonCode)> {
    vec![
        (
            publish_frame(6, b"a", Some(1), &[], b"x"),
            ReasonCode::MalformedPacket,
        ),
        (connect_frame(b"again", 2, &[], &[]), ReasonCode::ProtocolError),
        (
            publish_frame(0, b"a/#", None, &[], b"x"),
            ReasonCode::TopicNameInvalid,
        ),
        (
            publish_frame(0, b"a", None, &[0x23, 0, 0], b"x"),
            ReasonCode::TopicAliasInvalid,
        ),
        (
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
            ReasonCode::MalformedPacket,
        ),
        (frame(0x82, [0, 1, 0]), ReasonCode::ProtocolError),
    ]
}

/// The DISCONNECT packets that answer the offences, as they came.
async fn last_words() -> Result<Vec<bytes::Bytes>> {
    let mut frames = Vec::new();
    for (bytes, _) in offences() {
        let mut client = client("offender").await?;
        client.send_raw(&bytes).await?;
        frames.push(client.receive_frame().await?.expect("a DISCONNECT"));
        client.expect_closed().await?;
    }
    Ok(frames)
}
