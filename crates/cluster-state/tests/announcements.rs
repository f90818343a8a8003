//! Announced filters: a shard's routes in the meta group follow its subscriptions, whatever is late.

use std::collections::BTreeSet;

use crate::common::meta::{Meta, change, routes};
use crate::common::{Shard, subscription};
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Announce, RouteChange, Subscribe, Subscribed, Subscription, Unannounce, Unannounced, Unsubscribe,
    route_change::Destination as To,
};
use proptest::prelude::*;

fn subscribe(client: &str, epoch: u64, subscriptions: Vec<Subscription>) -> Command {
    Command::Subscribe(Subscribe {
        client: client.into(),
        epoch,
        subscriptions,
    })
}

fn unsubscribe(client: &str, epoch: u64, filter: &str) -> Command {
    Command::Unsubscribe(Unsubscribe {
        client: client.into(),
        epoch,
        filters: vec![filter.into()],
        ..Unsubscribe::default()
    })
}

fn announce(filters: &[&str], version: u64) -> Command {
    let filters = filters.iter().map(ToString::to_string).collect();
    Command::Announce(Announce { filters, version })
}

fn unannounce(filters: &[&str]) -> Command {
    let filters = filters.iter().map(ToString::to_string).collect();
    Command::Unannounce(Unannounce { filters })
}

fn subscribed(response: Response) -> Subscribed {
    match response {
        Response::Subscribed(subscribed) => subscribed,
        other => panic!("{other:?}"),
    }
}

fn unannounced(response: Response) -> Unannounced {
    match response {
        Response::Unannounced(unannounced) => unannounced,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_subscription_says_what_has_to_be_announced() {
    let mut shard = Shard::new();
    let epoch = shard.connect("c").epoch;
    shard.apply(announce(&["known"], 1));
    let subscriptions = vec![
        subscription("t", 1),
        subscription("known", 1),
        subscription("zero", 0),
        subscription("$share/g/t", 1),
        subscription("t", 2),
    ];
    let answer = subscribed(shard.apply(subscribe("c", epoch, subscriptions)));
    assert_eq!(answer.unannounced, ["t"]);
    assert_eq!(answer.index, shard.index);
    assert_eq!(shard.state.unannounced_routes(9), ["t"]);
    shard.apply(announce(&["t"], answer.index));
    let again = subscribed(shard.apply(subscribe("c", epoch, vec![subscription("t", 1)])));
    assert!(again.unannounced.is_empty());
    shard.restart();
    assert!(shard.state.unannounced_routes(9).is_empty());
    assert!(shard.state.unused_announcements(9).is_empty());
}

#[test]
fn an_announcement_is_taken_back_only_without_a_subscription() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "t", 1);
    let version = shard.index;
    shard.apply(announce(&["t", "u"], version));
    assert_eq!(
        unannounced(shard.apply(unannounce(&["t", "never"]))).filters,
        ["never"],
        "a route may be there without an announcement"
    );
    shard.unsubscribe("c", epoch, "t");
    shard.restart();
    assert_eq!(shard.state.unused_announcements(9), ["t", "u"]);
    assert!(!shard.state.has_no_use_for("t"));
    let taken = unannounced(shard.apply(unannounce(&["t"])));
    assert_eq!((taken.filters, taken.index), (vec!["t".to_owned()], shard.index));
    assert!(shard.state.has_no_use_for("t"));
    shard.restart();
    assert_eq!(shard.state.unused_announcements(9), ["u"]);
}

#[test]
fn a_late_announcement_is_ignored_and_its_filter_stays_unannounced() {
    let mut shard = Shard::new();
    let epoch = shard.subscriber("c", "t", 1);
    let version = shard.index;
    shard.apply(announce(&["u"], version));
    shard.apply(unannounce(&["u"]));
    shard.restart();
    shard.apply(announce(&["t"], version));
    assert_eq!(shard.state.unannounced_routes(9), ["t"]);
    shard.apply(announce(&["t"], shard.index - 1));
    assert_eq!(
        shard.state.unannounced_routes(9),
        ["t"],
        "in the version of the taking back"
    );
    let version = shard.index;
    shard.apply(announce(&["t"], version));
    assert!(shard.state.unannounced_routes(9).is_empty());
    shard.apply(subscribe("c", epoch, vec![subscription("t", 0)]));
    assert_eq!(
        shard.state.unused_announcements(9),
        ["t"],
        "nothing above QoS 0 is left"
    );
}

#[test]
fn an_announcement_of_something_else_than_a_filter_is_malformed() {
    let mut shard = Shard::new();
    let response = shard.apply(announce(&["good", "b#d"], 5));
    assert!(crate::common::reason(&response).is_some());
    assert!(shard.state.unused_announcements(9).is_empty());
}

