//! Stories of rules, and the rules against a model that tries every topic of a small world.

use std::net::IpAddr;

use access::rules::{Permissions, Rules};
use access::{Certificate, Principal};
use mqtt_topic::{TopicFilter, TopicName};
use proptest::prelude::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(text.into()).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text.into()).unwrap()
}

fn anna() -> Principal {
    Principal::named("anna", "c-1", address("10.0.0.1"))
}

fn permissions(rules: &str, principal: &Principal) -> Permissions {
    Rules::parse(rules).unwrap().permissions(principal)
}

fn mosquitto(rules: &str, principal: &Principal) -> Permissions {
    Rules::parse_mosquitto(rules).unwrap().permissions(principal)
}

#[test]
fn what_no_rule_speaks_of_is_denied() {
    let none = permissions("", &anna());
    assert!(!none.may_publish(&topic("a")));
    assert!(!none.may_subscribe(&filter("a")));
    let some = permissions("allow publish a/#", &anna());
    assert!(some.may_publish(&topic("a/b")));
    assert!(!some.may_publish(&topic("b")));
    assert!(
        !some.may_subscribe(&filter("a/b")),
        "publishing is not subscribing"
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = "deny all a/secret\nallow all a/#\ndeny all a/late";
    let permissions = permissions(rules, &anna());
    assert!(!permissions.may_publish(&topic("a/secret")));
    assert!(permissions.may_publish(&topic("a/late")));
    assert!(
        !permissions.may_subscribe(&filter("a/#")),
        "it holds what is denied"
    );
    assert!(!permissions.may_subscribe(&filter("a/+")));
    assert!(permissions.may_subscribe(&filter("a/late")));
    assert!(permissions.may_subscribe(&filter("a/b/#")));
}

#[test]
fn a_filter_wider_than_what_is_allowed_is_refused() {
    let permissions = permissions("allow subscribe a/+/c", &anna());
    for wide in ["#", "a/#", "a/+/#", "+/+/c", "a/+/+", "a/b/c/#", "$SYS/#"] {
        assert!(!permissions.may_subscribe(&filter(wide)), "{wide}");
    }
    assert!(permissions.may_subscribe(&filter("a/+/c")));
    assert!(permissions.may_subscribe(&filter("a/b/c")));
}

#[test]
fn dollar_topics_have_to_be_named() {
    let all = permissions("allow all #", &anna());
    assert!(all.may_subscribe(&filter("#")));
    assert!(!all.may_subscribe(&filter("$SYS/#")));
    assert!(!all.may_publish(&topic("$SYS/x")));
    let named = permissions("allow subscribe $SYS/#", &anna());
    assert!(named.may_subscribe(&filter("$SYS/broker/+")));
    assert!(!named.may_subscribe(&filter("#")));
}

#[test]
fn a_user_name_with_wildcards_or_slashes_gets_nothing_by_it() {
    let rules = "allow all home/%u/#\nallow all ${user}/#";
    for user in ["+", "#", "anna/..", "anna/b", "+/anna", "$SYS", ""] {
        let permissions = permissions(rules, &Principal::named(user, "c", address("::1")));
        for text in ["home/anna/x", "home/anna", "anna/b/x", "$SYS/x", "home/x", "x/y"] {
            assert!(!permissions.may_publish(&topic(text)), "{user} {text}");
        }
        for text in [
            "#",
            "home/#",
            "home/+/#",
            "+/#",
            "$SYS/#",
            "anna/b/#",
            "home/anna/#",
        ] {
            assert!(!permissions.may_subscribe(&filter(text)), "{user} {text}");
        }
    }
    let permissions = permissions(rules, &anna());
    assert!(permissions.may_subscribe(&filter("home/anna/#")));
    assert!(!permissions.may_subscribe(&filter("home/+/#")));
}

#[test]
fn rules_speak_of_users_clients_groups_addresses_claims_and_certificates() {
    let rules = "\
group ops anna bob
allow publish by-user user=anna
allow publish by-any-user user=*
allow publish by-anonymous anonymous
allow publish by-client client=c-1
allow publish by-group group=ops
allow publish by-token-group group=dev
allow publish by-address address=10.0.0.0/8
allow publish by-claim claim.site=7
allow publish by-name cn=device
allow publish by-print fingerprint=AB:CD
allow publish by-both user=anna address=192.168.0.0/16
allow publish for-all
";
    let rules = Rules::parse(rules).unwrap();
    let mut full = anna();
    full.groups.push("dev".to_owned());
    full.claims
        .insert("site".to_owned(), vec!["6".to_owned(), "7".to_owned()]);
    let certificate = Certificate {
        fingerprint: Some("abcd".to_owned()),
        ..Certificate::told_by_proxy("device")
    };
    full.certificate = Some(certificate.into());
    let nobody = Principal::anonymous("c-2", address("fd00::1"));
    let bob = Principal::named("bob", "c-2", address("::ffff:10.0.0.2"));
    for (name, is_full, is_nobody, is_bob) in [
        ("by-user", true, false, false),
        ("by-any-user", true, false, true),
        ("by-anonymous", false, true, false),
        ("by-client", true, false, false),
        ("by-group", true, false, true),
        ("by-token-group", true, false, false),
        ("by-address", true, false, true),
        ("by-claim", true, false, false),
        ("by-name", true, false, false),
        ("by-print", true, false, false),
        ("by-both", false, false, false),
        ("for-all", true, true, true),
    ] {
        let found = [&full, &nobody, &bob].map(|who| rules.permissions(who).may_publish(&topic(name)));
        assert_eq!(found, [is_full, is_nobody, is_bob], "{name}");
    }
}

#[test]
fn a_denying_rule_holds_however_a_claim_or_an_address_is_said() {
    let rules = "\
deny all devices/${claim.customer}/billing/#
deny all kept/# address=::ffff:10.0.0.0/104
allow all devices/#
allow all kept/#
";
    let mut of_two = anna();
    let both = vec!["one".to_owned(), "two".to_owned()];
    of_two.claims.insert("customer".to_owned(), both);
    let of_two = permissions(rules, &of_two);
    for text in ["devices/one/billing/x", "devices/two/billing/x"] {
        assert!(!of_two.may_publish(&topic(text)), "{text}");
        assert!(!of_two.may_subscribe(&filter(text)), "{text}");
    }
    for (from, is_allowed) in [
        ("10.0.0.1", false),
        ("::ffff:10.0.0.1", false),
        ("11.0.0.1", true),
    ] {
        let who = Principal::named("bob", "c", address(from));
        assert_eq!(
            permissions(rules, &who).may_publish(&topic("kept/x")),
            is_allowed,
            "{from}"
        );
    }
}

#[test]
fn the_order_of_the_file_holds_between_rules_of_a_user_and_rules_of_all() {
    let rules = "allow all a user=anna\ndeny all a\nallow all b\ndeny all b user=anna\ndeny all c user=anna\nallow all c";
    let rules = Rules::parse(rules).unwrap();
    let of_anna = rules.permissions(&anna());
    assert!(of_anna.may_publish(&topic("a")));
    assert!(of_anna.may_publish(&topic("b")));
    assert!(!of_anna.may_publish(&topic("c")));
    let of_bob = rules.permissions(&Principal::named("bob", "c", address("::1")));
    assert!(!of_bob.may_publish(&topic("a")));
    assert!(of_bob.may_publish(&topic("c")));
}

const MOSQUITTO: &str = "\
# what anonymous clients may do
topic read public/#

user anna
topic home/anna/#
topic deny home/anna/safe
topic write commands/all
topic read with space/+

user bob
topic readwrite home/bob

pattern write devices/%c/status
pattern readwrite users/%u/#
pattern deny users/%u/locked
";

#[test]
fn a_file_of_mosquitto_means_what_it_meant_there() {
    let anna = mosquitto(MOSQUITTO, &anna());
    assert!(anna.may_publish(&topic("home/anna/x")));
    assert!(
        !anna.may_publish(&topic("home/anna/safe")),
        "denied, though it comes later"
    );
    assert!(anna.may_receive(&topic("home/anna/x")));
    assert!(anna.may_publish(&topic("commands/all")));
    assert!(!anna.may_receive(&topic("commands/all")));
    assert!(anna.may_receive(&topic("with space/x")));
    assert!(
        !anna.may_receive(&topic("public/x")),
        "that is for anonymous clients"
    );
    assert!(anna.may_publish(&topic("devices/c-1/status")));
    assert!(!anna.may_publish(&topic("devices/c-2/status")));
    assert!(anna.may_subscribe(&filter("users/anna/x/#")));
    assert!(!anna.may_publish(&topic("users/anna/locked")));
    assert!(!anna.may_publish(&topic("home/bob")));
    let nobody = mosquitto(MOSQUITTO, &Principal::anonymous("c-1", address("::1")));
    assert!(nobody.may_subscribe(&filter("public/#")));
    assert!(!nobody.may_publish(&topic("public/x")));
    assert!(nobody.may_publish(&topic("devices/c-1/status")));
    assert!(!nobody.may_publish(&topic("users//x")));
}

#[test]
fn bad_lines_of_a_mosquitto_file_are_named() {
    let text = "topic\nuser\ntopic raed a\ntopic read a#\nacl a\ntopic deny a b";
    let errors = Rules::parse_mosquitto(text).unwrap_err();
    let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5], "{errors:#?}");
}

