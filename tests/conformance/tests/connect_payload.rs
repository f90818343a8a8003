//! Sections 3.1.3 and 3.1.4: the payload of CONNECT, and what a server does with it.

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use mqtt_codec::ReasonCode;

use crate::common::*;

/// The payload holds, in this order and as the flags say: client id, will properties, topic and payload, user
/// name, password.
#[tokio::test]
async fn mqtt_3_1_3_1_payload_fields_come_in_their_order() -> Result<()> {
    let (id, topic) = (unique("order"), unique("order"));
    let mut watcher = subscriber(&topic, 1).await?;
    let rest = [
        &[0][..],
        &string(&topic),
        &string("will payload"),
        &string("user"),
        &string("secret"),
    ]
    .concat();
    let mut client = opened().await?;
    client
        .send_raw(&connect_frame(id.as_bytes(), 0xce, &[], &rest))
        .await?;
    let connack = client.expect_connack().await?;
    ensure!(connack.reason_code == ReasonCode::Success, "{connack:?}");
    drop(client);
    expect_text(&mut watcher, "will payload").await.map(|_| ())
}

/// Client and server find the session by the client id, and by nothing else.
#[tokio::test]
async fn mqtt_3_1_3_2_the_client_id_names_the_session() -> Result<()> {
    let (one, other) = (unique("Name"), unique("Name"));
    connected(ConnectOptions::v5(&one).persistent())
        .await?
        .disconnect()
        .await?;
    for different in [other, one.to_lowercase(), format!("{one} ")] {
        let client = connected(ConnectOptions::v5(&different).persistent()).await?;
        ensure!(
            !client.connack().session_present,
            "{different:?} found the session of {one:?}"
        );
    }
    let client = connected(
        ConnectOptions::v5(&one)
            .credentials("somebody", b"x")
            .persistent(),
    )
    .await?;
    ensure!(
        client.connack().session_present,
        "the session was not found by its client id"
    );
    Ok(())
}

