//! Entries that are proposed again because their fate was unknown: they change nothing and are answered as the first time.

use crate::common::{Shard, message, persistent, reason, subscription, will};
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Append, Connect, Inbound, NodeDown, Origin, Release, Retain, Subscribe, Tick, Unannounce, Unsubscribe,
    rejected::Reason,
};
use cluster_state::EntryKind;

fn origin(node: u64, sequence: u64) -> Origin {
    Origin {
        node,
        life: 70 + node,
        sequence,
    }
}

fn append(payload: &str) -> Command {
    Command::Append(Append {
        publication: Some(message("t", payload, 1)),
        ..Append::default()
    })
}

fn to_member(client: &str) -> Command {
    Command::Append(Append {
        publication: Some(message("t", "shared", 1)),
        only_client: client.into(),
        share_filter: "$share/g/t".into(),
        ..Append::default()
    })
}

fn subscribe(client: &str, epoch: u64, filter: &str) -> Command {
    Command::Subscribe(Subscribe {
        client: client.into(),
        epoch,
        subscriptions: vec![subscription(filter, 1)],
    })
}

fn inbound(epoch: u64) -> Command {
    Command::Inbound(Inbound {
        client: "c".into(),
        epoch,
        packet_id: 5,
        publication: Some(message("in", "exactly", 2)),
    })
}

/// Applies an entry twice; the second time nothing but the position in the log may change.
fn twice(shard: &mut Shard, origin: Origin, commands: Vec<Command>) -> (Vec<Response>, Vec<Response>) {
    let first = shard.entry(Some(origin), commands.clone());
    let before = without_position(shard);
    let second = shard.entry(Some(origin), commands);
    assert!(shard.effects.is_empty(), "asks for nothing: {:?}", shard.effects);
    assert_eq!(without_position(shard), before, "changes nothing");
    (first, second)
}

fn without_position(shard: &Shard) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = shard.state.records();
    records.retain(|(key, _)| key != b"c");
    records
}

#[test]
fn a_message_that_is_proposed_again_is_appended_once() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    let commands = vec![append("1"), append("2")];
    let (first, second) = twice(&mut shard, origin(2, 1), commands);
    let sessions = |responses: &[Response]| {
        let sessions = responses.iter().map(|response| match response {
            Response::Appended(appended) => appended.sessions,
            other => panic!("{other:?}"),
        });
        sessions.collect::<Vec<_>>()
    };
    assert_eq!((sessions(&first), sessions(&second)), (vec![1, 1], vec![0, 0]));
    assert_eq!(shard.payloads("c"), ["1", "2"]);
    shard.entry(Some(origin(2, 2)), vec![append("3")]);
    shard.entry(Some(origin(3, 1)), vec![append("4")]);
    shard.entry(None, vec![append("5")]);
    shard.entry(None, vec![append("6")]);
    assert_eq!(shard.payloads("c"), ["1", "2", "3", "4", "5", "6"]);
}

#[test]
fn what_was_applied_is_still_known_after_a_restart() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    shard.entry(Some(origin(2, 1)), vec![append("1"), to_member("c")]);
    shard.restart();
    let again = shard.entry(Some(origin(2, 1)), vec![append("1"), to_member("c")]);
    assert_eq!(reason(&again[1]), Some(Reason::NoSession));
    assert_eq!(shard.payloads("c"), ["1"]);
}

#[test]
fn a_new_life_of_a_node_counts_from_the_beginning() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    shard.entry(Some(origin(2, 1)), vec![append("1")]);
    let reborn = Origin {
        life: 99,
        ..origin(2, 1)
    };
    twice(&mut shard, reborn, vec![append("2")]);
    assert_eq!(shard.payloads("c"), ["1", "2"]);
}

#[test]
fn a_member_that_was_not_there_is_not_there_when_asked_again() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    let first = shard.entry(Some(origin(2, 1)), vec![to_member("c")]);
    assert_eq!(reason(&first[0]), Some(Reason::NoSession));
    shard.subscribe("c", epoch, subscription("$share/g/t", 1));
    let second = shard.entry(Some(origin(2, 1)), vec![to_member("c")]);
    assert_eq!(first, second, "or the message would be taken for appended");
    let (_, again) = twice(&mut shard, origin(2, 2), vec![to_member("c")]);
    assert!(matches!(again[0], Response::Appended(_)));
    assert_eq!(shard.queue("c").len(), 1);
}

#[test]
fn a_connection_is_made_once_and_its_will_is_not_sent() {
    let mut shard = Shard::new();
    let old = shard.connect("c").epoch;
    let connect = |client: &str, session_expiry_s| {
        Command::Connect(Connect {
            will: Some(will("dead", 0)),
            session_expiry_s,
            ..persistent(client)
        })
    };
    let commands = vec![connect("c", 60), connect("new", 60), connect("brief", 0)];
    let (first, second) = twice(&mut shard, origin(2, 1), commands);
    assert_eq!(first, second);
    let Response::Connected(taken) = &second[0] else {
        panic!("{second:?}")
    };
    assert_eq!(taken.previous.map(|owner| owner.epoch), Some(old));
    assert!(
        matches!(&second[1], Response::Connected(new) if !new.session_present),
        "the client has no session yet"
    );
    assert!(shard.outbox().is_empty());
}

#[test]
fn a_connection_that_lost_the_session_meanwhile_does_not_get_it_back() {
    let mut shard = Shard::new();
    let connect = || vec![Command::Connect(persistent("c"))];
    shard.entry(Some(origin(2, 1)), connect());
    let newer = shard.connect("c").epoch;
    let again = shard.entry(Some(origin(2, 1)), connect());
    assert_eq!(reason(&again[0]), Some(Reason::StaleEpoch));
    assert!(shard.state.is_owner("c", newer));
}

