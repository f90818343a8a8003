//! Records as the first version wrote them: later versions read them, and write the same.

mod common;

use cluster_proto::shard_command::Command;
use cluster_proto::{Connect, Inbound, Publication, Receive, Release, Retain, Subscription};
use cluster_state::ShardState;
use common::{Shard, message, persistent, subscription, will};

const GOLDEN: &str = include_str!("golden/shard-1.txt");

#[test]
fn the_records_of_the_first_version_are_read_and_written_unchanged() {
    assert_eq!(
        to_text(&everything().state),
        GOLDEN,
        "the same history is written the same way"
    );
    let record = |line: &str| {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        (from_hex(key), from_hex(value))
    };
    let records: Vec<(Vec<u8>, Vec<u8>)> = GOLDEN.lines().map(record).collect();
    let state = ShardState::restore(records.clone()).expect("the first version can be read");
    state.check().expect("sound");
    assert_eq!(state.records(), records);
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

fn to_text(state: &ShardState) -> String {
    state
        .records()
        .iter()
        .map(|(key, value)| format!("{} {}\n", to_hex(key), to_hex(value)))
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("two hexadecimal digits");
    (0..text.len()).step_by(2).map(digits).collect()
}
