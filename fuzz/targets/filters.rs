//! The tree of filters finds exactly the filters that match by the plain rule of section 4.7, also after removals.
#![no_main]

use std::collections::BTreeMap;

use bytestring::ByteString;
use libfuzzer_sys::fuzz_target;
use mqtt_topic::{FilterTree, SubscriptionFilter, TopicFilter, TopicName};

// One line each: the first a topic, the others filters; one that opens with `-` is removed again.
fuzz_target!(|text: &str| {
    let mut lines = text.lines().map(|line| ByteString::from(line.to_owned()));
    let Some(Ok(topic)) = lines.next().map(TopicName::parse) else {
        return;
    };
    let mut tree = FilterTree::new();
    let mut plain = BTreeMap::new();
    for line in lines.take(50) {
        let _ = SubscriptionFilter::parse(line.clone());
        let removed = line
            .strip_prefix('-')
            .map(|rest| ByteString::from(rest.to_owned()));
        let Ok(filter) = TopicFilter::parse(removed.clone().unwrap_or(line)) else {
            continue;
        };
        if removed.is_some() {
            assert_eq!(
                tree.remove(&filter),
                plain.remove(filter.as_str()).map(|_: TopicFilter| filter.clone())
            );
        } else {
            tree.get_or_insert_with(&filter, || filter.clone());
            plain.insert(filter.as_str().to_owned(), filter);
        }
    }
    let mut found = Vec::new();
    tree.for_each_match(topic.as_str(), |filter: &TopicFilter| found.push(filter.as_str()));
    found.sort_unstable();
    let wanted: Vec<&str> = plain
        .values()
        .filter(|filter| filter.matches(&topic))
        .map(TopicFilter::as_str)
        .collect();
    assert_eq!(found, wanted, "for {topic:?}");
    assert_eq!(tree.len(), plain.len());
});
