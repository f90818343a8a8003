//! Messages on their way to durable sessions: matching, limits, acknowledgements, and the other direction at QoS 2.

use crate::common::{Shard, message, persistent, reason, subscription};
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Append, Connect, Inbound, OutboxDone, Publication, Receive, Release, Subscription, rejected::Reason,
};
use cluster_state::{DropReason, Effect};

fn dropped(reason: DropReason, count: u64) -> impl Fn(&Effect) -> bool {
    move |effect| *effect == Effect::Dropped { reason, count }
}

#[test]
fn a_message_is_stored_once_for_all_sessions_and_released_by_the_last() {
    let mut shard = Shard::new();
    let one = shard.subscriber("one", "a/#", 1);
    let other = shard.subscriber("other", "a/b", 2);
    assert_eq!(shard.append(message("a/b", "1", 2)), (2, 0));
    assert_eq!(
        shard
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::MessageStored { .. }))
            .count(),
        1
    );
    assert_eq!(shard.queue("one")[0].qos, 1);
    assert_eq!(shard.queue("other")[0].qos, 2);
    shard.acknowledge("one", one, 0, 0);
    assert_eq!(shard.bodies.len(), 1);
    shard.acknowledge("other", other, 0, 0);
    assert!(shard.bodies.is_empty());
}

#[test]
fn only_deliveries_above_qos_0_are_queued() {
    let mut shard = Shard::new();
    shard.subscriber("zero", "a", 0);
    shard.subscriber("one", "a", 1);
    assert_eq!(shard.append(message("a", "0", 0)), (0, 0));
    assert!(shard.effects.is_empty());
    assert_eq!(shard.append(message("a", "1", 1)), (1, 0));
    assert!(shard.queue("zero").is_empty());
}

#[test]
fn overlapping_subscriptions_lead_to_one_copy_with_all_identifiers_and_the_highest_qos() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    for (filter, qos, subscription_id, retain_as_published) in [
        ("a/+", 1, 7, false),
        ("a/#", 2, 3, true),
        ("#", 0, 0, false),
        ("+/b", 0, 7, false),
    ] {
        let subscription = Subscription {
            subscription_id,
            retain_as_published,
            ..subscription(filter, qos)
        };
        shard.subscribe("c", epoch, subscription);
    }
    shard.append(Publication {
        retain: true,
        ..message("a/b", "1", 2)
    });
    let queue = shard.queue("c");
    assert_eq!(queue.len(), 1);
    assert_eq!((queue[0].qos, queue[0].retain), (2, true));
    assert_eq!(queue[0].subscription_ids, [3, 7, 7]);
    shard.restart();
    assert_eq!(shard.queue("c"), queue);
}

#[test]
fn the_retain_flag_is_kept_only_if_the_subscription_asks() {
    let mut shard = Shard::new();
    shard.subscriber("c", "a", 1);
    shard.append(Publication {
        retain: true,
        ..message("a", "1", 1)
    });
    assert!(!shard.queue("c")[0].retain);
    let stored = Append {
        publication: Some(Publication {
            retain: true,
            ..message("a", "2", 1)
        }),
        only_client: "c".into(),
        share_filter: "a".into(),
        retained: true,
        ..Append::default()
    };
    shard.append_with(stored);
    assert!(shard.queue("c")[1].retain && !shard.queue("c")[1].from_share);
}

#[test]
fn no_local_is_a_matter_of_each_subscription() {
    let mut shard = Shard::new();
    let epoch = shard.connect("publisher").epoch;
    shard.subscribe(
        "publisher",
        epoch,
        Subscription {
            no_local: true,
            ..subscription("a", 1)
        },
    );
    assert_eq!(shard.append(message("a", "own", 1)), (0, 0));
    shard.subscribe("publisher", epoch, subscription("#", 1));
    assert_eq!(shard.append(message("a", "own", 1)), (1, 0));
    let other = Publication {
        publisher: "other".into(),
        ..message("a", "other", 1)
    };
    assert_eq!(shard.append(other), (1, 0));
}

