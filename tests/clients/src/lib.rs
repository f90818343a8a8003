//! What the tests with real clients share: a broker with all its listeners, and where the clients' programs are.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Broker, BrokerOptions, Cluster, ClusterOptions};

/// How long a client's stories may take together.
const STORIES_LIMIT: Duration = Duration::from_secs(120);

/// How a client reaches the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Plain MQTT.
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket.
    WebSocket,
    /// MQTT over secure WebSocket.
    SecureWebSocket,
}

impl Reach {
    /// The word that the scripts know it by.
    pub fn word(self) -> &'static str {
        match self {
            Reach::Tcp => "tcp",
            Reach::Tls => "tls",
            Reach::WebSocket => "ws",
            Reach::SecureWebSocket => "wss",
        }
    }

    /// The port of the broker's listener for it.
    pub fn port(self, broker: &Broker) -> u16 {
        match self {
            Reach::Tcp => broker.mqtt_addr(),
            Reach::Tls => broker.mqtts_addr(),
            Reach::WebSocket => broker.ws_addr(),
            Reach::SecureWebSocket => broker.wss_addr(),
        }
        .port()
    }

    /// The certificate to trust, where there is one.
    pub fn trusted(self, broker: &Broker) -> Option<&Path> {
        let secure = matches!(self, Reach::Tls | Reach::SecureWebSocket);
        broker
            .certificate()
            .filter(|_| secure)
            .map(|certificate| certificate.chain_path.as_path())
    }
}

/// A broker with plain, TLS, WebSocket and secure WebSocket listeners.
pub fn broker() -> Result<Broker> {
    Broker::start(BrokerOptions {
        tls: true,
        ..BrokerOptions::default()
    })
}

/// Lets Paho tell its stories to a broker.
pub fn paho(version: &str, reach: Reach) -> Result<()> {
    let python = tool("venv/bin/python")?;
    let mut command = Command::new(python);
    command.arg("-u").arg(script("paho_stories.py"));
    stories(&mut command, version, reach)
}

/// Lets MQTT.js tell its stories to a broker.
pub fn mqttjs(version: &str, reach: Reach) -> Result<()> {
    let node_tools = tool("node")?;
    let mut command = Command::new("node");
    command
        .arg(script("mqttjs.js"))
        .env("FLOTILLA_NODE_TOOLS", node_tools);
    stories(&mut command, version, reach)
}

/// One of the mosquitto programs, with its output unbuffered: else it keeps lines to itself when nobody looks.
pub fn mosquitto(name: &str) -> Result<Command> {
    let here = Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ensure!(here.is_ok(), "{name} is not here: run cargo xtask test");
    let mut command = Command::new("stdbuf");
    command.args(["-oL", name]);
    Ok(command)
}

/// Lets Paho tell its stories to a cluster, successive connections to different nodes.
pub fn paho_over_nodes(version: &str) -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default())?;
    let nodes = cluster.all();
    let places: Vec<_> = nodes
        .iter()
        .map(|node| cluster.mqtt_addr(*node).to_string())
        .collect();
    let mut command = Command::new(tool("venv/bin/python")?);
    command.arg("-u").arg(script("paho_stories.py"));
    command.args([version, Reach::Tcp.word(), &places.join(","), ""]);
    let logs = || nodes.iter().map(|node| cluster.log(*node)).collect::<Vec<_>>();
    told(&mut command, || logs().join("\n"))
}

fn stories(command: &mut Command, version: &str, reach: Reach) -> Result<()> {
    let broker = broker()?;
    let trusted = reach.trusted(&broker).map(Path::as_os_str).unwrap_or_default();
    command
        .args([version, reach.word(), &reach.port(&broker).to_string()])
        .arg(trusted);
    told(command, || broker.log())
}

fn told(command: &mut Command, log: impl Fn() -> String) -> Result<()> {
    let output = output_within(command, STORIES_LIMIT)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{said}\n{complained}\nthe broker's log:\n{}",
        log()
    );
    ensure!(
        said.contains("all stories passed"),
        "the stories ended early:\n{said}\n{complained}"
    );
    Ok(())
}

/// Runs a program to its end, or ends it when the time is up.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} did not start: run cargo xtask test"))?;
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            let output = child.wait_with_output()?;
            bail!(
                "{program} did not end within {limit:?}:\n{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// The tools lie in the target directory, which is two or three folders above the test executable.
fn tool(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let found = test
        .ancestors()
        .map(|folder| folder.join("tools").join(name))
        .find(|path| path.exists());
    found.with_context(|| format!("target/tools/{name} is not here: run cargo xtask test"))
}
