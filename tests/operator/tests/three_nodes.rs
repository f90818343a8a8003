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

    // Why somebody was refused at one node is told by the others, too.
    let refused = ConnectOptions::v5("long".repeat(10_000));
    assert!(Client::connect(cluster.mqtt_addr(0), refused).await.is_err());
    let refusals = api(2).get("/api/v1/refusals").unwrap();
    assert_eq!(items(&refusals)[0]["node"], cluster.name(0), "{refusals}");

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

#[tokio::test(flavor = "multi_thread")]
async fn any_of_five_nodes_answers_for_shards_it_has_no_copy_of() {
    const CLIENTS: usize = 24;
    let five = ClusterOptions {
        nodes: 5,
        ..ClusterOptions::default()
    };
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(five).unwrap());
    let cluster = cluster.await.unwrap();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let options = ConnectOptions::v5(format!("c{number:02}")).session_expiry(3600);
        let mut client = Client::connect(cluster.mqtt_addr(number % 5), options)
            .await
            .unwrap();
        client.subscribe(&format!("kept/{number:02}"), 1).await.unwrap();
        clients.push(client);
    }
    let mut passing = Client::connect(cluster.mqtt_addr(0), ConnectOptions::v5("passing"))
        .await
        .unwrap();
    passing.subscribe("passing/by", 0).await.unwrap();

    for node in cluster.all() {
        let api = Api::at(cluster.admin_addr(node));
        let all_are_known = || {
            let list = api.get("/api/v1/clients?connected=true&limit=10").ok()?;
            let next = list["next"].as_str()?.to_owned();
            let rest = api
                .get(&format!("/api/v1/clients?connected=true&after={next}"))
                .ok()?;
            assert_eq!(list["covers"]["shards"], list["covers"]["of"], "{list}");
            let names = items(&list).iter().chain(items(&rest));
            let names: Vec<&str> = names.filter_map(|one| one["client_id"].as_str()).collect();
            assert!(names.is_sorted(), "{names:?}");
            let have_addresses = items(&list).iter().all(|one| one["address"].is_string());
            assert!(have_addresses, "{list}");
            (names.len() == CLIENTS + 1).then_some(())
        };
        // Replicas may be a moment behind.
        let known = wait_for(async || all_are_known().is_some(), Duration::from_secs(20));
        known.await.unwrap();

        for number in 0..CLIENTS {
            let shown = api.get(&format!("/api/v1/clients/c{number:02}")).unwrap();
            assert_eq!(shown["session"]["node"], cluster.name(number % 5), "{shown}");
            assert_eq!(shown["subscriptions"][0]["filter"], format!("kept/{number:02}"));
            let explained = api.get(&format!("/api/v1/explain?topic=kept/{number:02}&qos=1"));
            assert_eq!(explained.unwrap()["shards"][0]["sessions"], 1);
        }
        let kept = api.get("/api/v1/subscriptions").unwrap();
        assert_eq!(items(&kept).len(), CLIENTS + 1, "{kept}");
        let overview = api.get("/api/v1/overview").unwrap();
        assert_eq!(overview["totals"]["connected"], CLIENTS + 1, "{overview}");
        assert!(
            api.get("/api/v1/clients/nobody")
                .unwrap_err()
                .to_string()
                .contains("no session")
        );
    }

    // Each client is disconnected by a node that it is not connected to, wherever its shard is.
    for (number, client) in clients.iter_mut().enumerate() {
        let api = Api::at(cluster.admin_addr((number + 1) % 5));
        let answer = api.ask("POST", &format!("/api/v1/clients/c{number:02}/disconnect"), None);
        answer.unwrap().good().unwrap();
        client.receive_packet().await.unwrap();
        client.expect_closed().await.unwrap();
    }
}