#[test]
fn a_replaced_subscription_keeps_the_queue() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    shard.append(message("a", "1", 2));
    assert!(shard.subscribe("c", epoch, subscription("a", 2)));
    shard.append(message("a", "2", 2));
    assert_eq!(
        shard.queue("c").iter().map(|item| item.qos).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn messages_stay_queued_after_unsubscribe() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    shard.append(message("a", "1", 1));
    assert!(shard.unsubscribe("c", epoch, "a"));
    assert!(!shard.unsubscribe("c", epoch, "a"));
    assert_eq!(shard.append(message("a", "2", 1)), (0, 0));
    assert_eq!(shard.payloads("c"), ["1"]);
}

#[test]
fn routes_follow_the_first_and_the_last_subscription_that_queues() {
    let mut shard = Shard::new();
    let route = |added| move |effect: &Effect| matches!(effect, Effect::RoutesChanged { added: is, .. } if *is == added);
    let zero = shard.subscriber("zero", "a/+", 0);
    assert!(!shard.has(route(true)) && shard.state.routes().count() == 0);
    let one = shard.subscriber("one", "a/+", 1);
    assert!(shard.has(route(true)));
    let two = shard.subscriber("two", "a/+", 2);
    assert!(!shard.has(route(true)));
    assert_eq!(shard.state.routes().collect::<Vec<_>>(), ["a/+"]);
    shard.unsubscribe("one", one, "a/+");
    assert!(!shard.has(route(false)));
    shard.subscribe("two", two, subscription("a/+", 0));
    assert!(shard.has(route(false)));
    shard.subscribe("zero", zero, subscription("a/+", 1));
    assert!(shard.has(route(true)));
}

#[test]
fn an_invalid_filter_changes_nothing() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    for filter in ["", "a/#/b", "a+", "$share/g", "$share//a", "$share/g+/a"] {
        let subscriptions = vec![subscription("good", 1), subscription(filter, 1)];
        let command = cluster_proto::Subscribe {
            client: "c".into(),
            epoch,
            subscriptions,
        };
        assert_eq!(
            reason(&shard.apply(Command::Subscribe(command))),
            Some(Reason::Malformed),
            "{filter}"
        );
        assert_eq!(shard.state.totals().subscriptions, 0);
    }
}

#[test]
fn members_of_a_share_are_told_and_get_only_what_is_meant_for_them() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    shard.subscribe(
        "c",
        epoch,
        Subscription {
            subscription_id: 9,
            ..subscription("$share/g/a", 1)
        },
    );
    assert!(shard.has(|effect| matches!(
        effect,
        Effect::SharedMember {
            added: true,
            member,
            ..
        } if member.qos == 1
    )));
    assert_eq!(shard.state.shared_members(7).count(), 1);
    assert_eq!(shard.append(message("a", "plain", 1)), (0, 0));
    assert_eq!(shard.append_with(chosen("c", "$share/g/a", "shared")), (1, 0));
    let queue = shard.queue("c");
    assert!(queue[0].from_share);
    assert_eq!(queue[0].subscription_ids, [9]);
    shard.unsubscribe("c", epoch, "$share/g/a");
    assert!(shard.has(|effect| matches!(effect, Effect::SharedMember { added: false, .. })));
    let rejected = shard.apply(Command::Append(chosen("c", "$share/g/a", "late")));
    assert_eq!(reason(&rejected), Some(Reason::NoSession));
}

#[test]
fn the_owner_is_woken_and_a_disconnected_session_is_not() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    shard.append(message("a", "1", 1));
    assert!(shard.has(|effect| matches!(effect, Effect::QueueGrew { epoch: woken, .. } if *woken == epoch)));
    shard.disconnect("c", epoch);
    shard.append(message("a", "2", 1));
    assert!(!shard.has(|effect| matches!(effect, Effect::QueueGrew { .. })));
    assert_eq!(shard.payloads("c"), ["1", "2"]);
}

