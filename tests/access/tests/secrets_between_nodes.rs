//! The same of three nodes that forward messages, take clients over from each other, and end: of passwords that are shown and
//! proved, tokens, a service that is asked and what it says, the API's tokens, and the keys of the nodes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Certificate, Client, Cluster, ClusterOptions, ConnectOptions, Message, passwd, peer_keys};
use mqtt_codec::ReasonCode;
use tempfile::TempDir;
use tokio::task::block_in_place;

use crate::leaks::ensure_none;
use crate::scram::tried;
use crate::service::service_that;
use crate::tokens::{SECRET, token};

/// With signs that are written in other ways where text is quoted.
const PASSWORD: &str = "planted\"pass\\word\"4711";
const PROVED: &str = "planted-proved-4711";
const WRONG: &str = "planted-wrong-4711";
/// What the service is told, and what it says.
const ASKED: &str = "planted-asked-4711";
const CLAIM: &str = "planted-claim-4711";
const GARBLED: &str = "planted-garbled-4711";
const PAYLOAD: &str = "planted-payload-4711";
const RETAINED: &str = "planted-retained-4711";
const WILL: &str = "planted-will-4711";
/// What an operator shows and publishes.
const READ_TOKEN: &str = "planted-read-token-0123456789abcdef";
const WRITE_TOKEN: &str = "planted-write-token-0123456789abcdef";
const WRONG_TOKEN: &str = "planted-wrong-token-0123456789abcdef";
const OPERATORS: &str = "planted-operators-4711";

/// For three nodes that say all they can.
const READY: Duration = Duration::from_secs(60);

