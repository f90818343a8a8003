//! What members of shared subscriptions leave behind: who gets it, and when. [MQTT5 4.8.2]

use crate::common::{Shard, disconnect, message, persistent, subscription};
use cluster_proto::shard_command::Command;
use cluster_proto::{Append, Connect, Disconnect, NodeDown, OutboxDone, Unsubscribe};
use cluster_state::{DropReason, Effect, OutboxBody};

/// What the outbox has for members of shares: the share and the payload.
fn left_behind(shard: &Shard) -> Vec<(String, String)> {
    let items = shard.state.outbox().filter_map(|item| match item.body {
        OutboxBody::Shared(id, share) => {
            let payload = &shard.bodies[&id].payload;
            Some((share.to_string(), String::from_utf8_lossy(payload).into_owned()))
        }
        _ => None,
    });
    items.collect()
}

/// A member of two shares with a plain subscription; of `g` it has four messages, three with QoS 1.
fn member_of_two_shares(shard: &mut Shard) -> u64 {
    let epoch = shard.subscriber("c", "plain", 1);
    shard.subscribe("c", epoch, subscription("$share/g/a", 2));
    shard.subscribe("c", epoch, subscription("$share/h/a", 1));
    shard.append_with(chosen("c", "$share/g/a", "0"));
    shard.append_with(Append {
        publication: Some(message("a", "exactly", 2)),
        ..chosen("c", "$share/g/a", "")
    });
    shard.append(message("plain", "plain", 1));
    shard.append_with(chosen("c", "$share/h/a", "other"));
    shard.append_with(chosen("c", "$share/g/a", "1"));
    shard.append_with(chosen("c", "$share/g/a", "2"));
    epoch
}

fn of_g(payloads: &[&str]) -> Vec<(String, String)> {
    let of_g = |payload: &&str| ("$share/g/a".to_owned(), (*payload).to_owned());
    payloads.iter().map(of_g).collect()
}

#[test]
fn a_member_that_unsubscribes_leaves_to_others_what_was_not_sent_to_it() {
    let mut shard = Shard::new();
    let epoch = member_of_two_shares(&mut shard);
    let unsubscribe = |hand_over: &[&str], sent_before| {
        Command::Unsubscribe(Unsubscribe {
            client: "c".into(),
            epoch,
            filters: vec!["$share/g/a".into()],
            hand_over: hand_over.iter().map(ToString::to_string).collect(),
            sent_before,
        })
    };
    shard.apply(unsubscribe(&["$share/g/a", "$share/h/a"], 1));
    assert_eq!(left_behind(&shard), of_g(&["exactly", "1", "2"]));
    assert_eq!(shard.payloads("c"), ["0", "plain", "other"]);
    shard.restart();
    assert_eq!(left_behind(&shard), of_g(&["exactly", "1", "2"]));
    let last = shard.state.outbox().last().expect("three messages").number;
    shard.apply(Command::OutboxDone(OutboxDone { up_to: last }));
    assert_eq!(shard.bodies.len(), 3, "what was taken is kept no longer");

    let mut alone = Shard::new();
    member_of_two_shares(&mut alone);
    alone.apply(unsubscribe(&[], 1));
    assert_eq!(alone.payloads("c").len(), 6, "nobody else is there to have it");
}

#[test]
fn who_goes_leaves_everything_of_a_share_to_others_except_what_qos_2_has_begun() {
    for (sent_before, left, stays) in [
        (
            Some(0),
            ["0", "exactly", "1", "2"].as_slice(),
            ["plain", "other"].as_slice(),
        ),
        (Some(2), &["0", "1", "2"], &["exactly", "plain", "other"]),
        (None, &["0", "1", "2"], &["exactly", "plain", "other"]),
    ] {
        let mut shard = Shard::new();
        let epoch = member_of_two_shares(&mut shard);
        shard.apply(Command::Disconnect(Disconnect {
            sent_before,
            hand_over: vec!["$share/g/a".into()],
            ..disconnect("c", epoch)
        }));
        assert_eq!(left_behind(&shard), of_g(left));
        assert_eq!(shard.payloads("c"), stays);
        shard.restart();
    }
}

#[test]
fn a_node_that_dies_leaves_what_its_members_had_of_a_share_to_others() {
    let mut shard = Shard::new();
    member_of_two_shares(&mut shard);
    let elsewhere = shard.connect_with(Connect {
        node: 2,
        ..persistent("elsewhere")
    });
    shard.subscribe("elsewhere", elsewhere.epoch, subscription("$share/g/a", 1));
    shard.append_with(chosen("elsewhere", "$share/g/a", "stays"));
    let down = |hand_over: &[&str]| {
        Command::NodeDown(NodeDown {
            node: 1,
            incarnation: 1,
            hand_over: hand_over.iter().map(ToString::to_string).collect(),
        })
    };
    shard.apply(down(&["$share/g/a"]));
    assert_eq!(left_behind(&shard), of_g(&["0", "1", "2"]));
    assert_eq!(shard.payloads("c"), ["exactly", "plain", "other"]);
    assert_eq!(shard.payloads("elsewhere"), ["stays"]);
    shard.restart();
    shard.apply(down(&["$share/g/a", "$share/h/a"]));
    assert_eq!(left_behind(&shard).len(), 3, "it was told before");
}

#[test]
fn a_session_that_expires_leaves_its_shared_messages_to_others_and_loses_the_rest() {
    let mut shard = Shard::new();
    shard.connect_with(Connect {
        session_expiry_s: 10,
        ..persistent("c")
    });
    let epoch = member_of_two_shares(&mut shard);
    shard.apply(Command::Disconnect(Disconnect {
        session_expiry_s: Some(10),
        sent_before: Some(0),
        ..disconnect("c", epoch)
    }));
    assert!(left_behind(&shard).is_empty(), "it may come back");
    shard.restart();
    shard.tick_after_s(11);
    let payloads: Vec<String> = left_behind(&shard)
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    assert_eq!(payloads, ["0", "exactly", "other", "1", "2"]);
    assert!(shard.has(|effect| matches!(
        effect,
        Effect::Dropped {
            reason: DropReason::SessionEnded,
            count: 1
        }
    )));
}

fn chosen(client: &str, share_filter: &str, payload: &str) -> Append {
    Append {
        publication: Some(message("a", payload, 1)),
        only_client: client.into(),
        share_filter: share_filter.into(),
        ..Append::default()
    }
}
