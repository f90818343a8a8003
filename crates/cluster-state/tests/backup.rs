//! Sessions go into a backup and come back: what a client finds then, and what a backup never overwrites.

use crate::common::{NEVER_S, Shard, message, persistent, reason, subscription};
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Acknowledge, Append, Connect, Publication, Receive, RestoreMessage, RestoreSession, SequenceRange,
    Subscription, rejected::Reason,
};
use cluster_state::{DropReason, Effect};

const BACKUP: u64 = 0xbac0;

/// A client that is away: of its messages 0 is finished, 1 may have been sent, 2 is half-way through QoS 2, 3 and 4 wait.
fn with_a_client_that_is_away() -> Shard {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "a/#", 2);
    shard.subscribe(
        "c",
        epoch,
        Subscription {
            subscription_id: 9,
            retain_as_published: true,
            ..subscription("a/+", 1)
        },
    );
    shard.subscribe("c", epoch, subscription("$share/g/s", 1));
    for text in ["0", "1", "2"] {
        shard.append(message("a/b", text, 2));
    }
    shard.acknowledge("c", epoch, 0, 0);
    shard.apply(Command::Receive(Receive {
        client: "c".into(),
        epoch,
        sequences: vec![2],
    }));
    shard.disconnect("c", epoch);
    shard.append(Publication {
        retain: true,
        ..message("a/b", "3", 1)
    });
    shard.append_with(Append {
        publication: Some(message("s", "4", 1)),
        only_client: "c".into(),
        share_filter: "$share/g/s".into(),
        ..Append::default()
    });
    shard
}

/// What a backup of the shard has.
fn backup(shard: &Shard) -> Vec<Command> {
    let (mut commands, mut behind) = (Vec::new(), String::new());
    while let Some(copy) = shard.state.session_copy_after(&behind, shard.now_ms) {
        behind = copy.client.to_string();
        let left_ms = copy.expires_at_ms.map(|at| at - shard.now_ms);
        commands.push(Command::RestoreSession(RestoreSession {
            backup: BACKUP,
            client: behind.clone(),
            user: copy.user,
            session_expiry_s: copy.session_expiry_s,
            expires_in_s: left_ms.map_or(copy.session_expiry_s, |left| (left / 1000) as u32),
            subscriptions: copy.subscriptions,
            next_sequence: copy.next_sequence,
            sent_before: copy.sent_before,
            queue_messages_max: 1000,
            queue_bytes_max: 1 << 20,
            drop_oldest: true,
        }));
        for copy in shard.state.message_copies(&behind, 0, usize::MAX, usize::MAX) {
            commands.push(Command::RestoreMessage(RestoreMessage {
                backup: BACKUP,
                client: behind.clone(),
                sequence: copy.item.sequence,
                publication: Some(shard.bodies[&copy.item.message].clone()),
                qos: copy.item.qos.into(),
                retain: copy.item.retain,
                subscription_ids: copy.item.subscription_ids,
                share_filter: copy.share_filter.unwrap_or_default(),
                received: copy.item.received,
            }));
        }
    }
    commands
}

fn restore(shard: &mut Shard, commands: Vec<Command>) -> Vec<Response> {
    commands.into_iter().map(|command| shard.apply(command)).collect()
}

fn empty_session(client: &str) -> RestoreSession {
    RestoreSession {
        backup: BACKUP,
        client: client.into(),
        session_expiry_s: NEVER_S,
        subscriptions: vec![subscription("a/#", 1)],
        next_sequence: 10,
        ..RestoreSession::default()
    }
}

fn saved(client: &str, sequence: u64, text: &str) -> RestoreMessage {
    RestoreMessage {
        backup: BACKUP,
        client: client.into(),
        sequence,
        publication: Some(message("a", text, 1)),
        qos: 1,
        ..RestoreMessage::default()
    }
}