fn judge(request: &str) -> String {
    match () {
        () if request.contains(r#""user":"dora""#) => {
            format!(r#"{{"result":"allow","claims":{{"site":"{CLAIM}"}}}}"#)
        }
        // Half right: nobody is let in by it.
        () if request.contains(r#""user":"eve""#) => format!(r#"{{"result":"{GARBLED}"}}"#),
        () => r#"{"result":"deny"}"#.to_owned(),
    }
}

fn config(files: &Path, port: u16) -> String {
    let text = "\
[auth]
password_file = 'FILES/users'
jwt_keys = ['FILES/key']
jwt_algorithms = ['HS256']
[auth.http]
url = 'https://localhost:PORT/who'
ca = 'FILES/cert.pem'
[access]
rules = 'FILES/rules'
[admin]
read_tokens = ['READ']
write_tokens = ['WRITE']
[log]
level = 'trace'
";
    text.replace("FILES", &files.display().to_string())
        .replace("PORT", &port.to_string())
        .replace("READ", READ_TOKEN)
        .replace("WRITE", WRITE_TOKEN)
}

/// Three nodes with certificates, and everything that they are told.
async fn three(files: &Path) -> Result<Cluster> {
    let users = files.join("users");
    passwd(&users, "anna", PASSWORD, &[])?;
    passwd(&users, "carla", PROVED, &["--scram"])?;
    std::fs::write(files.join("key"), SECRET)?;
    std::fs::write(files.join("rules"), "allow all a/#\n")?;
    let port = service_that(&Certificate::create(files)?, judge).await?;
    let mut cluster = Cluster::prepare(ClusterOptions {
        config: config(files, port),
        cluster_keys: peer_keys(files),
        ..ClusterOptions::default()
    })?;
    cluster.write_peer_certificate(files)?;
    block_in_place(|| cluster.launch_all(READY))?;
    Ok(cluster)
}

/// Everything that is planted: also what is made of it for the files.
fn planted(files: &Path, tokens: &[String]) -> Result<Vec<String>> {
    let mut planted: Vec<String> = [
        PASSWORD,
        PROVED,
        WRONG,
        ASKED,
        CLAIM,
        GARBLED,
        PAYLOAD,
        RETAINED,
        WILL,
        READ_TOKEN,
        WRITE_TOKEN,
        WRONG_TOKEN,
        OPERATORS,
        SECRET,
    ]
    .map(str::to_owned)
    .to_vec();
    planted.extend_from_slice(tokens);
    let users = std::fs::read_to_string(files.join("users"))?;
    let hashes = users.lines().filter_map(|line| line.split_once(':'));
    planted.extend(hashes.map(|(_, hash)| hash.to_owned()));
    let key = std::fs::read_to_string(files.join("node.key"))?;
    let lines = key.lines().filter(|line| !line.starts_with("-----"));
    planted.extend(lines.map(str::to_owned));
    Ok(planted)
}

async fn login(cluster: &Cluster, node: usize, who: (&str, &str), options: ConnectOptions) -> Result<Client> {
    let options = options.credentials(who.0, who.1.as_bytes());
    Client::connect(cluster.mqtt_addr(node), options).await
}

async fn is_refused(cluster: &Cluster, node: usize, who: (&str, &str), expected: ReasonCode) -> Result<()> {
    let mut client = Client::open(cluster.mqtt_addr(node)).await?;
    let options = ConnectOptions::v5("refused").credentials(who.0, who.1.as_bytes());
    client.send_connect(options).await?;
    let said = client.expect_connack().await?.reason_code;
    ensure!(said == expected, "{}: {said:?}", who.0);
    Ok(())
}

/// Asks a node's API; the status of the answer.
fn ask(cluster: &Cluster, node: usize, token: &str, request: &str, body: &str) -> Result<u16> {
    block_in_place(|| {
        let mut stream = TcpStream::connect(cluster.admin_addr(node))?;
        stream.set_read_timeout(Some(READY))?;
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            cluster.admin_addr(node),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split_whitespace().nth(1).context("no status")?;
        Ok(status.parse()?)
    })
}

/// Receives these, in whatever order.
async fn expect(client: &mut Client, payloads: &[&str]) -> Result<()> {
    let mut missing = payloads.to_vec();
    while !missing.is_empty() {
        let received = client.receive().await?;
        let received = received.publication.payload();
        let place = missing.iter().position(|payload| received == payload.as_bytes());
        missing.swap_remove(place.with_context(|| format!("{received:?} beside {missing:?}"))?);
    }
    Ok(())
}

/// Who comes in, and who does not, by everything there is.
async fn comings(cluster: &Cluster, good: &str, forged: &str) -> Result<()> {
    login(cluster, 0, ("dora", ASKED), ConnectOptions::v5("dora")).await?;
    let (mut carla, said, _) = tried(cluster.mqtt_addr(1), ("carla", PROVED), "carla").await?;
    ensure!(said.reason_code == ReasonCode::Success, "{said:?}");
    carla.ping().await?;
    let (_, said, _) = tried(cluster.mqtt_addr(2), ("carla", WRONG), "carla").await?;
    ensure!(said.reason_code == ReasonCode::NotAuthorized, "{said:?}");
    login(cluster, 2, ("", good), ConnectOptions::v311("bob")).await?;
    is_refused(cluster, 0, ("anna", WRONG), ReasonCode::BadUserNameOrPassword).await?;
    is_refused(cluster, 1, ("", forged), ReasonCode::BadUserNameOrPassword).await?;
    is_refused(cluster, 1, ("fred", ASKED), ReasonCode::BadUserNameOrPassword).await?;
    is_refused(cluster, 2, ("eve", ASKED), ReasonCode::ServerUnavailable).await
}

/// An operator with each of the tokens, at each node.
fn operating(cluster: &Cluster) -> Result<()> {
    let message = format!(r#"{{"topic":"a/operators","payload":"{OPERATORS}","qos":1}}"#);
    for node in cluster.all() {
        for (token, request, body, expected) in [
            (READ_TOKEN, "GET /api/v1/sessions", "", 200),
            (READ_TOKEN, "GET /api/v1/config", "", 200),
            (READ_TOKEN, "POST /api/v1/publish", message.as_str(), 403),
            (WRITE_TOKEN, "POST /api/v1/publish", message.as_str(), 200),
            (WRONG_TOKEN, "GET /api/v1/sessions", "", 401),
        ] {
            let status = ask(cluster, node, token, request, body)?;
            ensure!(status == expected, "{request} with {token}: {status}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_payload_is_in_the_logs_of_nodes_that_forward_take_over_and_restart() -> Result<()> {
    let files = TempDir::with_prefix("flotilla-access-")?;
    let mut cluster = three(files.path()).await?;
    let good = token(r#""sub":"bob""#, 3600);
    let forged = format!("{good}AAAA");
    comings(&cluster, &good, &forged).await?;

    let kept = || ConnectOptions::v5("anna").persistent();
    let mut anna = login(&cluster, 0, ("anna", PASSWORD), kept()).await?;
    ensure!(anna.subscribe("a/#", 2).await? == ReasonCode::GrantedQoS2);
    let mut here = login(&cluster, 2, ("", &good), ConnectOptions::v5("here")).await?;
    ensure!(here.subscribe("a/+", 1).await? == ReasonCode::GrantedQoS1);
    let will = Message::new("a/will", WILL).qos(1);
    let mut bob = login(&cluster, 1, ("", &good), ConnectOptions::v5("bob").will(will)).await?;
    for message in [
        Message::new("a/0", PAYLOAD),
        Message::new("a/1", PAYLOAD).qos(1),
        Message::new("a/2", PAYLOAD).qos(2),
        Message::new("b/denied", PAYLOAD).qos(1),
        Message::new("a/3", RETAINED).qos(1).retain(),
    ] {
        bob.publish(message).await?;
    }
    drop(bob);
    for receiver in [&mut anna, &mut here] {
        expect(receiver, &[PAYLOAD, PAYLOAD, PAYLOAD, RETAINED, WILL]).await?;
    }

    let mut next = login(&cluster, 2, ("anna", PASSWORD), kept()).await?;
    anna.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    operating(&cluster)?;
    expect(&mut next, &[OPERATORS; 3]).await?;
    drop(next);

    // One node is killed, another one stops in good order; what waits meanwhile is read from disks and logs.
    block_in_place(|| cluster.kill9(1));
    let mut bob = login(&cluster, 0, ("", &good), ConnectOptions::v5("bob")).await?;
    bob.publish(Message::new("a/4", PAYLOAD).qos(1)).await?;
    block_in_place(|| -> Result<()> {
        cluster.launch(1)?;
        cluster.wait_ready(&[0, 1, 2], READY)?;
        cluster.stop(2)?;
        cluster.launch(2)?;
        cluster.wait_ready(&[0, 1, 2], READY)
    })?;
    let mut anna = login(&cluster, 1, ("anna", PASSWORD), kept()).await?;
    expect(&mut anna, &[PAYLOAD]).await?;

    let planted = planted(files.path(), &[good, forged])?;
    for node in cluster.all() {
        let log = cluster.log(node);
        for word in ["event=\"login\"", "event=\"login refused\"", " TRACE "] {
            ensure!(log.contains(word), "{word} is not in the log of {node}");
        }
        ensure_none(&log, &planted).with_context(|| cluster.name(node).to_owned())?;
    }
    Ok(())
}
