//! Members of shared subscriptions in the meta group: who they are, and where they are connected.

use crate::common::meta::{Meta, connected, down, join, kept, retire, share};
use crate::common::{Shard, subscription};
use cluster_proto::ShareMember;
use cluster_state::MetaEffect;

const FILTER: &str = "$share/g/t";

fn told(meta: &Meta) -> Vec<(u64, bool)> {
    let told = meta.effects.iter().filter_map(|effect| match effect {
        MetaEffect::ShareMember {
            filter,
            member,
            added,
        } => {
            assert_eq!(filter, FILTER);
            Some((member.node, *added))
        }
        _ => None,
    });
    told.collect()
}

fn node_of(meta: &Meta, client: &str) -> Option<u64> {
    meta.state.share_member(FILTER, client).map(|member| member.node)
}

#[test]
fn members_are_known_by_filter_and_client() {
    let mut meta = Meta::new();
    assert!(meta.apply(share(1, connected("a", 1, 1), true, 0)));
    assert_eq!(told(&meta), [(1, true)]);
    assert!(meta.apply(share(1, connected("a", 1, 1), true, 0)));
    assert!(told(&meta).is_empty(), "repeated");
    let better = ShareMember {
        qos: 2,
        ..connected("a", 1, 1)
    };
    meta.apply(share(1, better.clone(), true, 0));
    assert_eq!(told(&meta), [(1, true)]);
    meta.apply(share(2, kept("b", 2, 1), true, 4));
    meta.restart();
    assert!(
        meta.state
            .share_members()
            .eq([(FILTER, &better), (FILTER, &kept("b", 2, 1))])
    );
    meta.apply(share(1, connected("a", 1, 1), false, 0));
    assert_eq!(told(&meta), [(1, false)]);
    meta.restart();
    assert_eq!(meta.members().len(), 1);
}

#[test]
fn the_late_removal_of_a_node_that_the_client_has_left_is_ignored() {
    let mut meta = Meta::new();
    meta.apply(share(1, connected("c", 1, 1), true, 0));
    meta.apply(share(2, connected("c", 2, 2), true, 0));
    assert_eq!(node_of(&meta, "c"), Some(2));
    meta.apply(share(1, connected("c", 1, 1), true, 0));
    assert_eq!(
        node_of(&meta, "c"),
        Some(2),
        "its late arrival there is ignored, too"
    );
    meta.apply(share(1, connected("c", 1, 1), false, 0));
    assert_eq!(node_of(&meta, "c"), Some(2));
    meta.apply(share(2, connected("c", 2, 2), false, 0));
    assert_eq!(node_of(&meta, "c"), None);
}

#[test]
fn a_new_connection_at_the_same_node_is_not_removed_by_the_end_of_the_old_one() {
    let mut meta = Meta::new();
    meta.apply(share(1, connected("c", 1, 4), true, 0));
    meta.apply(share(1, connected("c", 1, 5), true, 0));
    meta.apply(share(1, connected("c", 1, 4), false, 0));
    assert_eq!(node_of(&meta, "c"), Some(1));
}

#[test]
fn a_member_kept_in_a_shard_stays_without_a_node() {
    let mut meta = Meta::new();
    meta.apply(share(1, kept("c", 1, 1), true, 4));
    meta.apply(share(1, kept("c", 0, 1), true, 0));
    assert_eq!(told(&meta), [(0, true)]);
    meta.apply(share(2, kept("c", 2, 2), true, 0));
    assert_eq!(node_of(&meta, "c"), Some(2));
    // The node it has left is late.
    meta.apply(share(1, kept("c", 0, 1), true, 0));
    assert_eq!(node_of(&meta, "c"), Some(2));
    meta.apply(share(1, kept("c", 0, 0), true, 0));
    assert_eq!(node_of(&meta, "c"), Some(2), "also without an epoch");
    meta.restart();
    assert_eq!(meta.members(), [(FILTER.to_owned(), "c".to_owned(), 2)]);
}

