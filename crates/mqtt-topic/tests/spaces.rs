//! Topic spaces against a model: each tenant has a broker of its own.

use mqtt_topic::{SubscriptionFilter, TopicFilter, TopicName, TopicSpace};
use proptest::prelude::*;
use proptest::sample::select;

/// How names come into the world that all spaces share.
trait Edge {
    fn outside(&self, topic: &TopicName) -> TopicName;
    fn filter_outside(&self, filter: &SubscriptionFilter) -> SubscriptionFilter;
    fn inside(&self, topic: &TopicName) -> Option<TopicName>;
}

impl Edge for TopicSpace {
    fn outside(&self, topic: &TopicName) -> TopicName {
        self.enter(topic).unwrap()
    }

    fn filter_outside(&self, filter: &SubscriptionFilter) -> SubscriptionFilter {
        self.enter_filter(filter).unwrap()
    }

    fn inside(&self, topic: &TopicName) -> Option<TopicName> {
        self.leave(topic)
    }
}

/// Puts the name in front without a slash: `a` and `ab` are then not apart.
struct WithoutSlash(&'static str);

/// Forgets the filter of a share.
struct SharesForgotten(TopicSpace);

impl Edge for WithoutSlash {
    fn outside(&self, topic: &TopicName) -> TopicName {
        TopicName::parse(format!("{}{topic}", self.0).into()).unwrap()
    }

    fn filter_outside(&self, filter: &SubscriptionFilter) -> SubscriptionFilter {
        let text = format!("{}{}", self.0, filter.filter());
        SubscriptionFilter::parse(text.into()).unwrap_or_else(|_| filter.clone())
    }

    fn inside(&self, topic: &TopicName) -> Option<TopicName> {
        TopicName::parse(topic.as_str().strip_prefix(self.0)?.into()).ok()
    }
}

impl Edge for SharesForgotten {
    fn outside(&self, topic: &TopicName) -> TopicName {
        self.0.outside(topic)
    }

    fn filter_outside(&self, filter: &SubscriptionFilter) -> SubscriptionFilter {
        match filter.share() {
            Some(_) => filter.clone(),
            None => self.0.filter_outside(filter),
        }
    }

    fn inside(&self, topic: &TopicName) -> Option<TopicName> {
        self.0.inside(topic)
    }
}

/// A message of one tenant and a subscription of another, or the same: what arrives has to be what arrives on a broker that is
/// the tenant's alone, and nothing where they are two.
fn agrees(
    publisher: &dyn Edge,
    subscriber: &dyn Edge,
    same: bool,
    topic: &TopicName,
    filter: &SubscriptionFilter,
) -> bool {
    let expected = (same && filter.filter().matches(topic)).then(|| topic.clone());
    let outside = publisher.outside(topic);
    let routed = subscriber.filter_outside(filter).filter().matches(&outside);
    let arrives = routed.then(|| subscriber.inside(&outside));
    // What is routed to somebody who cannot see it has leaked, too.
    arrives.map_or(expected.is_none(), |arrived| {
        arrived == expected && arrived.is_some()
    })
}

/// Names of which one begins with the other, and that occur in topics, too.
const TENANTS: [&str; 3] = ["a", "ab", "b"];

fn topic() -> impl Strategy<Value = TopicName> {
    prop::collection::vec(select(vec!["", "a", "ab", "b", "x", "a$"]), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic is not empty", |text| !text.is_empty())
        .prop_map(|text| TopicName::parse(text.into()).unwrap())
}

fn filter() -> impl Strategy<Value = SubscriptionFilter> {
    let levels = prop::collection::vec(select(vec!["", "a", "ab", "b", "x", "+"]), 0..4);
    (levels, any::<bool>(), any::<bool>())
        .prop_map(|(mut levels, all_below, shared)| {
            if all_below || levels.is_empty() {
                levels.push("#");
            }
            let filter = levels.join("/");
            if shared {
                format!("$share/g/{filter}")
            } else {
                filter
            }
        })
        .prop_filter("a filter is not empty", |text| {
            !text.is_empty() && text != "$share/g/"
        })
        .prop_map(|text| SubscriptionFilter::parse(text.into()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn tenants_are_as_if_each_had_a_broker_of_its_own(
        from in 0..3_usize,
        to in 0..3_usize,
        topic in topic(),
        filter in filter(),
    ) {
        let spaces = TENANTS.map(|name| TopicSpace::new(name).unwrap());
        prop_assert!(agrees(&spaces[from], &spaces[to], from == to, &topic, &filter), "{} {}", topic, filter);
    }

    #[test]
    fn what_a_tenant_writes_comes_back_as_it_was(topic in topic(), filter in filter()) {
        let space = TopicSpace::new("ab").unwrap();
        prop_assert_eq!(space.leave(&space.enter(&topic).unwrap()), Some(topic));
        let entered = space.enter_filter(&filter).unwrap();
        let stored = SubscriptionFilter::parse(entered.to_string().into()).unwrap();
        prop_assert_eq!(stored.share(), filter.share());
        prop_assert_eq!(space.leave_filter(stored.filter()), Some(filter.filter().clone()));
    }
}

/// The model has to notice both ways of getting it wrong that are most tempting.
#[test]
fn edges_that_leak_are_caught() {
    let topics: Vec<TopicName> = ["b/x", "x", "a"]
        .map(|text| TopicName::parse(text.into()).unwrap())
        .into();
    let filters: Vec<SubscriptionFilter> = ["#", "+/x", "$share/g/#", "b/x"]
        .map(|text| SubscriptionFilter::parse(text.into()).unwrap())
        .into();
    let catches = |publisher: &dyn Edge, subscriber: &dyn Edge| {
        let mut pairs = topics
            .iter()
            .flat_map(|topic| filters.iter().map(move |filter| (topic, filter)));
        pairs.any(|(topic, filter)| !agrees(publisher, subscriber, false, topic, filter))
    };
    let [a, ab, _] = TENANTS.map(|name| TopicSpace::new(name).unwrap());
    assert!(!catches(&a, &ab) && !catches(&ab, &a), "they are apart");
    assert!(
        catches(&WithoutSlash("a"), &WithoutSlash("ab")) || catches(&WithoutSlash("ab"), &WithoutSlash("a"))
    );
    assert!(catches(&a, &SharesForgotten(ab)));
}

/// The whole is a topic filter: nothing of it can climb out of the space.
#[test]
fn no_filter_of_a_space_matches_a_topic_outside_of_it() {
    let space = TopicSpace::new("a").unwrap();
    for text in ["#", "+", "+/#", "+/+", "/#", "a/#", "$SYS/#", "../#"] {
        let filter = SubscriptionFilter::parse(text.into()).unwrap();
        let entered: TopicFilter = space.enter_filter(&filter).unwrap().filter().clone();
        for foreign in ["b", "b/a", "ab/x", "$SYS/x", "/a", "/a/x"] {
            let foreign = TopicName::parse(foreign.into()).unwrap();
            assert!(!entered.matches(&foreign), "{text} {foreign}");
        }
    }
}
