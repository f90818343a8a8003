//! Random histories: nothing panics, what must hold holds, replicas agree, and a restart changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{NEVER_S, Shard, judged_will, message, will};
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Acknowledge, Announce, Append, Connect, Disconnect, EndSession, Inbound, NodeDown, Origin, OutboxDone,
    Publication, Receive, Release, RestoreMessage, RestoreSession, Retain, SequenceRange, ShardCommand,
    Subscribe, Subscription, Tick, Unannounce, Unsubscribe,
};
use cluster_state::{ApplyContext, ShardState};
use proptest::prelude::*;
use proptest::sample::select;

/// A command, how long after the one before, whether a checkpoint follows, and whether it is proposed again then.
type Step = (Command, u64, bool, bool);

fn client() -> impl Strategy<Value = String> {
    select(vec!["a", "t/b", "t/c", "\0", ""]).prop_map(str::to_owned)
}

fn filter() -> impl Strategy<Value = String> {
    select(vec![
        "t",
        "t/1",
        "t/+",
        "#",
        "$share/g/t",
        "$share/h/#",
        "bad#",
        "",
    ])
    .prop_map(str::to_owned)
}

fn publication() -> impl Strategy<Value = Publication> {
    let topic = select(vec!["t", "t/1", "t/1/x", "u", "$x", ""]);
    (
        topic,
        "[a-z]{0,6}",
        0..4u32,
        any::<bool>(),
        select(vec![0u64, 0, 1500, 20_000]),
        client(),
        select(vec!["", "user:a", "tenant:a"]),
    )
        .prop_map(
            |(topic, payload, qos, retain, expires_at_ms, publisher, owner)| Publication {
                retain,
                expires_at_ms,
                publisher,
                owner: owner.to_owned(),
                ..message(topic, &payload, qos)
            },
        )
}

fn connect() -> impl Strategy<Value = Command> {
    let will = (select(vec![0, 1, 30]), any::<bool>()).prop_map(|(delay_s, is_judged)| match is_judged {
        true => judged_will("w", delay_s),
        false => will("w", delay_s),
    });
    let will = prop::option::of(will);
    let limits = (
        select(vec![0u64, 1, 3, 100]),
        select(vec![0u64, 8, 1000]),
        any::<bool>(),
    );
    (
        client(),
        1..3u64,
        1..3u64,
        any::<bool>(),
        select(vec![0, 2, 60, NEVER_S]),
        will,
        limits,
        select(vec![None, Some(0), Some(3), Some(10)]),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(
                client,
                node,
                incarnation,
                clean_start,
                session_expiry_s,
                will,
                (messages, bytes, drop_oldest),
                heard_out,
                existing_only,
            )| {
                Command::Connect(Connect {
                    client,
                    node,
                    incarnation,
                    clean_start,
                    session_expiry_s,
                    will,
                    user: "user".into(),
                    queue_messages_max: messages,
                    queue_bytes_max: bytes,
                    drop_oldest,
                    heard_out,
                    existing_only,
                })
            },
        )
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (
        filter(),
        0..4u32,
        any::<bool>(),
        any::<bool>(),
        0..3u32,
        select(vec![0, 1, 2, u32::MAX]),
    )
        .prop_map(
            |(filter, qos, no_local, retain_as_published, retain_handling, subscription_id)| Subscription {
                filter,
                qos,
                no_local,
                retain_as_published,
                retain_handling,
                subscription_id,
            },
        )
}

fn append() -> impl Strategy<Value = Command> {
    let source = (prop::option::of(0..2u32), 0..20u64);
    let only = prop_oneof![3 => Just((String::new(), String::new())), 1 => (client(), filter())];
    (
        prop::option::weighted(0.98, publication()),
        only,
        source,
        any::<bool>(),
    )
        .prop_map(
            |(publication, (only_client, share_filter), (source_shard, source_number), retained)| {
                Command::Append(Append {
                    publication,
                    only_client,
                    share_filter,
                    source_shard,
                    source_number,
                    retained,
                })
            },
        )
}