#[test]
fn subscriptions_say_again_whether_they_existed_and_what_is_unannounced() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    let (first, second) = twice(&mut shard, origin(2, 1), vec![subscribe("c", epoch, "t")]);
    assert_eq!(first, second);
    assert!(matches!(&second[0], Response::Subscribed(subscribed)
        if subscribed.existed == [false] && subscribed.unannounced == ["t"] && subscribed.index == shard.index - 1));
    let unsubscribe = Command::Unsubscribe(Unsubscribe {
        client: "c".into(),
        epoch,
        filters: vec!["t".into(), "u".into()],
        ..Unsubscribe::default()
    });
    let (first, second) = twice(&mut shard, origin(2, 2), vec![unsubscribe]);
    assert_eq!(first, second);
    assert!(matches!(&second[0], Response::Done(done) if done.existed == [true, false]));
}

#[test]
fn a_qos_2_message_is_kept_and_released_once() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    let (first, second) = twice(&mut shard, origin(2, 1), vec![inbound(epoch)]);
    assert_eq!(first, second);
    let release = || {
        Command::Release(Release {
            client: "c".into(),
            epoch,
            packet_id: 5,
        })
    };
    let (first, second) = twice(&mut shard, origin(2, 2), vec![release()]);
    assert_eq!(first, second);
    assert!(matches!(&second[0], Response::Done(done) if done.existed == [true]));
    assert_eq!(shard.outbox(), ["exactly"]);
}

#[test]
fn a_packet_id_that_is_used_again_meanwhile_is_not_released_by_the_past() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    let release = Command::Release(Release {
        client: "c".into(),
        epoch,
        packet_id: 5,
    });
    shard.entry(Some(origin(2, 1)), vec![inbound(epoch), release.clone()]);
    shard.entry(Some(origin(2, 2)), vec![inbound(epoch)]);
    shard.entry(Some(origin(2, 1)), vec![inbound(epoch), release]);
    assert_eq!(shard.outbox(), ["exactly"]);
}

#[test]
fn everything_else_is_not_done_again_either() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    let retain = |payload: &str| {
        Command::Retain(Retain {
            publication: Some(message("r", payload, 1)),
            ..Retain::default()
        })
    };
    shard.entry(Some(origin(2, 1)), vec![retain("old")]);
    shard.entry(Some(origin(3, 1)), vec![retain("new")]);
    let down = Command::NodeDown(NodeDown {
        hand_over: Vec::new(),
        node: 1,
        incarnation: 1,
    });
    let unannounce = Command::Unannounce(Unannounce {
        filters: vec!["t".into()],
    });
    let before = without_position(&shard);
    let again = shard.entry(Some(origin(2, 1)), vec![retain("old")]);
    assert!(matches!(again[0], Response::Done(_)));
    assert_eq!(without_position(&shard), before, "the newer one stays");
    let commands = vec![down, unannounce, Command::Tick(Tick {})];
    let (first, second) = twice(&mut shard, origin(2, 2), commands);
    assert_eq!(first, second);
}

#[test]
fn what_nobody_waits_for_is_forgotten() {
    let mut shard = Shard::new();
    for sequence in 1..=5 {
        shard.entry(
            Some(origin(2, sequence)),
            vec![Command::Connect(persistent("c")), append("1")],
        );
    }
    let commands = || vec![Command::Connect(persistent("c")), append("1")];
    let old = shard.entry(Some(origin(2, 1)), commands());
    assert_eq!(reason(&old[0]), Some(Reason::Unknown));
    assert!(matches!(old[1], Response::Appended(_)));
    let recent = shard.entry(Some(origin(2, 5)), commands());
    assert!(matches!(recent[0], Response::Connected(_)));
}

#[test]
fn the_nodes_heard_of_last_are_remembered() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    shard.entry(Some(origin(100, 1)), vec![append("1")]);
    shard.entry(Some(origin(101, 1)), vec![append("2")]);
    for node in 0..63 {
        shard.entry(Some(origin(node, 1)), vec![]);
    }
    shard.restart();
    let known = shard.state.begin_entry(Some(&origin(101, 1)));
    assert_eq!(known, EntryKind::Repeated);
    let forgotten = shard.state.begin_entry(Some(&origin(100, 1)));
    assert_eq!(forgotten, EntryKind::New, "one too many");
}

#[test]
fn an_entry_that_overtook_another_is_not_applied_before_it() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    assert!(
        shard.entry(Some(origin(1, 2)), vec![append("2")]).is_empty(),
        "1 is missing"
    );
    assert_eq!(shard.entry(Some(origin(1, 1)), vec![append("1")]).len(), 1);
    assert_eq!(shard.entry(Some(origin(1, 2)), vec![append("2")]).len(), 1);
    assert_eq!(shard.state.session("c").unwrap().queued_messages, 2);
}

#[test]
fn what_a_former_life_of_a_node_left_under_way_is_not_applied_any_more() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    let life = |life, sequence| Origin {
        life,
        ..origin(1, sequence)
    };
    shard.entry(Some(life(10, 1)), vec![append("1")]);
    shard.entry(Some(life(11, 1)), vec![append("2")]);
    assert!(shard.entry(Some(life(10, 2)), vec![append("late")]).is_empty());
    assert_eq!(shard.entry(Some(life(11, 2)), vec![append("3")]).len(), 1);
    assert_eq!(shard.state.session("c").unwrap().queued_messages, 3);
}
