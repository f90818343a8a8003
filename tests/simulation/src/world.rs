//! What stories see of the simulation: its nodes, its time, its faults, and the log of what was decided.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cluster::Cluster;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep};

use crate::Fault;
use crate::machine::Machine;
use crate::simulation::Options;

const LOOK: Duration = Duration::from_millis(20);

/// The simulation, as one of its hosts sees it.
pub struct World {
    /// How it was set up.
    pub options: Options,
    pub(crate) machines: Vec<Arc<Machine>>,
    pub(crate) elapsed_ms: Arc<AtomicU64>,
    /// Faults that wait for the end of the present millisecond.
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    pub(crate) log: Mutex<Vec<String>>,
    /// By group and entry: the first node that was seen there, and its digest.
    digests: Mutex<BTreeMap<(u64, u64), (usize, u64)>>,
    /// How often there was trouble: it is another one each time.
    troubles: AtomicU64,
    /// Where clients connect next.
    pub(crate) choices: Mutex<SmallRng>,
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        let elapsed_ms = Arc::new(AtomicU64::new(0));
        let machine = |number| Arc::new(Machine::new(number, options, elapsed_ms.clone()));
        Self {
            options: options.clone(),
            machines: (1..=options.nodes).map(machine).collect(),
            elapsed_ms: elapsed_ms.clone(),
            faults: Mutex::default(),
            log: Mutex::default(),
            digests: Mutex::default(),
            troubles: AtomicU64::new(0),
            choices: Mutex::new(SmallRng::seed_from_u64(options.seed ^ 0xd1a1)),
        }
    }

    /// Milliseconds since the beginning.
    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed_ms.load(Ordering::Relaxed)
    }

    /// Writes down what happens, for who reads about a failure.
    pub fn note(&self, text: impl std::fmt::Display) {
        let line = format!("{:>8} ms  {text}", self.elapsed_ms());
        self.log.lock().push(line);
    }

    /// Lets something go wrong, or right again, at the end of this millisecond.
    pub fn fault(&self, fault: Fault) {
        self.note(&fault);
        self.faults.lock().push_back(fault);
    }

    pub(crate) fn next_trouble(&self) -> u64 {
        self.troubles.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a node serves. Nodes count from 1.
    pub fn is_ready(&self, node: usize) -> bool {
        self.machines[node - 1].ready.load(Ordering::Relaxed)
    }

    /// The node's groups, while it runs. Nothing that asks the time may be asked of them from here.
    pub fn cluster(&self, node: usize) -> Option<Cluster> {
        self.machines[node - 1].cluster.lock().clone()
    }

    /// The identity of a node that runs, or had before it crashed.
    pub fn id(&self, node: usize) -> Option<u64> {
        Some(self.machines[node - 1].id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// All nodes.
    pub fn nodes(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.machines.len()
    }

    /// Waits until every node serves and every shard has its replicas.
    pub async fn settled(&self, within: Duration) -> Result<()> {
        // Faults happen at the end of the millisecond in which they were decided.
        sleep(LOOK).await;
        wait_until("all nodes are ready and settled", within, || {
            let settled = |node| {
                self.cluster(node)
                    .is_some_and(|cluster| cluster.status().is_settled())
            };
            self.nodes().all(|node| self.is_ready(node) && settled(node))
        })
        .await
    }

    /// Compares the replicas that are at the same entry, now or at an earlier comparison. How far each is, by group.
    pub fn compare_replicas(&self) -> Result<BTreeMap<u64, Vec<u64>>> {
        let mut seen = self.digests.lock();
        let mut indexes: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for node in self.nodes() {
            let digests = self
                .cluster(node)
                .map_or_else(Vec::new, |cluster| cluster.digests());
            for (group, index, digest) in digests {
                let (other, known) = *seen.entry((group, index)).or_insert((node, digest));
                ensure!(
                    known == digest,
                    "group {group} after entry {index}: nodes {other} and {node} differ"
                );
                indexes.entry(group).or_default().push(index);
            }
        }
        Ok(indexes)
    }

    /// Compares the replicas of each group until all have applied the same entry.
    pub async fn replicas_are_equal(&self, within: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let indexes = self.compare_replicas()?;
            let equal = indexes
                .values()
                .all(|indexes| indexes.len() > 1 && indexes.iter().all(|index| *index == indexes[0]));
            if equal && !indexes.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > within {
                bail!("the replicas do not come to the same entry: {indexes:?}");
            }
            sleep(LOOK).await;
        }
    }
}

/// Waits for a condition.
pub async fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !condition() {
        ensure!(begun.elapsed() < within, "not within {within:?}: {what}");
        sleep(LOOK).await;
    }
    Ok(())
}
