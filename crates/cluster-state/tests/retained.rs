//! Retained messages: the last one of a topic, found by any filter.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::common::{Shard, message, text};
use bytestring::ByteString;
use cluster_proto::shard_command::Command;
use cluster_proto::{Publication, Retain};
use mqtt_topic::{TopicFilter, TopicName};
use proptest::prelude::*;

impl Shard {
    fn retain(&mut self, publication: Publication) {
        self.apply(Command::Retain(Retain {
            publication: Some(publication),
            ..Retain::default()
        }));
    }

    fn retained(&self, filter: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.state
            .retained_matching(filter, self.now_ms, &mut |publication| {
                found.push(publication.topic.clone());
                ControlFlow::Continue(())
            });
        found
    }
}

#[test]
fn the_last_message_of_a_topic_wins_and_an_empty_one_deletes() {
    let mut shard = Shard::new();
    shard.retain(message("a", "1", 1));
    shard.retain(message("a", "22", 1));
    let mut payloads = Vec::new();
    shard.state.retained_matching("a", 0, &mut |publication| {
        payloads.push(text(publication));
        ControlFlow::Continue(())
    });
    assert_eq!(payloads, ["22"]);
    assert_eq!(shard.state.totals().retained_bytes, 3);
    shard.restart();
    shard.retain(message("a", "", 1));
    assert!(shard.retained("#").is_empty());
    shard.restart();
    assert!(shard.retained("#").is_empty());
}

#[test]
fn expired_messages_are_invisible_at_once_and_gone_with_the_next_tick() {
    let mut shard = Shard::new();
    let expires_at_ms = shard.now_ms + 1000;
    shard.retain(Publication {
        expires_at_ms,
        ..message("a", "1", 1)
    });
    shard.restart();
    assert_eq!(shard.retained("a"), ["a"]);
    shard.now_ms += 1000;
    assert!(shard.retained("a").is_empty() && shard.retained("+").is_empty());
    shard.tick_after_s(0);
    assert_eq!(shard.state.totals().retained_messages, 0);
    shard.restart();
}

#[test]
fn what_is_retained_counts_for_who_set_it_last_until_it_is_gone() {
    let mut shard = Shard::new();
    let of = |owner: &str, topic, payload| Publication {
        owner: owner.into(),
        ..message(topic, payload, 1)
    };
    shard.retain(of("user:anna", "a", "12"));
    shard.retain(of("user:anna", "b", "1"));
    shard.retain(message("nobody's", "1", 1));
    assert_eq!(shard.state.retained_of("user:anna"), (2, 5));
    shard.retain(of("user:bob", "a", "123"));
    shard.restart();
    assert_eq!(shard.state.retained_of("user:anna"), (1, 2));
    assert_eq!(shard.state.retained_of("user:bob"), (1, 4));
    shard.retain(Publication {
        expires_at_ms: shard.now_ms + 1000,
        ..of("user:bob", "a", "1")
    });
    shard.tick_after_s(2);
    shard.retain(message("b", "", 1));
    for owner in ["user:anna", "user:bob", ""] {
        assert_eq!(shard.state.retained_of(owner), (0, 0), "{owner}");
    }
    shard.restart();
}

#[test]
fn a_visit_can_be_stopped() {
    let mut shard = Shard::new();
    for topic in ["a/1", "a/2", "a/3", "b/1"] {
        shard.retain(message(topic, "x", 1));
    }
    for filter in ["#", "+/+", "a/+", "+/#", "a/#"] {
        let mut seen = 0;
        shard.state.retained_matching(filter, 0, &mut |_| {
            seen += 1;
            if seen == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(seen, 2, "{filter}");
    }
}

#[test]
fn a_retained_message_of_another_shard_is_stored_once() {
    let mut shard = Shard::new();
    let from = |source_number, payload| {
        let publication = Some(message("a", payload, 1));
        Command::Retain(Retain {
            publication,
            source_shard: Some(2),
            source_number,
        })
    };
    shard.apply(from(8, "new"));
    shard.apply(from(7, "late"));
    let found: Vec<_> = shard
        .state
        .records()
        .into_iter()
        .filter(|(key, _)| key == b"ra")
        .collect();
    assert!(found[0].1.windows(3).any(|part| part == b"new"));
}

#[test]
fn a_filter_of_very_many_levels_is_answered_too() {
    let mut shard = Shard::new();
    let topic = vec!["l"; 200].join("/");
    shard.retain(message(&topic, "x", 1));
    assert_eq!(shard.retained(&vec!["+"; 200].join("/")), [topic]);
    assert!(shard.retained(&vec!["+"; 199].join("/")).is_empty());
}

fn level() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "a", "b", "ab", "a-", "a0", "$s", "é"]).prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn the_walk_finds_what_the_rule_says(
        topics in prop::collection::btree_set(prop::collection::vec(level(), 1..5), 0..40),
        filter in prop::collection::vec(prop_oneof![2 => level(), 2 => Just("+".to_owned())], 0..4),
        multi in any::<bool>(),
    ) {
        let mut filter = filter;
        if multi || filter.is_empty() {
            filter.push("#".to_owned());
        }
        let filter = filter.join("/");
        prop_assume!(!filter.is_empty());
        let mut shard = Shard::new();
        let topics: BTreeSet<String> =
            topics.iter().map(|levels| levels.join("/")).filter(|topic| !topic.is_empty()).collect();
        for topic in &topics {
            shard.retain(message(topic, "x", 1));
        }
        let rule = TopicFilter::parse(ByteString::from(filter.as_str())).expect("valid");
        let matches = |topic: &&String| rule.matches(&TopicName::parse(ByteString::from(topic.as_str())).expect("valid"));
        let expected: Vec<String> = topics.iter().filter(matches).cloned().collect();
        let mut found = shard.retained(&filter);
        found.sort();
        prop_assert_eq!(found, expected, "{}", filter);
    }
}
