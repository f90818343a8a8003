//! Who owns a session, when it ends, and what becomes of its will.

use crate::common::{Shard, clean, disconnect, judged_will, message, persistent, reason, subscription, will};
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Acknowledge, Connect, Disconnect, EndSession, Inbound, NodeDown, Receive, Release, Subscribe,
    Unsubscribe, rejected::Reason,
};
use cluster_state::{Effect, EndReason};

fn lost(epoch: u64) -> impl Fn(&Effect) -> bool {
    move |effect| matches!(effect, Effect::OwnerLost { epoch: lost, .. } if *lost == epoch)
}

fn ended(reason: EndReason) -> impl Fn(&Effect) -> bool {
    move |effect| matches!(effect, Effect::SessionEnded { reason: why, .. } if *why == reason)
}

#[test]
fn second_connect_with_the_same_client_id_takes_over_the_session() {
    let mut shard = Shard::new();
    let first = shard.connect("c");
    shard.subscribe("c", first.epoch, subscription("a", 1));
    shard.append(message("a", "1", 1));
    let second = shard.connect_with(Connect {
        node: 2,
        ..persistent("c")
    });

    assert!(second.session_present && second.epoch > first.epoch);
    assert_eq!(
        second.previous.map(|owner| (owner.node, owner.epoch)),
        Some((1, first.epoch))
    );
    assert_eq!(
        (second.first_sequence, second.next_sequence, second.sent_before),
        (0, 1, 1)
    );
    assert_eq!(second.subscriptions, [subscription("a", 1)]);
    assert!(shard.has(lost(first.epoch)));
    assert!(!shard.state.is_owner("c", first.epoch) && shard.state.is_owner("c", second.epoch));
}

#[test]
fn a_session_is_not_taken_from_another_node_before_its_connection_was_asked_to_close() {
    let mut shard = Shard::new();
    let first = shard.subscriber("c", "a", 1);
    let connect = |node, heard_out| {
        Command::Connect(Connect {
            node,
            heard_out: Some(heard_out),
            ..persistent("c")
        })
    };

    let response = shard.apply(connect(2, first - 1));

    let Response::Owned(owner) = response else {
        panic!("taken: {response:?}");
    };
    assert_eq!((owner.node, owner.epoch), (1, first));
    assert!(shard.state.is_owner("c", first) && !shard.has(lost(first)));

    let taken = |shard: &mut Shard, command| match shard.apply(command) {
        Response::Connected(connected) => connected.epoch,
        other => panic!("not taken: {other:?}"),
    };
    let second = taken(&mut shard, connect(2, first));
    let third = taken(&mut shard, connect(2, 0));
    shard.apply(Command::Disconnect(disconnect("c", third)));
    let fourth = taken(&mut shard, connect(1, 0));
    assert!(first < second && second < third && third < fourth);
}

#[test]
fn nothing_of_a_fenced_connection_changes_the_state() {
    let mut shard = Shard::new();
    let old = shard.subscriber("c", "a", 2);
    shard.append(message("a", "1", 2));
    shard.apply(Command::Inbound(inbound("c", old, 5, "kept")));
    shard.connect("c");
    let client = || "c".to_owned();
    let commands = [
        Command::Disconnect(Disconnect {
            publish_will: true,
            ..disconnect("c", old)
        }),
        Command::Subscribe(Subscribe {
            client: client(),
            epoch: old,
            subscriptions: vec![subscription("b", 1)],
        }),
        Command::Unsubscribe(Unsubscribe {
            client: client(),
            epoch: old,
            filters: vec!["a".into()],
            ..Unsubscribe::default()
        }),
        Command::Acknowledge(Acknowledge {
            client: client(),
            epoch: old,
            ranges: vec![range(0, 9)],
        }),
        Command::Receive(Receive {
            client: client(),
            epoch: old,
            sequences: vec![0],
        }),
        Command::Inbound(inbound("c", old, 6, "late")),
        Command::Release(Release {
            client: client(),
            epoch: old,
            packet_id: 5,
        }),
    ];
    let before = sessions_only(&shard);
    for command in commands {
        assert_eq!(reason(&shard.apply(command)), Some(Reason::StaleEpoch));
        assert!(shard.effects.is_empty());
    }
    assert_eq!(sessions_only(&shard), before);
}

