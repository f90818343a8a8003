//! Nodes that have no replica of a shard are served by those that have, whoever of them dies, and wherever replicas move.

mod common;

use std::sync::Arc;

use cluster::proto::{Append, Retain, ShardCommand, shard_command::Command, shard_response::Response};
use cluster::{Cluster, Fetch, LeaveTerms, RecoverError, Remains, shard_of};
use common::{Fleet, Node, Waker, connect, publication, ready, request, subscribe, wait_for};

/// A client whose session is kept in a shard.
fn client_of(shard: u16, shards: u16) -> String {
    let names = (0..).map(|number| format!("client-{number}"));
    names
        .into_iter()
        .find(|name| shard_of(name, shards) == shard)
        .unwrap()
}

fn has_replica(cluster: &Cluster, shard: u16) -> bool {
    let status = cluster.status();
    status.shards[usize::from(shard)].placed.contains(&status.node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_serves_nodes_without_a_replica_when_its_first_replica_is_dead() {
    let fleet = Fleet::new(5);
    let nodes = fleet.form().await;
    let placed = nodes[0].cluster.status().shards[0].placed.clone();
    let dead = nodes
        .iter()
        .position(|node| node.cluster.node_id() == placed[0])
        .unwrap();
    let others: Vec<usize> = (0..5).filter(|place| *place != dead).collect();
    let far: Vec<&Node> = others
        .iter()
        .map(|place| &nodes[*place])
        .filter(|node| !has_replica(&node.cluster, 0))
        .collect();
    assert!(!far.is_empty(), "a shard has three replicas");
    let client = client_of(0, nodes[0].cluster.shards());
    let topic = client.as_str();
    let retain = |cluster: &Cluster, payload: &str| {
        let retain = Command::Retain(Retain {
            publication: Some(publication(topic, payload)),
            ..Retain::default()
        });
        let command = ShardCommand {
            command: Some(retain),
        };
        let (cluster, shard) = (cluster.clone(), cluster.shard_of_topic(topic));
        async move { cluster.request(shard, command).await }
    };
    for node in &far {
        retain(&node.cluster, "before").await.unwrap();
    }

    let numbers: Vec<usize> = others.iter().map(|place| place + 1).collect();
    fleet.isolate(dead + 1, &numbers);
    let is_down = |node: &Node| {
        let status = node.cluster.status();
        status
            .members
            .iter()
            .any(|member| member.node == placed[0] && member.down)
    };
    for place in &others {
        wait_for("the dead node is declared down", || is_down(&nodes[*place])).await;
    }

    for node in far {
        // Nothing was proposed since: what this node knows of the shard's leader is that it was the dead one.
        let found = node.cluster.retained(topic, 10).await.unwrap();
        assert_eq!(&found[0].payload[..], b"before");
        let session = connect(&node.cluster, &client).await;
        subscribe(&node.cluster, &client, session.epoch, topic).await;
        retain(&node.cluster, "before").await.unwrap();
    }
}

struct Reader {
    client: String,
    epoch: u64,
    waker: Arc<Waker>,
    read: usize,
}

impl Reader {
    async fn attach(node: &Node, client: String) -> Self {
        let epoch = connect(&node.cluster, &client).await.epoch;
        subscribe(&node.cluster, &client, epoch, &client).await;
        let waker = Arc::new(Waker::default());
        node.cluster.attach(&client, epoch, waker.clone());
        Self {
            client,
            epoch,
            waker,
            read: 0,
        }
    }

    /// A message comes, and this connection hears of it.
    async fn hears(&mut self, node: &Node, by: &Node) {
        let before = self.waker.count();
        let append = Append {
            publication: Some(publication(&self.client, "here?")),
            ..Append::default()
        };
        let appended = request(&by.cluster, &self.client, Command::Append(append)).await;
        assert!(matches!(appended, Response::Appended(appended) if appended.sessions == 1));
        wait_for("the connection is woken", || self.waker.count() > before).await;
        let expected = self.read + 1;
        let mut fetch = || match node.cluster.fetch(&self.client, self.epoch, 0, 100, 1 << 20) {
            Fetch::Ready { messages, .. } => messages.len() == expected,
            Fetch::Loading => false,
            Fetch::Gone => panic!("{} owns its session", self.client),
        };
        wait_for("the message is read", &mut fetch).await;
        self.read = expected;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_on_reading_while_the_replicas_of_their_shards_move() {
    let fleet = Fleet::new(3);
    let nodes = fleet.form().await;
    let mut readers = Vec::new();
    for number in 0..12 {
        readers.push(Reader::attach(&nodes[number % 3], format!("client-{number}")).await);
    }

    let fourth = fleet.start(4).await;
    ready(&fourth.cluster).await;
    let moved = || {
        let settled = |node: &Node| node.cluster.status().is_settled();
        let gone = nodes.iter().flat_map(|node| node.cluster.status().shards);
        gone.filter(|shard| shard.voters.is_none()).count() >= 2 && nodes.iter().all(settled)
    };
    wait_for("replicas have moved to the new node", moved).await;
    for (number, reader) in readers.iter_mut().enumerate() {
        reader.hears(&nodes[number % 3], &nodes[(number + 1) % 3]).await;
    }

    // And back: whoever read from afar has a replica again.
    let id = fourth.cluster.node_id();
    fourth.cluster.leave(id, LeaveTerms::default()).await.unwrap();
    let back = || {
        let status = nodes[0].cluster.status();
        status.members.iter().all(|member| member.node != id) && status.is_settled()
    };
    wait_for("the fourth node has left", back).await;
    for (number, reader) in readers.iter_mut().enumerate() {
        reader.hears(&nodes[number % 3], &nodes[(number + 1) % 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_all_shards_does_not_become_a_cluster_of_its_own() {
    let fleet = Fleet::new(4);
    let nodes = fleet.form().await;
    let cluster = &nodes[0].cluster;
    let absent: Vec<u16> = (0..cluster.shards())
        .filter(|shard| !has_replica(cluster, *shard))
        .collect();
    assert!(!absent.is_empty(), "a shard has three replicas");
    futures_util::future::join_all(nodes.iter().map(|node| node.cluster.shutdown())).await;

    let dir = nodes.into_iter().next().unwrap().dir;
    let mut refused = None;
    // The last tasks of the node may hold the directory for a moment.
    wait_for("the disk is nobody's", || {
        refused = Remains::open(dir.path()).err();
        !matches!(refused, Some(RecoverError::Storage(_)))
    })
    .await;
    assert!(matches!(refused, Some(RecoverError::Missing(shards)) if shards == absent));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Remains::open(empty.path()).err(),
        Some(RecoverError::NoData(_))
    ));
}