/// Two backups, which bring the same few sessions.
fn restore() -> impl Strategy<Value = Command> {
    let session = (
        (0..3u64, client(), select(vec![0, 60, NEVER_S]), 0..90u32),
        prop::collection::vec(subscription(), 0..3),
        (numbers(), 0..12u64),
        (
            select(vec![0u64, 2, 100]),
            select(vec![0u64, 8, 1000]),
            any::<bool>(),
        ),
    )
        .prop_map(
            |(
                (backup, client, session_expiry_s, expires_in_s),
                subscriptions,
                (next_sequence, sent_before),
                limits,
            )| {
                let (queue_messages_max, queue_bytes_max, drop_oldest) = limits;
                Command::RestoreSession(RestoreSession {
                    backup,
                    client,
                    user: "user".into(),
                    session_expiry_s,
                    expires_in_s,
                    subscriptions,
                    next_sequence,
                    sent_before,
                    queue_messages_max,
                    queue_bytes_max,
                    drop_oldest,
                })
            },
        );
    let message = (
        (0..3u64, client(), 0..12u64),
        prop::option::weighted(0.98, publication()),
        (0..4u32, any::<bool>(), any::<bool>()),
        (prop::collection::vec(0..3u32, 0..3), filter()),
    )
        .prop_map(
            |(
                (backup, client, sequence),
                publication,
                (qos, retain, received),
                (subscription_ids, share_filter),
            )| {
                Command::RestoreMessage(RestoreMessage {
                    backup,
                    client,
                    sequence,
                    publication,
                    qos,
                    retain,
                    subscription_ids,
                    share_filter,
                    received,
                })
            },
        );
    prop_oneof![session, message]
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0..12u64, 1 => any::<u64>()]
}

/// Epochs are small in such short histories, so that most commands hit a living connection or a recent one.
fn command() -> impl Strategy<Value = Command> {
    let owner = || (client(), 0..30u64);
    let ranges = prop::collection::vec((numbers(), numbers()), 0..3);
    prop_oneof![
        4 => connect(),
        2 => (
            owner(),
            any::<bool>(),
            prop::option::of(select(vec![0, 5, NEVER_S])),
            prop::option::of(numbers()),
        ).prop_map(
            |((client, epoch), publish_will, session_expiry_s, sent_before)| Command::Disconnect(Disconnect {
                client, epoch, publish_will, session_expiry_s, sent_before,
                hand_over: if publish_will { vec!["$share/g/t".into()] } else { Vec::new() },
            })
        ),
        4 => (owner(), prop::collection::vec(subscription(), 0..3)).prop_map(
            |((client, epoch), subscriptions)| Command::Subscribe(Subscribe { client, epoch, subscriptions })
        ),
        1 => (owner(), prop::collection::vec(filter(), 0..3))
            .prop_map(|((client, epoch), filters)| {
                let hand_over = filters.clone();
                Command::Unsubscribe(Unsubscribe { client, epoch, filters, hand_over, sent_before: 1 })
            }),
        8 => append(),
        3 => (owner(), ranges).prop_map(|((client, epoch), ranges)| {
            let ranges = ranges.into_iter().map(|(first, last)| SequenceRange { first, last }).collect();
            Command::Acknowledge(Acknowledge { client, epoch, ranges })
        }),
        2 => (owner(), prop::collection::vec(numbers(), 0..3))
            .prop_map(|((client, epoch), sequences)| Command::Receive(Receive { client, epoch, sequences })),
        2 => (owner(), 0..4u32, prop::option::of(publication())).prop_map(
            |((client, epoch), packet_id, publication)| Command::Inbound(Inbound {
                client, epoch, packet_id, publication
            })
        ),
        2 => (owner(), 0..4u32)
            .prop_map(|((client, epoch), packet_id)| Command::Release(Release { client, epoch, packet_id })),
        1 => numbers().prop_map(|up_to| Command::OutboxDone(OutboxDone { up_to })),
        2 => (prop::option::of(publication()), prop::option::of(0..2u32), 0..20u64).prop_map(
            |(publication, source_shard, source_number)| Command::Retain(Retain {
                publication, source_shard, source_number
            })
        ),
        2 => Just(Command::Tick(Tick {})),
        1 => client().prop_map(|client| Command::EndSession(EndSession { client })),
        1 => (1..3u64, 0..3u64, prop::collection::vec(filter(), 0..2))
            .prop_map(|(node, incarnation, hand_over)| Command::NodeDown(NodeDown { node, incarnation, hand_over })),
        2 => (prop::collection::vec(filter(), 0..3), 0..120u64)
            .prop_map(|(filters, version)| Command::Announce(Announce { filters, version })),
        5 => restore(),
        1 => prop::collection::vec(filter(), 0..3)
            .prop_map(|filters| Command::Unannounce(Unannounce { filters })),
    ]
}

