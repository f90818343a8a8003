//! The meta state: founding, members and their lives, placement, routes.

use crate::common::meta::{
    Meta, change, connected, down, found, join, join_as, kept, leave, member, node_route, recover, retire,
    routes, routes_by, shard_route, share,
};
use cluster_proto::meta_command::Command;
use cluster_proto::{Member, RouteChange, route_change::Destination as To};
use cluster_state::MetaEffect;
use cluster_state::meta::Destination;
use proptest::prelude::*;

fn node(node: u64) -> Destination {
    Destination::Node {
        node,
        qos_0_only: false,
    }
}

#[test]
fn a_cluster_is_founded_once() {
    let mut meta = Meta::new();
    assert!(!meta.apply(found("two")));
    assert_eq!((meta.state.cluster_id(), meta.state.shards()), ("one", 16));
}

#[test]
fn routes_lead_to_nodes_and_shards() {
    let mut meta = Meta::new();
    meta.apply(node_route("a/+", 1, true));
    meta.apply(shard_route("a/b", 3, true, 7));
    let generation = meta.state.routes_generation();
    meta.apply(shard_route("a/b", 3, true, 7));
    assert!(meta.effects.is_empty(), "repeated");
    assert_eq!(meta.destinations("a/b"), [node(1), Destination::Shard(3)]);
    meta.apply(node_route("a/+", 1, false));
    assert_eq!(
        meta.effects,
        [MetaEffect::RoutesChanged {
            generation: generation + 1
        }]
    );
    assert_eq!(meta.destinations("a/b"), [Destination::Shard(3)]);
}

#[test]
fn a_node_route_changes_between_all_and_qos_0_only() {
    let mut meta = Meta::new();
    for qos_0_only in [true, false, true] {
        let route = change("a", To::Node(2), true);
        assert!(meta.apply(routes(vec![RouteChange { qos_0_only, ..route }])));
        assert_eq!(meta.effects.len(), 1);
        meta.restart();
        assert_eq!(
            meta.destinations("a"),
            [Destination::Node { node: 2, qos_0_only }]
        );
    }
    meta.apply(node_route("a", 2, false));
    assert!(meta.destinations("a").is_empty());
}

#[test]
fn an_older_version_does_not_undo_a_newer_one() {
    let mut meta = Meta::new();
    meta.apply(shard_route("a", 3, true, 9));
    let generation = meta.state.routes_generation();
    for (added, version) in [(false, 8), (true, 4), (false, 9)] {
        assert!(meta.apply(shard_route("a", 3, added, version)));
        assert!(meta.effects.is_empty(), "{added} {version}");
    }
    meta.apply(shard_route("a", 3, true, 12));
    assert_eq!(
        meta.state.routes_generation(),
        generation,
        "nothing that anyone routes by has changed"
    );
    meta.restart();
    meta.apply(shard_route("a", 3, false, 11));
    assert!(meta.state.routes_of_shard(3).eq(["a"]));
    meta.apply(shard_route("a", 3, false, 13));
    assert_eq!(meta.state.routes_of_shard(3).count(), 0);
}

#[test]
fn a_batch_with_an_invalid_change_changes_nothing() {
    let mut meta = Meta::new();
    let good = || change("good", To::Node(1), true);
    let nobody = connected("", 1, 1);
    let nowhere = connected("c", 0, 1);
    for bad in [
        change("b#d", To::Node(1), true),
        change("$share/g", To::Shard(1), true),
        change("a", To::Shard(70_000), true),
        change("a", To::Node(9), true),
        change("a", To::Member(connected("c", 1, 1)), true),
        change("$share/g/b#d", To::Member(connected("c", 1, 1)), true),
        change("$share/g/a", To::Member(nobody), true),
        change("$share/g/a", To::Member(nowhere), true),
        RouteChange {
            destination: None,
            ..good()
        },
    ] {
        assert!(!meta.apply(routes(vec![good(), bad.clone()])), "{bad:?}");
        assert!(!meta.reason.is_empty());
    }
    assert!(meta.destinations("good").is_empty());
}

#[test]
fn a_new_life_of_a_node_begins_without_routes() {
    let mut meta = Meta::new();
    meta.apply(node_route("a", 1, true));
    meta.apply(node_route("a", 2, true));
    assert!(meta.apply(join(1, 1)), "the same life once more");
    assert_eq!(meta.destinations("a").len(), 2);
    assert!(meta.apply(join(1, 2)));
    assert_eq!(meta.destinations("a"), [node(2)]);
    assert!(!meta.apply(join(1, 1)), "an old copy of the node");
    meta.apply(node_route("a", 1, true));
    assert!(!meta.apply(down(1, 1)), "the death of an earlier life");
    assert_eq!(meta.destinations("a").len(), 2);
}