#[test]
fn commands_for_a_client_without_a_session_are_rejected() {
    let mut shard = Shard::new();
    assert_eq!(reason(&shard.disconnect("nobody", 1)), Some(Reason::NoSession));
    assert_eq!(
        reason(&shard.acknowledge("nobody", 1, 0, 5)),
        Some(Reason::NoSession)
    );
    let end = Command::EndSession(EndSession {
        client: "nobody".into(),
    });
    assert_eq!(reason(&shard.apply(end)), Some(Reason::NoSession));
    assert_eq!(
        reason(&shard.apply(Command::Connect(Connect::default()))),
        Some(Reason::Malformed)
    );
}

#[test]
fn a_session_is_present_until_its_expiry_has_passed() {
    let mut shard = Shard::new();
    let connect = || Connect {
        session_expiry_s: 10,
        ..persistent("c")
    };
    let first = shard.connect_with(connect());
    assert!(!first.session_present);
    shard.disconnect("c", first.epoch);
    shard.tick_after_s(9);
    let second = shard.connect_with(connect());
    assert!(second.session_present);
    shard.disconnect("c", second.epoch);
    // The tick is late: the CONNECT finds the session expired all the same.
    shard.now_ms += 10_000;
    assert!(!shard.connect_with(connect()).session_present);
    assert!(shard.has(ended(EndReason::Expired)));
}

#[test]
fn expired_sessions_are_ended_by_time_alone() {
    let mut shard = Shard::new();
    let epoch = shard
        .connect_with(Connect {
            session_expiry_s: 10,
            ..persistent("c")
        })
        .epoch;
    shard.subscribe("c", epoch, subscription("a", 1));
    shard.disconnect("c", epoch);
    assert_eq!(shard.state.next_deadline_ms(), Some(shard.now_ms + 10_000));
    shard.append(message("a", "1", 1));
    shard.tick_after_s(10);
    assert!(shard.has(ended(EndReason::Expired)));
    assert!(shard.has(|effect| matches!(effect, Effect::RoutesChanged { added: false, .. })));
    assert!(shard.state.session("c").is_none() && shard.bodies.is_empty());
}

#[test]
fn a_session_that_never_expires_has_no_deadline() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    shard.disconnect("c", epoch);
    assert_eq!(shard.state.next_deadline_ms(), None);
    shard.tick_after_s(1 << 40);
    assert!(shard.connect("c").session_present);
}

#[test]
fn a_session_without_expiry_has_an_owner_and_ends_with_the_connection() {
    let mut shard = Shard::new();
    let epoch = shard.connect_with(clean("c")).epoch;
    assert!(shard.state.is_owner("c", epoch));
    // MQTT5 3.14.2.2.2: a DISCONNECT cannot make it a persistent one.
    shard.apply(Command::Disconnect(Disconnect {
        session_expiry_s: Some(100),
        ..disconnect("c", epoch)
    }));
    assert!(shard.has(ended(EndReason::Disconnected)));
    assert!(shard.state.session("c").is_none());
}

#[test]
fn taking_over_a_session_without_expiry_ends_it() {
    let mut shard = Shard::new();
    let first = shard.connect_with(clean("c")).epoch;
    let second = shard.connect("c");
    assert!(!second.session_present);
    assert_eq!(second.previous.map(|owner| owner.epoch), Some(first));
    assert!(shard.has(lost(first)) && shard.has(ended(EndReason::Disconnected)));
}

#[test]
fn clean_start_drops_the_old_session_and_counts_what_was_queued() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a", 1);
    shard.append(message("a", "1", 1));
    shard.disconnect("c", epoch);
    let fresh = shard.connect_with(Connect {
        clean_start: true,
        ..persistent("c")
    });
    assert!(!fresh.session_present && fresh.subscriptions.is_empty() && fresh.previous.is_none());
    assert!(shard.has(ended(EndReason::CleanStart)));
    assert!(shard.has(|effect| matches!(effect, Effect::Dropped { count: 1, .. })));
    assert!(shard.bodies.is_empty());
}

#[test]
fn disconnect_may_shorten_the_expiry_to_nothing() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    shard.apply(Command::Disconnect(Disconnect {
        session_expiry_s: Some(0),
        ..disconnect("c", epoch)
    }));
    assert!(shard.state.session("c").is_none());
}

#[test]
fn a_will_without_delay_is_published_when_the_connection_is_lost() {
    let mut shard = Shard::new();
    let epoch = with_will(&mut shard, 0);
    shard.lose_connection("c", epoch);
    assert_eq!(shard.outbox(), ["bye"]);
    assert!(shard.has(|effect| *effect == Effect::OutboxReady));
    assert_eq!(
        reason(&shard.lose_connection("c", epoch)),
        Some(Reason::StaleEpoch)
    );
    assert_eq!(shard.outbox(), ["bye"], "once per connection");
}

