//! The tree against the plain rule of section 4.7: the same filters match, whatever was inserted and removed before.

use std::collections::BTreeMap;

use mqtt_topic::{FilterTree, TopicFilter, TopicName};
use proptest::prelude::*;

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just(""), Just("$x"), Just("c")]
}

fn any_filter() -> impl Strategy<Value = TopicFilter> {
    let level = prop_oneof![3 => level(), 1 => Just("+")];
    (prop::collection::vec(level, 0..5), prop::bool::weighted(0.3)).prop_filter_map(
        "it has a character",
        |(mut levels, multi)| {
            if multi {
                levels.push("#");
            }
            TopicFilter::parse(levels.join("/").into()).ok()
        },
    )
}

fn any_topic() -> impl Strategy<Value = TopicName> {
    prop::collection::vec(level(), 1..5).prop_filter_map("it has a character", |levels| {
        TopicName::parse(levels.join("/").into()).ok()
    })
}

fn found(tree: &FilterTree<TopicFilter>, topic: &TopicName) -> Vec<TopicFilter> {
    let mut found = Vec::new();
    tree.for_each_match(topic.as_str(), |filter| found.push(filter.clone()));
    found
}

fn sorted(mut filters: Vec<TopicFilter>) -> Vec<TopicFilter> {
    filters.sort();
    filters
}

/// Filters to insert (`true`) and to remove, one after the other.
fn any_history() -> impl Strategy<Value = Vec<(TopicFilter, bool)>> {
    prop::collection::vec((any_filter(), prop::bool::weighted(0.6)), 1..80)
}

/// The tree after a history, and the same filters in a plain map.
fn replay(
    history: Vec<(TopicFilter, bool)>,
) -> (FilterTree<TopicFilter>, BTreeMap<TopicFilter, TopicFilter>) {
    let (mut tree, mut plain) = (FilterTree::new(), BTreeMap::new());
    for (filter, insert) in history {
        if insert {
            tree.get_or_insert_with(&filter, || filter.clone());
            plain.insert(filter.clone(), filter);
        } else {
            assert_eq!(tree.remove(&filter), plain.remove(&filter));
        }
    }
    (tree, plain)
}

proptest! {
    #[test]
    fn the_tree_finds_what_the_rule_matches(
        history in any_history(),
        topics in prop::collection::vec(any_topic(), 1..10),
    ) {
        let (tree, plain) = replay(history);
        prop_assert_eq!(tree.len(), plain.len());
        for topic in topics {
            let expected: Vec<_> = plain.keys().filter(|filter| filter.matches(&topic)).cloned().collect();
            prop_assert_eq!(sorted(found(&tree, &topic)), expected);
        }
    }

    #[test]
    fn the_order_of_a_match_is_that_of_a_tree_built_afresh(history in any_history(), topic in any_topic()) {
        let (tree, plain) = replay(history);
        let mut fresh = FilterTree::new();
        for filter in plain.keys() {
            fresh.get_or_insert_with(filter, || filter.clone());
        }
        prop_assert_eq!(found(&tree, &topic), found(&fresh, &topic));
    }

    #[test]
    fn iteration_and_look_up_know_what_the_map_knows(history in any_history(), filter in any_filter()) {
        let (mut tree, mut plain) = replay(history);
        prop_assert_eq!(tree.get(&filter), plain.get(&filter));
        prop_assert_eq!(tree.get_mut(&filter), plain.get_mut(&filter));
        let mut listed: Vec<_> = tree.iter().map(|(text, value)| (text, value.to_string())).collect();
        listed.sort();
        let expected: Vec<_> = plain.keys().map(|filter| (filter.to_string(), filter.to_string())).collect();
        prop_assert_eq!(listed, expected);
    }
}