#[test]
fn an_end_of_the_session_leaves_the_announcement_unused() {
    let mut shard = Shard::new();
    shard.subscriber("c", "t", 1);
    let version = shard.index;
    shard.apply(announce(&["t"], version));
    shard.connect_with(crate::common::clean("c"));
    assert_eq!(shard.state.unused_announcements(9), ["t"]);
    shard.restart();
    assert_eq!(shard.state.unused_announcements(9), ["t"]);
}

const SHARD: u32 = 7;
const FILTERS: [&str; 2] = ["t", "u/+"];

/// A subscriber's way to its SUBACK. Each is one node's: nothing of one waits for another.
#[derive(Clone, Debug, Default)]
enum Way {
    #[default]
    Out,
    /// Its subscription is to be committed.
    Asked,
    /// The route is to be added to the meta group.
    Adding(Subscribed),
    /// SUBACK was sent; the shard is still to be told. A subscriber may be gone by then.
    In,
    /// Its end is to be committed.
    Leaving,
}

/// A message on its way that nobody waits for. It may be late, and overtaken by others.
#[derive(Clone, Debug)]
enum Late {
    Announce(Vec<String>, u64),
    Unannounce(Vec<String>),
    /// To the meta group; then the shard is told.
    Add(Vec<String>, u64),
    Remove(Vec<String>, u64),
}

/// The rules under test, or without one of them.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Rules {
    All,
    /// The meta group takes every change as the newest.
    NoVersionsInMeta,
    /// A removal wins against an addition of the same version.
    RemovalWins,
    /// A late announcement counts.
    LateAnnouncementsCount,
    /// A route that the shard has no use for is removed without telling the shard.
    IdleRoutesAreJustRemoved,
}

struct Model {
    rules: Rules,
    shard: Shard,
    meta: Meta,
    epochs: Vec<u64>,
    ways: Vec<Way>,
    late: Vec<Late>,
    /// Commands that the next entry of the shard holds: of subscribers, and of others.
    batch: Vec<(Option<usize>, Command)>,
    /// Counts up for the broken rules.
    last: u64,
}

impl Model {
    fn new(rules: Rules) -> Self {
        let mut shard = Shard::new();
        let epochs = (0..4)
            .map(|number| shard.connect(&number.to_string()).epoch)
            .collect();
        Self {
            rules,
            shard,
            meta: Meta::new(),
            epochs,
            ways: vec![Way::Out; 4],
            late: Vec::new(),
            batch: Vec::new(),
            last: 0,
        }
    }

