//! Tenants: customers of one broker who do not see each other, whatever they call their clients and topics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Client, ConnectOptions, Message, subscription_options, wait_for};
use mqtt_codec::{PacketId, Publish, ReasonCode};

use crate::common::*;
use crate::tokens::{SECRET, token};

const A_WHILE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(200);
const NAMES: [&str; 2] = ["acme", "globex"];
const BY_CLAIM: &str = "\
[auth]
jwt_keys = ['FILES/key']
jwt_algorithms = ['HS256']
[tenants]
from = ['claim']
";

fn tenants(more: &str) -> Result<World> {
    world(&[("key", SECRET)], &format!("{BY_CLAIM}{more}"))
}

/// A token that names a tenant as JSON says it. The user of every tenant has the same name.
fn token_of(tenant: &str) -> String {
    token(&format!("\"sub\":\"anna\",\"tenant\":{tenant}"), 3600)
}

impl World {
    async fn of(&self, tenant: &str, options: ConnectOptions) -> Result<Client> {
        self.client(("", &token_of(&format!("\"{tenant}\""))), options)
            .await
    }

    /// The same client for each tenant.
    async fn of_each(&self, options: impl Fn() -> ConnectOptions) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for name in NAMES {
            clients.push(self.of(name, options()).await?);
        }
        Ok(clients)
    }
}

fn shown(publish: &Publish) -> Result<(String, String)> {
    let publication = &publish.publication;
    let payload = String::from_utf8(publication.payload().to_vec())?;
    Ok((publication.topic().as_str().to_owned(), payload))
}

async fn expect(client: &mut Client, topic: &str, payload: &str) -> Result<Publish> {
    let publish = client.receive().await?;
    let expected = (topic.to_owned(), payload.to_owned());
    ensure!(
        shown(&publish)? == expected,
        "{:?}, not {expected:?}",
        shown(&publish)?
    );
    Ok(publish)
}

