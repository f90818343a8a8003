//! What clients may publish and subscribe.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message, subscription_options};
use mqtt_codec::ReasonCode;

use crate::common::*;

const MOMENT: Duration = Duration::from_millis(200);

/// An `acl_file` as mosquitto has it.
const ACL: &str = "\
user anna
topic readwrite house/anna/#
topic read news/#
topic deny news/secret

user carl
topic read house/#
topic write news/#

pattern write devices/%c/status
";

fn with_acl() -> Result<World> {
    let config = "[auth]\npassword_file = 'FILES/users'\n[access]\nmosquitto_acl = 'FILES/acl'\n";
    world(&[("users", MADE_BY_MOSQUITTO), ("acl", ACL)], config)
}

#[tokio::test]
async fn a_publish_that_is_not_allowed_is_refused_and_reaches_nobody() -> Result<()> {
    let world = with_acl()?;
    let mut reader = world.client(CARL, ConnectOptions::v5("reader")).await?;
    ensure!(reader.subscribe("house/#", 1).await? == ReasonCode::GrantedQoS1);
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    for qos in [1, 2] {
        let refused = anna
            .publish(Message::new("house/bob/door", "no").qos(qos))
            .await?;
        ensure!(refused == ReasonCode::NotAuthorized, "{refused:?}");
    }
    anna.publish(Message::new("house/bob/door", "no")).await?;
    let refused = anna
        .publish(Message::new("house/bob/door", "no").qos(1).retain())
        .await?;
    ensure!(refused == ReasonCode::NotAuthorized, "{refused:?}");
    anna.publish(Message::new("house/anna/door", "yes").qos(1))
        .await?;
    ensure!(reader.receive().await?.publication.topic().as_str() == "house/anna/door");
    reader.expect_no_publish(MOMENT).await?;
    ensure!(world.counter("flotilla_access_denied_total{action=\"publish\"}")? == 4);
    // By its client id, as the pattern says.
    let own = anna
        .publish(Message::new("devices/c-1/status", "on").qos(1))
        .await?;
    ensure!((own as u8) < 0x80, "{own:?}");
    let other = anna
        .publish(Message::new("devices/c-2/status", "on").qos(1))
        .await?;
    ensure!(other == ReasonCode::NotAuthorized, "{other:?}");
    Ok(())
}

#[tokio::test]
async fn each_filter_of_a_subscribe_has_to_lie_inside_what_may_be_read() -> Result<()> {
    let world = with_acl()?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    let filters = [
        ("house/anna/+/door", ReasonCode::GrantedQoS1),
        ("house/+/door", ReasonCode::NotAuthorized),
        ("#", ReasonCode::NotAuthorized),
        ("news/today", ReasonCode::GrantedQoS1),
        ("news/#", ReasonCode::NotAuthorized),
        ("news/secret", ReasonCode::NotAuthorized),
        ("$share/group/house/anna/#", ReasonCode::GrantedQoS1),
        ("$share/group/house/#", ReasonCode::NotAuthorized),
        ("$SYS/#", ReasonCode::NotAuthorized),
    ];
    let asked: Vec<_> = filters
        .iter()
        .map(|(filter, _)| (*filter, subscription_options(1)))
        .collect();
    let suback = anna.subscribe_many(&asked, None).await?;
    let expected: Vec<_> = filters.iter().map(|(_, code)| *code).collect();
    ensure!(suback.reason_codes == expected, "{:?}", suback.reason_codes);
    Ok(())
}

#[tokio::test]
async fn before_mqtt_5_a_denied_filter_is_answered_with_0x80_and_a_denied_publish_is_dropped() -> Result<()> {
    let world = with_acl()?;
    let mut reader = world.client(CARL, ConnectOptions::v311("reader")).await?;
    let suback = reader
        .subscribe_many(
            &[
                ("house/#", subscription_options(1)),
                ("news/#", subscription_options(1)),
            ],
            None,
        )
        .await?;
    ensure!(suback.reason_codes[0] == ReasonCode::GrantedQoS1, "{suback:?}");
    ensure!(suback.reason_codes[1] as u8 == 0x80, "{suback:?}");
    let mut anna = world.client(ANNA, ConnectOptions::v311("c-1")).await?;
    for qos in [0, 1, 2] {
        anna.publish(Message::new("house/bob/door", "no").qos(qos))
            .await?;
    }
    anna.ping().await?;
    reader.expect_no_publish(MOMENT).await?;
    ensure!(world.counter("flotilla_access_denied_total{action=\"publish\"}")? == 3);
    Ok(())
}

