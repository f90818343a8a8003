//! A live trace: what it tells of a client and of topics, what it never tells, and when it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Broker, BrokerOptions, Client, ConnectOptions, Message, wait_for};
use operator::{Api, Node, printed};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// What `mosquitto_passwd` made of anna's password.
const USERS: &str = "anna:$7$101$/evfF8eWboPjHHTX$kZe1ssrM3EWuYAc8NF9uohrDuohuslz60oGvw4nGESDJ7C0y6s1Hjk5jtgPYgOjbqJh1C0dQftq7mE35BCXRjw==\n";
const PASSWORD: &str = "secret-a";
const PAYLOAD: &str = "planted-payload";
const WILL: &str = "planted-will";

fn broker() -> Result<(Broker, Api)> {
    let broker = Broker::start(BrokerOptions::default())?;
    let api = Api::at(broker.admin_addr());
    Ok((broker, api))
}

/// What a line is about, in short.
fn shape(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap_or("").to_owned();
    [text("event"), text("packet"), text("action")].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_traced_packet_by_packet_and_nothing_that_it_says_or_shows_is_told() -> Result<()> {
    let files = tempfile::tempdir()?;
    std::fs::write(files.path().join("users"), USERS)?;
    std::fs::write(
        files.path().join("rules"),
        "deny publish a/secret\nallow all a/#\n",
    )?;
    let place = files.path().to_str().context("a path in UTF-8")?;
    let config =
        "[auth]\npassword_file = 'FILES/users'\n[access]\nrules = 'FILES/rules'\n[log]\nlevel = 'trace'\n";
    let broker = Broker::start(BrokerOptions {
        config: Some(config.replace("FILES", place)),
        ..BrokerOptions::default()
    })?;
    let mut trace = Api::at(broker.admin_addr()).follow("/api/v1/trace?client=truck&seconds=300")?;
    ensure!(
        trace.next().context("a line")??["place"] == Value::Null,
        "it is not there yet"
    );

    let options = |password: &str| {
        let will = Message::new("a/will", WILL).qos(1);
        let options = ConnectOptions::v5("truck").will(will).keep_alive(60);
        options.credentials("anna", password.as_bytes())
    };
    ensure!(
        Client::connect(broker.mqtt_addr(), options("planted-wrong"))
            .await
            .is_err()
    );
    let mut other = Client::connect(
        broker.mqtt_addr(),
        ConnectOptions::v5("other").credentials("anna", PASSWORD.as_bytes()),
    )
    .await?;
    let mut truck = Client::connect(broker.mqtt_addr(), options(PASSWORD)).await?;
    truck.subscribe("a/+", 1).await?;
    truck
        .publish(Message::new("a/1", PAYLOAD).qos(1).topic_alias(1))
        .await?;
    truck.receive().await?;
    // A PUBLISH without a topic, and the alias of the one before.
    let head = [0x30, 6 + PAYLOAD.len() as u8, 0, 0, 3, 0x23, 0, 1];
    truck.send_raw(&[&head[..], PAYLOAD.as_bytes()].concat()).await?;
    truck.receive().await?;
    truck.publish(Message::new("a/secret", PAYLOAD).qos(1)).await?;
    other.publish(Message::new("b/1", PAYLOAD)).await?;
    truck.disconnect().await?;

    let mut told = Vec::new();
    for line in trace.by_ref() {
        let line = line?;
        if line["event"] != "place" {
            told.push(line);
        }
        if told.last().is_some_and(|line| line["event"] == "closed") {
            break;
        }
    }
    let shapes: Vec<String> = told.iter().map(shape).collect();
    ensure!(
        shapes[..6]
            == [
                "receivedCONNECT",
                "refused",
                "sentCONNACK",
                "receivedCONNECT",
                "connected",
                "sentCONNACK"
            ],
        "{shapes:#?}"
    );
    let find = |wanted: &str| {
        let found: Vec<&Value> = told.iter().filter(|line| shape(line) == wanted).collect();
        ensure!(!found.is_empty(), "{wanted}: {told:#?}");
        Ok(found)
    };
    let connect = find("receivedCONNECT")?[1];
    ensure!(
        connect["flags"] == json!(["clean_start", "will"]) && connect["topic"] == "a/will",
        "{connect}"
    );
    ensure!(find("refused")?[0]["reason_codes"] == json!([0x86]));
    ensure!(find("receivedSUBSCRIBE")?[0]["filters"] == json!(["a/+"]));
    ensure!(find("sentSUBACK")?[0]["reason_codes"] == json!([1]));
    let published = find("receivedPUBLISH")?;
    let topics: Vec<&Value> = published.iter().map(|line| &line["topic"]).collect();
    ensure!(
        topics == ["a/1", "a/1", "a/secret"],
        "an alias stands for its topic: {topics:?}"
    );
    let first = published[0];
    ensure!(
        first["qos"] == 1 && first["payload_bytes"] == PAYLOAD.len(),
        "{first}"
    );
    ensure!(
        first["bytes"].as_u64() > first["payload_bytes"].as_u64(),
        "{first}"
    );
    let acknowledged = find("sentPUBACK")?;
    ensure!(acknowledged[0]["packet_id"] == first["packet_id"]);
    ensure!(acknowledged[1]["reason_codes"] == json!([0x87]));
    ensure!(find("sentPUBLISH")?.len() == 2 && find("receivedPUBACK")?.len() == 1);
    let denied = find("deniedpublish")?[0];
    ensure!(
        denied["rule_line"] == 1 && denied["topic"] == "a/secret",
        "{denied}"
    );
    ensure!(find("closed")?[0]["reason"] == "client_disconnect");
    ensure!(told.iter().all(|line| line["client_id"] == "truck"));

    let told = format!("{told:?}\n{}", broker.log());
    for secret in [PASSWORD, PAYLOAD, WILL, "planted-wrong"] {
        ensure!(!told.contains(secret), "{secret} is told");
    }
    ensure!(broker.log().contains("event=\"trace\""), "{}", broker.log());
    drop(trace);
    wait_for(async || broker.log().contains("event=\"trace ended\""), LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_shows_a_trace_of_topics_until_its_time_is_over() -> Result<()> {
    let (broker, _) = broker()?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    let is_over = AtomicBool::new(false);
    let shown = std::thread::scope(|scope| {
        let shown = scope.spawn(|| {
            let shown = broker.ctl(&["trace", "--topic", "a/#", "--for", "3s"]);
            is_over.store(true, Ordering::Release);
            shown
        });
        let publishing = async {
            while !is_over.load(Ordering::Acquire) {
                client.publish(Message::new("a/1", "x").qos(1)).await?;
                client.publish(Message::new("b/1", "x").qos(1)).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(publishing))?;
        shown.join().expect("the thread ends by itself")
    })?;
    ensure!(shown.status.success(), "{shown:?}");
    let shown = printed(&shown);
    ensure!(
        shown.contains("c  received  PUBLISH  id=") && shown.contains("topic=a/1"),
        "{shown}"
    );
    ensure!(!shown.contains("b/1"), "{shown}");
    let last = shown.lines().last().context("a last line")?;
    ensure!(last.ends_with("  end"), "{last}");
    let json = broker.ctl(&["trace", "--client", "c", "--for", "1s", "--output", "json"])?;
    let lines = printed(&json);
    let first: Value = serde_json::from_str(lines.lines().next().context("a line")?)?;
    ensure!(
        first["event"] == "place" && first["place"] == first["node"],
        "{first}"
    );
    ensure!(broker.ctl(&["trace"])?.status.code() == Some(2));
    ensure!(broker.ctl(&["trace", "--topic", "a/#/b"])?.status.code() == Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_a_trace_loses_lines_and_holds_up_nobody() -> Result<()> {
    let (broker, api) = broker()?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    let trace = api.follow("/api/v1/trace?client=c&seconds=3600")?;
    let lost = || -> Result<bool> {
        let metrics = broker.admin_get("/metrics")?;
        Ok(!metrics.contains("flotilla_trace_lines_lost_total 0\n"))
    };
    let topic = "t".repeat(250);
    let flood = async {
        while !lost()? {
            for _ in 0..2000 {
                client.send_publish(Message::new(&topic, "")).await?;
            }
            // Served all the same.
            client.ping().await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(LIMIT, flood)
        .await
        .context("nothing was lost")??;
    let found = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let line = trace
                .map(Result::unwrap)
                .find(|line| line["lost"].as_u64() > Some(0));
            found.store(true, Ordering::Release);
            line
        });
        // What comes next says how many are missing before it.
        let going_on = async {
            while !found.load(Ordering::Acquire) {
                client.ping().await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(going_on))?;
        reading
            .join()
            .expect("the thread ends by itself")
            .context("a line that says so")
    })?;
    Ok(())
}

#[test]
fn traces_are_few_and_each_is_of_one_thing_for_a_time() -> Result<()> {
    let (broker, api) = broker()?;
    for wrong in [
        "",
        "client=",
        "client=a&topic=b",
        "topic=a/%23/b",
        "client=a&seconds=0",
        "client=a&seconds=3601",
    ] {
        let answer = api.ask("GET", &format!("/api/v1/trace?{wrong}"), None)?;
        ensure!(answer.status == 400, "{wrong}: {answer:?}");
    }
    let mut traces = Vec::new();
    for _ in 0..8 {
        traces.push(api.follow("/api/v1/trace?topic=%23&seconds=3600")?);
    }
    let one_more = api.ask("GET", "/api/v1/trace?topic=%23", None)?;
    ensure!(
        one_more.status == 503 && one_more.body.contains("too many"),
        "{one_more:?}"
    );
    drop(traces);
    ensure!(broker.log().contains("event=\"trace\""));
    Ok(())
}