#[test]
fn a_node_that_is_down_has_no_routes_and_comes_back_only_with_a_new_life() {
    let mut meta = Meta::new();
    meta.apply(node_route("a", 1, true));
    meta.apply(shard_route("a", 3, true, 1));
    assert!(meta.apply(down(1, 1)));
    assert!(meta.effects.contains(&MetaEffect::MemberDown {
        node: 1,
        incarnation: 1
    }));
    assert!(meta.state.member(1).is_some_and(|member| member.down));
    assert_eq!(meta.destinations("a"), [Destination::Shard(3)]);
    assert!(meta.apply(down(1, 1)) && meta.effects.is_empty(), "repeated");
    assert!(
        !meta.apply(join(1, 1)),
        "it does not know that it lost its routes"
    );
    meta.restart();
    assert!(meta.apply(join(1, 2)));
    assert!(meta.state.member(1).is_some_and(|member| !member.down));
    assert!(!meta.apply(down(9, 1)), "not a member");
}

#[test]
fn what_a_life_that_is_over_wanted_is_refused_as_a_whole() {
    let mut meta = Meta::new();
    let wants = |node, incarnation| {
        let changes = vec![change("a", To::Node(3), false), change("a", To::Node(node), true)];
        routes_by(node, incarnation, changes)
    };
    assert!(meta.apply(wants(1, 1)));
    assert!(!meta.apply(wants(1, 2)), "it has to join first");
    assert!(meta.apply(join(1, 2)));
    assert!(!meta.apply(wants(1, 1)), "an earlier life");
    assert!(meta.reason.contains("a life that is over"));
    assert!(meta.apply(wants(1, 2)));
    meta.apply(down(1, 2));
    assert!(!meta.apply(wants(1, 2)), "down");
    meta.apply(retire(2));
    assert!(!meta.apply(wants(2, 1)), "retired");
    assert!(!meta.apply(wants(9, 1)), "never heard of");
    assert!(meta.destinations("a").is_empty());
}

#[test]
fn a_retired_id_never_comes_back() {
    let mut meta = Meta::new();
    meta.apply(node_route("a", 2, true));
    assert!(meta.apply(retire(2)));
    assert!(meta.destinations("a").is_empty() && meta.state.is_retired(2));
    assert!(!meta.apply(join(2, 9)) && !meta.apply(retire(2)) && !meta.apply(leave(2)));
    assert!(!meta.place(1, &[2]));
}

#[test]
fn a_retired_node_keeps_no_replica_and_is_not_retired_as_the_last_one() {
    let mut meta = Meta::new();
    meta.place(3, &[2, 1]);
    meta.place(4, &[2]);
    assert!(!meta.apply(retire(2)), "shard 4 would be nowhere");
    meta.place(4, &[3]);
    assert!(meta.apply(retire(2)));
    assert!(meta.effects.contains(&MetaEffect::ShardPlaced { shard: 3 }));
    assert_eq!(
        (meta.state.replicas(3), meta.state.replicas(4)),
        (&[1][..], &[3][..])
    );
}

#[test]
fn a_node_that_leaves_still_leaves_after_a_restart() {
    let mut meta = Meta::new();
    assert!(!meta.apply(leave(9)));
    assert!(meta.apply(leave(1)));
    assert_eq!(meta.effects, [MetaEffect::MemberLeaving { node: 1 }]);
    assert!(meta.apply(leave(1)) && meta.effects.is_empty(), "repeated");
    let again = Member {
        address: "elsewhere:1".into(),
        zone: "b".into(),
        down: true,
        ..member(1, 2, "node-1")
    };
    assert!(meta.apply(join_as(again)));
    meta.restart();
    let known = meta.state.member(1).expect("a member");
    assert!(known.leaving && !known.down);
    assert_eq!(
        (known.address.as_str(), known.zone.as_str()),
        ("elsewhere:1", "b")
    );
}

#[test]
fn a_node_without_its_disk_takes_the_place_of_the_lost_one_of_its_name() {
    let mut meta = Meta::new();
    meta.place(3, &[1, 2, 3]);
    assert!(!meta.apply(join_as(member(9, 1, "node-2"))));
    assert!(
        meta.reason.contains("another live node has this name"),
        "{}",
        meta.reason
    );
    meta.apply(down(2, 1));
    assert!(meta.apply(join_as(member(9, 1, "node-2"))));
    assert_eq!(
        meta.effects,
        [
            MetaEffect::ShardPlaced { shard: 3 },
            MetaEffect::MemberRetired { node: 2 },
            MetaEffect::MemberJoined {
                node: 9,
                incarnation: 1
            },
        ]
    );
    meta.restart();
    assert_eq!(meta.state.replicas(3), [1, 9, 3]);
    assert!(meta.state.is_retired(2) && !meta.apply(join(2, 7)));
    assert!(
        meta.state
            .members_named("node-2")
            .map(|member| member.node)
            .eq([9])
    );
}