#[test]
fn of_somebody_who_is_gone_only_what_can_never_be_allowed_is_denied() {
    let rules = "\
group ops anna
deny publish w/certain user=anna
deny publish w/maybe user=anna address=10.0.0.0/8
allow publish w/# group=ops
allow publish token/# group=dev
allow publish site/${claim.site}/state claim.vip=true
allow publish own/${client}/#
allow publish all/# anonymous
";
    let rules = Rules::parse(rules).unwrap();
    let might = |who: &Principal, text: &str| rules.might_publish(who, &topic(text));
    let (anna, nobody) = (anna(), Principal::anonymous("c-1", address("::")));
    for (text, of_anna, of_nobody) in [
        ("w/certain", false, false),
        ("w/maybe", true, false),
        ("w/x", true, false),
        ("token/x", true, false),
        ("site/7/state", true, false),
        ("site/7/x", false, false),
        ("own/c-1/x", true, true),
        ("own/c-2/x", false, false),
        ("all/x", false, true),
        ("other", false, false),
    ] {
        assert_eq!(
            (might(&anna, text), might(&nobody, text)),
            (of_anna, of_nobody),
            "{text}"
        );
    }
}

#[test]
fn a_broker_without_rules_allows_everything_clients_can_use() {
    let all = Permissions::everything();
    for text in ["#", "a/+", "$SYS/#", "$SYS/broker/+"] {
        assert!(all.may_subscribe(&filter(text)), "{text}");
    }
}