#[test]
fn a_normal_disconnect_discards_the_will() {
    let mut shard = Shard::new();
    let epoch = with_will(&mut shard, 0);
    shard.disconnect("c", epoch);
    shard.tick_after_s(1_000_000);
    assert!(shard.outbox().is_empty());
}

#[test]
fn a_delayed_will_waits_and_a_return_in_time_cancels_it() {
    let mut shard = Shard::new();
    let epoch = with_will(&mut shard, 30);
    shard.lose_connection("c", epoch);
    shard.tick_after_s(29);
    assert!(shard.outbox().is_empty());
    let epoch = with_will(&mut shard, 30);
    shard.tick_after_s(100);
    assert!(shard.outbox().is_empty(), "cancelled");
    shard.lose_connection("c", epoch);
    shard.tick_after_s(30);
    assert_eq!(shard.outbox(), ["bye"]);
    shard.tick_after_s(30);
    assert_eq!(shard.outbox(), ["bye"]);
}

#[test]
fn a_return_after_the_delay_does_not_cancel_the_will_even_if_no_tick_came() {
    let mut shard = Shard::new();
    let epoch = with_will(&mut shard, 30);
    shard.lose_connection("c", epoch);
    shard.now_ms += 30_000;
    shard.connect("c");
    assert_eq!(shard.outbox(), ["bye"]);
}

#[test]
fn a_delayed_will_is_sent_when_the_session_ends_before_the_delay() {
    let mut shard = Shard::new();
    let connect = Connect {
        session_expiry_s: 10,
        will: Some(will("bye", 60)),
        ..persistent("c")
    };
    let epoch = shard.connect_with(connect).epoch;
    shard.lose_connection("c", epoch);
    shard.tick_after_s(10);
    assert_eq!(shard.outbox(), ["bye"]);
    shard.tick_after_s(60);
    assert_eq!(shard.outbox(), ["bye"]);
}

#[test]
fn a_clean_start_sends_the_will_of_the_session_it_ends() {
    let mut shard = Shard::new();
    let epoch = with_will(&mut shard, 60);
    shard.lose_connection("c", epoch);
    shard.connect_with(Connect {
        clean_start: true,
        ..persistent("c")
    });
    assert_eq!(shard.outbox(), ["bye"]);
}

#[test]
fn a_takeover_sends_a_will_without_delay_and_drops_a_delayed_one() {
    for (delay_s, clean_start, sent) in [(0, false, 1), (60, false, 0), (0, true, 1), (60, true, 1)] {
        let mut shard = Shard::new();
        with_will(&mut shard, delay_s);
        shard.connect_with(Connect {
            clean_start,
            ..persistent("c")
        });
        shard.tick_after_s(1000);
        assert_eq!(
            shard.outbox().len(),
            sent,
            "delay {delay_s}, clean start {clean_start}"
        );
    }
}

#[test]
fn the_life_of_a_will_message_begins_when_it_is_sent() {
    let mut shard = Shard::new();
    let mut will = will("bye", 60);
    will.message_expiry_s = 5;
    let epoch = shard
        .connect_with(Connect {
            will: Some(will),
            ..persistent("c")
        })
        .epoch;
    shard.lose_connection("c", epoch);
    shard.tick_after_s(61);
    let items: Vec<_> = shard.state.outbox().collect();
    let cluster_state::OutboxBody::Will(publication, _) = &items[0].body else {
        panic!("{items:?}")
    };
    assert_eq!(publication.expires_at_ms, shard.now_ms + 5000);
}

#[test]
fn a_will_keeps_what_was_known_of_its_client_until_it_is_done() {
    let mut shard = Shard::new();
    let will = judged_will("bye", 60);
    let author = will.author.clone();
    let epoch = shard
        .connect_with(Connect {
            will: Some(will),
            ..persistent("c")
        })
        .epoch;
    shard.restart();
    shard.lose_connection("c", epoch);
    shard.tick_after_s(61);
    shard.restart();
    let items: Vec<_> = shard.state.outbox().collect();
    let cluster_state::OutboxBody::Will(_, kept) = &items[0].body else {
        panic!("{items:?}")
    };
    assert_eq!(*kept, author);
}