#[test]
fn nodes_without_a_name_do_not_replace_each_other() {
    let mut meta = Meta::new();
    assert!(meta.apply(join_as(member(8, 1, ""))));
    meta.apply(down(8, 1));
    assert!(meta.apply(join_as(member(9, 1, ""))));
    assert!(meta.state.member(8).is_some());
    assert!(!meta.apply(join(0, 1)), "0 means no node");
}

#[test]
fn one_node_goes_on_with_everything_under_another_id() {
    let mut meta = Meta::new();
    meta.place(3, &[1, 2, 3]);
    meta.place(4, &[3, 2]);
    meta.apply(down(3, 1));
    meta.apply(node_route("a", 1, true));
    meta.apply(node_route("b", 2, true));
    assert!(!meta.apply(recover(9, "rescued")) && !meta.apply(recover(1, "")));
    assert!(meta.apply(recover(1, "rescued")));
    meta.restart();
    assert_eq!(meta.state.cluster_id(), "rescued");
    assert!(meta.state.members().map(|member| member.node).eq([1]));
    assert_eq!(
        (meta.state.replicas(3), meta.state.replicas(4)),
        (&[1][..], &[1][..])
    );
    assert_eq!(meta.destinations("a"), [node(1)]);
    assert!(meta.destinations("b").is_empty());
    assert!(!meta.apply(join(2, 7)), "its disk is of the old cluster");
    assert!(
        meta.apply(join_as(member(9, 1, "node-2"))),
        "an empty one is welcome"
    );
}

#[test]
fn a_shard_is_placed_on_distinct_members() {
    let mut meta = Meta::new();
    meta.apply(down(2, 1));
    assert!(meta.place(3, &[2, 1]), "a replica may be down");
    for (shard, nodes) in [(3, &[][..]), (3, &[1, 1]), (3, &[9]), (16, &[1]), (70_000, &[1])] {
        assert!(!meta.place(shard, nodes), "{shard} {nodes:?}");
    }
    assert_eq!(meta.state.replicas(3), [2, 1]);
}

fn route_change() -> impl Strategy<Value = RouteChange> {
    let filter = prop::sample::select(vec!["a", "a/b", "+", "#", "bad#", "$share/g/t", "$share/h/+"]);
    let client = || prop::sample::select(vec!["c", "d"]);
    let to = prop_oneof![
        2 => (0..4u64).prop_map(To::Node),
        2 => (0..3u32).prop_map(To::Shard),
        2 => (client(), 0..4u64, 0..4u64)
            .prop_map(|(client, node, epoch)| To::Member(connected(client, node, epoch))),
        2 => (client(), 0..4u64, 0..4u64).prop_map(|(client, node, epoch)| To::Member(kept(client, node, epoch))),
    ];
    (filter, to, any::<bool>(), any::<bool>(), 0..6u64).prop_map(
        |(filter, to, added, qos_0_only, version)| RouteChange {
            qos_0_only,
            version,
            ..change(filter, to, added)
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let lives = || (0..5u64, 1..4u64);
    let name = prop::sample::select(vec!["x", "y", ""]);
    prop_oneof![
        1 => Just(found("one")),
        3 => (lives(), name)
            .prop_map(|((node, incarnation), name)| join_as(member(node, incarnation, name))),
        1 => (0..5u64).prop_map(retire),
        1 => (0..5u64).prop_map(|node| recover(node, "rescued")),
        1 => (0..5u64).prop_map(leave),
        1 => lives().prop_map(|(node, incarnation)| down(node, incarnation)),
        1 => (0..3u32, prop::collection::vec(1..5u64, 0..3))
            .prop_map(|(shard, nodes)| Command::Place(cluster_proto::Place { shard, nodes })),
        9 => (0..4u64, 1..4u64, prop::collection::vec(route_change(), 1..3))
            .prop_map(|(node, incarnation, changes)| routes_by(node, incarnation, changes)),
    ]
}

proptest! {
    #[test]
    fn what_changed_adds_up_to_the_state_and_replicas_agree(
        steps in prop::collection::vec((command(), any::<bool>()), 0..60),
    ) {
        let (mut meta, mut steady) = (Meta::default(), Meta::default());
        for (command, checkpoint) in steps {
            prop_assert_eq!(meta.apply(command.clone()), steady.apply(command));
            prop_assert_eq!(&meta.effects, &steady.effects);
            if checkpoint {
                meta.restart();
            }
        }
        prop_assert_eq!(meta.state.records(), steady.state.records());
    }
}

#[test]
fn a_member_of_a_share_is_no_route() {
    let mut meta = Meta::new();
    meta.apply(share(1, connected("c", 1, 1), true, 0));
    assert!(meta.destinations("t").is_empty() && meta.state.routes_generation() == 0);
}
