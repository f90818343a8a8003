//! Sections 3.15 and 4.12: AUTH and enhanced authentication, for which this broker offers SCRAM-SHA-256 to users who have a verifier.

use anyhow::{Context, Result, bail, ensure};
use harness::{Broker, Client, ConnectOptions, Scram};
use mqtt_codec::{Auth, ConnAck, Packet, ReasonCode, encoded_len};

use crate::common::*;

const METHOD: &str = "SCRAM-SHA-256";
const ANNA: (&str, &str) = ("anna", "pencil");

/// A broker with one user, and that user's CONNECT.
fn with_a_user() -> Result<(tempfile::TempDir, Broker)> {
    let files = tempfile::tempdir()?;
    let users = files.path().join("users");
    harness::passwd(&users, ANNA.0, ANNA.1, &["--scram"])?;
    let broker = with_config(&format!("[auth]\npassword_file = '{}'", users.display()))?;
    Ok((files, broker))
}

fn enhanced(scram: &Scram) -> ConnectOptions {
    let mut options = ConnectOptions::v5(unique("enhanced"));
    options.connect.properties.authentication_method = Some(METHOD.into());
    options.connect.properties.authentication_data = Some(scram.first().into());
    options
}

async fn asked(client: &mut Client) -> Result<Auth> {
    match client.receive_packet().await? {
        Packet::Auth(auth) => Ok(auth),
        other => bail!("expected AUTH, got {other:?}"),
    }
}

async fn answer(client: &mut Client, scram: &Scram, challenge: &Auth) -> Result<()> {
    let (proof, _) = scram.last(challenge.data.as_deref().context("a challenge")?)?;
    let answer = Auth {
        reason_code: ReasonCode::ContinueAuthentication,
        method: Some(METHOD.into()),
        data: Some(proof.into()),
        ..Auth::default()
    };
    client.send(&Packet::Auth(answer)).await
}

/// The client, all AUTH packets of its first exchange and of a second one, and the CONNACK between them.
async fn authenticated_twice(broker: &Broker, options: ConnectOptions) -> Result<(Vec<Auth>, ConnAck)> {
    let scram = Scram::new(ANNA);
    let mut client = Client::open(broker.mqtt_addr()).await?;
    client.send_connect(options).await?;
    let mut received = vec![asked(&mut client).await?];
    answer(&mut client, &scram, &received[0]).await?;
    let connack = client.expect_connack().await?;
    let again = Auth {
        reason_code: ReasonCode::ReAuthenticate,
        method: Some(METHOD.into()),
        data: Some(scram.first().into()),
        ..Auth::default()
    };
    client.send(&Packet::Auth(again)).await?;
    received.push(asked(&mut client).await?);
    answer(&mut client, &scram, &received[1]).await?;
    received.push(asked(&mut client).await?);
    client.ping().await?;
    Ok((received, connack))
}

/// The reason in AUTH is one of those that AUTH may have.
#[tokio::test]
async fn mqtt_3_15_2_1_the_reason_is_one_of_auth() -> Result<()> {
    let (_files, broker) = with_a_user()?;
    let (received, _) = authenticated_twice(&broker, enhanced(&Scram::new(ANNA))).await?;
    let reasons: Vec<ReasonCode> = received.iter().map(|auth| auth.reason_code).collect();
    let continues = ReasonCode::ContinueAuthentication;
    ensure!(
        reasons == [continues, continues, ReasonCode::Success],
        "{reasons:?}"
    );
    Ok(())
}

/// No reason string makes an AUTH too large for its receiver.
#[tokio::test]
async fn mqtt_3_15_2_2_a_reason_string_does_not_make_auth_too_large() -> Result<()> {
    for auth in with_just_enough_room().await? {
        ensure!(auth.reason_string.is_none(), "{auth:?}");
    }
    Ok(())
}

/// No user property makes an AUTH too large for its receiver.
#[tokio::test]
async fn mqtt_3_15_2_3_user_properties_do_not_make_auth_too_large() -> Result<()> {
    for auth in with_just_enough_room().await? {
        ensure!(auth.user_properties.is_empty(), "{auth:?}");
    }
    Ok(())
}

/// What a client is sent whose largest packet is the largest AUTH that the exchange needs.
async fn with_just_enough_room() -> Result<Vec<Auth>> {
    let (_files, broker) = with_a_user()?;
    let (plain, connack) = authenticated_twice(&broker, enhanced(&Scram::new(ANNA))).await?;
    let len = |packet: &Packet| encoded_len(packet, mqtt_codec::ProtocolVersion::V5);
    let mut largest = len(&Packet::ConnAck(Box::new(connack)))?;
    for auth in &plain {
        largest = largest.max(len(&Packet::Auth(auth.clone()))?);
    }
    let mut options = enhanced(&Scram::new(ANNA));
    options.connect.properties.maximum_packet_size = Some(largest.try_into()?);
    let (received, _) = authenticated_twice(&broker, options).await?;
    Ok(received)
}

/// A server that needs more data to authenticate asks with an AUTH of reason 0x18.
#[tokio::test]
async fn mqtt_4_12_0_2_more_data_is_asked_for_with_auth() -> Result<()> {
    let (_files, broker) = with_a_user()?;
    let mut client = Client::open(broker.mqtt_addr()).await?;
    client.send_connect(enhanced(&Scram::new(ANNA))).await?;
    let asked = asked(&mut client).await?;
    ensure!(
        asked.reason_code == ReasonCode::ContinueAuthentication,
        "{asked:?}"
    );
    Ok(())
}

/// All AUTH packets and the CONNACK name the method of the CONNECT.
#[tokio::test]
async fn mqtt_4_12_0_5_auth_and_connack_name_the_method() -> Result<()> {
    let (_files, broker) = with_a_user()?;
    let (received, connack) = authenticated_twice(&broker, enhanced(&Scram::new(ANNA))).await?;
    let named = connack.properties.authentication_method.as_deref();
    ensure!(named == Some(METHOD), "{connack:?}");
    for auth in received {
        ensure!(auth.method.as_deref() == Some(METHOD), "{auth:?}");
    }
    Ok(())
}

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