// The model: a small world of topics, enough to tell any two small filters apart: one letter that no filter has, and one
// level more than any filter.

const LETTERS: [&str; 4] = ["a", "b", "$c", "z"];

fn world() -> Vec<TopicName> {
    let mut paths = vec![String::new()];
    let mut topics = Vec::new();
    for depth in 0..4 {
        let separator = if depth == 0 { "" } else { "/" };
        paths = paths
            .iter()
            .flat_map(|path| LETTERS.map(|level| format!("{path}{separator}{level}")))
            .collect();
        topics.extend(paths.iter().map(|path| topic(path)));
    }
    topics
}

/// Matching as the standard words it, without a thought of speed.
fn model_matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => model_matches(filter, topic),
        ([level, filter @ ..], [same, topic @ ..]) => level == same && model_matches(filter, topic),
        _ => false,
    }
}

fn is_in(filter: &str, topic: &str) -> bool {
    let is_hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
    let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
    !is_hidden && model_matches(&filter, &topic)
}

fn small_filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just("a"), Just("b"), Just("$c"), Just("+")];
    (prop::collection::vec(level, 0..=3), any::<bool>()).prop_map(|(mut levels, is_open)| {
        if is_open || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

/// As a user may be called to get more than its due.
fn small_name() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "$c", "$", "+", "#", "/", "%u", "${client}"]),
        0..3,
    )
    .prop_map(|parts| parts.concat())
}

