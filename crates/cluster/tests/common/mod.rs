//! Several nodes in one process, over a network in memory.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::proto::{
    Connect, Connected, ForwardMessage, Publication, ShardCommand, ShareMember, Subscribe, Subscribed,
    Subscription, shard_command::Command, shard_response::Response,
};
use cluster::{Cluster, Config, NodeRoute, Observer, PeerConfig, ShardId, SystemClock};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use transport::MemoryNet;

/// The longest that a condition is waited for.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// What a node was told.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) owners_lost: AtomicU64,
    pub(crate) fenced: AtomicU64,
    pub(crate) kicked: Mutex<Vec<(String, u64)>>,
    pub(crate) forwarded: Mutex<Vec<ForwardMessage>>,
    pub(crate) members: Mutex<Vec<(String, ShareMember, bool)>>,
}

/// Counts how often a session's queue grew.
#[derive(Default)]
pub(crate) struct Waker(AtomicU64);

impl Waker {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl cluster::SessionWaker for Waker {
    fn queue_grew(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Observer for Notes {
    fn outbox_ready(&self, _: u16) {}
    fn share_member(&self, filter: &str, member: &ShareMember, added: bool) {
        self.members
            .lock()
            .push((filter.to_owned(), member.clone(), added));
    }
    fn owner_lost(&self, _: &str, _: u64) {
        self.owners_lost.fetch_add(1, Ordering::Relaxed);
    }
    fn session_ended(&self, _: &str, _: &'static str) {}
    fn dropped(&self, _: &'static str, _: u64) {}
    fn forwarded(&self, _: u64, messages: Vec<ForwardMessage>) {
        self.forwarded.lock().extend(messages);
    }
    fn kick(&self, client: &str, epoch: u64, _: cluster::KickedBy) -> Option<cluster::Kicked> {
        self.kicked.lock().push((client.to_owned(), epoch));
        None
    }
    fn fenced(&self) {
        self.fenced.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    pub(crate) notes: Arc<Notes>,
    pub(crate) dir: tempfile::TempDir,
}

/// Nodes that know the same seeds.
pub(crate) struct Fleet {
    pub(crate) net: MemoryNet,
    pub(crate) seeds: Vec<String>,
}

pub(crate) fn address(number: usize) -> String {
    format!("node-{number}:7883")
}

impl Fleet {
    pub(crate) fn new(seeds: usize) -> Self {
        // What the nodes say, where a test is run with RUST_LOG; another test may have been first.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let seeds = (1..=seeds).map(address).collect();
        Self {
            net: MemoryNet::default(),
            seeds,
        }
    }

    pub(crate) async fn start(&self, number: usize) -> Node {
        self.start_in(number, tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_in(&self, number: usize, dir: tempfile::TempDir) -> Node {
        let own = address(number);
        let peers = PeerConfig {
            seeds: self.seeds.clone(),
            expect: self.seeds.len(),
            ..PeerConfig::new(Arc::new(self.net.at(&own)), &own)
        };
        let config = Config {
            data_dir: dir.path().to_path_buf(),
            shards: 4,
            name: format!("node-{number}"),
            peers: Some(peers),
            ..Config::default()
        };
        let notes = Arc::new(Notes::default());
        let cluster = Cluster::start(config, Arc::new(SystemClock::new()), notes.clone());
        Node {
            cluster: cluster.await.unwrap(),
            notes,
            dir,
        }
    }

    /// All seeds, ready.
    pub(crate) async fn form(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for number in 1..=self.seeds.len() {
            nodes.push(self.start(number).await);
        }
        for node in &nodes {
            ready(&node.cluster).await;
        }
        nodes
    }

    /// Cuts a node off from the numbered others.
    pub(crate) fn isolate(&self, number: usize, others: &[usize]) {
        for other in others {
            self.net.cut(&address(number), &address(*other));
        }
    }

    pub(crate) fn heal(&self, number: usize, others: &[usize]) {
        for other in others {
            self.net.heal(&address(number), &address(*other));
        }
    }
}

pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < WITHIN, "waited too long for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn ready(cluster: &Cluster) {
    wait_for("the node is ready", || cluster.is_ready()).await;
}

pub(crate) async fn request(cluster: &Cluster, client: &str, command: Command) -> Response {
    let shard = cluster.shard_of_client(client);
    let command = ShardCommand {
        command: Some(command),
    };
    cluster.request(shard, command).await.unwrap().response.unwrap()
}

/// Connects a durable session through a node.
pub(crate) async fn connect(cluster: &Cluster, client: &str) -> Connected {
    let connect = Connect {
        client: client.into(),
        node: cluster.node_id(),
        incarnation: cluster.incarnation(),
        session_expiry_s: 3600,
        queue_messages_max: 1_000_000,
        queue_bytes_max: 1 << 40,
        ..Connect::default()
    };
    match request(cluster, client, Command::Connect(connect)).await {
        Response::Connected(connected) => connected,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn subscribe(cluster: &Cluster, client: &str, epoch: u64, filter: &str) -> Subscribed {
    let subscription = Subscription {
        filter: filter.into(),
        qos: 1,
        ..Subscription::default()
    };
    let subscribe = Subscribe {
        client: client.into(),
        epoch,
        subscriptions: vec![subscription],
    };
    match request(cluster, client, Command::Subscribe(subscribe)).await {
        Response::Subscribed(subscribed) => subscribed,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn destinations(cluster: &Cluster, topic: &str) -> (Vec<NodeRoute>, Vec<ShardId>) {
    let (mut nodes, mut shards) = (Vec::new(), Vec::new());
    cluster.destinations(topic, &mut nodes, &mut shards);
    (nodes, shards)
}

pub(crate) fn publication(topic: &str, payload: &str) -> Publication {
    Publication {
        topic: topic.into(),
        payload: payload.to_owned().into(),
        qos: 1,
        publisher: "publisher".into(),
        ..Publication::default()
    }
}
