//! Section 4.8.2: shared subscriptions.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use harness::{Broker, Client, ConnectOptions, Message};
use mqtt_codec::{Acknowledgement, Packet, ReasonCode};

use crate::common::*;

/// A shared subscription begins with `$share/` and a share name of at least one character.
#[tokio::test]
async fn mqtt_4_8_2_1_a_share_has_a_name() -> Result<()> {
    let mut client = client("share").await?;
    for filter in ["$share//a", "$share", "$share/"] {
        let reason = client.subscribe(filter, 0).await?;
        ensure!(reason == ReasonCode::TopicFilterInvalid, "{filter}: {reason:?}");
    }
    let reason = client.subscribe("$share/g/a", 0).await?;
    ensure!(reason == ReasonCode::Success, "{reason:?}");
    Ok(())
}

/// The share name has no wildcards and is followed by a filter.
#[tokio::test]
async fn mqtt_4_8_2_2_a_share_name_has_no_wildcards_and_a_filter_follows() -> Result<()> {
    let mut client = client("share").await?;
    for filter in [
        "$share/+/a",
        "$share/#/a",
        "$share/g+/a",
        "$share/g",
        "$share/g/",
        "$share/g/a#",
    ] {
        let reason = client.subscribe(filter, 0).await?;
        ensure!(reason == ReasonCode::TopicFilterInvalid, "{filter}: {reason:?}");
    }
    let topic = unique("t");
    client.subscribe(&format!("$share/g/{topic}/+/#"), 1).await?;
    publish(Message::new(&format!("{topic}/x"), "x").qos(1)).await?;
    expect_text(&mut client, "x").await.map(|_| ())
}

/// The QoS granted to each member is respected.
#[tokio::test]
async fn mqtt_4_8_2_3_the_granted_qos_of_each_member_counts() -> Result<()> {
    let topic = unique("share");
    for granted in 0..=2 {
        let mut member = client("member").await?;
        member
            .subscribe(&format!("$share/{granted}/{topic}"), granted)
            .await?;
        publish(Message::new(&topic, "x").qos(2)).await?;
        let received = member.receive().await?;
        ensure!(received.qos as u8 == granted, "{received:?}");
    }
    Ok(())
}

/// A QoS 2 delivery that was interrupted is completed with the same client when it is back.
#[tokio::test]
async fn mqtt_4_8_2_4_an_interrupted_qos_2_delivery_is_completed_with_its_client() -> Result<()> {
    let (id, topic) = (unique("member"), unique("share"));
    let mut member = connected(ConnectOptions::v5(&id).persistent()).await?;
    member.subscribe(&format!("$share/g/{topic}"), 2).await?;
    publish(Message::new(&topic, "x").qos(2)).await?;
    let packet_id = member.expect_publish().await?.packet_id.unwrap();
    member.send_pubrec(packet_id).await?;
    member.expect_pubrel(packet_id).await?;
    let mut other = client("other").await?;
    other.subscribe(&format!("$share/g/{topic}"), 2).await?;
    drop(member);
    other.expect_no_publish(MOMENT).await?;
    let mut member = connected(ConnectOptions::v5(&id).persistent()).await?;
    member.expect_pubrel(packet_id).await?;
    member.send_pubcomp(packet_id).await?;
    member.expect_no_publish(MOMENT).await?;
    other.expect_no_publish(MOMENT).await
}

/// When the session of that client ends instead, the message goes to nobody else.
#[tokio::test]
async fn mqtt_4_8_2_5_a_qos_2_message_under_way_ends_with_its_session() -> Result<()> {
    let topic = unique("share");
    let mut member = client("member").await?;
    member.subscribe(&format!("$share/g/{topic}"), 2).await?;
    publish(Message::new(&topic, "x").qos(2)).await?;
    let packet_id = member.expect_publish().await?.packet_id.unwrap();
    member.send_pubrec(packet_id).await?;
    member.expect_pubrel(packet_id).await?;
    let mut other = client("other").await?;
    other.subscribe(&format!("$share/g/{topic}"), 2).await?;
    drop(member);
    other.expect_no_publish(MOMENT * 2).await
}