fn small_template() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        3 => Just("a"), 3 => Just("b"), 2 => Just("+"), 1 => Just("$c"),
        2 => Just("%u"), 1 => Just("${client}"), 1 => Just("a%u")
    ];
    (prop::collection::vec(level, 0..=3), any::<bool>()).prop_map(|(mut levels, is_open)| {
        if is_open || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

/// `allow` or `deny`, and the topics.
fn small_rules() -> impl Strategy<Value = Vec<(bool, String)>> {
    prop::collection::vec((any::<bool>(), small_filter()), 0..5)
}

fn text_of(rules: &[(bool, String)]) -> String {
    let line = |(is_allowed, filter): &(bool, String)| {
        let effect = if *is_allowed { "allow" } else { "deny" };
        format!("{effect} all {filter}\n")
    };
    rules.iter().map(line).collect()
}

fn model_allows(rules: &[(bool, String)], topic: &str) -> bool {
    let first = rules.iter().find(|(_, filter)| is_in(filter, topic));
    first.is_some_and(|(is_allowed, _)| *is_allowed)
}

/// The rule for SUBSCRIBE by sets of topics: no denied set before touches the filter's set, and an allowed set holds it.
fn model_subscribes(rules: &[(bool, String)], wanted: &str, world: &[TopicName]) -> bool {
    let of =
        |filter: &str| -> Vec<bool> { world.iter().map(|topic| is_in(filter, topic.as_str())).collect() };
    let wanted = of(wanted);
    for (is_allowed, filter) in rules {
        let set = of(filter);
        let touches = wanted.iter().zip(&set).any(|(a, b)| *a && *b);
        let holds = wanted.iter().zip(&set).all(|(a, b)| !*a || *b);
        match is_allowed {
            false if touches => return false,
            true if holds => return true,
            _ => {}
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn publishing_and_receiving_agree_with_the_model(rules in small_rules()) {
        let permissions = permissions(&text_of(&rules), &anna());
        for topic in world() {
            let expected = model_allows(&rules, topic.as_str());
            prop_assert_eq!(permissions.may_publish(&topic), expected, "{}", topic);
            prop_assert_eq!(permissions.may_receive(&topic), expected, "{}", topic);
        }
    }

    #[test]
    fn subscribing_agrees_with_the_model_and_never_gives_a_topic_that_is_denied(
        rules in small_rules(),
        wanted in small_filter(),
    ) {
        let world = world();
        let permissions = permissions(&text_of(&rules), &anna());
        let found = permissions.may_subscribe(&filter(&wanted));
        prop_assert_eq!(found, model_subscribes(&rules, &wanted, &world));
        if found {
            for topic in world.iter().filter(|topic| is_in(&wanted, topic.as_str())) {
                prop_assert!(model_allows(&rules, topic.as_str()), "{} has {}", wanted, topic);
            }
        }
    }

    /// Whatever a client calls itself: a topic is allowed only if each of its levels is what the rule says, with the whole
    /// name in the place.
    #[test]
    fn no_name_allows_more_than_its_own_level(
        template in small_template(),
        user in small_name(),
        client in small_name(),
    ) {
        let principal = Principal::named(user.clone(), client.clone(), address("::1"));
        let permissions = permissions(&format!("allow all {template}"), &principal);
        for topic in world() {
            let levels: Vec<&str> = template.split('/').collect();
            let found: Vec<&str> = topic.as_str().split('/').collect();
            let is_open = levels.last() == Some(&"#");
            let fixed = &levels[..levels.len() - usize::from(is_open)];
            let is_long_enough = if is_open { found.len() >= fixed.len() } else { found.len() == fixed.len() };
            let is_each_level = fixed.iter().zip(&found).all(|(level, found)| match *level {
                "+" => true,
                "%u" => *found == user,
                "${client}" => *found == client,
                "a%u" => *found == format!("a{user}"),
                level => *found == level,
            });
            let starts_plainly = !found[0].starts_with('$') || levels[0] == "$c";
            let expected = is_long_enough && is_each_level && starts_plainly && !user_or_client_is_empty(&template, &user, &client);
            prop_assert_eq!(permissions.may_publish(&topic), expected, "{} {:?} {:?} {}", template, user, client, topic);
        }
    }

    /// A deny rule with a name that cannot be said denies at least every topic it could mean.
    #[test]
    fn no_name_escapes_a_denying_rule(template in small_template(), user in small_name()) {
        let principal = Principal::named(user.clone(), "c", address("::1"));
        let rules = format!("deny all {template}\nallow all #\nallow all $c/#\nallow all $SYS/#");
        let permissions = permissions(&rules, &principal);
        let said = |level: &str| match level {
            "%u" => user.clone(),
            "${client}" => "c".to_owned(),
            "a%u" => format!("a{user}"),
            level => level.to_owned(),
        };
        let meant = template.split('/').map(said).collect::<Vec<_>>().join("/");
        if TopicFilter::parse(meant.as_str().into()).is_err() || meant.starts_with('$') {
            return Ok(());
        }
        for topic in world().iter().filter(|topic| is_in(&meant, topic.as_str())) {
            prop_assert!(!permissions.may_publish(topic), "{} as {:?} lets {} pass", template, user, topic);
        }
    }

    /// Nor does a claim, with whatever values, however many.
    #[test]
    fn no_value_of_a_claim_escapes_a_denying_rule(
        template in small_template(),
        values in prop::collection::vec(small_name(), 1..3),
    ) {
        let template = template.replace("%u", "${claim.x}");
        let mut principal = Principal::named("u", "c", address("::1"));
        principal.claims.insert("x".to_owned(), values.clone());
        let permissions = permissions(&format!("deny all {template}\nallow all #\nallow all $c/#"), &principal);
        for value in values {
            let meant = template.replace("${client}", "c").replace("${claim.x}", &value);
            if TopicFilter::parse(meant.as_str().into()).is_err() || meant.starts_with('$') {
                continue;
            }
            for topic in world().iter().filter(|topic| is_in(&meant, topic.as_str())) {
                prop_assert!(!permissions.may_publish(topic), "{} with {:?} lets {} pass", template, value, topic);
            }
        }
    }

    /// Whatever was allowed to somebody is thought possible when that one is gone.
    #[test]
    fn what_might_be_published_holds_all_that_may_be(
        rules in prop::collection::vec((any::<bool>(), small_template(), 0..6_u8), 0..5),
        user in small_name(),
    ) {
        let conditions = ["", " user=a", " group=g", " address=10.0.0.0/8", " claim.x=y", " anonymous"];
        let line = |(is_allowed, topics, condition): &(bool, String, u8)| {
            let effect = if *is_allowed { "allow" } else { "deny" };
            format!("{effect} publish {topics}{}\n", conditions[usize::from(*condition)])
        };
        let rules = Rules::parse(&rules.iter().map(line).collect::<String>()).unwrap();
        let gone = Principal::named(user, "a", address("::"));
        let mut was = Principal { address: address("10.0.0.1"), ..gone.clone() };
        was.groups.push("g".to_owned());
        was.claims.insert("x".to_owned(), vec!["y".to_owned()]);
        let permissions = rules.permissions(&was);
        for topic in world() {
            if permissions.may_publish(&topic) {
                prop_assert!(rules.might_publish(&gone, &topic), "{}", topic);
            }
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "(allow|deny|group|user|topic|pattern|read| |\n|\"|#|\\+|/|%u|\\$\\{user\\}|\\$|a|=|\\PC){0,40}") {
        let _ = Rules::parse(&text);
        let _ = Rules::parse_mosquitto(&text);
    }
}

fn user_or_client_is_empty(template: &str, user: &str, client: &str) -> bool {
    (template.contains("%u") && user.is_empty()) || (template.contains("${client}") && client.is_empty())
}