#[test]
fn the_cursor_follows_acknowledgements_and_never_moves_back() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    for number in 0..10 {
        shard.append(message("a", &number.to_string(), 1));
    }
    shard.acknowledge("c", epoch, 2, 3);
    shard.acknowledge("c", epoch, 6, 6);
    shard.acknowledge("c", epoch, 0, 0);
    shard.acknowledge("c", epoch, 5, 4);
    shard.restart();
    let connected = shard.connect("c");
    assert_eq!((connected.first_sequence, connected.next_sequence), (1, 10));
    let gaps: Vec<_> = connected
        .acknowledged
        .iter()
        .map(|range| (range.first, range.last))
        .collect();
    assert_eq!(gaps, [(2, 3), (6, 6)]);
    shard.acknowledge("c", connected.epoch, 0, u64::MAX);
    assert_eq!(shard.connect("c").first_sequence, 10);
    shard.append(message("a", "next", 1));
    assert_eq!(shard.queue("c")[0].sequence, 10);
}

#[test]
fn acknowledgements_of_an_ended_connection_count_until_another_comes() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    shard.append(message("a", "1", 1));
    shard.disconnect("c", epoch);
    shard.acknowledge("c", epoch, 0, 0);
    assert!(shard.queue("c").is_empty());
}

#[test]
fn received_deliveries_are_remembered_for_the_next_connection() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 2);
    shard.append(message("a", "one", 1));
    shard.append(message("a", "two", 2));
    let receive = Receive {
        client: "c".into(),
        epoch,
        sequences: vec![0, 1, 77],
    };
    shard.apply(Command::Receive(receive));
    shard.restart();
    assert_eq!(shard.connect("c").received, [1]);
    assert_eq!(
        shard
            .queue("c")
            .iter()
            .map(|item| item.received)
            .collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn a_full_queue_refuses_new_messages() {
    let mut shard = Shard::new();
    limited(&mut shard, 2, 1 << 20, false);
    assert_eq!(shard.append(message("a", "1", 1)), (1, 0));
    assert_eq!(shard.append(message("a", "2", 1)), (1, 0));
    assert_eq!(shard.append(message("a", "3", 1)), (0, 1));
    assert!(shard.has(dropped(DropReason::QueueFull, 1)));
    assert_eq!(shard.payloads("c"), ["1", "2"]);
    assert_eq!(shard.bodies.len(), 2);
}

#[test]
fn a_full_queue_drops_its_oldest_messages_if_told_to() {
    let mut shard = Shard::new();
    let epoch = limited(&mut shard, 2, 1 << 20, true);
    shard.disconnect("c", epoch);
    for number in 1..=4 {
        shard.append(message("a", &number.to_string(), 1));
    }
    assert!(shard.has(dropped(DropReason::QueueFull, 1)));
    assert_eq!(shard.payloads("c"), ["3", "4"]);
}

#[test]
fn what_may_have_been_sent_is_not_dropped_for_what_is_new() {
    let mut shard = Shard::new();
    let epoch = limited(&mut shard, 2, 1 << 20, true);
    shard.append(message("a", "sent", 1));
    shard.disconnect("c", epoch);
    for number in 1..=3 {
        shard.append(message("a", &number.to_string(), 1));
    }
    assert_eq!(shard.payloads("c"), ["sent", "3"]);
}

#[test]
fn while_connected_a_qos_2_delivery_is_not_dropped_half_way() {
    let mut shard = Shard::new();
    limited(&mut shard, 2, 1 << 20, true);
    shard.append(message("a", "two", 2));
    shard.append(message("a", "one", 1));
    assert_eq!(shard.append(message("a", "new", 1)), (1, 1));
    assert_eq!(shard.payloads("c"), ["two", "new"]);
}

#[test]
fn bytes_are_limited_too_and_one_that_never_fits_drops_nothing_else() {
    let mut shard = Shard::new();
    let epoch = limited(&mut shard, 100, 10, true);
    shard.disconnect("c", epoch);
    shard.append(message("a", "1234", 1));
    shard.append(message("a", "5678", 1));
    assert_eq!(shard.append(message("a", "12345678901", 1)), (0, 1));
    assert_eq!(shard.payloads("c"), ["1234", "5678"]);
    assert_eq!(shard.append(message("a", "90", 1)), (1, 1));
    assert_eq!(shard.payloads("c"), ["5678", "90"]);
    assert_eq!(shard.state.totals().queued_bytes, 8);
}

#[test]
fn a_queue_is_near_its_limit_when_a_fifth_of_its_room_is_not_left() {
    for (messages_max, bytes_max) in [(10, 0), (0, 20), (10, 20)] {
        let mut shard = Shard::new();
        let epoch = limited(&mut shard, messages_max, bytes_max, true);
        shard.disconnect("c", epoch);
        for _ in 0..8 {
            shard.append(message("a", "1", 1));
            assert_eq!(shard.state.queues_near_limit(), 0, "{messages_max}, {bytes_max}");
        }
        shard.append(message("a", "1", 1));
        assert_eq!(shard.state.queues_near_limit(), 1, "{messages_max}, {bytes_max}");
    }
    let mut unlimited = Shard::new();
    limited(&mut unlimited, 0, 0, true);
    unlimited.append(message("a", "1", 1));
    assert_eq!(unlimited.state.queues_near_limit(), 0);
}

#[test]
fn expired_messages_leave_the_queue_of_a_disconnected_session() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    shard.append(expiring(&shard, "sent", 1));
    shard.disconnect("c", epoch);
    shard.append(expiring(&shard, "short", 5));
    shard.append(message("a", "lasting", 1));
    shard.append(expiring(&shard, "long", 500));
    shard.restart();
    shard.tick_after_s(10);
    assert!(shard.has(dropped(DropReason::Expired, 1)));
    assert_eq!(shard.payloads("c"), ["sent", "lasting", "long"]);
    shard.tick_after_s(1000);
    assert_eq!(shard.payloads("c"), ["sent", "lasting"]);
    assert_eq!(shard.state.next_deadline_ms(), None);
}

