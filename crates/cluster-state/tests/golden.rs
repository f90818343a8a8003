//! Records as the version that introduced them wrote them: later versions read them, and write the same.

use crate::common::meta::{
    Meta, change, connected, down, join_as, kept, leave, member, node_route, retire, routes, shard_route,
    share,
};
use crate::common::{Shard, judged_will, message, persistent, subscription, will};
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Announce, Append, Connect, Inbound, Member, Origin, Publication, Receive, Release, RestoreMessage,
    RestoreSession, Retain, RouteChange, ShareMember, Subscribe, Subscription, Tick, Unannounce,
    route_change::Destination as To,
};
use cluster_state::{MetaState, ShardState};

const GOLDEN: &str = include_str!("golden/shard-1.txt");
const GOLDEN_MANY: &str = include_str!("golden/shard-2.txt");
const GOLDEN_OWNED: &str = include_str!("golden/shard-3.txt");
const GOLDEN_RESTORED: &str = include_str!("golden/shard-4.txt");
const GOLDEN_JUDGED: &str = include_str!("golden/shard-5.txt");
const GOLDEN_META: &str = include_str!("golden/meta-1.txt");

/// What one node alone needs.
#[test]
fn the_records_of_the_first_version_are_read_and_written_unchanged() {
    same_history_same_records(&everything().state.records(), GOLDEN);
    let state = ShardState::restore(from_text(GOLDEN)).expect("the first version can be read");
    state.check().expect("sound");
    assert_eq!(state.records(), from_text(GOLDEN));
}

/// What many nodes need besides: origins with their answers, announced filters.
#[test]
fn the_records_of_a_shard_with_many_nodes_are_read_and_written_unchanged() {
    same_history_same_records(&with_many_nodes().state.records(), GOLDEN_MANY);
    let state = ShardState::restore(from_text(GOLDEN_MANY)).expect("can be read");
    state.check().expect("sound");
    assert_eq!(state.records(), from_text(GOLDEN_MANY));
}

/// Retained messages that count for somebody.
#[test]
fn the_records_of_owned_retained_messages_are_read_and_written_unchanged() {
    let mut shard = Shard::new();
    for (topic, owner) in [("a", "user:anna"), ("b", "tenant:acme"), ("c", "")] {
        let publication = Some(Publication {
            owner: owner.into(),
            retain: true,
            ..message(topic, "kept", 1)
        });
        shard.apply(Command::Retain(Retain {
            publication,
            ..Retain::default()
        }));
    }
    same_history_same_records(&shard.state.records(), GOLDEN_OWNED);
    let state = ShardState::restore(from_text(GOLDEN_OWNED)).expect("can be read");
    state.check().expect("sound");
    assert_eq!(state.records(), from_text(GOLDEN_OWNED));
    assert_eq!(state.retained_of("tenant:acme"), (1, 5));
}

/// What a backup brings back.
#[test]
fn the_records_of_restored_sessions_are_read_and_written_unchanged() {
    same_history_same_records(&restored().state.records(), GOLDEN_RESTORED);
    let state = ShardState::restore(from_text(GOLDEN_RESTORED)).expect("can be read");
    state.check().expect("sound");
    assert_eq!(state.records(), from_text(GOLDEN_RESTORED));
}

/// Wills with what is known of their clients: one that waits in its session, and one that is on its way.
#[test]
fn the_records_of_wills_that_rules_judge_are_read_and_written_unchanged() {
    let mut shard = Shard::new();
    for (client, delay_s) in [("late", 9), ("now", 0)] {
        let epoch = shard
            .connect_with(Connect {
                will: Some(judged_will(client, delay_s)),
                ..persistent(client)
            })
            .epoch;
        shard.lose_connection(client, epoch);
    }
    same_history_same_records(&shard.state.records(), GOLDEN_JUDGED);
    let state = ShardState::restore(from_text(GOLDEN_JUDGED)).expect("can be read");
    state.check().expect("sound");
    assert_eq!(state.records(), from_text(GOLDEN_JUDGED));
}

#[test]
fn the_records_of_the_meta_group_are_read_and_written_unchanged() {
    same_history_same_records(&cluster().state.records(), GOLDEN_META);
    let state = MetaState::restore(from_text(GOLDEN_META)).expect("can be read");
    state.check().expect("sound");
    assert_eq!(state.records(), from_text(GOLDEN_META));
}

fn same_history_same_records(records: &[(Vec<u8>, Vec<u8>)], golden: &str) {
    assert_eq!(
        to_text(records),
        golden,
        "the same history is written the same way"
    );
}

