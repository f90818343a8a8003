//! Enhanced authentication with SCRAM-SHA-256, at CONNECT and later (MQTT 5.0 section 4.12, RFC 7677).

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use harness::{Client, ConnectOptions, Scram};
use mqtt_codec::{Auth, ConnAck, Packet, ReasonCode};

use crate::common::*;

const METHOD: &str = "SCRAM-SHA-256";

fn auth(reason_code: ReasonCode, data: Vec<u8>) -> Packet {
    Packet::Auth(Auth {
        reason_code,
        method: Some(METHOD.into()),
        data: Some(data.into()),
        ..Auth::default()
    })
}

fn connect(first: Vec<u8>, client_id: &str) -> ConnectOptions {
    let mut options = ConnectOptions::v5(client_id);
    options.connect.properties.authentication_method = Some(METHOD.into());
    options.connect.properties.authentication_data = Some(first.into());
    options
}

async fn challenge(client: &mut Client) -> Result<Auth> {
    match client.receive_packet().await? {
        Packet::Auth(auth) => Ok(auth),
        other => anyhow::bail!("expected AUTH, got {other:?}"),
    }
}

/// Answers the server's challenge; what the server has to prove itself by.
async fn answer_challenge(client: &mut Client, scram: &Scram) -> Result<String> {
    let asked = challenge(client).await?;
    ensure!(
        asked.reason_code == ReasonCode::ContinueAuthentication,
        "{asked:?}"
    );
    let (last, expected) = scram.last(&asked.data.context("a challenge")?)?;
    client
        .send(&auth(ReasonCode::ContinueAuthentication, last))
        .await?;
    Ok(expected)
}

async fn logged_in(world: &World, who: (&str, &str)) -> Result<Client> {
    let (client, connack, expected) = tried(world.broker.mqtt_addr(), who, "c-1").await?;
    ensure!(connack.reason_code == ReasonCode::Success, "{connack:?}");
    ensure!(connack.properties.authentication_method.as_deref() == Some(METHOD));
    let proof = connack
        .properties
        .authentication_data
        .context("the server's proof")?;
    ensure!(proof == expected.as_bytes(), "the server knows the password, too");
    Ok(client)
}

/// Somebody who has tried to prove a password; what the broker says to it, and what it has to prove itself by.
pub(crate) async fn tried(
    address: SocketAddr,
    who: (&str, &str),
    client_id: &str,
) -> Result<(Client, ConnAck, String)> {
    let scram = Scram::new(who);
    let mut client = Client::open(address).await?;
    client.send_connect(connect(scram.first(), client_id)).await?;
    let expected = answer_challenge(&mut client, &scram).await?;
    let connack = client.expect_connack().await?;
    Ok((client, connack, expected))
}

fn with_verifiers() -> Result<World> {
    let files = tempfile::tempdir()?;
    let users = files.path().join("users");
    for user in ["anna", "bob"] {
        passwd(&users, user, &format!("pencil-{user}"), &["--scram"])?;
    }
    std::fs::write(files.path().join("rules"), "allow all ${user}/#")?;
    let config = "[auth]\npassword_file = 'FILES/users'\n[access]\nrules = 'FILES/rules'\n";
    start(files, config, Default::default())
}

#[tokio::test]
async fn a_user_proves_the_password_without_showing_it_and_so_does_the_server() -> Result<()> {
    let world = with_verifiers()?;
    let mut anna = logged_in(&world, ("anna", "pencil-anna")).await?;
    ensure!(anna.subscribe("anna/#", 0).await? == ReasonCode::Success);
    ensure!(anna.subscribe("bob/#", 0).await? == ReasonCode::NotAuthorized);
    world
        .client(("bob", "pencil-bob"), ConnectOptions::v311("c-2"))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_proof_is_refused_as_an_unknown_user_is() -> Result<()> {
    let world = with_verifiers()?;
    for who in [("anna", "wrong"), ("nobody", "pencil-anna")] {
        let (mut client, connack, _) = tried(world.broker.mqtt_addr(), who, "c-1").await?;
        ensure!(connack.reason_code == ReasonCode::NotAuthorized, "{connack:?}");
        client.expect_closed().await?;
    }
    Ok(())
}

/// Begins a re-authentication and sends the proof.
async fn again(client: &mut Client, who: (&str, &str)) -> Result<String> {
    let scram = Scram::new(who);
    client
        .send(&auth(ReasonCode::ReAuthenticate, scram.first()))
        .await?;
    answer_challenge(client, &scram).await
}

#[tokio::test]
async fn a_client_may_prove_itself_again_while_it_is_connected() -> Result<()> {
    let world = with_verifiers()?;
    let mut anna = logged_in(&world, ("anna", "pencil-anna")).await?;
    for _ in 0..2 {
        let expected = again(&mut anna, ("anna", "pencil-anna")).await?;
        let done = challenge(&mut anna).await?;
        ensure!(done.reason_code == ReasonCode::Success, "{done:?}");
        ensure!(done.data.context("the server's proof")? == expected.as_bytes());
    }
    ensure!(anna.subscribe("anna/#", 0).await? == ReasonCode::Success);
    Ok(())
}

#[tokio::test]
async fn who_is_removed_between_the_challenge_and_the_proof_does_not_come_in() -> Result<()> {
    let world = with_verifiers()?;
    let scram = Scram::new(("anna", "pencil-anna"));
    let mut anna = Client::open(world.broker.mqtt_addr()).await?;
    anna.send_connect(connect(scram.first(), "c-1")).await?;
    let asked = challenge(&mut anna).await?;
    let users = std::fs::read_to_string(world.files.path().join("users"))?;
    let others: String = users
        .lines()
        .filter(|line| !line.starts_with("anna:"))
        .map(|line| format!("{line}\n"))
        .collect();
    world.write("users", &others)?;
    world.reloaded().await?;
    let (last, _) = scram.last(&asked.data.context("a challenge")?)?;
    anna.send(&auth(ReasonCode::ContinueAuthentication, last)).await?;
    let connack = anna.expect_connack().await?;
    ensure!(connack.reason_code == ReasonCode::NotAuthorized, "{connack:?}");
    anna.expect_closed().await?;
    logged_in(&world, ("bob", "pencil-bob")).await?;
    Ok(())
}

#[tokio::test]
async fn a_session_does_not_become_another_users_by_proving_again() -> Result<()> {
    let world = with_verifiers()?;
    for who in [("bob", "pencil-bob"), ("anna", "wrong")] {
        let mut anna = logged_in(&world, ("anna", "pencil-anna")).await?;
        again(&mut anna, who).await?;
        anna.expect_disconnect(ReasonCode::NotAuthorized).await?;
    }
    Ok(())
}