#[tokio::test]
async fn retained_messages_come_to_those_alone_who_may_read_them() -> Result<()> {
    let world = with_acl()?;
    let mut carl = world.client(CARL, ConnectOptions::v5("writer")).await?;
    for topic in ["news/today", "news/secret"] {
        let stored = carl.publish(Message::new(topic, "text").qos(1).retain()).await?;
        ensure!((stored as u8) < 0x80, "{stored:?}");
    }
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    ensure!(anna.subscribe("news/today", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(anna.receive().await?.publication.topic().as_str() == "news/today");
    ensure!(anna.subscribe("news/secret", 1).await? == ReasonCode::NotAuthorized);
    anna.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_will_that_may_not_be_published_is_refused_at_connect() -> Result<()> {
    let world = with_acl()?;
    for (options, expected) in [
        (ConnectOptions::v5("c-1"), ReasonCode::NotAuthorized),
        (ConnectOptions::v311("c-1"), ReasonCode::NotAuthorized),
    ] {
        let options = options
            .will(Message::new("news/today", "gone"))
            .credentials(ANNA.0, ANNA.1.as_bytes());
        let refused = world.refusal(options).await?;
        ensure!(refused == expected, "{refused:?}");
    }
    let allowed = ConnectOptions::v5("c-1").will(Message::new("house/anna/state", "gone"));
    world.client(ANNA, allowed).await?;
    Ok(())
}

#[tokio::test]
async fn the_first_rule_decides_and_a_strange_user_name_gets_nothing_by_it() -> Result<()> {
    let rules = "\
deny all house/${user}/safe
allow all house/${user}/#
allow subscribe $SYS/# user=carl
";
    let files = tempfile::tempdir()?;
    let users = files.path().join("users");
    std::fs::write(&users, MADE_BY_MOSQUITTO)?;
    std::fs::write(files.path().join("rules"), rules)?;
    for name in ["+", "a/b", "#"] {
        passwd(&users, name, "secret", &[]).or_else(|error| match name {
            // A line that begins with # is a comment.
            "#" => Ok(()),
            _ => Err(error),
        })?;
    }
    let config = "[auth]\npassword_file = 'FILES/users'\n[access]\nrules = 'FILES/rules'\n";
    let world = start(files, config, Default::default())?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    ensure!(anna.subscribe("house/anna/door", 0).await? == ReasonCode::Success);
    for filter in ["house/anna/#", "house/anna/safe", "house/carl/door", "$SYS/#"] {
        ensure!(
            anna.subscribe(filter, 0).await? == ReasonCode::NotAuthorized,
            "{filter}"
        );
    }
    for name in ["+", "a/b"] {
        let mut strange = world.client((name, "secret"), ConnectOptions::v5("c-2")).await?;
        for filter in [
            "house/+/door",
            "house/a/b/door",
            "house/anna/door",
            "house/#",
            "#",
        ] {
            let refused = strange.subscribe(filter, 0).await?;
            ensure!(refused == ReasonCode::NotAuthorized, "{name} has {filter}");
        }
    }
    let mut carl = world.client(CARL, ConnectOptions::v5("c-3")).await?;
    ensure!(carl.subscribe("$SYS/broker/uptime", 0).await? == ReasonCode::Success);
    Ok(())
}

#[tokio::test]
async fn explain_says_which_rule_would_decide_for_a_client_and_for_a_user() -> Result<()> {
    let rules = "\
allow publish news/# user=carl
deny publish house/secret
allow publish house/# user=anna address=127.0.0.0/8
";
    let world = with_rules(rules)?;
    let _anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    for (query, expected) in [
        (
            "topic=house/door&client=c-1",
            r#""allowed":true,"rule_line":3,"exact":true"#,
        ),
        (
            "topic=house/secret&client=c-1",
            r#""allowed":false,"rule_line":2,"exact":true"#,
        ),
        (
            "topic=news/1&client=c-1",
            r#""allowed":false,"rule_line":null,"exact":true"#,
        ),
        (
            "topic=news/1&user=carl",
            r#""allowed":true,"rule_line":1,"exact":false"#,
        ),
        // From where is not known of a user alone.
        (
            "topic=house/door&user=anna",
            r#""allowed":false,"rule_line":null,"exact":false"#,
        ),
        ("topic=house/door", r#""access":null"#),
    ] {
        let said = world.broker.admin_get(&format!("/api/v1/explain?{query}"))?;
        ensure!(said.contains(expected), "{query}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn users_without_rules_are_warned_of_at_the_start_and_users_with_rules_are_not() -> Result<()> {
    let warned = |world: &World| world.broker.log().contains("there are users and no rules");
    ensure!(warned(&with_users()?));
    ensure!(!warned(&with_acl()?));
    Ok(())
}