/// A state with a record of every kind.
fn everything() -> Shard {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("away", "a/#", 2);
    shard.subscribe(
        "away",
        epoch,
        Subscription {
            subscription_id: 5,
            ..subscription("a/+", 1)
        },
    );
    shard.subscribe(
        "away",
        epoch,
        Subscription {
            subscription_id: 6,
            ..subscription("a/b", 1)
        },
    );
    shard.subscribe("away", epoch, subscription("$share/g/a", 1));
    shard.append(message("a/b", "first", 2));
    shard.append(message("a/c", "second", 1));
    shard.apply(Command::Receive(Receive {
        client: "away".into(),
        epoch,
        sequences: vec![0],
    }));
    for packet_id in [1, 2] {
        let publication = Some(message("in", "exactly", 2));
        shard.apply(Command::Inbound(Inbound {
            client: "away".into(),
            epoch,
            packet_id,
            publication,
        }));
    }
    shard.apply(Command::Release(Release {
        client: "away".into(),
        epoch,
        packet_id: 1,
    }));
    shard.lose_connection("away", epoch);
    let gone = Connect {
        will: Some(will("late", 9)),
        session_expiry_s: 90,
        ..persistent("gone")
    };
    let epoch = shard.connect_with(gone).epoch;
    shard.lose_connection("gone", epoch);
    let lost = Connect {
        will: Some(will("now", 0)),
        ..persistent("lost")
    };
    let epoch = shard.connect_with(lost).epoch;
    shard.lose_connection("lost", epoch);
    let expires_at_ms = shard.now_ms + 60_000;
    shard.append(Publication {
        expires_at_ms,
        ..message("a/d", "third", 1)
    });
    let publication = Some(Publication {
        retain: true,
        ..message("r", "kept", 1)
    });
    shard.apply(Command::Retain(Retain {
        publication,
        source_shard: Some(3),
        source_number: 1 << 16,
    }));
    shard
}

fn with_many_nodes() -> Shard {
    let mut shard = everything();
    let origin = |node, sequence| {
        Some(Origin {
            node,
            life: 1 << 60,
            sequence,
        })
    };
    let connect = Command::Connect(persistent("away"));
    let refused = Command::Append(Append {
        publication: Some(message("a", "nobody", 1)),
        only_client: "nobody".into(),
        share_filter: "$share/g/a".into(),
        ..Append::default()
    });
    let tick = Command::Tick(Tick {});
    let responses = shard.entry(origin(9, 1), vec![tick, connect, refused]);
    let Response::Connected(connected) = &responses[1] else {
        panic!("{responses:?}")
    };
    let subscribe = Command::Subscribe(Subscribe {
        client: "away".into(),
        epoch: connected.epoch,
        subscriptions: vec![subscription("new", 1)],
    });
    shard.entry(origin(9, 2), vec![subscribe]);
    shard.entry(origin(4, 1), vec![]);
    let filters = |filters: &[&str]| filters.iter().map(ToString::to_string).collect();
    shard.apply(Command::Announce(Announce {
        filters: filters(&["new", "unused", "gone"]),
        version: shard.index,
    }));
    let filters = filters(&["gone"]);
    shard.entry(origin(4, 2), vec![Command::Unannounce(Unannounce { filters })]);
    shard
}

fn restored() -> Shard {
    let mut shard = Shard::new();
    shard.apply(Command::RestoreSession(RestoreSession {
        backup: 0xbac0,
        client: "away".into(),
        user: "user".into(),
        session_expiry_s: 90,
        expires_in_s: 60,
        subscriptions: vec![subscription("a/#", 2), subscription("$share/g/a", 1)],
        next_sequence: 300,
        sent_before: 7,
        queue_messages_max: 1000,
        queue_bytes_max: 1 << 20,
        drop_oldest: true,
    }));
    for sequence in [299, 6] {
        shard.apply(Command::RestoreMessage(RestoreMessage {
            backup: 0xbac0,
            client: "away".into(),
            sequence,
            publication: Some(message("a/b", "saved", 2)),
            qos: 2,
            retain: true,
            subscription_ids: vec![5, 6],
            share_filter: "$share/g/a".into(),
            received: sequence == 6,
        }));
    }
    shard
}

/// A cluster with a record of every kind.
fn cluster() -> Meta {
    let mut meta = Meta::new();
    let in_zone = Member {
        zone: "east".into(),
        ..member(4, 3, "four")
    };
    meta.apply(join_as(in_zone));
    meta.place(0, &[1, 2, 4]);
    meta.place(12, &[3]);
    meta.apply(node_route("a/+", 1, true));
    let only = change("a/+", To::Node(4), true);
    meta.apply(routes(vec![RouteChange {
        qos_0_only: true,
        ..only
    }]));
    meta.apply(shard_route("a/+", 3, true, 77));
    meta.apply(shard_route("b", 2, true, 78));
    let loud = ShareMember {
        no_local: true,
        ..connected("c", 1, 5)
    };
    meta.apply(share(1, loud, true, 0));
    meta.apply(share(1, kept("d", 2, 6), true, 79));
    meta.apply(join_as(member(5, 1, "five")));
    meta.apply(retire(5));
    meta.apply(down(2, 1));
    meta.apply(leave(3));
    meta
}

fn to_text(records: &[(Vec<u8>, Vec<u8>)]) -> String {
    records
        .iter()
        .map(|(key, value)| format!("{} {}\n", to_hex(key), to_hex(value)))
        .collect()
}

fn from_text(text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let record = |line: &str| {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        (from_hex(key), from_hex(value))
    };
    text.lines().map(record).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("two hexadecimal digits");
    (0..text.len()).step_by(2).map(digits).collect()
}
