//! User names and passwords.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message, wait_for};
use mqtt_codec::ReasonCode;

use crate::common::*;

#[tokio::test]
async fn users_of_mosquitto_passwd_and_of_flotilla_passwd_come_in_side_by_side() -> Result<()> {
    let files = tempfile::tempdir()?;
    let users = files.path().join("users");
    std::fs::write(&users, MADE_BY_MOSQUITTO)?;
    passwd(&users, "dora", "secret-d\n", &[])?;
    let world = start(
        files,
        "[auth]\npassword_file = 'FILES/users'\n",
        Default::default(),
    )?;
    for (user, password) in [ANNA, CARL, ("dora", "secret-d")] {
        for options in [
            ConnectOptions::v5(user),
            ConnectOptions::v311(user),
            ConnectOptions::v31(user),
        ] {
            world
                .client((user, password), options)
                .await?
                .disconnect()
                .await?;
        }
    }
    ensure!(world.counter("flotilla_logins_total{result=\"accepted\"}")? == 9);
    let text = std::fs::read_to_string(world.files.path().join("users"))?;
    ensure!(text.contains("dora:$argon2id$"), "{text}");
    Ok(())
}

#[tokio::test]
async fn nobody_else_comes_in_and_nobody_learns_which_users_there_are() -> Result<()> {
    let world = with_users()?;
    let wrong = ConnectOptions::v5("c").credentials("anna", b"secret-c");
    let unknown = ConnectOptions::v5("c").credentials("nobody", b"secret-a");
    let (wrong, unknown) = (world.connack(wrong).await?, world.connack(unknown).await?);
    ensure!(
        wrong.reason_code == ReasonCode::BadUserNameOrPassword,
        "{wrong:?}"
    );
    ensure!(
        format!("{wrong:?}") == format!("{unknown:?}"),
        "{wrong:?} {unknown:?}"
    );
    let nameless = world.refusal(ConnectOptions::v5("c")).await?;
    ensure!(nameless == ReasonCode::NotAuthorized, "{nameless:?}");
    for (options, expected) in [
        (
            ConnectOptions::v311("c").credentials("anna", b"x"),
            ReasonCode::BadUserNameOrPassword,
        ),
        (ConnectOptions::v311("c"), ReasonCode::NotAuthorized),
    ] {
        let refused = world.refusal(options).await?;
        ensure!(refused == expected, "{refused:?}");
    }
    ensure!(world.counter("flotilla_logins_total{result=\"refused\"}")? == 5);
    Ok(())
}

#[tokio::test]
async fn who_guesses_has_to_wait_longer_each_time() -> Result<()> {
    let config = "[auth]\npassword_file = 'FILES/users'\nfailures_free = 3\n";
    let world = world(&[("users", MADE_BY_MOSQUITTO)], config)?;
    for _ in 0..4 {
        let refused = world
            .refusal(ConnectOptions::v5("c").credentials("anna", b"guess"))
            .await?;
        ensure!(refused == ReasonCode::BadUserNameOrPassword, "{refused:?}");
    }
    let right = || ConnectOptions::v5("c").credentials(ANNA.0, ANNA.1.as_bytes());
    let refused = world.refusal(right()).await?;
    ensure!(refused == ReasonCode::ConnectionRateExceeded, "{refused:?}");
    harness::wait_for(
        async || {
            world
                .connack(right())
                .await
                .is_ok_and(|answer| answer.reason_code == ReasonCode::Success)
        },
        Duration::from_secs(20),
    )
    .await
}