#[test]
fn a_dead_node_loses_its_connections_and_only_those_of_that_life() {
    let mut shard = Shard::new();
    for (client, node, incarnation) in [("a", 1, 1), ("b", 1, 2), ("c", 2, 1), ("d", 1, 1)] {
        let will = Some(will(client, 0));
        shard.connect_with(Connect {
            node,
            incarnation,
            will,
            ..persistent(client)
        });
    }
    shard.connect_with(Connect {
        clean_start: true,
        session_expiry_s: 0,
        ..persistent("e")
    });
    shard.apply(Command::NodeDown(NodeDown {
        hand_over: Vec::new(),
        node: 1,
        incarnation: 1,
    }));
    assert_eq!(shard.outbox(), ["a", "d"]);
    assert!(shard.state.session("e").is_none());
    let connected = |client| {
        shard
            .state
            .session(client)
            .is_some_and(|session| session.connected)
    };
    assert!(!connected("a") && connected("b") && connected("c") && !connected("d"));
    assert!(shard.state.owners().eq([(1, 2), (2, 1)]));
    assert!(shard.state.connected_nodes().eq([(1, 2), (2, 1)]));
}

#[test]
fn an_operator_ends_a_session_whatever_it_does() {
    let mut shard = Shard::new();
    let epoch = with_will(&mut shard, 60);
    shard.apply(Command::EndSession(EndSession { client: "c".into() }));
    assert!(shard.has(lost(epoch)) && shard.has(ended(EndReason::Requested)));
    assert_eq!(shard.outbox(), ["bye"]);
    assert!(shard.state.session("c").is_none());
}

#[test]
fn epochs_grow_over_the_ends_of_sessions() {
    let mut shard = Shard::new();
    let mut last = 0;
    for _ in 0..5 {
        let epoch = shard.connect_with(clean("c")).epoch;
        assert!(epoch > last);
        last = epoch;
        shard.disconnect("c", epoch);
        shard.restart();
    }
}

fn with_will(shard: &mut Shard, delay_s: u32) -> u64 {
    shard
        .connect_with(Connect {
            will: Some(will("bye", delay_s)),
            ..persistent("c")
        })
        .epoch
}

fn inbound(client: &str, epoch: u64, packet_id: u32, payload: &str) -> Inbound {
    Inbound {
        client: client.into(),
        epoch,
        packet_id,
        publication: Some(message("in", payload, 2)),
    }
}

fn range(first: u64, last: u64) -> cluster_proto::SequenceRange {
    cluster_proto::SequenceRange { first, last }
}

/// All records but the shard's own, which holds the position of the last command.
fn sessions_only(shard: &Shard) -> Vec<(Vec<u8>, Vec<u8>)> {
    shard
        .state
        .records()
        .into_iter()
        .filter(|(key, _)| key != b"c")
        .collect()
}

#[test]
fn where_no_session_may_be_added_only_those_that_are_alive_are_taken() {
    let mut shard = Shard::new();
    let only = |connect| Connect {
        existing_only: true,
        ..connect
    };
    let claim = |shard: &mut Shard, connect| match shard.apply(Command::Connect(only(connect))) {
        Response::Connected(connected) => Some(connected.session_present),
        Response::Rejected(rejected) => {
            assert_eq!(rejected.reason(), Reason::NoSession);
            None
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(claim(&mut shard, persistent("t/new")), None);
    assert_eq!(shard.state.sessions_in("t"), 0);

    let kept = Connect {
        session_expiry_s: 60,
        ..persistent("t/kept")
    };
    let first = shard.connect_with(kept.clone());
    assert!(!first.session_present);
    shard.connect("t/other");
    shard.connect("u/other");
    shard.connect("other");
    assert_eq!(
        [shard.state.sessions_in("t"), shard.state.sessions_in("u")],
        [2, 1]
    );
    assert_eq!(claim(&mut shard, kept.clone()), Some(true));
    // Clean Start puts one in the place of another.
    assert_eq!(claim(&mut shard, clean("t/kept")), Some(false));
    let again = shard.connect_with(kept.clone());
    shard.apply(Command::Disconnect(disconnect("t/kept", again.epoch)));
    shard.now_ms += 61_000;
    assert_eq!(claim(&mut shard, kept.clone()), None, "it has expired");
    shard.tick_after_s(0);
    assert_eq!(shard.state.sessions_in("t"), 1);
    shard.connect_with(kept);
    assert_eq!(shard.state.sessions_in("t"), 2);
}
