//! `flotilla ctl`, `health` and `completions`, as scripts use them.

use std::os::unix::fs::PermissionsExt;

use harness::{Broker, BrokerOptions, Client, ConnectOptions, Message};
use operator::{Node, printed};
use serde_json::Value;

const WRITE: &str = "write-0123456789abcdef0123456789a";

fn code(broker: &Broker, arguments: &[&str]) -> i32 {
    broker.ctl(arguments).unwrap().status.code().unwrap()
}

fn table(broker: &Broker, arguments: &[&str]) -> String {
    let output = broker.ctl(arguments).unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    printed(&output)
}

/// What a command that succeeds says beside its answer.
fn told(broker: &Broker, arguments: &[&str]) -> String {
    let output = broker.ctl(arguments).unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(broker: &Broker, arguments: &[&str]) -> Value {
    let all: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
    serde_json::from_str(&table(broker, &all)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_in_tables_and_json() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("truck-7").persistent())
        .await
        .unwrap();
    client.subscribe("fleet/#", 1).await.unwrap();
    client
        .publish(Message::new("fleet/7", "here").qos(1).retain())
        .await
        .unwrap();
    for (arguments, shown) in [
        (&["overview"][..], "1 sessions"),
        (&["cluster", "status"], "16 shards"),
        (&["node"], "ready"),
        (&["clients", "list"], "truck-7  connected"),
        (&["clients", "show", "truck-7"], "MQTT 5.0"),
        (&["subscriptions", "--filter", "fleet"], "truck-7  fleet/#"),
        (&["routes"], "fleet/#"),
        (&["explain", "fleet/1"], "truck-7"),
        (&["retained", "list"], "fleet/7"),
        (&["retained", "show", "fleet/7"], "here"),
        (&["log"], "info"),
        (&["config"], "limits.connections_max"),
        (&["certificates"], "SUBJECT"),
    ] {
        let text = table(&broker, arguments);
        assert!(text.contains(shown), "{arguments:?}:\n{text}");
        assert!(json(&broker, arguments).is_object(), "{arguments:?}");
    }
    assert_eq!(
        json(&broker, &["clients", "list"])["items"][0]["client_id"],
        "truck-7"
    );
    assert!(table(&broker, &["api"]).contains("\"openapi\": \"3.1.0\""));
    let set = table(&broker, &["config", "--set"]);
    assert!(
        set.contains("node.data_dir") && !set.contains("connections_max"),
        "{set}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_scripts_what_happened() {
    let config = format!("[admin]\nwrite_tokens = [\"{WRITE}\"]\n");
    let broker = Broker::start(BrokerOptions {
        config: Some(config),
        ..BrokerOptions::default()
    })
    .unwrap();
    assert_eq!(code(&broker, &["overview"]), 5);
    let with = |arguments: &[&str]| {
        let mut command = broker.flotilla().unwrap();
        let output = command
            .env("FLOTILLA_TOKEN", WRITE)
            .arg("ctl")
            .args(arguments)
            .output()
            .unwrap();
        output.status.code().unwrap()
    };
    assert_eq!(with(&["overview"]), 0);
    assert_eq!(with(&["clients", "show", "nobody"]), 4);
    assert_eq!(with(&["clients", "disconnect", "nobody"]), 4);
    assert_eq!(with(&["retained", "show", "nothing"]), 4);
    assert_eq!(with(&["publish", "a/b", "hello"]), 0);
    assert_eq!(with(&["publish", "a/+", "hello"]), 3);
    assert_eq!(with(&["clients", "list", "--away", "--connected"]), 2);
    assert_eq!(with(&["--admin", "127.0.0.1:1", "overview"]), 1);
}

#[test]
fn a_backup_comes_back_as_it_was() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    for (topic, text) in [("site/a", "1"), ("site/b", "zwei"), ("other", "3")] {
        table(&broker, &["publish", topic, text, "--retain"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("site.jsonl").display().to_string();
    let backup = ["retained", "backup", "--filter", "site/#", &file];
    assert_eq!(told(&broker, &backup), "2 retained messages written\n");
    assert_eq!(
        told(&broker, &[&backup[..], &["--progress"]].concat()),
        "writing retained messages: 2\n2 retained messages written\n"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "payloads are nobody else's");
    for topic in ["site/a", "site/b"] {
        table(&broker, &["retained", "delete", topic]);
    }
    assert_eq!(
        json(&broker, &["retained", "list"])["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        table(&broker, &["retained", "restore", &file]),
        "2 retained messages set, 0 failed\n"
    );
    assert_eq!(table(&broker, &["retained", "show", "site/b"]), "zwei\n");
    let restore = ["retained", "restore", "--progress", &file];
    assert_eq!(told(&broker, &restore), "setting retained messages: 2 (100 %)\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_sessions_say_how_far_they_are_when_asked() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    let device = ConnectOptions::v5("truck-7").persistent();
    let mut client = Client::connect(broker.mqtt_addr(), device).await.unwrap();
    client.subscribe("fleet/#", 1).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sessions.jsonl").display().to_string();
    for (progress, said) in [
        (&[][..], "1 sessions with 0 messages written\n"),
        (
            &["--progress"],
            "writing 1 sessions, 0 messages\n1 sessions with 0 messages written\n",
        ),
    ] {
        let backup = [&["sessions", "backup", &file][..], progress].concat();
        // The first look may come before anything was written.
        let told = told(&broker, &backup).replace("writing 0 sessions, 0 messages\n", "");
        assert_eq!(told, said);
    }
    // What is there stays, and that has to be known in any case.
    let stays = "flotilla: truck-7: its session is newer than the backup, and stays as it is\n";
    assert_eq!(told(&broker, &["sessions", "restore", &file]), stays);
    assert_eq!(
        told(&broker, &["sessions", "restore", "--progress", &file]),
        format!("{stays}restoring: 0 sessions, 0 messages (100 %)\n")
    );
}

#[test]
fn health_is_for_probes() {
    let mut broker = Broker::start(BrokerOptions::default()).unwrap();
    let health = |broker: &Broker, flag: &[&str]| {
        broker
            .flotilla()
            .unwrap()
            .arg("health")
            .args(flag)
            .status()
            .unwrap()
            .code()
            .unwrap()
    };
    for flag in [&[][..], &["--live"], &["--started"]] {
        assert_eq!(health(&broker, flag), 0, "{flag:?}");
    }
    broker.stop().unwrap();
    assert_eq!(health(&broker, &[]), 1);
}

#[test]
fn completions_are_scripts_that_their_shell_understands() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    let script = |shell| {
        let output = broker
            .flotilla()
            .unwrap()
            .args(["completions", shell])
            .output()
            .unwrap();
        assert!(output.status.success());
        printed(&output)
    };
    let complete =
        "\nCOMP_WORDS=(flotilla ctl clients di); COMP_CWORD=3; _flotilla; echo \"${COMPREPLY[@]}\"\n";
    let output = std::process::Command::new("bash")
        .args(["-c", &(script("bash") + complete)])
        .output()
        .unwrap();
    assert_eq!(printed(&output), "disconnect\n", "{output:?}");
    assert!(script("zsh").contains("bashcompinit"));
    assert!(
        script("fish").contains("complete -c flotilla -f -n '__flotilla_place flotilla ctl clients' -a show")
    );
}
