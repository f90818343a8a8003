//! Any bytes from another node: no panic, what is understood is written and read again as the same, and a shard that applies
//! them stays sound and can be kept.
#![no_main]

use std::fmt::Debug;

use cluster_proto::{
    AdoptRequest, CallRequest, CallResponse, ForwardRequest, ForwardResponse, HelloRequest, HelloResponse,
    MetaCommand, ShardEntry, SnapshotPart,
};
use cluster_state::{ApplyContext, EntryKind, MetaState, ShardState};
use libfuzzer_sys::fuzz_target;
use prost::Message;

// Messages follow each other, each behind its length.
fuzz_target!(|bytes: &[u8]| {
    survives::<HelloRequest>(bytes);
    survives::<HelloResponse>(bytes);
    survives::<AdoptRequest>(bytes);
    survives::<CallRequest>(bytes);
    survives::<CallResponse>(bytes);
    survives::<ForwardRequest>(bytes);
    survives::<ForwardResponse>(bytes);
    survives::<SnapshotPart>(bytes);
    shard(bytes);
    meta(bytes);
    // A snapshot's records, of the same bytes.
    let records: Vec<(&[u8], &[u8])> = bytes
        .chunks(48)
        .map(|chunk| chunk.split_at(chunk.len() / 3))
        .collect();
    let _ = ShardState::restore(records.iter().copied());
    let _ = MetaState::restore(records);
});

fn survives<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(message.encode_to_vec().as_slice());
        assert_eq!(Ok(message), again);
    }
}

fn shard(mut bytes: &[u8]) {
    let mut state = ShardState::new();
    let mut effects = Vec::new();
    for index in 1.. {
        let Ok(entry) = ShardEntry::decode_length_delimited(&mut bytes) else {
            break;
        };
        if state.begin_entry(entry.origin.as_ref()) == EntryKind::Gap {
            continue;
        }
        for (command, body) in (0..).zip(entry.commands) {
            let context = ApplyContext {
                index,
                command,
                now_ms: entry.now_ms,
                shard: 0,
            };
            state.apply(&context, body, &mut effects);
            if let Err(rule) = state.check() {
                panic!("{rule}");
            }
        }
    }
    let records = state.records();
    let kept = ShardState::restore(records.clone()).expect("what a shard wrote can be read");
    assert_eq!(kept.records(), records);
}

fn meta(mut bytes: &[u8]) {
    let mut state = MetaState::new();
    let mut effects = Vec::new();
    for index in 1.. {
        let Ok(command) = MetaCommand::decode_length_delimited(&mut bytes) else {
            break;
        };
        let context = ApplyContext {
            index,
            command: 0,
            now_ms: 0,
            shard: 0,
        };
        state.apply(&context, command, &mut effects);
        if let Err(rule) = state.check() {
            panic!("{rule}");
        }
    }
    let records = state.records();
    let kept = MetaState::restore(records.clone()).expect("what a meta group wrote can be read");
    assert_eq!(kept.records(), records);
}