#[test]
fn a_session_comes_back_as_its_client_left_it() {
    let mut before = with_a_client_that_is_away();
    let mut after = Shard::new();
    // Other clients have been there, and other entries.
    after.subscriber("somebody", "a/b", 1);
    restore(&mut after, backup(&before));
    after.restart();
    assert_eq!(after.payloads("c"), ["1", "2", "3", "4"]);
    let without_names = |shard: &Shard| {
        let mut items = shard.queue("c");
        items
            .iter_mut()
            .for_each(|item| item.message = Default::default());
        items
    };
    assert_eq!(without_names(&after), without_names(&before));
    let (was, is) = (before.connect("c"), after.connect("c"));
    assert!(is.session_present && is.previous.is_none());
    assert_eq!(is.subscriptions, was.subscriptions);
    assert_eq!(
        (is.first_sequence, is.next_sequence, is.sent_before, is.received),
        (
            was.first_sequence,
            was.next_sequence,
            was.sent_before,
            was.received
        )
    );
    // It matches as before, and what is acknowledged is gone.
    assert_eq!(after.append(message("a/b", "5", 1)).0, 2);
    after.acknowledge("c", is.epoch, 1, 4);
    assert_eq!(after.payloads("c"), ["5"]);
}

#[test]
fn the_shard_has_to_be_announced_for_what_came_back() {
    let mut shard = Shard::new();
    let response = shard.apply(Command::RestoreSession(empty_session("c")));
    let Response::Subscribed(subscribed) = response else {
        panic!("{response:?}")
    };
    assert_eq!(
        (subscribed.existed, subscribed.unannounced),
        (vec![false], vec!["a/#".to_owned()])
    );
    assert!(shard.has(|effect| matches!(effect, Effect::RoutesChanged { added: true, .. })));
}

#[test]
fn a_session_that_is_there_stays_as_it_is() {
    let commands = backup(&with_a_client_that_is_away());
    for connected in [true, false] {
        let mut shard = Shard::new();
        let epoch = shard.subscriber("c", "mine", 1);
        shard.append(message("mine", "newer", 1));
        if !connected {
            shard.disconnect("c", epoch);
        }
        let responses = restore(&mut shard, commands.clone());
        assert_eq!(reason(&responses[0]), Some(Reason::SessionExists));
        let mut rest = responses[1..].iter();
        assert!(rest.all(|response| reason(response) == Some(Reason::NoSession)));
        assert_eq!(shard.payloads("c"), ["newer"]);
        assert_eq!(shard.state.subscriptions("c").len(), 1);
        assert_eq!(shard.state.is_owner("c", epoch), connected);
    }
}

#[test]
fn a_session_that_has_expired_makes_room() {
    let mut shard = Shard::new();
    let soon = Connect {
        session_expiry_s: 5,
        ..persistent("c")
    };
    let epoch = shard.connect_with(soon).epoch;
    shard.disconnect("c", epoch);
    shard.now_ms += 6_000;
    restore(&mut shard, backup(&with_a_client_that_is_away()));
    assert_eq!(shard.payloads("c").len(), 4);
}

#[test]
fn given_again_it_changes_nothing_and_what_came_meanwhile_stays_behind() {
    let commands = backup(&with_a_client_that_is_away());
    let mut shard = Shard::new();
    // Interrupted after the session and its last message.
    shard.apply(commands[0].clone());
    shard.apply(commands[4].clone());
    shard.append(message("a/b", "meanwhile", 1));
    shard.restart();
    for _ in 0..2 {
        let responses = restore(&mut shard, commands.clone());
        assert!(responses.iter().all(|response| reason(response).is_none()));
        assert_eq!(shard.payloads("c"), ["1", "2", "3", "4", "meanwhile"]);
        shard.restart();
    }
    let Response::Subscribed(again) = shard.apply(commands[0].clone()) else {
        panic!("it was refused")
    };
    assert_eq!(again.existed, [true]);
}

#[test]
fn nothing_comes_back_to_a_client_that_has_connected_since() {
    let commands = backup(&with_a_client_that_is_away());
    let mut shard = Shard::new();
    restore(&mut shard, commands[..2].to_vec());
    let connected = shard.connect("c");
    let client = "c".to_owned();
    shard.apply(Command::Acknowledge(Acknowledge {
        client,
        epoch: connected.epoch,
        ranges: vec![SequenceRange { first: 1, last: 1 }],
    }));
    shard.disconnect("c", connected.epoch);
    let responses = restore(&mut shard, commands);
    assert_eq!(reason(&responses[0]), Some(Reason::SessionExists));
    assert_eq!(reason(&responses[1]), Some(Reason::NoSession));
    assert!(shard.payloads("c").is_empty());
}

