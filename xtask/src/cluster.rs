//! `cargo xtask cluster`: some nodes and HAProxy in front of them on this machine, for trying things out. They end with
//! this task, however it ends.

mod files;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::step::{self, cargo};
use crate::{flags, http, tools};

use files::{Ports, haproxy_config, node_config, node_name};

/// Ports of a node end with its number.
const NODES_MAX: u64 = 9;
const READY_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// Builds, starts, explains, and waits for Ctrl-C.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let nodes = flags::number(args, &["--nodes"], "--nodes", 3)?;
    ensure!((1..=NODES_MAX).contains(&nodes), "--nodes is 1 to {NODES_MAX}");
    let build = ["build", "--release", "--locked", "--package", "flotilla"];
    step::run("build", cargo().args(build))?;
    let proxy = haproxy();
    let mut running = Running::new(nodes as usize)?;
    for node in 1..=running.nodes {
        running.start_node(node)?;
    }
    if proxy {
        running.start_haproxy()?;
    }
    running.guard()?;
    running.wait_ready()?;
    explain(&running, proxy);
    running.watch()
}

/// Without HAProxy everything else is still worth a look.
fn haproxy() -> bool {
    match tools::haproxy() {
        Ok(()) => true,
        Err(error) => {
            println!("\nwithout HAProxy: {error:#}");
            false
        }
    }
}

struct Running {
    nodes: usize,
    directory: PathBuf,
    /// Names and processes.
    processes: Vec<(String, Child)>,
    guard: Option<Child>,
}

impl Running {
    fn new(nodes: usize) -> Result<Self> {
        let directory = step::target_dir().join("cluster");
        if directory.exists() {
            std::fs::remove_dir_all(&directory).context("removing what the last run has left")?;
        }
        std::fs::create_dir_all(&directory)?;
        Ok(Self {
            nodes,
            directory,
            processes: Vec::new(),
            guard: None,
        })
    }

    fn start_node(&mut self, node: usize) -> Result<()> {
        let file = format!("node{node}.toml");
        std::fs::write(self.directory.join(&file), node_config(node, self.nodes))?;
        let mut command = Command::new(step::target_dir().join("release").join("flotilla"));
        command.args(["start", "--config", &file]);
        self.start(&node_name(node), command)
    }

    fn start_haproxy(&mut self) -> Result<()> {
        std::fs::write(self.directory.join("haproxy.cfg"), haproxy_config(self.nodes))?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "haproxy.cfg"]);
        self.start("haproxy", command)
    }

    fn start(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = File::create(self.log(name))?;
        let child = command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this task; the guard passes it on as SIGTERM.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.processes.push((name.to_owned(), child));
        Ok(())
    }

    /// A shell that sees the pipe to this task end, whatever ended it, and stops everything.
    fn guard(&mut self) -> Result<()> {
        let script = "cat >/dev/null; echo 'stopping' >&2; kill -TERM \"$@\" 2>/dev/null; \
            for _ in $(seq 100); do kill -0 \"$@\" 2>/dev/null || exit 0; sleep 0.2; done; kill -9 \"$@\" 2>/dev/null";
        let guard = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(self.processes.iter().map(|(_, child)| child.id().to_string()))
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("starting the guard")?;
        self.guard = Some(guard);
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        for node in 1..=self.nodes {
            while !http::is_ready(Ports::of(node).admin) {
                if let Some(name) = self.ended()? {
                    bail!("{name} has ended; its log: {}", self.log(&name).display());
                }
                ensure!(
                    Instant::now() < deadline,
                    "{} was not ready within {READY_LIMIT:?}; its log: {}",
                    node_name(node),
                    self.log(&node_name(node)).display()
                );
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// The name of a process that has ended since the last look.
    fn ended(&mut self) -> Result<Option<String>> {
        for index in 0..self.processes.len() {
            if self.processes[index].1.try_wait()?.is_some() {
                return Ok(Some(self.processes.remove(index).0));
            }
        }
        Ok(None)
    }

    /// Until Ctrl-C, or until nothing is left.
    fn watch(&mut self) -> Result<()> {
        while !self.processes.is_empty() {
            if let Some(name) = self.ended()? {
                println!("{name} has ended; its log: {}", self.log(&name).display());
            }
            std::thread::sleep(PAUSE);
        }
        bail!("nothing runs any more")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(guard) = &mut self.guard else {
            for (_, child) in &mut self.processes {
                child.kill().ok();
                child.wait().ok();
            }
            return;
        };
        drop(guard.stdin.take());
        for (_, child) in &mut self.processes {
            child.wait().ok();
        }
        guard.wait().ok();
    }
}

fn explain(running: &Running, proxy: bool) {
    println!("\n{} nodes are ready; Ctrl-C stops them.\n", running.nodes);
    for node in 1..=running.nodes {
        let Ports { mqtt, ws, admin, .. } = Ports::of(node);
        println!(
            "  {}  mqtt 127.0.0.1:{mqtt}  ws 127.0.0.1:{ws}  http://127.0.0.1:{admin}/  http://127.0.0.1:{admin}/metrics",
            node_name(node)
        );
    }
    let front = match proxy {
        true => {
            println!("  haproxy mqtt 127.0.0.1:1883  ws 127.0.0.1:8083  http://127.0.0.1:8404/");
            1883
        }
        false => Ports::of(1).mqtt,
    };
    println!("  logs and data: {}\n", shown(&running.directory));
    println!("Try it:\n\n  mosquitto_sub -p {front} -t 'hello/#' -v &");
    let last = Ports::of(running.nodes);
    println!(
        "  mosquitto_pub -p {} -t hello/world -m 'from {}'",
        last.mqtt,
        node_name(running.nodes)
    );
    println!(
        "  {} ctl --admin 127.0.0.1:{} cluster status\n",
        shown(&step::target_dir().join("release/flotilla")),
        last.admin
    );
}

fn shown(path: &Path) -> String {
    path.strip_prefix(step::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