#[tokio::test]
async fn many_guesses_at_once_are_judged_no_more_often_than_one_after_the_other() -> Result<()> {
    let config = "[auth]\npassword_file = 'FILES/users'\nfailures_free = 3\n";
    let world = world(&[("users", MADE_BY_MOSQUITTO)], config)?;
    let mut clients = Vec::new();
    for number in 0..40 {
        let mut client = Client::open(world.broker.mqtt_addr()).await?;
        let guess = format!("guess-{number}");
        let options = ConnectOptions::v5(format!("c-{number}")).credentials("anna", guess.as_bytes());
        client.send_connect(options).await?;
        clients.push(client);
    }
    let mut judged = 0;
    for client in &mut clients {
        match client.expect_connack().await?.reason_code {
            ReasonCode::BadUserNameOrPassword => judged += 1,
            ReasonCode::ConnectionRateExceeded => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
    // One more for each wait that is over by then, of 1, 2 and 4 seconds.
    ensure!((4..8).contains(&judged), "{judged} guesses were judged");
    Ok(())
}

#[tokio::test]
async fn a_client_id_belongs_to_its_user() -> Result<()> {
    let config = "[auth]\npassword_file = 'FILES/users'\nclient_ids = 'user-prefix'\n";
    let world = world(&[("users", MADE_BY_MOSQUITTO)], config)?;
    let mut owner = world.client(ANNA, ConnectOptions::v5("anna-1")).await?;
    let thief = ConnectOptions::v5("anna-1").credentials(CARL.0, CARL.1.as_bytes());
    let refused = world.refusal(thief).await?;
    ensure!(refused == ReasonCode::ClientIdentifierNotValid, "{refused:?}");
    owner.ping().await
}

#[tokio::test]
async fn logins_refusals_and_takeovers_are_in_the_audit_log() -> Result<()> {
    let world = with_users()?;
    let mut first = world.client(ANNA, ConnectOptions::v5("shared-id")).await?;
    let mut second = world.client(CARL, ConnectOptions::v5("shared-id")).await?;
    first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    second.ping().await?;
    world
        .refusal(ConnectOptions::v5("burglar").credentials("anna", b"x"))
        .await?;
    let broker = &world.broker;
    let from = "address=127.0.0.1:";
    for (event, words) in [
        ("login", &["by=\"password\"", "\"anna\"", from][..]),
        ("takeover", &["\"carl\"", from, "previous=127.0.0.1:"]),
        ("taken over", &["\"shared-id\"", "\"anna\"", from]),
        ("login refused", &["\"burglar\"", "\"anna\"", from]),
    ] {
        broker.wait_audited(event, words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_is_refused_by_a_limit_is_in_the_audit_log() -> Result<()> {
    let world = world(&[], "[limits]\nsessions_max = 1\n")?;
    let _first = Client::connect(world.broker.mqtt_addr(), ConnectOptions::v5("first")).await?;
    ensure!(world.refusal(ConnectOptions::v5("second")).await? == ReasonCode::QuotaExceeded);
    let words = [
        "reason=\"sessions\"",
        "QuotaExceeded",
        "\"second\"",
        "address=127.0.0.1:",
    ];
    world.broker.wait_audited("connect refused", &words).await
}

#[tokio::test]
async fn what_a_client_calls_itself_neither_begins_a_line_of_the_log_nor_speaks_to_a_terminal() -> Result<()>
{
    let world = world(&[], "[log]\nlevel = \"info,broker=debug\"\n")?;
    let forged = "dev-7\n2026-01-01T00:00:00Z  INFO audit: event=\"login\" user=\"admin\"\x1b[31m\u{9b}2J";
    let mut client = Client::connect(world.broker.mqtt_addr(), ConnectOptions::v5(forged)).await?;
    client.send_raw(&[0xF0, 0x00]).await?;
    let written = async || world.broker.log().contains("client broke the protocol");
    wait_for(written, Duration::from_secs(20)).await?;
    let log = world.broker.log();
    ensure!(log.contains("dev-7"));
    ensure!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
    ensure!(!log.contains(['\x1b', '\u{9b}']), "{log:?}");
    Ok(())
}

#[tokio::test]
async fn denials_and_whom_new_rules_disconnect_are_in_the_audit_log() -> Result<()> {
    let world = with_rules("allow all a/#\n")?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    anna.subscribe("a/#", 1).await?;
    anna.publish(Message::new("b", "x").qos(1)).await?;
    world.write("rules", "allow all c/#\n")?;
    world.reloaded().await?;
    anna.expect_disconnect(ReasonCode::NotAuthorized).await?;
    for (event, words) in [
        (
            "denied",
            &["action=\"publish\"", "\"b\"", "\"c-1\"", "\"anna\""][..],
        ),
        ("access revoked", &["\"c-1\"", "\"anna\"", "address=127.0.0.1:"]),
    ] {
        world.broker.wait_audited(event, words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_user_has_as_many_connections_as_are_allowed_and_may_replace_its_own() -> Result<()> {
    let config = "[auth]\npassword_file = 'FILES/users'\n[limits]\nconnections_per_user_max = 2\n";
    let world = world(&[("users", MADE_BY_MOSQUITTO)], config)?;
    let mut first = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    let second = world.client(ANNA, ConnectOptions::v5("c-2")).await?;
    let third = || ConnectOptions::v5("c-3").credentials(ANNA.0, ANNA.1.as_bytes());
    ensure!(world.refusal(third()).await? == ReasonCode::QuotaExceeded);
    world.client(CARL, ConnectOptions::v5("c-4")).await?;
    let mut again = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    second.disconnect().await?;
    again.ping().await?;
    harness::wait_for(
        async || {
            world
                .connack(third())
                .await
                .is_ok_and(|answer| answer.reason_code == ReasonCode::Success)
        },
        Duration::from_secs(10),
    )
    .await
}

#[tokio::test]
async fn who_publishes_faster_than_allowed_is_held_up_and_loses_nothing() -> Result<()> {
    let config = "[auth]\npassword_file = 'FILES/users'\n[limits]\npublish_messages_per_second_max = 50\n";
    let world = world(&[("users", MADE_BY_MOSQUITTO)], config)?;
    let mut reader = world.client(CARL, ConnectOptions::v5("reader")).await?;
    ensure!(reader.subscribe("a", 0).await? == ReasonCode::Success);
    let mut anna = world
        .client(ANNA, ConnectOptions::v5("c-1").keep_alive(1))
        .await?;
    // Three seconds' worth at once: more than the keep alive allows a client to be silent for.
    for number in 0..200 {
        anna.send_publish(Message::new("a", number.to_string())).await?;
    }
    for number in 0..200 {
        let payload = reader.receive().await?.publication.payload();
        ensure!(payload == number.to_string().as_bytes(), "{number}");
    }
    anna.ping().await
}