#[test]
fn two_backups_are_not_mixed() {
    let mut shard = Shard::new();
    restore(&mut shard, backup(&with_a_client_that_is_away()));
    let other = RestoreSession {
        backup: BACKUP + 1,
        ..empty_session("c")
    };
    let response = shard.apply(Command::RestoreSession(other));
    assert_eq!(reason(&response), Some(Reason::SessionExists));
    let other = RestoreMessage {
        backup: BACKUP + 1,
        ..saved("c", 0, "other")
    };
    let response = shard.apply(Command::RestoreMessage(other));
    assert_eq!(reason(&response), Some(Reason::NoSession));
    assert_eq!(shard.payloads("c").len(), 4);
}

#[test]
fn time_goes_on_where_it_was_when_the_backup_was_taken() {
    let mut shard = Shard::new();
    shard.apply(Command::RestoreSession(RestoreSession {
        session_expiry_s: 100,
        expires_in_s: 30,
        ..empty_session("c")
    }));
    let expires_at_ms = shard.now_ms + 10_000;
    for (sequence, at_ms) in [(0, expires_at_ms), (1, shard.now_ms)] {
        let mut expiring = saved("c", sequence, "expires");
        expiring.publication.as_mut().unwrap().expires_at_ms = at_ms;
        shard.apply(Command::RestoreMessage(expiring));
    }
    assert_eq!(shard.payloads("c").len(), 1, "one had expired");
    shard.tick_after_s(29);
    assert!(shard.payloads("c").is_empty());
    assert!(shard.state.session("c").is_some());
    shard.tick_after_s(1);
    assert_eq!(shard.state.session("c"), None);
}

#[test]
fn a_full_queue_takes_no_more_and_gives_nothing_up() {
    let mut shard = Shard::new();
    shard.apply(Command::RestoreSession(RestoreSession {
        queue_messages_max: 2,
        drop_oldest: true,
        ..empty_session("c")
    }));
    for sequence in [4, 3, 2] {
        shard.apply(Command::RestoreMessage(saved(
            "c",
            sequence,
            &sequence.to_string(),
        )));
    }
    let dropped = Effect::Dropped {
        reason: DropReason::QueueFull,
        count: 1,
    };
    assert_eq!(shard.effects, [dropped]);
    assert_eq!(shard.payloads("c"), ["3", "4"]);
}

#[test]
fn a_session_that_ends_with_its_connection_is_in_no_backup() {
    let mut shard = Shard::new();
    shard.connect_with(crate::common::clean("short"));
    let kept = shard.connect("kept").epoch;
    shard.subscribe("kept", kept, subscription("a", 1));
    shard.append(message("a", "x", 1));
    let commands = backup(&shard);
    let [Command::RestoreSession(session), Command::RestoreMessage(_)] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(session.client, "kept");
    // It is connected: what it has may be on its way.
    assert_eq!((session.next_sequence, session.sent_before), (1, 1));
}

#[test]
fn what_no_backup_has_is_refused() {
    let mut shard = Shard::new();
    let good = empty_session("c");
    for session in [
        RestoreSession {
            backup: 0,
            ..good.clone()
        },
        RestoreSession {
            client: String::new(),
            ..good.clone()
        },
        RestoreSession {
            session_expiry_s: 0,
            ..good.clone()
        },
        RestoreSession {
            sent_before: 11,
            ..good.clone()
        },
        RestoreSession {
            next_sequence: u64::MAX,
            ..good.clone()
        },
        RestoreSession {
            subscriptions: vec![subscription("a/#/b", 1)],
            ..good.clone()
        },
        RestoreSession {
            subscriptions: vec![subscription("a", 3)],
            ..good.clone()
        },
    ] {
        let response = shard.apply(Command::RestoreSession(session));
        assert_eq!(reason(&response), Some(Reason::Malformed));
    }
    shard.apply(Command::RestoreSession(good));
    for message in [
        RestoreMessage {
            qos: 0,
            ..saved("c", 1, "x")
        },
        RestoreMessage {
            qos: 3,
            ..saved("c", 1, "x")
        },
        RestoreMessage {
            publication: None,
            ..saved("c", 1, "x")
        },
    ] {
        let response = shard.apply(Command::RestoreMessage(message));
        assert_eq!(reason(&response), Some(Reason::Malformed));
    }
    // A number that was not given yet belongs to a message that is still to come.
    shard.apply(Command::RestoreMessage(saved("c", 10, "x")));
    assert!(shard.payloads("c").is_empty());
}