async fn publish(client: &mut Client, message: Message) -> Result<()> {
    let answer = client.publish(message).await?;
    ensure!((answer as u8) < 0x80, "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn tenants_with_the_same_client_ids_and_topics_never_see_each_other() -> Result<()> {
    let world = tenants("")?;
    for (filter, qos) in [
        ("#", 0),
        ("+/door", 1),
        ("house/door", 2),
        ("house/#", 1),
        ("$share/g/+/door", 1),
    ] {
        let mut readers = world.of_each(|| ConnectOptions::v5("reader")).await?;
        for reader in &mut readers {
            ensure!((reader.subscribe(filter, qos).await? as u8) < 0x80, "{filter}");
        }
        let mut writers = world.of_each(|| ConnectOptions::v5("writer")).await?;
        for round in 0..5 {
            for (writer, name) in writers.iter_mut().zip(NAMES) {
                let payload = format!("{name} {round}");
                publish(writer, Message::new("house/door", &payload).qos(qos)).await?;
            }
        }
        for (reader, name) in readers.iter_mut().zip(NAMES) {
            for round in 0..5 {
                expect(reader, "house/door", &format!("{name} {round}")).await?;
            }
        }
        // Nobody took over from the other, and nothing else has come.
        for reader in &mut readers {
            reader.expect_no_publish(Duration::ZERO).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_name_of_a_tenant_is_no_way_into_its_topics() -> Result<()> {
    let world = tenants("")?;
    let mut acme = world.of("acme", ConnectOptions::v5("c-1")).await?;
    ensure!(acme.subscribe("#", 1).await? == ReasonCode::GrantedQoS1);
    let mut globex = world.of("globex", ConnectOptions::v5("c-1")).await?;
    for filter in ["acme/#", "+/acme/#", "/acme/#", "../acme/#", "$share/g/acme/#"] {
        ensure!((globex.subscribe(filter, 1).await? as u8) < 0x80, "{filter}");
    }
    for filter in ["$SYS/#", "$share/g/$SYS/#", "$tenants/#"] {
        ensure!(
            globex.subscribe(filter, 1).await? == ReasonCode::NotAuthorized,
            "{filter}"
        );
    }
    for topic in ["acme/a", "/acme/a", "../acme/a"] {
        publish(&mut globex, Message::new(topic, "leak").qos(1)).await?;
    }
    publish(&mut acme, Message::new("a", "own").qos(1)).await?;
    expect(&mut acme, "a", "own").await?;
    acme.expect_no_publish(MOMENT).await?;
    // What it called `acme/a` is its own.
    for _ in 0..2 {
        let (topic, payload) = shown(&globex.receive().await?)?;
        ensure!(
            topic.ends_with("acme/a") && payload == "leak",
            "{topic} {payload}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn retained_messages_and_wills_stay_with_their_tenant_and_operators_see_whole_names() -> Result<()> {
    let world = tenants("")?;
    let mut writers = world.of_each(|| ConnectOptions::v5("writer")).await?;
    for (writer, name) in writers.iter_mut().zip(NAMES) {
        publish(writer, Message::new("state", name).qos(1).retain()).await?;
    }
    let mut readers = world
        .of_each(|| ConnectOptions::v5("reader").persistent())
        .await?;
    for (reader, name) in readers.iter_mut().zip(NAMES) {
        ensure!(reader.subscribe("#", 1).await? == ReasonCode::GrantedQoS1);
        ensure!(expect(reader, "state", name).await?.retain);
    }
    let listed = world.broker.admin_get("/api/v1/retained?filter=%23")?;
    ensure!(
        listed.contains("acme/state") && listed.contains("globex/state"),
        "{listed}"
    );
    let clients = world.broker.admin_get("/api/v1/clients")?;
    ensure!(
        clients.contains("acme/reader") && clients.contains("globex/writer"),
        "{clients}"
    );
    // One deletes its own, one is gone without a word.
    publish(&mut writers[0], Message::new("state", "").qos(1).retain()).await?;
    expect(&mut readers[0], "state", "").await?;
    let will = Message::new("gone", "w").qos(1).retain();
    let dying = world.of("acme", ConnectOptions::v5("dying").will(will)).await?;
    drop(dying);
    expect(&mut readers[0], "gone", "w").await?;
    readers[1].expect_no_publish(MOMENT).await?;
    for (name, expected) in [("acme", ("gone", "w")), ("globex", ("state", "globex"))] {
        let mut late = world.of(name, ConnectOptions::v5("late")).await?;
        ensure!(late.subscribe("#", 1).await? == ReasonCode::GrantedQoS1);
        expect(&mut late, expected.0, expected.1).await?;
        late.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn sessions_are_kept_and_left_in_the_words_of_their_client() -> Result<()> {
    let world = tenants("")?;
    let kept = || ConnectOptions::v5("kept").persistent();
    let mut readers = world.of_each(kept).await?;
    for reader in &mut readers {
        for filter in ["a/+", "b"] {
            ensure!(reader.subscribe(filter, 2).await? == ReasonCode::GrantedQoS2);
        }
    }
    drop(readers);
    let mut writers = world
        .of_each(|| ConnectOptions::v5("writer").persistent())
        .await?;
    for (writer, name) in writers.iter_mut().zip(NAMES) {
        for qos in [1, 2] {
            publish(writer, Message::new("a/1", name).qos(qos)).await?;
        }
    }
    for name in NAMES {
        let mut reader = world.of(name, kept()).await?;
        ensure!(reader.connack().session_present, "{name}");
        for _ in 0..2 {
            expect(&mut reader, "a/1", name).await?;
        }
        let left = reader.unsubscribe(&["a/+", "acme/b", "b#"]).await?.reason_codes;
        let expected = [
            ReasonCode::Success,
            ReasonCode::NoSubscriptionExisted,
            ReasonCode::TopicFilterInvalid,
        ];
        ensure!(left == expected, "{left:?}");
        let writer = &mut writers[usize::from(name != NAMES[0])];
        publish(writer, Message::new("a/1", "too late").qos(1)).await?;
        publish(writer, Message::new("b", "in time").qos(1)).await?;
        expect(&mut reader, "b", "in time").await?;
    }
    Ok(())
}

#[tokio::test]
async fn aliases_and_response_topics_work_both_ways() -> Result<()> {
    let world = tenants("")?;
    let mut reader = world
        .of("acme", ConnectOptions::v5("reader").topic_alias_maximum(5))
        .await?;
    ensure!(reader.subscribe("ask/#", 1).await? == ReasonCode::GrantedQoS1);
    let mut writer = world.of("acme", ConnectOptions::v5("writer")).await?;
    ensure!(writer.subscribe("answers", 1).await? == ReasonCode::GrantedQoS1);
    let question = |topic: &str, payload: &str| {
        Message::new(topic, payload)
            .qos(1)
            .topic_alias(1)
            .response_topic("answers")
            .user_property("k", "v")
    };
    publish(&mut writer, question("ask/1", "first")).await?;
    // PUBLISH with QoS 1, no topic, packet id 900 and the alias alone.
    let unnamed = [&[0x32, 14, 0, 0, 3, 0x84, 3, 0x23, 0, 1], b"second".as_slice()].concat();
    writer.send_raw(&unnamed).await?;
    let packet_id = PacketId::new(900).context("not zero")?;
    ensure!(writer.expect_puback(packet_id).await?.reason_code == ReasonCode::Success);
    let first = expect(&mut reader, "ask/1", "first").await?;
    let properties = first.publication.properties();
    ensure!(
        properties.response_topic.as_deref() == Some("answers"),
        "{properties:?}"
    );
    ensure!(properties.user_properties.len() == 1, "{properties:?}");
    let second = reader.receive().await?;
    ensure!(second.topic_alias == first.topic_alias && second.topic_alias.is_some());
    ensure!(
        second.publication.topic().as_str().is_empty(),
        "the alias is enough"
    );
    let answers = properties.response_topic.context("a response topic")?;
    publish(&mut reader, Message::new(&answers, "yes").qos(1)).await?;
    expect(&mut writer, "answers", "yes").await?;
    Ok(())
}

#[tokio::test]
async fn shared_messages_of_a_member_that_leaves_go_to_one_of_its_tenant() -> Result<()> {
    let world = tenants("")?;
    let mut first = world.of("acme", ConnectOptions::v5("one")).await?;
    ensure!(first.subscribe("$share/g/jobs/#", 1).await? == ReasonCode::GrantedQoS1);
    let mut foreign = world.of("globex", ConnectOptions::v5("two")).await?;
    ensure!(foreign.subscribe("$share/g/jobs/#", 1).await? == ReasonCode::GrantedQoS1);
    let mut writer = world.of("acme", ConnectOptions::v5("writer")).await?;
    let job = Message::new("jobs/1", "work").qos(1).response_topic("done");
    publish(&mut writer, job).await?;
    // It is sent it, and does not acknowledge it.
    ensure!(shown(&first.expect_publish().await?)?.0 == "jobs/1");
    let mut second = world.of("acme", ConnectOptions::v5("two")).await?;
    ensure!(second.subscribe("$share/g/jobs/#", 1).await? == ReasonCode::GrantedQoS1);
    drop(first);
    let handed_over = expect(&mut second, "jobs/1", "work").await?;
    let properties = handed_over.publication.properties();
    ensure!(
        properties.response_topic.as_deref() == Some("done"),
        "{properties:?}"
    );
    foreign.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn who_has_no_tenant_or_an_impossible_one_is_refused() -> Result<()> {
    let world = tenants("")?;
    let refused = async |claims: &str| {
        let token = token(claims, 3600);
        let options = ConnectOptions::v5("c-1").credentials("", token.as_bytes());
        world.refusal(options).await
    };
    for name in [
        "\"\"",
        "\"a/b\"",
        "\"+\"",
        "\"#\"",
        "\"a+\"",
        "\"a#\"",
        "\"$SYS\"",
        "\"a\\u0000\"",
        "[\"a\",\"b\"]",
    ] {
        let code = refused(&format!("\"sub\":\"anna\",\"tenant\":{name}")).await?;
        ensure!(code == ReasonCode::NotAuthorized, "{name}: {code:?}");
    }
    ensure!(refused("\"sub\":\"anna\"").await? == ReasonCode::NotAuthorized);
    ensure!(world.counter("flotilla_connects_rejected_total{reason=\"tenant\"}")? == 10);
    // Nobody has a name that is too long with the tenant's in front.
    let long = ConnectOptions::v5("x".repeat(253));
    let long = long.credentials("", token_of("\"acme\"").as_bytes());
    ensure!(world.refusal(long).await? == ReasonCode::ClientIdentifierNotValid);
    let mut acme = world.of("acme", ConnectOptions::v5("c-1")).await?;
    let topic = "x".repeat(1020);
    ensure!(acme.subscribe(&topic, 1).await? == ReasonCode::TopicFilterInvalid);
    acme.send_publish(Message::new(&topic, "x").qos(1)).await?;
    acme.expect_disconnect(ReasonCode::TopicNameInvalid).await?;
    // An assigned client id is told without the tenant's name.
    let acme = world.of("acme", ConnectOptions::v5("")).await?;
    let assigned = acme.connack().properties.assigned_client_identifier.clone();
    ensure!(assigned.is_some_and(|id| !id.contains('/')));
    Ok(())
}

#[tokio::test]
async fn one_tenants_quotas_do_not_touch_another() -> Result<()> {
    let world = tenants(
        "connections_max = 2\nretained_messages_max = 1\nquotas = { globex = { connections_max = 3 } }\n",
    )?;
    let mut acme = Vec::new();
    for id in ["1", "2"] {
        acme.push(world.of("acme", ConnectOptions::v5(id)).await?);
    }
    let third = ConnectOptions::v5("3").credentials("", token_of("\"acme\"").as_bytes());
    ensure!(world.refusal(third.clone()).await? == ReasonCode::QuotaExceeded);
    let mut globex = Vec::new();
    for id in ["1", "2", "3"] {
        globex.push(world.of("globex", ConnectOptions::v5(id)).await?);
    }
    ensure!(world.counter("flotilla_connects_rejected_total{reason=\"connections_per_tenant\"}")? == 1);
    let retained = |topic: &str| Message::new(topic, "x").qos(1).retain();
    publish(&mut acme[0], retained("a")).await?;
    ensure!(acme[1].publish(retained("b")).await? == ReasonCode::QuotaExceeded);
    publish(&mut acme[1], retained("a")).await?;
    publish(&mut globex[0], retained("b")).await?;
    ensure!(globex[1].publish(retained("a")).await? == ReasonCode::QuotaExceeded);
    ensure!(world.counter("flotilla_rate_limited_total{kind=\"retained_per_tenant\"}")? == 2);
    // Who leaves makes room.
    acme.pop().context("two are connected")?.disconnect().await?;
    let comes_in = async || {
        let connack = world.connack(third.clone()).await;
        connack.is_ok_and(|connack| connack.reason_code == ReasonCode::Success)
    };
    wait_for(comes_in, A_WHILE).await
}

#[tokio::test]
async fn a_tenants_sessions_are_counted_while_their_clients_are_away() -> Result<()> {
    let world = tenants("sessions_max = 2\nquotas = { globex = { sessions_max = 3 } }\n")?;
    let kept = |id: &str| ConnectOptions::v5(id).persistent();
    let refused = async |options: ConnectOptions| {
        let options = options.credentials("", token_of("\"acme\"").as_bytes());
        let connack = world.connack(options).await;
        connack.is_ok_and(|connack| connack.reason_code == ReasonCode::QuotaExceeded)
    };
    let (first, second) = (
        world.of("acme", kept("1")).await?,
        world.of("acme", kept("2")).await?,
    );
    first.disconnect().await?;
    for options in [kept("3"), ConnectOptions::v5("4")] {
        ensure!(refused(options).await);
    }
    ensure!(world.counter("flotilla_connects_rejected_total{reason=\"sessions_per_tenant\"}")? == 2);
    for id in ["1", "2", "3"] {
        world.of("globex", kept(id)).await?;
    }

    // Who has a session finds it, and may begin it anew; who is connected may come again.
    let first = world.of("acme", kept("1")).await?;
    ensure!(first.connack().session_present);
    first.disconnect().await?;
    let first = world.of("acme", ConnectOptions::v5("1")).await?;
    let again = world.of("acme", ConnectOptions::v5("1")).await?;
    ensure!(refused(kept("3")).await);
    drop((first, second));
    // That one's session has ended with it.
    again.disconnect().await?;
    wait_for(async || !refused(kept("3")).await, A_WHILE).await?;
    ensure!(refused(kept("1")).await);
    Ok(())
}

#[tokio::test]
async fn a_tenants_subscriptions_are_counted_over_its_connected_clients() -> Result<()> {
    let world = tenants("subscriptions_max = 2\nquotas = { globex = { subscriptions_max = 3 } }\n")?;
    let mut first = world.of("acme", ConnectOptions::v5("c-1").persistent()).await?;
    let mut second = world.of("acme", ConnectOptions::v5("c-2")).await?;
    ensure!(first.subscribe("a", 1).await? == ReasonCode::GrantedQoS1);
    let options = subscription_options(0);
    let answer = second
        .subscribe_many(&[("b", options), ("c", options)], None)
        .await?;
    ensure!(
        answer.reason_codes == [ReasonCode::Success, ReasonCode::QuotaExceeded],
        "{answer:?}"
    );
    // What it has may be asked for again, and what it gives back makes room.
    ensure!(second.subscribe("b", 0).await? == ReasonCode::Success);
    ensure!(first.subscribe("c", 1).await? == ReasonCode::QuotaExceeded);
    second.unsubscribe(&["b"]).await?;
    ensure!(first.subscribe("c", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(second.subscribe("b", 0).await? == ReasonCode::QuotaExceeded);

    // Those of another tenant are its own.
    let mut other = world.of("globex", ConnectOptions::v5("c-1")).await?;
    for filter in ["a", "b", "c"] {
        ensure!(other.subscribe(filter, 0).await? == ReasonCode::Success);
    }
    ensure!(other.subscribe("d", 0).await? == ReasonCode::QuotaExceeded);
    let refused = "flotilla_rate_limited_total{kind=\"subscriptions_per_tenant\"}";
    ensure!(world.counter(refused)? == 4);

    // Who is away has none here, and brings them along again.
    first.disconnect().await?;
    let has_room = async || {
        second
            .subscribe("b", 0)
            .await
            .is_ok_and(|code| code == ReasonCode::Success)
    };
    wait_for(has_room, A_WHILE).await?;
    let first = world.of("acme", ConnectOptions::v5("c-1").persistent()).await?;
    ensure!(first.connack().session_present);
    ensure!(second.subscribe("d", 0).await? == ReasonCode::QuotaExceeded);
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_publishes_too_much_is_held_up_as_a_whole_and_another_is_not() -> Result<()> {
    let world = tenants(
        "publish_messages_per_second_max = 20\nquotas = { globex = { publish_messages_per_second_max = 0 } }\n",
    )?;
    let mut readers = world.of_each(|| ConnectOptions::v5("reader")).await?;
    for reader in &mut readers {
        ensure!(reader.subscribe("a", 0).await? == ReasonCode::Success);
    }
    // Two seconds' worth more than is free, by two clients together; neither reaches the limit alone at once.
    let mut writers = Vec::new();
    for id in ["1", "2"] {
        writers.push(world.of("acme", ConnectOptions::v5(id)).await?);
    }
    let mut free = world.of("globex", ConnectOptions::v5("1")).await?;
    for number in 0..30 {
        for writer in &mut writers {
            writer.send_publish(Message::new("a", number.to_string())).await?;
        }
        free.send_publish(Message::new("a", number.to_string())).await?;
    }
    for number in 0..30 {
        expect(&mut readers[1], "a", &number.to_string()).await?;
    }
    for _ in 0..60 {
        readers[0].receive().await?;
    }
    ensure!(world.counter("flotilla_rate_limited_total{kind=\"tenant\"}")? >= 2);
    Ok(())
}

#[tokio::test]
async fn who_needs_no_tenant_sees_whole_names_as_far_as_rules_permit() -> Result<()> {
    let config = format!("{BY_CLAIM}without = 'allow'\n[access]\nrules = 'FILES/rules'\n");
    let rules = "\
allow all # tenant=acme
allow subscribe public/# tenant=globex
allow subscribe +/ask/# user=backend
allow publish acme/# user=backend
";
    let world = world(&[("key", SECRET), ("rules", rules)], &config)?;
    let by_claims = async |claims: &str, id: &str| {
        let token = token(claims, 3600);
        world.client(("", &token), ConnectOptions::v5(id)).await
    };
    let mut backend = by_claims("\"sub\":\"backend\"", "backend").await?;
    ensure!(backend.subscribe("+/ask/#", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(backend.subscribe("globex/public/#", 1).await? == ReasonCode::NotAuthorized);
    let mut acme = world.of("acme", ConnectOptions::v5("c-1")).await?;
    ensure!(acme.subscribe("answers/#", 1).await? == ReasonCode::GrantedQoS1);
    let question = Message::new("ask/1", "?").qos(1).response_topic("answers/1");
    publish(&mut acme, question).await?;
    let asked = expect(&mut backend, "acme/ask/1", "?").await?;
    let answers = asked.publication.properties().response_topic;
    let answers = answers.context("a response topic")?;
    publish(&mut backend, Message::new(&answers, "!").qos(1)).await?;
    expect(&mut acme, "answers/1", "!").await?;
    // A rule sees what the client wrote, and may ask for its tenant.
    let mut globex = world.of("globex", ConnectOptions::v5("c-1")).await?;
    ensure!(globex.subscribe("public/#", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(globex.subscribe("#", 1).await? == ReasonCode::NotAuthorized);
    ensure!(globex.publish(Message::new("public/1", "x").qos(1)).await? == ReasonCode::NotAuthorized);
    for (topic, expected) in [
        ("acme/a", r#""allowed":true,"rule_line":1,"exact":true"#),
        ("globex/a", r#""allowed":false,"rule_line":null,"exact":true"#),
    ] {
        let query = format!("/api/v1/explain?topic={topic}&client=acme/c-1");
        let said = world.broker.admin_get(&query)?;
        ensure!(said.contains(expected), "{topic}: {said}");
    }
    // Its client id could be one of a tenant's client.
    let token = token("\"sub\":\"backend\"", 3600);
    let thief = ConnectOptions::v5("acme/c-1").credentials("", token.as_bytes());
    ensure!(world.refusal(thief).await? == ReasonCode::ClientIdentifierNotValid);
    acme.ping().await
}

#[tokio::test]
async fn a_will_that_fires_under_other_rules_is_judged_in_the_words_of_its_client() -> Result<()> {
    let config = format!("{BY_CLAIM}[access]\nrules = 'FILES/rules'\n");
    let world = world(&[("key", SECRET), ("rules", "allow all #\n")], &config)?;
    let mut reader = world.of("acme", ConnectOptions::v5("reader")).await?;
    ensure!(reader.subscribe("wills/#", 1).await? == ReasonCode::GrantedQoS1);
    for (id, topic) in [("bad", "wills/no"), ("good", "wills/good")] {
        let options = ConnectOptions::v5(id)
            .persistent()
            .delayed_will(Message::new(topic, "w").qos(1), 3);
        // Lost, not closed: the will waits.
        drop(world.of("acme", options).await?);
    }
    let rules = "allow subscribe #\nallow publish wills/${client} tenant=acme\n";
    world.write("rules", rules)?;
    world.reloaded().await?;
    expect(&mut reader, "wills/good", "w").await?;
    let denied = async || {
        let denied = world.counter("flotilla_access_denied_total{action=\"will\"}");
        denied.is_ok_and(|count| count == 1)
    };
    wait_for(denied, A_WHILE).await?;
    reader.expect_no_publish(MOMENT).await
}
