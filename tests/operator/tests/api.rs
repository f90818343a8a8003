//! One broker, asked by programs: every path of the document, and what becomes of clients and messages.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{Broker, BrokerOptions, Client, ConnectOptions, Message};
use operator::Api;
use serde_json::{Value, json};

const READ: &str = "read-0123456789abcdef0123456789ab";
const WRITE: &str = "write-0123456789abcdef0123456789a";

fn broker() -> (Broker, Api) {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    let api = Api::at(broker.admin_addr());
    (broker, api)
}

fn with_tokens() -> Broker {
    let config = format!("[admin]\nread_tokens = [\"{READ}\"]\nwrite_tokens = [\"{WRITE}\"]\n");
    Broker::start(BrokerOptions {
        config: Some(config),
        ..BrokerOptions::default()
    })
    .unwrap()
}

async fn client(broker: &Broker, options: ConnectOptions) -> Client {
    Client::connect(broker.mqtt_addr(), options).await.unwrap()
}

fn texts<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    let list = list.as_array().unwrap();
    list.iter().map(|one| one[key].as_str().unwrap_or("?")).collect()
}

/// Every path that the document has is answered as it says, and none that it has not.
#[test]
fn the_document_describes_what_is_there() {
    let (_broker, api) = broker();
    let document = api.get("/api/v1/openapi.json").unwrap();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // These end the node or the request.
            if ["drain", "leave", "watch"].contains(&operation["operationId"].as_str().unwrap()) {
                continue;
            }
            let mut query = Vec::new();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["required"] == true && parameter["in"] == "query" {
                    query.push(format!("{}=a", parameter["name"].as_str().unwrap()));
                }
            }
            let path = path.replace("{client}", "nobody").replace("{node}", "nobody");
            let path = format!("{path}?{}", query.join("&"));
            let body = (!operation["requestBody"].is_null()).then(|| json!({"topic": "a", "level": "info"}));
            let answer = api.ask(&method.to_uppercase(), &path, body.as_ref()).unwrap();
            let described = operation["responses"].as_object().unwrap();
            assert!(
                described.contains_key(&answer.status.to_string()),
                "{method} {path}: {answer:?}"
            );
            asked += 1;
        }
    }
    assert!(asked > 15, "{asked}");
    assert_eq!(api.ask("GET", "/api/v1/nothing", None).unwrap().status, 404);
    assert_eq!(api.ask("GET", "/api/v1/publish", None).unwrap().status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_listed_shown_and_ended() {
    let (broker, api) = broker();
    let mut truck = client(&broker, ConnectOptions::v5("truck").persistent()).await;
    truck.subscribe("fleet/#", 1).await.unwrap();
    truck.disconnect().await.unwrap();
    let mut sender = client(&broker, ConnectOptions::v5("sender")).await;
    sender.subscribe("answers", 0).await.unwrap();
    sender.publish(Message::new("fleet/1", "x").qos(1)).await.unwrap();

    let all = api.get("/api/v1/clients").unwrap();
    assert_eq!(texts(&all["items"], "client_id"), ["sender", "truck"]);
    assert_eq!(all["covers"]["shards"], all["covers"]["of"]);
    let away = api.get("/api/v1/clients?connected=false").unwrap();
    assert_eq!(texts(&away["items"], "client_id"), ["truck"]);
    let first = api.get("/api/v1/clients?limit=1").unwrap();
    assert_eq!(
        (texts(&first["items"], "client_id"), &first["next"]),
        (vec!["sender"], &json!("sender"))
    );
    let second = api.get("/api/v1/clients?limit=1&after=sender").unwrap();
    assert_eq!(
        (texts(&second["items"], "client_id"), &second["next"]),
        (vec!["truck"], &Value::Null)
    );

    let shown = api.get("/api/v1/clients/truck").unwrap();
    assert_eq!(shown["session"]["queued_messages"], 1);
    assert_eq!(texts(&shown["subscriptions"], "filter"), ["fleet/#"]);
    assert_eq!(shown["queue"][0]["qos"], 1);
    assert_eq!(shown["connection"], Value::Null);
    let shown = api.get("/api/v1/clients/sender").unwrap();
    assert_eq!(shown["connection"]["protocol"], "MQTT 5.0");
    assert_eq!(texts(&shown["subscriptions"], "filter"), ["answers"]);
    assert_eq!(shown["subscriptions"][0]["kept"], false);

    let listed = api.get("/api/v1/subscriptions").unwrap();
    assert_eq!(texts(&listed["items"], "filter"), ["answers", "fleet/#"]);
    let routed = api.get("/api/v1/routes?filter=fleet").unwrap();
    assert_eq!(texts(&routed["items"], "filter"), ["fleet/#"]);

    assert_eq!(
        api.ask("POST", "/api/v1/clients/truck/disconnect", None)
            .unwrap()
            .status,
        409
    );
    api.ask("POST", "/api/v1/clients/truck/disconnect?session=end", None)
        .unwrap()
        .good()
        .unwrap();
    assert_eq!(api.ask("GET", "/api/v1/clients/truck", None).unwrap().status, 404);
    api.ask("POST", "/api/v1/clients/sender/disconnect", None)
        .unwrap()
        .good()
        .unwrap();
    sender.expect_disconnect_administrative().await;
}

/// What `expect_disconnect` would say, with the reason code in one place.
trait Administrative {
    async fn expect_disconnect_administrative(&mut self);
}

impl Administrative for Client {
    async fn expect_disconnect_administrative(&mut self) {
        let packet = self.receive_packet().await.unwrap();
        assert!(
            format!("{packet:?}").contains("AdministrativeAction"),
            "{packet:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_server_publishes_and_knows_what_became_of_it() {
    let (broker, api) = broker();
    let mut device = client(&broker, ConnectOptions::v5("device")).await;
    device.subscribe("devices/4711/#", 2).await.unwrap();
    let message =
        json!({"topic": "devices/4711/commands", "payload": "open", "qos": 1, "content_type": "text/plain"});
    let outcome = api.post("/api/v1/publish", &message).unwrap();
    assert_eq!(
        outcome["items"][0],
        json!({"topic": "devices/4711/commands", "done": true, "matched": true, "reason": null, "refused": false})
    );
    let received = device.expect_publish().await.unwrap();
    assert_eq!(received.publication.payload(), "open".as_bytes());
    assert_eq!(
        received.publication.properties().content_type.as_deref(),
        Some("text/plain")
    );

    let many = json!({"messages": [
        {"topic": "devices/4711/commands", "payload": "/wA=", "encoding": "base64"},
        {"topic": "devices/+/commands", "payload": "x"},
        {"topic": "nobody/there", "payload": "x", "qos": 2},
    ]});
    let answer = api.ask("POST", "/api/v1/publish", Some(&many)).unwrap();
    assert_eq!(answer.status, 422);
    let outcomes: Value = serde_json::from_str(&answer.body).unwrap();
    let told = |key: &str| {
        outcomes["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one[key] == true)
            .collect::<Vec<_>>()
    };
    assert_eq!(told("done"), [true, false, true]);
    assert_eq!(told("matched"), [true, false, false]);
    assert_eq!(told("refused"), [false, true, false]);
    let received = device.expect_publish().await.unwrap();
    assert_eq!(&received.publication.payload()[..], [0xff, 0]);

    for broken in [
        json!({"payload": "x"}),
        json!({"topic": "a", "qso": 1}),
        json!({"messages": []}),
        json!({"topic": "a", "payload": "?", "encoding": "base64"}),
    ] {
        assert_eq!(
            api.ask("POST", "/api/v1/publish", Some(&broken)).unwrap().status,
            400,
            "{broken}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_are_set_listed_and_deleted() {
    let (broker, api) = broker();
    let mut client = client(&broker, ConnectOptions::v5("c")).await;
    for topic in ["site/a", "site/b", "other"] {
        client
            .publish(Message::new(topic, format!("of {topic}")).qos(1).retain())
            .await
            .unwrap();
    }
    let list = api.get("/api/v1/retained?filter=site/%23").unwrap();
    assert_eq!(texts(&list["items"], "topic"), ["site/a", "site/b"]);
    assert_eq!(list["items"][0]["payload"], "of site/a");
    let page = api.get("/api/v1/retained?limit=2").unwrap();
    assert_eq!(
        (texts(&page["items"], "topic"), &page["next"]),
        (vec!["other", "site/a"], &json!("site/a"))
    );
    assert_eq!(
        api.ask("GET", "/api/v1/retained?filter=a%23", None)
            .unwrap()
            .status,
        400
    );

    client.subscribe("site/#", 1).await.unwrap();
    for _ in 0..2 {
        assert!(client.expect_publish().await.unwrap().retain);
    }
    api.post("/api/v1/retained", &json!({"topic": "site/c", "payload": "3"}))
        .unwrap();
    api.ask("DELETE", "/api/v1/retained/message?topic=site/a", None)
        .unwrap()
        .good()
        .unwrap();
    assert_eq!(
        api.ask("GET", "/api/v1/retained/message?topic=site/a", None)
            .unwrap()
            .status,
        404
    );
    let list = api.get("/api/v1/retained?filter=site/%23").unwrap();
    assert_eq!(texts(&list["items"], "topic"), ["site/b", "site/c"]);
    // Subscribers were not told: the next thing that comes is what comes next.
    client
        .publish(Message::new("site/d", "live").qos(1))
        .await
        .unwrap();
    assert_eq!(
        client.expect_publish().await.unwrap().publication.payload(),
        "live".as_bytes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn explaining_and_looking_on() {
    let (broker, api) = broker();
    let mut plain = client(&broker, ConnectOptions::v5("plain")).await;
    plain.subscribe("a/#", 1).await.unwrap();
    let mut kept = client(&broker, ConnectOptions::v5("kept").persistent()).await;
    kept.subscribe("a/b", 1).await.unwrap();
    let mut worker = client(&broker, ConnectOptions::v5("worker")).await;
    worker.subscribe("$share/jobs/a/b", 1).await.unwrap();
    let explained = api.get("/api/v1/explain?topic=a/b&qos=1").unwrap();
    assert_eq!(texts(&explained["here"]["items"], "client_id"), ["plain"]);
    assert_eq!(explained["shards"][0]["items"], json!(["kept"]));
    assert_eq!(texts(&explained["groups"][0]["members"], "client_id"), ["worker"]);
    let nobody = api.get("/api/v1/explain?topic=b").unwrap();
    assert_eq!(nobody["matched"], false);
    assert!(api.get("/api/v1/explain?topic=a/%23").unwrap()["problem"].is_string());

    let mut stream = TcpStream::connect(broker.admin_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        stream,
        "GET /api/v1/watch?filter=a/%23 HTTP/1.0\r\nHost: {}\r\n\r\n",
        broker.admin_addr()
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().unwrap().unwrap().is_empty() {}
    api.post("/api/v1/publish", &json!({"topic": "a/x", "payload": "seen"}))
        .unwrap();
    let seen = lines
        .find_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_owned))
        .unwrap();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(
        (&seen["topic"], &seen["payload"]),
        (&json!("a/x"), &json!("seen"))
    );
}

#[test]
fn tokens_decide_and_are_nowhere_to_be_seen() {
    let broker = with_tokens();
    let nobody = Api::at(broker.admin_addr());
    let (reader, writer) = (nobody.clone().token(READ), nobody.clone().token(WRITE));
    let message = json!({"topic": "a"});
    let status = |api: &Api, method, path, body: Option<&Value>| api.ask(method, path, body).unwrap().status;
    assert_eq!(status(&nobody, "GET", "/api/v1/cluster", None), 401);
    assert_eq!(status(&nobody, "GET", "/api/v1/openapi.json", None), 401);
    assert_eq!(
        status(
            &nobody.clone().token("wrong-0123456789abcdef0123456789"),
            "GET",
            "/api/v1/cluster",
            None
        ),
        401
    );
    assert_eq!(status(&nobody, "GET", "/readyz", None), 200);
    assert_eq!(status(&nobody, "GET", "/", None), 200);
    assert_eq!(status(&reader, "GET", "/api/v1/cluster", None), 200);
    assert_eq!(status(&reader, "POST", "/api/v1/publish", Some(&message)), 403);
    assert_eq!(status(&reader, "POST", "/api/v1/node/drain", None), 403);
    assert_eq!(status(&writer, "POST", "/api/v1/publish", Some(&message)), 200);
    assert_eq!(
        reader.get("/api/v1/access").unwrap(),
        json!({"role": "read", "by": "token"})
    );
    let config = reader.ask("GET", "/api/v1/config", None).unwrap().body;
    assert!(config.contains("write_tokens"), "{config}");
    for text in [config, broker.log()] {
        assert!(!text.contains(READ) && !text.contains(WRITE), "{text}");
    }
}

#[test]
fn without_tokens_foreign_pages_are_not_answered() {
    let (broker, api) = broker();
    let origin = |origin: &str| {
        api.clone()
            .with(&format!("Origin: {origin}"))
            .ask("GET", "/api/v1/cluster", None)
            .unwrap()
            .status
    };
    assert_eq!(origin("http://evil.example"), 403);
    assert_eq!(origin(&format!("http://{}", broker.admin_addr())), 200);
    let rebound = api
        .with("Host: evil.example")
        .ask("GET", "/api/v1/cluster", None)
        .unwrap();
    assert_eq!(rebound.status, 403, "{}", rebound.body);
}

#[test]
fn the_log_changes_its_level_and_bad_ones_change_nothing() {
    let (broker, api) = broker();
    assert_eq!(api.get("/api/v1/log").unwrap(), json!({"level": "info"}));
    let refused = api
        .ask("PUT", "/api/v1/log", Some(&json!({"level": "inof"})))
        .unwrap();
    assert_eq!(refused.status, 400, "{}", refused.body);
    api.ask("PUT", "/api/v1/log", Some(&json!({"level": "info,broker=debug"})))
        .unwrap()
        .good()
        .unwrap();
    assert_eq!(
        api.get("/api/v1/log").unwrap(),
        json!({"level": "info,broker=debug"})
    );
    drop(broker);
}