/// A message that a member refuses is discarded; no other member gets it.
#[tokio::test]
async fn mqtt_4_8_2_6_a_refused_message_goes_to_nobody_else() -> Result<()> {
    for qos in [1, 2] {
        let topic = unique("share");
        let mut member = client("member").await?;
        member.subscribe(&format!("$share/g/{topic}"), 2).await?;
        publish(Message::new(&topic, "x").qos(qos)).await?;
        let packet_id = member.expect_publish().await?.packet_id.unwrap();
        let mut other = client("other").await?;
        other.subscribe(&format!("$share/g/{topic}"), 2).await?;
        let refusal = Acknowledgement::new(packet_id, ReasonCode::UnspecifiedError);
        member
            .send(&if qos == 1 {
                Packet::PubAck(refusal)
            } else {
                Packet::PubRec(refusal)
            })
            .await?;
        member.expect_no_publish(MOMENT).await?;
        drop(member);
        other.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_message_goes_to_one_member_of_each_group_and_to_every_plain_subscriber() -> Result<()> {
    let topic = unique("share");
    let mut plain = subscriber(&topic, 1).await?;
    let mut groups = Vec::new();
    for group in ["one", "two"] {
        let mut members = Vec::new();
        for _ in 0..3 {
            let mut member = client("member").await?;
            member.subscribe(&format!("$share/{group}/{topic}"), 1).await?;
            members.push(member);
        }
        groups.push(members);
    }
    let all: BTreeSet<String> = (0..30).map(|number| number.to_string()).collect();
    for number in 0..30 {
        publish(Message::new(&topic, number.to_string()).qos(1)).await?;
    }
    for number in 0..30 {
        expect_text(&mut plain, &number.to_string()).await?;
    }
    for members in &mut groups {
        let mut seen = BTreeSet::new();
        let mut busy = 0;
        for member in members {
            let received = everything(member).await?;
            busy += usize::from(!received.is_empty());
            for payload in received {
                ensure!(seen.insert(payload.clone()), "{payload} went to two members");
            }
        }
        ensure!(seen == all, "the group got {seen:?}");
        ensure!(busy == 3, "only {busy} members had something to do");
    }
    Ok(())
}

#[tokio::test]
async fn shared_subscriptions_get_no_retained_messages() -> Result<()> {
    let topic = unique("share");
    publish(Message::new(&topic, "x").qos(1).retain()).await?;
    let mut member = client("member").await?;
    member.subscribe(&format!("$share/g/{topic}"), 1).await?;
    member.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_member_that_unsubscribes_gets_no_more() -> Result<()> {
    let topic = unique("share");
    let filter = format!("$share/g/{topic}");
    let [mut stays, mut leaves] = [client("stays").await?, client("leaves").await?];
    stays.subscribe(&filter, 1).await?;
    leaves.subscribe(&filter, 1).await?;
    let unsuback = leaves.unsubscribe(&[&filter]).await?;
    ensure!(unsuback.reason_codes[..] == [ReasonCode::Success], "{unsuback:?}");
    for number in 0..6 {
        publish(Message::new(&topic, number.to_string()).qos(1)).await?;
        expect_text(&mut stays, &number.to_string()).await?;
    }
    leaves.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn what_a_member_leaves_unacknowledged_goes_to_another() -> Result<()> {
    let topic = unique("share");
    let filter = format!("$share/g/{topic}");
    let mut first = client("first").await?;
    first.subscribe(&filter, 1).await?;
    publish(Message::new(&topic, "x").qos(1)).await?;
    first.expect_publish().await?;
    let mut second = client("second").await?;
    second.subscribe(&filter, 1).await?;
    drop(first);
    expect_text(&mut second, "x").await.map(|_| ())
}

#[tokio::test]
async fn connected_members_come_before_those_that_are_away() -> Result<()> {
    let topic = unique("share");
    let filter = format!("$share/g/{topic}");
    let mut away = connected(ConnectOptions::v5(unique("away")).persistent()).await?;
    away.subscribe(&filter, 1).await?;
    away.disconnect().await?;
    let mut present = client("present").await?;
    present.subscribe(&filter, 1).await?;
    for number in 0..6 {
        publish(Message::new(&topic, number.to_string()).qos(1)).await?;
        expect_text(&mut present, &number.to_string()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_group_of_which_all_members_are_away_keeps_its_messages() -> Result<()> {
    let (id, topic) = (unique("away"), unique("share"));
    let mut away = connected(ConnectOptions::v5(&id).persistent()).await?;
    away.subscribe(&format!("$share/g/{topic}"), 1).await?;
    away.disconnect().await?;
    publish(Message::new(&topic, "kept").qos(1)).await?;
    expect_text(
        &mut connected(ConnectOptions::v5(&id).persistent()).await?,
        "kept",
    )
    .await
    .map(|_| ())
}

/// A persistent member with one of five messages under way to it, which it has not acknowledged.
async fn busy_member(id: &str, topic: &str) -> Result<Client> {
    let mut member = connected(ConnectOptions::v5(id).persistent().receive_maximum(1)).await?;
    member.subscribe(&format!("$share/g/{topic}"), 1).await?;
    for number in 0..5 {
        publish(Message::new(topic, number.to_string()).qos(1)).await?;
    }
    let first = member.expect_publish().await?;
    ensure!(text(&first) == "0", "{first:?}");
    Ok(member)
}

/// Once each. Perhaps not in their order: some may have been offered once more to the one that just leaves.
async fn expect_in_any_order(client: &mut Client, numbers: std::ops::Range<usize>) -> Result<()> {
    let mut handed_over = BTreeSet::new();
    for _ in numbers.clone() {
        let next = client.receive().await;
        handed_over.insert(text(&next.with_context(|| format!("after {handed_over:?}"))?));
    }
    let expected: BTreeSet<String> = numbers.map(|number| number.to_string()).collect();
    ensure!(handed_over == expected, "{handed_over:?}");
    Ok(())
}

#[tokio::test]
async fn what_was_not_sent_to_a_kept_member_that_unsubscribes_goes_to_another() -> Result<()> {
    let topic = unique("share");
    let filter = format!("$share/g/{topic}");
    let mut leaves = busy_member(&unique("leaves"), &topic).await?;
    let mut stays = client("stays").await?;
    stays.subscribe(&filter, 1).await?;
    let unsuback = leaves.unsubscribe(&[&filter]).await?;
    ensure!(unsuback.reason_codes[..] == [ReasonCode::Success], "{unsuback:?}");
    expect_in_any_order(&mut stays, 1..5).await?;
    leaves.expect_no_publish(MOMENT).await?;
    stays.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn what_a_kept_member_leaves_unacknowledged_goes_to_one_that_is_connected() -> Result<()> {
    let (id, topic) = (unique("leaves"), unique("share"));
    let leaves = busy_member(&id, &topic).await?;
    let mut stays = client("stays").await?;
    stays.subscribe(&format!("$share/g/{topic}"), 1).await?;
    drop(leaves);
    expect_in_any_order(&mut stays, 0..5).await?;
    let mut back = connected(ConnectOptions::v5(&id).persistent()).await?;
    back.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn what_a_session_that_ends_had_of_a_share_goes_to_another_member() -> Result<()> {
    let (id, topic) = (unique("ends"), unique("share"));
    drop(busy_member(&id, &topic).await?);
    let mut stays = connected(ConnectOptions::v5(unique("stays")).persistent()).await?;
    stays.subscribe(&format!("$share/g/{topic}"), 1).await?;
    stays.expect_no_publish(MOMENT).await?;
    // A clean start is the end of the session.
    connected(ConnectOptions::v5(&id)).await?.disconnect().await?;
    expect_in_any_order(&mut stays, 0..5).await?;
    stays.expect_no_publish(MOMENT).await
}

async fn everything(client: &mut Client) -> Result<Vec<String>> {
    let received = client.receive_all().await?;
    Ok(received.iter().map(text).collect())
}

/// Three members of a group at a broker with this strategy.
async fn members(strategy: &str) -> Result<(Broker, [Client; 3])> {
    let broker = with_config(&format!("[mqtt]\nshared_strategy = \"{strategy}\""))?;
    let member = async |name: &str| -> Result<Client> {
        let mut member = Client::connect(broker.mqtt_addr(), ConnectOptions::v5(name)).await?;
        member.subscribe("$share/g/t/#", 1).await?;
        Ok(member)
    };
    let members = [member("a").await?, member("b").await?, member("c").await?];
    Ok((broker, members))
}

/// Which member gets each of these messages; they go out one after the other.
async fn takers(
    publisher: &mut Client,
    members: &mut [Client; 3],
    topics: impl IntoIterator<Item = String>,
) -> Result<Vec<usize>> {
    let mut takers = Vec::new();
    for topic in topics {
        publisher.publish(Message::new(&topic, &topic).qos(1)).await?;
        let [a, b, c] = &mut *members;
        let (taker, received) = tokio::select! {
            received = a.receive() => (0, received),
            received = b.receive() => (1, received),
            received = c.receive() => (2, received),
        };
        ensure!(received?.publication.topic().as_str() == topic);
        takers.push(taker);
    }
    // Nobody has one that another had, too.
    for member in members {
        member.expect_no_publish(std::time::Duration::ZERO).await?;
    }
    Ok(takers)
}

fn used(takers: &[usize]) -> usize {
    takers.iter().collect::<BTreeSet<_>>().len()
}

/// Of one topic, and of many.
fn topics(count: usize) -> (Vec<String>, Vec<String>) {
    let many = (0..count).map(|number| format!("t/{number}")).collect();
    (vec!["t/one".to_owned(); count], many)
}

#[tokio::test]
async fn a_share_goes_to_its_members_by_the_strategy_of_the_configuration() -> Result<()> {
    // How many members have one topic of one publisher, many topics of one publisher, one topic of many publishers.
    for (strategy, expected) in [
        ("round-robin", [3, 3, 3]),
        ("random", [3, 3, 3]),
        ("sticky", [1, 1, 1]),
        ("hash-client", [1, 1, 3]),
        ("hash-topic", [1, 3, 1]),
    ] {
        let (broker, mut members) = members(strategy).await?;
        let connect =
            async |name: String| Client::connect(broker.mqtt_addr(), ConnectOptions::v5(name)).await;
        let (one, many) = topics(48);
        let mut publisher = connect("publisher".to_owned()).await?;
        let of_one = takers(&mut publisher, &mut members, one).await?;
        let of_many = takers(&mut publisher, &mut members, many).await?;
        let mut of_all = Vec::new();
        for number in 0..48 {
            let mut publisher = connect(format!("publisher-{number}")).await?;
            of_all.extend(takers(&mut publisher, &mut members, ["t/one".to_owned()]).await?);
        }
        let found = [used(&of_one), used(&of_many), used(&of_all)];
        ensure!(found == expected, "{strategy}: {found:?}");
        let in_turn = of_one
            .windows(4)
            .all(|four| four[0] == four[3] && four[0] != four[1]);
        ensure!(in_turn == (strategy == "round-robin"), "{strategy}: {of_one:?}");
    }
    Ok(())
}