#[test]
fn a_message_that_is_expired_already_is_counted_not_queued() {
    let mut shard = Shard::new();
    shard.subscriber("c", "a", 1);
    let late = expiring(&shard, "late", 1);
    shard.now_ms += 1000;
    assert_eq!(shard.append(late), (0, 0));
    assert!(shard.has(dropped(DropReason::Expired, 1)));
}

#[test]
fn a_batch_from_another_shard_is_applied_once() {
    let mut shard = Shard::new();
    shard.subscriber("c", "a", 1);
    let epoch = shard.connect("member").epoch;
    shard.subscribe("member", epoch, subscription("$share/g/a", 1));
    let from = |number, append: Append| Append {
        source_shard: Some(3),
        source_number: number,
        ..append
    };
    let plain = |payload| Append {
        publication: Some(message("a", payload, 1)),
        ..Append::default()
    };
    assert_eq!(shard.append_with(from(5, plain("5"))), (1, 0));
    assert_eq!(
        shard.append_with(from(5, chosen("member", "$share/g/a", "5"))),
        (1, 0)
    );
    shard.restart();
    assert_eq!(shard.append_with(from(5, plain("5"))), (0, 0));
    assert_eq!(
        shard.append_with(from(5, chosen("member", "$share/g/a", "5"))),
        (0, 0)
    );
    assert_eq!(shard.append_with(from(4, plain("4"))), (0, 0));
    assert_eq!(shard.append_with(from(6, plain("6"))), (1, 0));
    assert_eq!(
        shard.append_with(Append {
            source_shard: Some(4),
            ..from(5, plain("5"))
        }),
        (1, 0)
    );
    assert_eq!(shard.payloads("c"), ["5", "6", "5"]);
}

#[test]
fn qos_2_publishes_are_kept_under_their_packet_id_and_released_once() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    let inbound = |payload| {
        let publication = Some(message("in", payload, 2));
        Command::Inbound(Inbound {
            client: "c".into(),
            epoch,
            packet_id: 9,
            publication,
        })
    };
    let release = || {
        Command::Release(Release {
            client: "c".into(),
            epoch,
            packet_id: 9,
        })
    };
    shard.apply(inbound("first"));
    assert!(matches!(shard.apply(inbound("again")), Response::Done(_)));
    assert!(shard.effects.is_empty());
    shard.restart();
    assert!(matches!(shard.apply(release()), Response::Done(done) if done.existed == [true]));
    assert!(shard.has(|effect| *effect == Effect::OutboxReady));
    assert!(matches!(shard.apply(release()), Response::Done(done) if done.existed == [false]));
    assert_eq!(shard.outbox(), ["first"]);
    shard.restart();
    let number = shard.state.outbox().next().expect("one message").number;
    shard.apply(Command::OutboxDone(OutboxDone { up_to: number }));
    assert!(shard.bodies.is_empty() && shard.outbox().is_empty());
    shard.restart();
}