/// Most commands of connections are meant for the latest one: the epoch is filled in as the history runs.
fn with_latest_epoch(command: &mut Command, epochs: &BTreeMap<String, u64>, drift: bool) {
    let (client, epoch) = match command {
        Command::Disconnect(command) => (&command.client, &mut command.epoch),
        Command::Subscribe(command) => (&command.client, &mut command.epoch),
        Command::Unsubscribe(command) => (&command.client, &mut command.epoch),
        Command::Acknowledge(command) => (&command.client, &mut command.epoch),
        Command::Receive(command) => (&command.client, &mut command.epoch),
        Command::Inbound(command) => (&command.client, &mut command.epoch),
        Command::Release(command) => (&command.client, &mut command.epoch),
        _ => return,
    };
    if let Some(latest) = epochs.get(client).filter(|_| !drift) {
        *epoch = *latest;
    }
}

/// Messages are generated with how long they live.
fn with_expiry(command: &mut Command, now_ms: u64) {
    let publication = match command {
        Command::Append(command) => &mut command.publication,
        Command::Inbound(command) => &mut command.publication,
        Command::Retain(command) => &mut command.publication,
        Command::RestoreMessage(command) => &mut command.publication,
        _ => return,
    };
    if let Some(publication) = publication
        .as_mut()
        .filter(|publication| publication.expires_at_ms != 0)
    {
        publication.expires_at_ms += now_ms;
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![6 => Just(0u64), 2 => 0..3000u64, 1 => 0..100_000u64];
    let sometimes = || prop::bool::weighted(0.1);
    prop::collection::vec((command(), pause, sometimes(), sometimes()), 1..120)
}

/// Cursors of the sessions that lived on, to see that none moves back.
#[derive(Default)]
struct Cursors(BTreeMap<(String, u64), (u64, u64)>);

impl Cursors {
    fn observe(&mut self, shard: &Shard) {
        let clients: Vec<String> = shard.state.clients().map(ToString::to_string).collect();
        for client in clients {
            let Some(session) = shard.state.session(&client) else {
                continue;
            };
            let (items, next) = shard.state.queue_from(&client, 0, usize::MAX, usize::MAX);
            let first = items.first().map_or(next, |item| item.sequence);
            let packet_ids: BTreeSet<u64> = items.iter().map(|item| 1 + item.sequence % 65_535).collect();
            assert_eq!(
                packet_ids.len(),
                items.len(),
                "{client}: a packet id is used twice"
            );
            assert!(items.is_sorted_by_key(|item| item.sequence));
            // No client has connected since it was restored: older messages may still come.
            if session.owner.node == 0 {
                continue;
            }
            let known = self
                .0
                .entry((client.clone(), session.owner.epoch))
                .or_insert((first, next));
            assert!(
                known.0 <= first && known.1 <= next,
                "{client}: the cursor moved back"
            );
            *known = (first, next);
        }
    }
}

fn run(steps: &[Step], restarts: bool) -> Shard {
    let mut shard = Shard::new();
    let mut epochs = BTreeMap::new();
    let mut cursors = Cursors::default();
    for (number, (command, pause_ms, checkpoint, repeated)) in steps.iter().enumerate() {
        shard.now_ms += pause_ms;
        let mut command = command.clone();
        with_latest_epoch(&mut command, &epochs, number % 7 == 0);
        with_expiry(&mut command, shard.now_ms);
        let client = match &command {
            Command::Connect(connect) => Some(connect.client.clone()),
            _ => None,
        };
        let origin = Origin {
            node: number as u64 % 3,
            life: 1,
            sequence: number as u64 + 1,
        };
        let responses = shard.entry(Some(origin), vec![command.clone()]);
        if let (Some(Response::Connected(connected)), Some(client)) = (responses.first(), client) {
            epochs.insert(client, connected.epoch);
        }
        cursors.observe(&shard);
        assert_eq!(
            shard.bodies.keys().copied().collect::<Vec<_>>(),
            shard.state.live_messages_up_to(u64::MAX).collect::<Vec<_>>(),
            "the caller keeps exactly the bodies that are needed"
        );
        match (checkpoint, restarts) {
            (true, true) => shard.restart(),
            (true, false) => shard.checkpoint(),
            _ => {}
        }
        if *repeated {
            apply_again(&mut shard, origin, command, &responses);
        }
    }
    shard
}

/// The fate of the last entry was unknown: it comes once more.
fn apply_again(shard: &mut Shard, origin: Origin, command: Command, first: &[Response]) {
    let without_position = |shard: &Shard| {
        let mut records = shard.state.records();
        records.retain(|(key, _)| key != b"c");
        records
    };
    let before = without_position(shard);
    let again = shard.entry(Some(origin), vec![command]);
    assert!(
        shard.effects.is_empty(),
        "an entry that comes again asks for nothing"
    );
    assert_eq!(without_position(shard), before, "and changes nothing");
    match (&again[..], first) {
        ([Response::Appended(_)], [Response::Appended(_)]) => {}
        (again, first) => assert_eq!(again, first, "and is answered as before"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_rules_and_restarts_change_nothing(steps in steps()) {
        let steady = run(&steps, false);
        let mut restarted = run(&steps, true);
        prop_assert_eq!(steady.state.digest(), restarted.state.digest());
        restarted.restart();
        prop_assert_eq!(steady.state.records(), restarted.state.records());
    }

    #[test]
    fn replicas_that_apply_the_same_log_answer_and_ask_the_same(steps in steps()) {
        let (mut one, mut other) = (Shard::new(), Shard::new());
        for (command, pause_ms, ..) in &steps {
            one.now_ms += pause_ms;
            other.now_ms = one.now_ms;
            prop_assert_eq!(one.apply(command.clone()), other.apply(command.clone()));
            prop_assert_eq!(&one.effects, &other.effects);
        }
        prop_assert_eq!(one.state.digest(), other.state.digest());
    }

    #[test]
    fn damaged_checkpoints_are_refused_or_lead_to_a_sound_state(steps in steps(), cut in any::<prop::sample::Index>()) {
        let mut records = run(&steps, false).state.records();
        records.remove(cut.index(records.len()));
        if let Ok(mut state) = ShardState::restore(records) {
            // A record may be missing without a trace, such as a subscription: the rest has to work.
            let context = ApplyContext { index: u64::MAX, command: 1, now_ms: u64::MAX, shard: 0 };
            state.apply(&context, ShardCommand { command: Some(Command::Tick(Tick {})) }, &mut Vec::new());
        }
    }
}

#[test]
fn a_replica_that_misses_one_command_has_another_digest() {
    let mut whole = Shard::new();
    whole.subscriber("c", "t", 1);
    whole.append(message("t", "1", 1));
    let mut missing = Shard::new();
    missing.subscriber("c", "t", 1);
    missing.index += 1;
    missing.apply(Command::Tick(Tick {}));
    whole.apply(Command::Tick(Tick {}));
    assert_ne!(whole.state.digest(), missing.state.digest());
}

#[test]
fn a_command_that_says_nothing_is_malformed() {
    let mut state = ShardState::new();
    let context = ApplyContext {
        index: 1,
        command: 0,
        now_ms: 0,
        shard: 0,
    };
    let response = state.apply(&context, ShardCommand::default(), &mut Vec::new());
    assert!(matches!(response.response, Some(Response::Rejected(_))));
}

#[test]
fn a_checkpoint_without_a_part_of_a_queue_is_refused() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    shard.append(message("t", "1", 1));
    shard.restart();
    shard.records.retain(|key, _| key[0] != b'q');
    assert!(ShardState::restore(&shard.records).is_err());
}
