//! A cluster of three, asked at any of its nodes.

use std::time::Duration;

use harness::{Client, Cluster, ClusterOptions, ConnectOptions, Message, wait_for};
use mqtt_codec::ReasonCode;
use operator::{Api, Member, Node, printed};
use serde_json::{Value, json};

async fn three() -> Cluster {
    tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()).unwrap())
        .await
        .unwrap()
}

fn items(value: &Value) -> &[Value] {
    value["items"].as_array().map_or(&[], Vec::as_slice)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_answers_for_all() {
    let cluster = three().await;
    let api = |node: usize| Api::at(cluster.admin_addr(node));
    let mut client = Client::connect(cluster.mqtt_addr(0), ConnectOptions::v5("device"))
        .await
        .unwrap();
    client.subscribe("devices/1", 1).await.unwrap();

    // The replicas of the other nodes may be a moment behind.
    let known = wait_for(
        async || {
            api(2)
                .get("/api/v1/clients/device")
                .is_ok_and(|shown| shown["session"]["connected"] == true)
        },
        Duration::from_secs(20),
    );
    known.await.unwrap();
    let shown = api(2).get("/api/v1/clients/device").unwrap();
    assert_eq!(shown["session"]["node"], cluster.name(0));
    assert_eq!(shown["connection"]["protocol"], "MQTT 5.0", "{shown}");
    assert_eq!(shown["subscriptions"][0]["filter"], "devices/1");

    // A trace is of one node, and says which one to ask.
    let traced = api(1).follow("/api/v1/trace?client=device&seconds=60").unwrap();
    let place = traced
        .map(Result::unwrap)
        .find(|line| line["event"] == "place")
        .unwrap();
    assert_eq!(
        (&place["place"], &place["node"]),
        (&json!(cluster.name(0)), &json!(cluster.name(1)))
    );

    let overview = api(1).get("/api/v1/overview").unwrap();
    let nodes = overview["nodes"].as_array().unwrap();
    assert!(
        nodes.len() == 3 && nodes.iter().all(|node| node["answered"] == true),
        "{nodes:?}"
    );
    assert_eq!(
        nodes
            .iter()
            .map(|node| node["connections"].as_u64().unwrap())
            .sum::<u64>(),
        1
    );
    assert_eq!(overview["covers"]["shards"], overview["covers"]["of"]);

    let explained = api(1).get("/api/v1/explain?topic=devices/1&qos=1").unwrap();
    assert_eq!(explained["nodes"][0]["name"], cluster.name(0), "{explained}");
    let outcome = api(1)
        .post(
            "/api/v1/publish",
            &json!({"topic": "devices/1", "payload": "open", "qos": 1}),
        )
        .unwrap();
    assert_eq!(items(&outcome)[0]["matched"], true);
    let received = client.expect_publish().await.unwrap();
    assert_eq!(received.publication.payload(), "open".as_bytes());

    api(2)
        .ask("POST", "/api/v1/clients/device/disconnect", None)
        .unwrap()
        .good()
        .unwrap();
    client
        .expect_disconnect(ReasonCode::AdministrativeAction)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_raises_an_alarm_and_retained_messages_are_the_same_everywhere() {
    let mut cluster = three().await;
    let mut client = Client::connect(cluster.mqtt_addr(0), ConnectOptions::v5("c"))
        .await
        .unwrap();
    for number in 0..5 {
        let message = Message::new(&format!("t/{number}"), "x").qos(1).retain();
        client.publish(message).await.unwrap();
    }
    for node in cluster.all() {
        let list = Api::at(cluster.admin_addr(node)).get("/api/v1/retained").unwrap();
        assert_eq!(items(&list).len(), 5, "{node}");
    }
    cluster.kill9(2);
    let api = Api::at(cluster.admin_addr(0));
    let raised = wait_for(
        async || {
            let overview = api.get("/api/v1/overview").unwrap_or_default();
            let alarms = overview["alarms"].as_array().cloned().unwrap_or_default();
            alarms.iter().any(|alarm| alarm["name"] == "member_down")
        },
        Duration::from_secs(30),
    );
    raised.await.unwrap();
    let shown = Member(&cluster, 0).ctl(&["overview"]).unwrap();
    assert_eq!(shown.status.code(), Some(3));
    assert!(printed(&shown).contains("critical"), "{}", printed(&shown));
}
