//! A cluster of real processes for a test, each on a loopback address of its own, with links between them that can be cut.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use crate::broker::UNFINISHED;
use crate::certificate::write_peer_certificate;
use crate::link::{Cut, Link};
use crate::process::{PAUSE, Process, http_get, program, tail};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);

const MQTT_PORT: u16 = 1883;
const WS_PORT: u16 = 8083;
const ADMIN_PORT: u16 = 9100;
const PEER_PORT: u16 = 7883;
/// A directory for the logs of all nodes, for a look after a failure.
const KEEP_LOGS: &str = "FLOTILLA_KEEP_LOGS";
/// All nodes, in a hosts file of their own.
const ALL_NODES: &str = "nodes.test";
/// Runs what follows with another hosts file: `$0` is that file.
const WITH_HOSTS: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
/// The last part of an address has 8 bits: 4 for the cluster of this process, 4 for the node.
const NODES_MAX: usize = 14;

/// How a cluster is to be started. The default has three nodes and no links.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes.
    pub nodes: usize,
    /// Whether nodes dial each other through links that can be cut.
    pub links: bool,
    /// Sections added to the configuration of each node. `[cluster]` is written by the harness: see `cluster_keys`.
    pub config: String,
    /// Lines added to `[cluster]`.
    pub cluster_keys: String,
    /// The nodes that each node is given as seeds, by node; all nodes where there is no entry.
    pub seeds: Vec<Vec<usize>>,
    /// Environment of each process, beyond what it inherits.
    pub env: Vec<(String, String)>,
    /// Nodes advertise names, and find each other by one name that has all their addresses, from a hosts file of their own: see
    /// `own_hosts_are_possible`.
    pub names: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            nodes: 3,
            links: false,
            config: String::new(),
            cluster_keys: String::new(),
            seeds: Vec::new(),
            env: Vec::new(),
            names: false,
        }
    }
}

/// Some nodes, running or not. They end with this value, and also when the test process dies.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    program: PathBuf,
    nodes: Vec<Node>,
    /// By dialling node, then by dialled node; empty without links.
    links: Vec<Vec<Link>>,
    /// Last, so that processes end before their files go.
    files: TempDir,
}

#[derive(Debug)]
struct Node {
    name: String,
    ip: Ipv4Addr,
    peer_port: u16,
    directory: PathBuf,
    process: Option<Process>,
}