#[test]
fn the_next_connection_learns_which_packet_ids_wait_for_their_pubrel() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    for packet_id in [7, 3, 0, 70_000] {
        let publication = Some(message("in", "x", 2));
        shard.apply(Command::Inbound(Inbound {
            client: "c".into(),
            epoch,
            packet_id,
            publication,
        }));
    }
    assert_eq!(shard.connect("c").inbound_packet_ids, [3, 7]);
}

#[test]
fn a_queue_is_read_in_parts() {
    let mut shard = Shard::new();
    shard.subscriber("c", "a", 1);
    for number in 0..10 {
        shard.append(message("a", &format!("{number}-23456789"), 1));
    }
    let (items, next) = shard.state.queue_from("c", 0, 3, usize::MAX);
    assert_eq!((items.len(), next), (3, 3));
    let (items, next) = shard.state.queue_from("c", next, 100, 25);
    assert_eq!((items.len(), next), (2, 5));
    let (items, next) = shard.state.queue_from("c", next, 100, 1);
    assert_eq!((items.len(), next), (1, 6));
    let (items, next) = shard.state.queue_from("c", next, 100, 1000);
    assert_eq!((items.len(), next), (4, 10));
    assert_eq!(shard.state.queue_from("nobody", 4, 1, 1), (Vec::new(), 4));
}

#[test]
fn a_position_that_was_applied_is_not_applied_again() {
    let mut shard = Shard::new();
    shard.subscriber("c", "a", 1);
    shard.append(message("a", "1", 1));
    shard.index -= 1;
    let again = shard.apply(Command::Append(Append {
        publication: Some(message("a", "1", 1)),
        ..Append::default()
    }));
    assert_eq!(reason(&again), Some(Reason::Unknown));
    assert_eq!(shard.payloads("c"), ["1"]);
}

#[test]
fn a_long_queue_is_checkpointed_in_parts() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    for _ in 0..900 {
        shard.append(message("a", "x", 1));
    }
    shard.checkpoint();
    assert_eq!(chunks(&shard), 4);
    shard.append(message("a", "x", 1));
    let changed = shard.state.take_dirty();
    assert_eq!(
        changed.iter().filter(|(key, _)| key[0] == b'q').count(),
        1,
        "only the end of the queue"
    );
    for (key, value) in changed {
        shard.records.insert(key, value.expect("nothing is gone"));
    }
    shard.acknowledge("c", epoch, 0, 511);
    shard.checkpoint();
    assert_eq!(chunks(&shard), 2);
    shard.restart();
    assert_eq!(shard.queue("c").len(), 389);
    assert_eq!(shard.state.live_messages_up_to(u64::MAX).count(), 389);
}

fn chunks(shard: &Shard) -> usize {
    shard.records.keys().filter(|key| key[0] == b'q').count()
}

fn limited(shard: &mut Shard, queue_messages_max: u64, queue_bytes_max: u64, drop_oldest: bool) -> u64 {
    let connect = Connect {
        queue_messages_max,
        queue_bytes_max,
        drop_oldest,
        ..persistent("c")
    };
    let epoch = shard.connect_with(connect).epoch;
    shard.subscribe("c", epoch, subscription("a", 2));
    epoch
}

fn chosen(client: &str, share_filter: &str, payload: &str) -> Append {
    Append {
        publication: Some(message("a", payload, 1)),
        only_client: client.into(),
        share_filter: share_filter.into(),
        ..Append::default()
    }
}

fn expiring(shard: &Shard, payload: &str, seconds: u64) -> Publication {
    Publication {
        expires_at_ms: shard.now_ms + seconds * 1000,
        ..message("a", payload, 1)
    }
}
