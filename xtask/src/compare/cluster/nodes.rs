//! Nodes that form a cluster on free loopback ports, from empty directories.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};

use crate::{http, step};

/// A cluster forms within this time, and its nodes end within it when told to.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// What nodes do right after they are ready is not part of the load.
const SETTLE: Duration = Duration::from_secs(3);
/// Counts what a node has written to its log.
const LOG_BYTES: &str = "flotilla_storage_log_bytes_total";

struct Node {
    child: Child,
    mqtt: u16,
    admin: u16,
}

/// Running nodes; they end, and their directories go, when this is dropped.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    directory: PathBuf,
    /// From the start of the first until all were ready.
    pub(super) formed_in: Duration,
}

impl Nodes {
    pub(super) fn start(flotilla: &Path, count: usize) -> Result<Self> {
        let directory = step::target_dir().join("compare/cluster");
        // Left over from a run that was cut short; usually there is nothing.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let ports = (0..count).map(|_| three_ports()).collect::<Result<Vec<_>>>()?;
        let seeds: Vec<_> = ports
            .iter()
            .map(|[.., peer]| format!("\"127.0.0.1:{peer}\""))
            .collect();
        let seeds = seeds.join(", ");
        let begun = Instant::now();
        let mut nodes = Self {
            nodes: Vec::new(),
            directory,
            formed_in: Duration::ZERO,
        };
        for (number, ports) in ports.iter().enumerate() {
            let node = nodes.start_node(flotilla, number + 1, *ports, &seeds)?;
            nodes.nodes.push(node);
        }
        nodes.wait_until_ready()?;
        nodes.formed_in = begun.elapsed();
        thread::sleep(SETTLE);
        Ok(nodes)
    }

    fn start_node(
        &self,
        flotilla: &Path,
        number: usize,
        [mqtt, admin, peer]: [u16; 3],
        seeds: &str,
    ) -> Result<Node> {
        let file = self.directory.join(format!("node{number}.toml"));
        fs::write(
            &file,
            format!(
                "[node]\nname = \"node-{number}\"\ndata_dir = \"data-{number}\"\n\n\
                 [[listeners]]\nname = \"mqtt\"\nbind = \"127.0.0.1:{mqtt}\"\n\n[admin]\nbind = \"127.0.0.1:{admin}\"\n\n\
                 [cluster]\nlisten = \"127.0.0.1:{peer}\"\nseeds = [{seeds}]\n"
            ),
        )?;
        let log = fs::File::create(log(&self.directory, number))?;
        let child = Command::new(flotilla)
            .args(["start", "--config"])
            .arg(file)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("a node was not started")?;
        Ok(Node { child, mqtt, admin })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for (number, node) in self.nodes.iter_mut().enumerate() {
            while !http::is_ready(node.admin) {
                let ended = !matches!(node.child.try_wait(), Ok(None));
                if ended || Instant::now() > deadline {
                    let log = fs::read_to_string(log(&self.directory, number + 1)).unwrap_or_default();
                    bail!("node {} is not ready: {}", number + 1, log.trim());
                }
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// As `flotilla bench --address` takes them.
    pub(super) fn addresses(&self) -> String {
        self.joined(|node| format!("127.0.0.1:{}", node.mqtt))
    }

    /// As `flotilla bench --pid` takes them.
    pub(super) fn pids(&self) -> String {
        self.joined(|node| node.child.id().to_string())
    }

    /// The process of the last node.
    pub(super) fn last_pid(&self) -> String {
        self.nodes
            .last()
            .map_or(String::new(), |node| node.child.id().to_string())
    }

    /// Kills the first node where it stands; it is none of them any more.
    pub(super) fn kill_first(&mut self) {
        let mut node = self.nodes.remove(0);
        // Both fail only when it has ended already.
        let _ = node.child.kill();
        let _ = node.child.wait();
    }

    fn joined(&self, of: impl Fn(&Node) -> String) -> String {
        self.nodes.iter().map(of).collect::<Vec<_>>().join(",")
    }

    /// What all nodes have written to their logs so far.
    pub(super) fn log_bytes(&self) -> Result<f64> {
        let mut sum = 0.0;
        for node in &self.nodes {
            let page = http::get(node.admin, "/metrics")?;
            let line = page.lines().find_map(|line| line.strip_prefix(LOG_BYTES));
            sum += line
                .and_then(|value| value.trim().parse::<f64>().ok())
                .with_context(|| format!("no {LOG_BYTES} in /metrics"))?;
        }
        Ok(sum)
    }

    /// Asks all to end, and waits until they have.
    pub(super) fn stop(mut self) -> Result<()> {
        for node in &mut self.nodes {
            ensure!(
                matches!(node.child.try_wait(), Ok(None)),
                "a node ended under the load"
            );
        }
        // Whether the signals arrived shows in whether they end.
        let pids: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.child.id().to_string())
            .collect();
        let _ = Command::new("kill").args(pids).status();
        let deadline = Instant::now() + PATIENCE;
        while self
            .nodes
            .iter_mut()
            .any(|node| matches!(node.child.try_wait(), Ok(None)))
        {
            ensure!(Instant::now() < deadline, "a node did not end when told to");
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Both fail only when it has ended already.
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn log(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("node{number}.log"))
}

/// Held until all three are known, so that they differ.
fn three_ports() -> Result<[u16; 3]> {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, held) in ports.iter_mut().zip(&held) {
        let held = held
            .as_ref()
            .map_err(|error| anyhow::anyhow!("no free port: {error}"))?;
        *port = held.local_addr()?.port();
    }
    Ok(ports)
}