/// The client id is there and comes first.
#[tokio::test]
async fn mqtt_3_1_3_3_a_connect_without_client_id_is_malformed() -> Result<()> {
    let body = [&string("MQTT")[..], &[5, 2, 0, 0, 0]].concat();
    expect_refused(&frame(0x10, body), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// The client id is a UTF-8 string.
#[tokio::test]
async fn mqtt_3_1_3_4_the_client_id_is_utf8() -> Result<()> {
    expect_refused(&connect_frame(b"a\xff", 2, &[], &[]), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// Client ids of 1 to 23 letters and digits are allowed, whatever else is.
#[tokio::test]
async fn mqtt_3_1_3_5_client_ids_of_1_to_23_letters_and_digits_are_allowed() -> Result<()> {
    for id in [
        "Q",
        "0123456789abcdefghijklm",
        "nopqrstuvwxyzABCDEFGHIJ",
        "KLMNOPQRSTUVWXYZ",
    ] {
        connected(ConnectOptions::v5(id)).await?.disconnect().await?;
    }
    Ok(())
}

/// A client without id is given one that nobody else has.
#[tokio::test]
async fn mqtt_3_1_3_6_an_empty_client_id_is_replaced_by_a_unique_one() -> Result<()> {
    let first = connected(ConnectOptions::v5("")).await?;
    let second = connected(ConnectOptions::v5("")).await?;
    let ids = [first, second].map(|client| client.connack().properties.assigned_client_identifier.clone());
    ensure!(ids.iter().all(Option::is_some) && ids[0] != ids[1], "{ids:?}");
    Ok(())
}

/// The assigned id is returned in the CONNACK and serves as if the client had brought it.
#[tokio::test]
async fn mqtt_3_1_3_7_the_assigned_client_id_is_returned_and_valid() -> Result<()> {
    let mut first = connected(ConnectOptions::v5("").session_expiry(60)).await?;
    let id = first
        .connack()
        .properties
        .assigned_client_identifier
        .clone()
        .expect("an id was assigned");
    let topic = unique("assigned");
    first.subscribe(&topic, 1).await?;
    first.disconnect().await?;
    publish(Message::new(&topic, "for the assigned id").qos(1)).await?;
    let mut second = connected(ConnectOptions::v5(&*id).persistent()).await?;
    ensure!(
        second.connack().session_present,
        "no session under the assigned id"
    );
    expect_text(&mut second, "for the assigned id").await.map(|_| ())
}

/// A client id that the server does not accept is refused, and the connection closed.
#[tokio::test]
async fn mqtt_3_1_3_8_an_unacceptable_client_id_is_refused() -> Result<()> {
    let long = "x".repeat(300);
    expect_refused(
        &connect_frame(long.as_bytes(), 2, &[], &[]),
        ReasonCode::ClientIdentifierNotValid,
    )
    .await
    .map(|_| ())
}

/// A client that is back before its will delay has passed keeps its will from being sent.
#[tokio::test]
async fn mqtt_3_1_3_9_coming_back_in_time_cancels_the_delayed_will() -> Result<()> {
    let (id, topic) = (unique("back"), unique("back"));
    let mut watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(&id).persistent();
    drop(
        connected(
            options
                .clone()
                .delayed_will(Message::new(&topic, "gone").qos(1), 1),
        )
        .await?,
    );
    tokio::time::sleep(MOMENT).await;
    let mut back = connected(options).await?;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    back.ping().await?;
    watcher.expect_no_publish(MOMENT).await
}

/// User properties of a will keep their order.
#[tokio::test]
async fn mqtt_3_1_3_10_user_properties_of_a_will_keep_their_order() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("c", ""), ("a", "0")];
    let will = pairs
        .iter()
        .fold(Message::new(&topic, "x"), |will, (name, value)| {
            will.user_property(name, value)
        });
    drop(connected(ConnectOptions::v5(unique("w")).will(will)).await?);
    let received = watcher.receive().await?.publication.properties().user_properties;
    let received: Vec<_> = received.iter().map(|(name, value)| (&**name, &**value)).collect();
    ensure!(received == pairs, "{received:?}");
    Ok(())
}

/// The will topic is a UTF-8 string.
#[tokio::test]
async fn mqtt_3_1_3_11_the_will_topic_is_utf8() -> Result<()> {
    let rest = [&[0][..], &string(b"to\xc3pic"), &string("payload")].concat();
    expect_refused(
        &connect_frame(b"w", 0x06, &[], &rest),
        ReasonCode::MalformedPacket,
    )
    .await
    .map(|_| ())
}

/// The user name is a UTF-8 string.
#[tokio::test]
async fn mqtt_3_1_3_12_the_user_name_is_utf8() -> Result<()> {
    expect_refused(
        &connect_frame(b"u", 0x82, &[], &string(b"us\xfeer")),
        ReasonCode::MalformedPacket,
    )
    .await
    .map(|_| ())
}

/// A CONNECT that does not have its form is refused, and the connection closed.
#[tokio::test]
async fn mqtt_3_1_4_1_a_connect_that_does_not_have_its_form_is_refused() -> Result<()> {
    let no_such_property = [0x7f, 0];
    expect_refused(
        &connect_frame(b"x", 2, &no_such_property, &[]),
        ReasonCode::MalformedPacket,
    )
    .await?;
    let topic_alias_belongs_to_publish = [0x23, 0, 1];
    expect_refused(
        &connect_frame(b"x", 2, &topic_alias_belongs_to_publish, &[]),
        ReasonCode::MalformedPacket,
    )
    .await?;
    expect_refused(
        &connect_frame(b"x", 2, &[], b"left over"),
        ReasonCode::MalformedPacket,
    )
    .await
    .map(|_| ())
}

/// A server that checks more than the form, and finds it wanting, closes the connection.
#[tokio::test]
async fn mqtt_3_1_4_2_a_connect_that_fails_a_further_check_is_refused() -> Result<()> {
    let rest = [&[0][..], &string("wild/#"), &string("payload")].concat();
    expect_refused(
        &connect_frame(b"w", 0x06, &[], &rest),
        ReasonCode::TopicNameInvalid,
    )
    .await
    .map(|_| ())
}

/// Somebody who connects with a client id in use takes over: the other is told 0x8E and closed.
#[tokio::test]
async fn mqtt_3_1_4_3_a_second_connection_takes_over() -> Result<()> {
    let (id, topic) = (unique("takeover"), unique("takeover"));
    let mut first = connected(ConnectOptions::v5(&id).persistent()).await?;
    first.subscribe(&topic, 1).await?;
    let mut second = connected(ConnectOptions::v5(&id).persistent()).await?;
    ensure!(
        second.connack().session_present,
        "the session was not handed over"
    );
    first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    publish(Message::new(&topic, "to the second").qos(1)).await?;
    expect_text(&mut second, "to the second").await.map(|_| ())
}

/// Clean start is honoured at takeover too.
#[tokio::test]
async fn mqtt_3_1_4_4_clean_start_counts_at_takeover() -> Result<()> {
    let (id, topic) = (unique("takeover"), unique("takeover"));
    let mut first = connected(ConnectOptions::v5(&id).persistent()).await?;
    first.subscribe(&topic, 1).await?;
    let mut second = connected(ConnectOptions::v5(&id)).await?;
    first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    ensure!(
        !second.connack().session_present,
        "session present after a clean start"
    );
    publish(Message::new(&topic, "to nobody").qos(1)).await?;
    second.expect_no_publish(MOMENT).await
}

/// A CONNECT that is accepted is answered by a CONNACK with reason 0x00.
#[tokio::test]
async fn mqtt_3_1_4_5_an_accepted_connect_is_acknowledged() -> Result<()> {
    let mut client = opened().await?;
    client
        .send_raw(&connect_frame(unique("ok").as_bytes(), 2, &[], &[]))
        .await?;
    let connack = client.receive_frame().await?.expect("a CONNACK");
    ensure!(connack[0] == 0x20 && connack[2..4] == [0, 0], "{connack:?}");
    client.ping().await
}

/// What comes behind a refused CONNECT is not processed.
#[tokio::test]
async fn mqtt_3_1_4_6_nothing_behind_a_refused_connect_is_processed() -> Result<()> {
    let topic = unique("behind");
    let mut watcher = subscriber(&topic, 0).await?;
    let bytes = [
        connect_frame(b"refused", 3, &[], &[]),
        publish_frame(0, topic.as_bytes(), None, &[], b"x"),
    ]
    .concat();
    expect_refused(&bytes, ReasonCode::MalformedPacket).await?;
    watcher.expect_no_publish(MOMENT).await
}
