//! The meta state: founding, members and their lives, placement, routes.

use std::collections::BTreeMap;

use cluster_proto::meta_command::Command;
use cluster_proto::{
    ChangeRoutes, Found, Join, Member, MetaCommand, Place, RemoveNodeRoutes, Retire, RouteChange,
    route_change::Destination as To,
};
use cluster_state::meta::Destination;
use cluster_state::{ApplyContext, MetaEffect, MetaState};
use proptest::prelude::*;

fn apply(state: &mut MetaState, command: Command) -> (bool, Vec<MetaEffect>) {
    let context = ApplyContext {
        index: 1,
        command: 0,
        now_ms: 0,
        shard: 0,
    };
    let mut effects = Vec::new();
    let response = state.apply(
        &context,
        MetaCommand {
            command: Some(command),
        },
        &mut effects,
    );
    (response.accepted, effects)
}

fn cluster() -> MetaState {
    let mut state = MetaState::new();
    assert!(apply(&mut state, found("one")).0);
    assert!(apply(&mut state, join(1, 1)).0);
    assert!(apply(&mut state, join(2, 1)).0);
    state
}

fn found(cluster_id: &str) -> Command {
    Command::Found(Found {
        cluster_id: cluster_id.into(),
        shards: 16,
    })
}

fn join(node: u64, incarnation: u64) -> Command {
    let (name, address) = (format!("node-{node}"), format!("node-{node}:7000"));
    Command::Join(Join {
        member: Some(Member {
            node,
            incarnation,
            name,
            address,
        }),
    })
}

fn route(filter: &str, destination: To, added: bool) -> Command {
    let change = RouteChange {
        filter: filter.into(),
        destination: Some(destination),
        added,
    };
    Command::ChangeRoutes(ChangeRoutes {
        changes: vec![change],
    })
}

fn destinations(state: &MetaState, topic: &str) -> Vec<Destination> {
    let mut found = Vec::new();
    state.for_each_destination(topic, |destination| found.push(destination));
    found.sort();
    found
}

#[test]
fn a_cluster_is_founded_once() {
    let mut state = cluster();
    assert!(!apply(&mut state, found("two")).0);
    assert_eq!((state.cluster_id(), state.shards()), ("one", 16));
}

#[test]
fn routes_lead_to_nodes_and_shards() {
    let mut state = cluster();
    apply(&mut state, route("a/+", To::Node(1), true));
    apply(&mut state, route("a/b", To::Shard(3), true));
    let generation = state.routes_generation();
    let (_, effects) = apply(&mut state, route("a/b", To::Shard(3), true));
    assert!(
        effects.is_empty() && state.routes_generation() == generation,
        "repeated"
    );
    assert_eq!(
        destinations(&state, "a/b"),
        [Destination::Node(1), Destination::Shard(3)]
    );
    let (_, effects) = apply(&mut state, route("a/+", To::Node(1), false));
    assert_eq!(
        effects,
        [MetaEffect::RoutesChanged {
            generation: generation + 1
        }]
    );
    assert_eq!(destinations(&state, "a/b"), [Destination::Shard(3)]);
}

#[test]
fn a_batch_with_an_invalid_filter_changes_nothing() {
    let mut state = cluster();
    let change = |filter: &str| RouteChange {
        filter: filter.into(),
        destination: Some(To::Node(1)),
        added: true,
    };
    let changes = vec![change("good"), change("b#d")];
    assert!(!apply(&mut state, Command::ChangeRoutes(ChangeRoutes { changes })).0);
    assert!(destinations(&state, "good").is_empty());
}

#[test]
fn a_new_life_of_a_node_begins_without_routes() {
    let mut state = cluster();
    apply(&mut state, route("a", To::Node(1), true));
    apply(&mut state, route("a", To::Node(2), true));
    assert!(apply(&mut state, join(1, 1)).0, "the same life once more");
    assert_eq!(destinations(&state, "a").len(), 2);
    assert!(apply(&mut state, join(1, 2)).0);
    assert_eq!(destinations(&state, "a"), [Destination::Node(2)]);
    assert!(!apply(&mut state, join(1, 1)).0, "an old copy of the node");
    apply(&mut state, route("a", To::Node(1), true));
    let late = RemoveNodeRoutes {
        node: 1,
        incarnation: 1,
    };
    assert!(
        !apply(&mut state, Command::RemoveNodeRoutes(late)).0,
        "the death of an earlier life"
    );
    assert_eq!(destinations(&state, "a").len(), 2);
}

#[test]
fn a_retired_id_never_comes_back() {
    let mut state = cluster();
    apply(&mut state, route("a", To::Node(2), true));
    assert!(apply(&mut state, Command::Retire(Retire { node: 2 })).0);
    assert!(destinations(&state, "a").is_empty() && state.is_retired(2));
    assert!(!apply(&mut state, join(2, 9)).0);
}

#[test]
fn a_shard_is_placed_on_distinct_members() {
    let mut state = cluster();
    let mut place = |shard, nodes: &[u64]| {
        apply(
            &mut state,
            Command::Place(Place {
                shard,
                nodes: nodes.to_vec(),
            }),
        )
        .0
    };
    assert!(place(3, &[2, 1]));
    assert!(
        !place(3, &[]) && !place(3, &[1, 1]) && !place(3, &[9]) && !place(16, &[1]) && !place(70_000, &[1])
    );
    assert_eq!(state.replicas(3), [2, 1]);
}

fn command() -> impl Strategy<Value = Command> {
    let filter = prop::sample::select(vec!["a", "a/b", "+", "#", "bad#"]);
    let to = prop_oneof![(0..4u64).prop_map(To::Node), (0..3u32).prop_map(To::Shard)];
    prop_oneof![
        1 => Just(found("one")),
        2 => (1..4u64, 1..4u64).prop_map(|(node, incarnation)| join(node, incarnation)),
        1 => (1..4u64).prop_map(|node| Command::Retire(Retire { node })),
        1 => (0..3u32, prop::collection::vec(1..4u64, 0..3))
            .prop_map(|(shard, nodes)| Command::Place(Place { shard, nodes })),
        6 => (filter, to, any::<bool>()).prop_map(|(filter, to, added)| route(filter, to, added)),
        1 => (1..4u64, 1..4u64).prop_map(
            |(node, incarnation)| Command::RemoveNodeRoutes(RemoveNodeRoutes { node, incarnation })
        ),
    ]
}

proptest! {
    #[test]
    fn what_changed_adds_up_to_the_state(steps in prop::collection::vec((command(), any::<bool>()), 0..60)) {
        let mut state = MetaState::new();
        let mut records = BTreeMap::new();
        for (command, checkpoint) in steps {
            apply(&mut state, command);
            if checkpoint {
                for (key, value) in state.take_dirty() {
                    match value {
                        Some(value) => drop(records.insert(key, value)),
                        None => drop(records.remove(&key)),
                    }
                }
                let digest = state.digest();
                state = MetaState::restore(&records).expect("a checkpoint can be restored");
                prop_assert_eq!(state.digest(), digest);
            }
        }
    }
}
