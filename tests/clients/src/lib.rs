//! What the tests with real clients share: a broker with all its listeners, and where the clients' programs are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Broker, BrokerOptions, Cluster, ClusterOptions};

/// How long a client's stories may take together.
const STORIES_LIMIT: Duration = Duration::from_secs(120);
/// How many messages of each publisher are acknowledged between two deaths.
const PROGRESS: u64 = 300;

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

/// Lets Paho publish and subscribe while each node in turn is killed and started again.
pub fn paho_while_nodes_die(version: &str) -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let places: Vec<_> = cluster
        .all()
        .iter()
        .map(|node| cluster.mqtt_addr(*node).to_string())
        .collect();
    let mut command = Command::new(tool("venv/bin/python")?);
    command.arg("-u").arg(script("paho_cluster.py"));
    command.args([version, &places.join(",")]);
    let mut paho = Talking::start(&mut command)?;
    let killed = (|| -> Result<()> {
        for node in cluster.all() {
            paho.progress(PROGRESS)?;
            cluster.kill9(node);
            paho.progress(PROGRESS)?;
            cluster.restart(node)?;
        }
        paho.progress(PROGRESS)
    })();
    let ended = killed.and_then(|()| paho.end());
    let logs = || cluster.all().into_iter().map(|node| cluster.log(node));
    ended.with_context(|| logs().collect::<Vec<_>>().join("\n"))
}

/// A program that says how much was acknowledged until its input ends.
struct Talking {
    child: Child,
    said: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Talking {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("the script did not start: run cargo xtask test")?;
        let stdout = child.stdout.take().context("its output is a pipe")?;
        let said: Arc<Mutex<String>> = Arc::default();
        let heard = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        Ok(Self { child, said, reader })
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How much each publisher has had acknowledged.
    fn acknowledged(&self) -> u64 {
        let said = self.said();
        let mut lines = said.lines().rev();
        let last = lines.find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
        last.unwrap_or(0)
    }

    /// Waits until each publisher has had so much more acknowledged.
    fn progress(&mut self, more: u64) -> Result<()> {
        let wanted = self.acknowledged() + more;
        let deadline = Instant::now() + STORIES_LIMIT;
        while self.acknowledged() < wanted {
            ensure!(self.child.try_wait()?.is_none(), "it ended:\n{}", self.said());
            ensure!(
                Instant::now() < deadline,
                "{wanted} were not acknowledged:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends its input and waits for its judgement.
    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + 2 * STORIES_LIMIT;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => bail!("it does not end:\n{}", self.said()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        // What it said last may still be on its way.
        while !self.reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = self.said();
        ensure!(
            status.success() && said.contains("all stories passed"),
            "{status}:\n{said}"
        );
        println!("{}", said.lines().rev().nth(1).unwrap_or_default());
        Ok(())
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
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
