//! A node without listeners, and an operator who looks at it.

use mqtt_codec::QoS;

use super::*;
use crate::testing::{grant, node, received, subscribe};

fn message(topic: &str, payload: &str, qos: u8) -> NewMessage {
    NewMessage {
        topic: topic.to_owned(),
        payload: payload.to_owned().into(),
        qos,
        ..NewMessage::default()
    }
}

async fn ready(operator: &Operator) {
    let within = std::time::Duration::from_secs(20);
    let became = tokio::time::timeout(within, async {
        while !operator.cluster().is_ready() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    became.await.expect("the node becomes ready");
}

#[tokio::test]
async fn an_operators_message_reaches_a_connection_and_says_so() {
    let (_files, shared) = node().await;
    let operator = Operator::new(Arc::clone(&shared));
    ready(&operator).await;
    let client = subscribe(&shared, "c", "a/#", grant(QoS::AtLeastOnce), false);
    let sent = vec![
        message("a/b", "1", 1),
        message("nobody", "2", 1),
        message("a/+", "3", 1),
    ];
    let outcomes = operator.publish(sent).await;
    assert_eq!(outcomes[..2], [Outcome::Done(true), Outcome::Done(false)]);
    assert!(matches!(outcomes[2], Outcome::Refused(_)), "{outcomes:?}");
    assert_eq!(received(&client), [("1".to_owned(), QoS::AtLeastOnce)]);
}

#[tokio::test]
async fn what_an_operator_retains_is_there_and_nobody_was_told() {
    let (_files, shared) = node().await;
    let operator = Operator::new(Arc::clone(&shared));
    ready(&operator).await;
    let client = subscribe(&shared, "c", "#", grant(QoS::AtLeastOnce), false);
    let topics = ["a/1", "a/2", "b/1"];
    let sent = topics.map(|topic| message(topic, "x", 1)).to_vec();
    assert_eq!(operator.retain(sent).await, vec![Outcome::Done(true); 3]);
    assert_eq!(received(&client), []);
    let page = async |behind: &str| {
        let found = operator.cluster().retained_page("#", behind, 2).await.unwrap();
        found.into_iter().map(|one| one.topic).collect::<Vec<_>>()
    };
    assert_eq!(page("").await, ["a/1", "a/2"]);
    assert_eq!(page("a/2").await, ["b/1"]);
    operator.retain(vec![message("a/1", "", 0)]).await;
    assert_eq!(page("").await, ["a/2", "b/1"]);
}

#[tokio::test]
async fn explaining_names_who_would_get_a_message() {
    let (_files, shared) = node().await;
    let operator = Operator::new(Arc::clone(&shared));
    let _plain = subscribe(&shared, "c", "a/#", grant(QoS::AtLeastOnce), false);
    let _shared = subscribe(&shared, "d", "$share/g/a/b", grant(QoS::AtLeastOnce), false);
    let explained = operator.explain("a/b", 1).await.unwrap();
    let here: Vec<_> = explained
        .here
        .iter()
        .map(|one| (one.client.as_str(), one.qos))
        .collect();
    assert_eq!(here, [("c", 1)]);
    assert_eq!(explained.groups[0].members[0].client, "d");
    assert!(!operator.explain("x", 1).await.unwrap().matched);
    assert!(operator.explain("a/#", 1).await.is_err());
    assert!(operator.explain("$SYS/x", 1).await.is_err());
}

#[tokio::test]
async fn subscriptions_of_connections_come_in_pages() {
    let (_files, shared) = node().await;
    let operator = Operator::new(Arc::clone(&shared));
    let mut mailboxes = Vec::new();
    for client in ["a", "b"] {
        for filter in ["x", "y"] {
            mailboxes.push(subscribe(&shared, client, filter, grant(QoS::AtMostOnce), false));
        }
    }
    let page = async |(client, filter): (&str, &str)| {
        let query = SubscriptionQuery {
            behind_client: client.to_owned(),
            behind_filter: filter.to_owned(),
            limit: 3,
            ..SubscriptionQuery::default()
        };
        let (found, silent) = operator.cluster().connected_subscriptions(&query).await;
        assert!(silent.is_empty());
        found
            .into_iter()
            .map(|(_, one)| format!("{} {}", one.client, one.subscription.unwrap().filter))
            .collect::<Vec<_>>()
    };
    ready(&operator).await;
    assert_eq!(page(("", "")).await, ["a x", "a y", "b x"]);
    assert_eq!(page(("b", "x")).await, ["b y"]);
    assert_eq!(
        operator
            .filters_here("", 10, |_| true)
            .into_iter()
            .collect::<Vec<_>>(),
        [("x".to_owned(), 2), ("y".to_owned(), 2)]
    );
}

#[tokio::test]
async fn who_looks_on_sees_what_passes_and_leaves_nothing_behind() {
    let (_files, shared) = node().await;
    let operator = Operator::new(Arc::clone(&shared));
    ready(&operator).await;
    let before = shared.router.filters();
    let mut watch = operator.watch("a/#").await.unwrap();
    operator
        .publish(vec![message("a/b", "1", 0), message("b", "2", 0)])
        .await;
    let seen = watch.next().await.unwrap();
    assert_eq!((seen.topic.as_str(), &seen.payload[..]), ("a/b", &b"1"[..]));
    drop(watch);
    assert_eq!(shared.router.filters(), before);
}