/// From nothing to running.
impl Cluster {
    /// Starts all nodes at once and waits until each is ready.
    pub fn start(options: ClusterOptions) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(options)?;
        cluster.launch_all(START_LIMIT)?;
        Ok(cluster)
    }

    /// Makes directories and links; no node runs yet.
    pub fn prepare(options: ClusterOptions) -> Result<Cluster> {
        ensure!(
            (1..=NODES_MAX).contains(&options.nodes),
            "a cluster of 1 to {NODES_MAX} nodes, not {}",
            options.nodes
        );
        let files =
            TempDir::with_prefix("flotilla-cluster-").context("making a directory for the cluster")?;
        let nodes: Vec<Node> = own_addresses(options.nodes)
            .into_iter()
            .enumerate()
            .map(|(number, ip)| {
                let name = format!("node-{}", number + 1);
                let directory = files.path().join(&name);
                Node {
                    name,
                    ip,
                    peer_port: PEER_PORT,
                    directory,
                    process: None,
                }
            })
            .collect();
        let mut cluster = Cluster {
            program: program()?,
            links: Vec::new(),
            nodes,
            options,
            files,
        };
        if cluster.options.links {
            cluster.links = cluster.make_links()?;
        }
        cluster.write_hosts()?;
        for node in cluster.all() {
            std::fs::create_dir_all(&cluster.nodes[node].directory)?;
            std::fs::write(cluster.config_path(node), cluster.config(node)?)?;
        }
        Ok(cluster)
    }

    /// Writes what all nodes need to prove themselves to each other into a folder, for `peer_keys`; each time of another authority.
    pub fn write_peer_certificate(&self, directory: &Path) -> Result<()> {
        let hosts = self.all().into_iter();
        let hosts: Vec<_> = hosts.map(|node| self.peer_addr(node).ip().to_string()).collect();
        write_peer_certificate(directory, &hosts)
    }

    /// Starts all nodes and waits until they are ready.
    pub fn launch_all(&mut self, within: Duration) -> Result<()> {
        let nodes = self.all();
        nodes.iter().try_for_each(|node| self.launch(*node))?;
        self.wait_ready(&nodes, within)
    }

    /// Starts a node's process and does not wait for anything. The same data, the same addresses as before.
    pub fn launch(&mut self, node: usize) -> Result<()> {
        self.kill9(node);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(node))?;
        let child = self
            .command(node)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.nodes[node].process = Some(Process::guarded(child, self.files.path())?);
        Ok(())
    }

    /// Starts a node again and waits until it is ready.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.launch(node)?;
        self.wait_ready(&[node], START_LIMIT)
    }

    /// Waits until these nodes are ready, all at the same time.
    pub fn wait_ready(&mut self, nodes: &[usize], within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let waiting: Vec<usize> = nodes
                .iter()
                .copied()
                .filter(|node| !self.is_ready(*node))
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
            for &node in nodes {
                if !self.is_running(node) {
                    let error = anyhow!("{} ended before it was ready", self.nodes[node].name);
                    return Err(self.with_log(node, error));
                }
            }
            if Instant::now() > deadline {
                let error = anyhow!("nodes {waiting:?} were not ready within {within:?}");
                return Err(self.with_log(waiting[0], error));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// What may happen to a node.
impl Cluster {
    /// Kills the process where it stands (SIGKILL) and waits until it is gone.
    pub fn kill9(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].process.take() {
            process.kill();
        }
    }

    /// Asks the process to stop (SIGTERM) and waits until it has.
    pub fn stop(&mut self, node: usize) -> Result<ExitStatus> {
        let process = self.nodes[node].process.take();
        let process = process.with_context(|| format!("node {node} is not running"))?;
        process.signal("TERM")?;
        match process.ended(STOP_LIMIT)? {
            Some(_) if self.log(node).contains(UNFINISHED) => {
                Err(self.with_log(node, anyhow!("it was cut off in the middle of stopping")))
            }
            Some(status) => Ok(status),
            None => Err(self.with_log(node, anyhow!("not stopped within {STOP_LIMIT:?} of SIGTERM"))),
        }
    }

    /// Holds the process (SIGSTOP): its sockets stay open and nobody answers.
    pub fn pause(&self, node: usize) -> Result<()> {
        self.running(node)?.signal("STOP")
    }

    /// Lets a paused process go on (SIGCONT).
    pub fn resume(&self, node: usize) -> Result<()> {
        self.running(node)?.signal("CONT")
    }

    /// Removes the data of a node that does not run.
    pub fn wipe(&mut self, node: usize) -> Result<()> {
        ensure!(self.nodes[node].process.is_none(), "node {node} still runs");
        match std::fs::remove_dir_all(self.data_dir(node)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A node that does not run gets another address for its peers: another port. The others' seeds name the old one.
    pub fn move_peer_port(&mut self, node: usize) -> Result<()> {
        ensure!(self.nodes[node].process.is_none(), "node {node} still runs");
        self.nodes[node].peer_port += 1;
        Ok(())
    }

    /// A node that does not run gets another address, under the name that it has; only with `names`.
    pub fn move_address(&mut self, node: usize) -> Result<()> {
        ensure!(self.nodes[node].process.is_none(), "node {node} still runs");
        ensure!(self.options.names, "the nodes have no names");
        let [a, b, c, d] = self.nodes[node].ip.octets();
        // No node has it: see `NODES_MAX`.
        self.nodes[node].ip = Ipv4Addr::new(a, b, c, d | 15);
        self.write_hosts()
    }

    /// Breaks both directions between two nodes; only with `links`.
    pub fn cut(&self, one: usize, other: usize, cut: Cut) {
        self.link(one, other).cut(cut);
        self.link(other, one).cut(cut);
    }

    /// Mends both directions.
    pub fn heal(&self, one: usize, other: usize) {
        self.link(one, other).heal();
        self.link(other, one).heal();
    }

    /// Breaks all links of a node.
    pub fn isolate(&self, node: usize, cut: Cut) {
        for other in self.others(node) {
            self.cut(node, other, cut);
        }
    }

    /// Mends every link.
    pub fn heal_all(&self) {
        self.links.iter().flatten().for_each(Link::heal);
    }

    /// The link through which one node dials another.
    pub fn link(&self, from: usize, to: usize) -> &Link {
        let links = self
            .links
            .get(from)
            .expect("this cluster was started without links");
        &links[to]
    }
}

/// What can be known of a node.
impl Cluster {
    /// The numbers of all nodes.
    pub fn all(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// The numbers of all nodes but one.
    pub fn others(&self, node: usize) -> Vec<usize> {
        self.all().into_iter().filter(|other| *other != node).collect()
    }

    /// Its name.
    pub fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// Where plain MQTT is spoken.
    pub fn mqtt_addr(&self, node: usize) -> SocketAddr {
        (self.nodes[node].ip, MQTT_PORT).into()
    }

    /// Where MQTT over WebSocket is spoken.
    pub fn ws_addr(&self, node: usize) -> SocketAddr {
        (self.nodes[node].ip, WS_PORT).into()
    }

    /// Where `/metrics` and `/readyz` are.
    pub fn admin_addr(&self, node: usize) -> SocketAddr {
        (self.nodes[node].ip, ADMIN_PORT).into()
    }

    /// Where other nodes are listened to.
    pub fn peer_addr(&self, node: usize) -> SocketAddr {
        (self.nodes[node].ip, self.nodes[node].peer_port).into()
    }

    /// Where other nodes are told to find it.
    pub fn advertised(&self, node: usize) -> String {
        match self.options.names {
            true => format!("{}.test:{}", self.name(node), self.nodes[node].peer_port),
            false => self.peer_addr(node).to_string(),
        }
    }

    /// Where the node keeps its data.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.nodes[node].directory.join("data")
    }

    /// Whether the process is alive right now; a paused one is.
    pub fn is_running(&mut self, node: usize) -> bool {
        self.nodes[node].process.as_mut().is_some_and(Process::is_running)
    }

    /// Whether the node says that clients should come.
    pub fn is_ready(&self, node: usize) -> bool {
        self.admin_get(node, "/readyz").is_ok()
    }

    /// The process id.
    pub fn pid(&self, node: usize) -> Option<u32> {
        self.nodes[node].process.as_ref().map(Process::pid)
    }

    /// The body of an HTTP GET on the admin listener; an error unless the status is 200.
    pub fn admin_get(&self, node: usize, path: &str) -> Result<String> {
        http_get(self.admin_addr(node), path)
    }

    /// What the node wrote to stderr since its first start.
    pub fn log(&self, node: usize) -> String {
        std::fs::read(self.log_path(node))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }
}

impl Cluster {
    fn running(&self, node: usize) -> Result<&Process> {
        let process = self.nodes[node].process.as_ref();
        process.with_context(|| format!("node {node} is not running"))
    }

    fn make_links(&self) -> Result<Vec<Vec<Link>>> {
        let targets = self.all();
        let from_one = || -> Result<Vec<Link>> {
            targets
                .iter()
                .map(|to| Ok(Link::to(self.peer_addr(*to))?))
                .collect()
        };
        targets.iter().map(|_| from_one()).collect()
    }

    /// What the nodes' names stand for; the file stays the same one, which is what the nodes see.
    fn write_hosts(&self) -> Result<()> {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for node in &self.nodes {
            writeln!(text, "{} {}.test\n{} {ALL_NODES}", node.ip, node.name, node.ip)?;
        }
        std::fs::write(self.hosts_path(), text).context("writing a hosts file")
    }

    fn hosts_path(&self) -> PathBuf {
        self.files.path().join("hosts")
    }

    fn config(&self, node: usize) -> Result<String> {
        let mut text = format!(
            "{}\n[cluster]\n{}\n",
            self.options.config, self.options.cluster_keys
        );
        if self.options.names {
            writeln!(text, "expect = {}", self.options.nodes)?;
        }
        if let Some(links) = self.links.get(node) {
            writeln!(text, "[cluster.peer_overrides]")?;
            for other in self.others(node) {
                writeln!(
                    text,
                    "\"{}\" = \"{}\"",
                    self.peer_addr(other),
                    links[other].address()
                )?;
            }
        }
        Ok(text)
    }

    fn command(&self, node: usize) -> Command {
        let seeds = self.options.seeds.get(node).cloned();
        let seeds: Vec<String> = seeds
            .unwrap_or_else(|| self.all())
            .into_iter()
            .map(|seed| SocketAddr::from((self.nodes[seed].ip, PEER_PORT)).to_string())
            .collect();
        let mut command = match self.options.names {
            true => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", WITH_HOSTS]);
                command.arg(self.hosts_path()).arg(&self.program);
                command
            }
            false => Command::new(&self.program),
        };
        command.arg("start").arg("--config").arg(self.config_path(node));
        command.args(["--node", self.name(node)]);
        command.arg("--data-dir").arg(self.data_dir(node));
        for (flag, address) in [
            ("--mqtt", self.mqtt_addr(node)),
            ("--ws", self.ws_addr(node)),
            ("--admin", self.admin_addr(node)),
            ("--peer", self.peer_addr(node)),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        command.args(["--advertise", &self.advertised(node)]);
        // A node that is alone founds its cluster at once.
        if self.options.names {
            command.arg("--seeds").arg(format!("dns:{ALL_NODES}:{PEER_PORT}"));
        } else if seeds.len() > 1 {
            command.arg("--seeds").arg(seeds.join(","));
        }
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn config_path(&self, node: usize) -> PathBuf {
        self.nodes[node].directory.join("flotilla.toml")
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.nodes[node].directory.join("stderr.log")
    }

    fn with_log(&self, node: usize, error: anyhow::Error) -> anyhow::Error {
        let name = self.name(node);
        error.context(format!(
            "the end of the log of {name}:\n{}",
            tail(&self.log(node))
        ))
    }

    /// The directory of everything, for a look after a failure.
    pub fn files(&self) -> &Path {
        self.files.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let kept = std::env::var_os(KEEP_LOGS).map(PathBuf::from);
        for node in self.all() {
            self.kill9(node);
            if let Some(kept) = &kept {
                let name = format!("{}-{}.log", std::process::id(), self.name(node));
                std::fs::copy(self.log_path(node), kept.join(name)).ok();
            }
            if std::thread::panicking() {
                eprintln!(
                    "the end of the log of {}:\n{}",
                    self.name(node),
                    tail(&self.log(node))
                );
            }
        }
    }
}

/// Whether a process of a test may have a hosts file of its own, for `names`.
pub fn own_hosts_are_possible() -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

/// Loopback addresses that no other process uses: its number is in them. So every node can have the usual ports.
fn own_addresses(nodes: usize) -> Vec<Ipv4Addr> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let cluster = NEXT.fetch_add(1, Ordering::Relaxed) % 16;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // 127.0 and 127.1 are what people and other tests use.
    let high = 2 + high % 250;
    let node = |number: usize| {
        let number = u8::try_from(number + 1).expect("at most 14 nodes");
        Ipv4Addr::new(127, high, low, cluster * 16 + number)
    };
    (0..nodes).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_one_process_do_not_share_addresses() {
        let (one, other) = (own_addresses(14), own_addresses(14));
        assert!(one.iter().all(|ip| ip.is_loopback() && !other.contains(ip)));
    }
}