#[test]
fn a_member_kept_in_a_shard_is_removed_by_a_later_entry_of_the_shard_only() {
    let mut meta = Meta::new();
    meta.apply(share(1, kept("c", 1, 1), true, 7));
    for version in [0, 6, 7] {
        meta.apply(share(1, kept("c", 1, 1), false, version));
        assert!(told(&meta).is_empty(), "{version}");
    }
    let older = ShareMember {
        qos: 0,
        ..kept("c", 3, 1)
    };
    meta.apply(share(1, older, true, 5));
    assert_eq!(
        meta.state.share_member(FILTER, "c"),
        Some(&kept("c", 1, 1)),
        "an older subscription"
    );
    meta.apply(share(1, kept("c", 1, 1), false, 8));
    assert_eq!(told(&meta), [(1, false)]);
    meta.apply(share(1, kept("c", 0, 1), true, 0));
    assert_eq!(
        node_of(&meta, "c"),
        None,
        "who is not connected any more is not made a member by that"
    );
    meta.apply(share(1, kept("c", 2, 2), true, 9));
    assert_eq!(node_of(&meta, "c"), Some(2), "no tombstone is left");
}

#[test]
fn a_client_that_changes_its_kind_of_session_is_not_removed_by_the_end_of_the_old_one() {
    let mut meta = Meta::new();
    meta.apply(share(1, kept("c", 1, 1), true, 7));
    meta.apply(share(2, connected("c", 2, 2), true, 0));
    meta.apply(share(1, kept("c", 1, 1), false, 8));
    assert_eq!(
        node_of(&meta, "c"),
        Some(2),
        "the end of the session in the shard"
    );
    meta.apply(share(1, kept("c", 1, 3), true, 9));
    meta.apply(share(2, connected("c", 2, 2), false, 0));
    meta.apply(share(2, connected("c", 2, 2), true, 0));
    assert_eq!(meta.state.share_member(FILTER, "c"), Some(&kept("c", 1, 3)));
}

#[test]
fn the_end_of_a_node_takes_its_connected_members_and_leaves_those_kept_in_shards() {
    for end in [down(1, 1), join(1, 2), retire(1)] {
        let mut meta = Meta::new();
        meta.apply(share(1, connected("a", 1, 1), true, 0));
        meta.apply(share(1, kept("b", 1, 1), true, 3));
        meta.apply(share(2, connected("d", 2, 1), true, 0));
        assert!(meta.apply(end));
        assert_eq!(told(&meta), [(1, false), (0, true)]);
        meta.restart();
        let left: Vec<_> = meta
            .members()
            .into_iter()
            .map(|(_, client, node)| (client, node))
            .collect();
        assert_eq!(left, [("b".to_owned(), 0), ("d".to_owned(), 2)]);
    }
}

#[test]
fn a_shard_may_tell_of_a_member_whose_node_is_down_already() {
    let mut meta = Meta::new();
    meta.apply(down(2, 1));
    assert!(meta.apply(share(1, kept("c", 2, 1), true, 3)));
    assert_eq!(node_of(&meta, "c"), Some(0));
}

#[test]
fn a_shard_tells_all_the_meta_group_needs() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", FILTER, 1);
    let expected = ShareMember {
        shard: Some(7),
        ..connected("c", 1, epoch)
    };
    assert!(shard.has(
        |effect| matches!(effect, cluster_state::Effect::SharedMember { filter, member, added: true, version }
            if **filter == *FILTER && *member == expected && *version == shard.index)
    ));
    shard.subscribe("c", epoch, subscription("plain", 1));
    let members = |shard: &Shard| {
        let members = shard.state.shared_members(7);
        members
            .map(|(filter, member)| (filter.to_string(), member))
            .collect::<Vec<_>>()
    };
    assert_eq!(members(&shard), [(FILTER.to_owned(), expected.clone())]);
    shard.lose_connection("c", epoch);
    let alone = ShareMember { node: 0, ..expected };
    assert_eq!(members(&shard), [(FILTER.to_owned(), alone)]);
}
