//! Sections 3.15 and 4.12: AUTH and enhanced authentication, of which this broker offers no method by default.

use anyhow::{Result, ensure};
use harness::ConnectOptions;
use mqtt_codec::{Packet, ReasonCode};

use crate::common::*;

/// The flags of AUTH are zero; anything else is malformed and ends the connection.
#[tokio::test]
async fn mqtt_3_15_1_1_the_flags_of_auth_are_checked() -> Result<()> {
    for first in [0xf1, 0xf2, 0xff] {
        expect_fatal(&frame(first, [0x18, 0]), ReasonCode::MalformedPacket).await?;
    }
    Ok(())
}

/// A method that the server does not know is refused with 0x8C, and the connection closed.
#[tokio::test]
async fn mqtt_4_12_0_1_an_unknown_method_is_refused() -> Result<()> {
    let method = [&[0x15][..], &string("no such method")].concat();
    expect_refused(
        &connect_frame(b"auth", 2, &method, &[]),
        ReasonCode::BadAuthenticationMethod,
    )
    .await
    .map(|_| ())
}

/// A server that rejects the authentication closes the connection.
#[tokio::test]
async fn mqtt_4_12_0_4_a_rejected_authentication_ends_the_connection() -> Result<()> {
    let properties = [
        &[0x15][..],
        &string("PLAIN"),
        &[0x16],
        &string(b"\0user\0password"),
    ]
    .concat();
    expect_refused(
        &connect_frame(b"auth", 2, &properties, &[]),
        ReasonCode::BadAuthenticationMethod,
    )
    .await
    .map(|_| ())
}

/// A client that names no method is sent no AUTH and no method.
#[tokio::test]
async fn mqtt_4_12_0_6_no_auth_without_a_method() -> Result<()> {
    let mut client = opened().await?;
    client
        .send_connect(ConnectOptions::v5(unique("plain")).credentials("user", b"secret"))
        .await?;
    // `expect_connack` fails on AUTH.
    let connack = client.expect_connack().await?;
    ensure!(connack.properties.authentication_method.is_none(), "{connack:?}");
    ensure!(connack.properties.authentication_data.is_none(), "{connack:?}");
    client.ping().await
}

/// A client that named no method sends no AUTH; a server treats it as a protocol error.
#[tokio::test]
async fn mqtt_4_12_0_7_auth_without_a_method_is_a_protocol_error() -> Result<()> {
    let properties = [&[0x15][..], &string("method")].concat();
    for code in [0x18, 0x19] {
        let body = [&[code, properties.len() as u8][..], &properties].concat();
        expect_fatal(&frame(0xf0, body), ReasonCode::ProtocolError).await?;
    }
    Ok(())
}

/// A re-authentication that fails ends the connection.
#[tokio::test]
async fn mqtt_4_12_1_2_a_failed_re_authentication_ends_the_connection() -> Result<()> {
    let mut client = client("again").await?;
    let properties = [&[0x15][..], &string("method"), &[0x16], &string("data")].concat();
    client
        .send_raw(&frame(
            0xf0,
            [&[0x19, properties.len() as u8][..], &properties].concat(),
        ))
        .await?;
    let answer = client.receive_packet().await?;
    let Packet::Disconnect(disconnect) = answer else {
        anyhow::bail!("{answer:?}")
    };
    ensure!(disconnect.reason_code as u8 >= 0x80, "{disconnect:?}");
    client.expect_closed().await
}

#[tokio::test]
async fn authentication_data_without_a_method_is_a_protocol_error() -> Result<()> {
    let data = [&[0x16][..], &string("data")].concat();
    expect_refused(&connect_frame(b"auth", 2, &data, &[]), ReasonCode::ProtocolError)
        .await
        .map(|_| ())
}