    fn filter(number: usize) -> &'static str {
        FILTERS[number % FILTERS.len()]
    }

    /// One subscriber goes one step on.
    fn step(&mut self, number: usize) {
        let (client, filter, epoch) = (number.to_string(), Self::filter(number), self.epochs[number]);
        let way = std::mem::take(&mut self.ways[number]);
        self.ways[number] = match way {
            Way::Out => {
                let command = subscribe(&client, epoch, vec![subscription(filter, 1)]);
                self.batch.push((Some(number), command));
                Way::Asked
            }
            Way::Adding(subscribed) => {
                self.change_meta(&subscribed.unannounced, true, subscribed.index);
                self.late
                    .push(Late::Announce(subscribed.unannounced, subscribed.index));
                Way::In
            }
            Way::In => {
                self.batch
                    .push((Some(number), unsubscribe(&client, epoch, filter)));
                Way::Leaving
            }
            waits @ (Way::Asked | Way::Leaving) => waits,
        };
    }

    /// A subscriber gives up half-way: its node has sent the addition, and ends the subscription before it is done.
    fn give_up(&mut self, number: usize) {
        if let Way::Adding(subscribed) = &self.ways[number] {
            self.late
                .push(Late::Add(subscribed.unannounced.clone(), subscribed.index));
            let (client, epoch) = (number.to_string(), self.epochs[number]);
            let command = unsubscribe(&client, epoch, Self::filter(number));
            self.batch.push((Some(number), command));
            self.ways[number] = Way::Leaving;
        }
    }

    /// What was batched becomes one entry of the shard.
    fn commit(&mut self) {
        let (whose, commands): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batch).into_iter().unzip();
        let responses = self.shard.entry(None, commands);
        for (whose, response) in whose.into_iter().zip(responses) {
            match (whose, response) {
                (Some(number), Response::Subscribed(subscribed)) => {
                    self.ways[number] = if subscribed.unannounced.is_empty() {
                        Way::In
                    } else {
                        Way::Adding(subscribed)
                    };
                }
                (Some(number), _) => self.ways[number] = Way::Out,
                (None, Response::Unannounced(taken)) if !taken.filters.is_empty() => {
                    self.late.push(Late::Remove(taken.filters, taken.index));
                }
                _ => {}
            }
        }
    }

    /// The leader of the shard looks for what is not needed any more, and for what was never announced.
    fn reconcile(&mut self) {
        let seen_at = self.shard.index;
        let known = self.meta.state.routes_of_shard(SHARD as u16);
        let idle = known.filter(|filter| self.shard.state.has_no_use_for(filter));
        let idle: Vec<String> = idle.map(str::to_owned).collect();
        let mut unused = self.shard.state.unused_announcements(9);
        if self.rules == Rules::IdleRoutesAreJustRemoved {
            self.late.push(Late::Remove(idle, seen_at));
        } else {
            unused.extend(idle);
        }
        self.late.push(Late::Unannounce(unused));
        let missing = self.shard.state.unannounced_routes(9);
        self.late.push(Late::Add(missing, seen_at));
    }

    /// One of the messages arrives, whichever it is.
    fn deliver(&mut self, which: usize) {
        if self.late.is_empty() {
            return;
        }
        match self.late.remove(which % self.late.len()) {
            Late::Announce(filters, version) => {
                let version = match self.rules {
                    Rules::LateAnnouncementsCount => u64::MAX,
                    _ => version,
                };
                let command = Command::Announce(Announce { filters, version });
                self.batch.push((None, command));
            }
            Late::Unannounce(filters) => {
                let command = Command::Unannounce(Unannounce { filters });
                self.batch.push((None, command));
            }
            Late::Add(filters, version) => {
                self.change_meta(&filters, true, version);
                self.late.push(Late::Announce(filters, version));
            }
            Late::Remove(filters, version) => self.change_meta(&filters, false, version),
        }
    }

    fn change_meta(&mut self, filters: &[String], added: bool, version: u64) {
        self.last += 1;
        let version = match self.rules {
            Rules::NoVersionsInMeta => self.last,
            Rules::RemovalWins => 2 * version + u64::from(!added),
            _ => version,
        };
        let change = |filter: &String| RouteChange {
            version,
            ..change(filter, To::Shard(SHARD), added)
        };
        let changes = filters.iter().map(change).collect();
        assert!(self.meta.apply(routes(changes)));
    }

    fn has_route(&self, filter: &str) -> bool {
        self.meta
            .state
            .routes_of_shard(SHARD as u16)
            .any(|route| route == filter)
    }

    /// Who has its SUBACK gets messages, and who comes next will: it is not told to announce what is announced.
    fn holds(&self) -> bool {
        let announced = |filter: &str| {
            let (unused, missing) = (
                self.shard.state.unused_announcements(9),
                self.shard.state.unannounced_routes(9),
            );
            let among = |filters: &[String]| filters.iter().any(|other| other == filter);
            among(&unused) || (!self.shard.state.has_no_use_for(filter) && !among(&missing))
        };
        let mut ways = self.ways.iter().enumerate();
        let mut filters = FILTERS.iter();
        filters.all(|filter| !announced(filter) || self.has_route(filter))
            && ways.all(|(number, way)| !matches!(way, Way::In) || self.has_route(Self::filter(number)))
    }

    /// When nothing is on its way any more, the leader's rounds leave no route that nobody needs.
    fn settles(&mut self) -> bool {
        for _ in 0..8 {
            self.commit();
            while !self.late.is_empty() {
                self.deliver(0);
            }
            self.commit();
            self.reconcile();
        }
        let needed: BTreeSet<String> = self.shard.state.routes().collect();
        self.meta.state.routes_of_shard(SHARD as u16).eq(&needed)
    }
}

#[derive(Clone, Debug)]
enum Event {
    Step(usize),
    GiveUp(usize),
    Commit,
    Reconcile,
    Deliver(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..4usize).prop_map(Event::Step),
        1 => (0..4usize).prop_map(Event::GiveUp),
        4 => Just(Event::Commit),
        1 => Just(Event::Reconcile),
        3 => any::<usize>().prop_map(Event::Deliver),
    ];
    prop::collection::vec(event, 1..80)
}

/// Whether the promise was kept all the time.
fn run(rules: Rules, events: &[Event]) -> Result<Model, usize> {
    let mut model = Model::new(rules);
    for (number, event) in events.iter().enumerate() {
        match event {
            Event::Step(number) => model.step(*number),
            Event::GiveUp(number) => model.give_up(*number),
            Event::Commit => model.commit(),
            Event::Reconcile => model.reconcile(),
            Event::Deliver(which) => model.deliver(*which),
        }
        if !model.holds() {
            return Err(number);
        }
    }
    Ok(model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whoever_has_its_suback_has_a_route(events in events()) {
        match run(Rules::All, &events) {
            Ok(mut model) => prop_assert!(model.settles(), "routes that nobody needs, or missing ones"),
            Err(at) => prop_assert!(false, "a subscriber without a route after event {}", at),
        }
    }
}

#[test]
fn without_one_of_the_rules_a_subscriber_loses_its_route() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    for rules in [
        Rules::NoVersionsInMeta,
        Rules::RemovalWins,
        Rules::LateAnnouncementsCount,
        Rules::IdleRoutesAreJustRemoved,
    ] {
        let mut runner = TestRunner::deterministic();
        let caught = (0..20_000).any(|_| {
            let events = events().new_tree(&mut runner).expect("events").current();
            run(rules, &events).is_err()
        });
        assert!(caught, "{rules:?}: the model does not see what the rule is for");
    }
}
