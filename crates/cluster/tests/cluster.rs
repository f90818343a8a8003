//! A cluster of one: what it keeps over a kill, a checkpoint and a purge, and what it refuses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::proto::{
    Acknowledge, Append, Connect, ForwardMessage, Publication, SequenceRange, ShardCommand, ShardResponse,
    ShareMember, Subscribe, Subscription, shard_command::Command, shard_response::Response,
};
use cluster::{
    Cluster, Config, Fetch, Observer, ProposeError, Queued, SessionWaker, StartError, SystemClock,
};
use storage::{Files, SharedKv, StateStore};

#[derive(Default)]
struct Notes {
    owners_lost: AtomicU64,
    shared_members: AtomicU64,
}

impl Observer for Notes {
    fn outbox_ready(&self, _: u16) {}
    fn share_member(&self, _: &str, _: &ShareMember, _: bool) {
        self.shared_members.fetch_add(1, Ordering::Relaxed);
    }
    fn forwarded(&self, _: u64, _: Vec<ForwardMessage>) {}
    fn kick(&self, _: &str, _: u64, _: cluster::KickedBy) -> Option<cluster::Kicked> {
        None
    }
    fn fenced(&self) {}
    fn owner_lost(&self, _: &str, _: u64) {
        self.owners_lost.fetch_add(1, Ordering::Relaxed);
    }
    fn session_ended(&self, _: &str, _: &'static str) {}
    fn dropped(&self, _: &'static str, _: u64) {}
}

#[derive(Default)]
struct Waker(tokio::sync::Notify);

impl SessionWaker for Waker {
    fn queue_grew(&self) {
        self.0.notify_one();
    }
}

fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_path_buf(),
        shards: 2,
        checkpoint_interval: Duration::from_secs(3600),
        ..Config::default()
    }
}

async fn start(config: Config) -> Cluster {
    start_noting(config).await.0
}

async fn start_noting(config: Config) -> (Cluster, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    (
        Cluster::start(config, Arc::new(SystemClock::new()), notes.clone())
            .await
            .unwrap(),
        notes,
    )
}

async fn request(cluster: &Cluster, client: &str, command: Command) -> Response {
    let command = ShardCommand {
        command: Some(command),
    };
    cluster
        .request(cluster.shard_of_client(client), command)
        .await
        .unwrap()
        .response
        .unwrap()
}

/// Connects a durable session and answers its epoch.
async fn connect(cluster: &Cluster, client: &str) -> u64 {
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
        Response::Connected(connected) => connected.epoch,
        other => panic!("{other:?}"),
    }
}

async fn subscribe(cluster: &Cluster, client: &str, epoch: u64, filter: &str) {
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
    let response = request(cluster, client, Command::Subscribe(subscribe)).await;
    assert!(matches!(response, Response::Subscribed(_)), "{response:?}");
}

fn message(topic: &str, number: usize, bytes: usize) -> ShardCommand {
    let mut payload = format!("{number}:").into_bytes();
    payload.resize(bytes.max(payload.len()), b'x');
    let publication = Publication {
        topic: topic.into(),
        payload: payload.into(),
        qos: 1,
        ..Publication::default()
    };
    let append = Append {
        publication: Some(publication),
        ..Append::default()
    };
    ShardCommand {
        command: Some(Command::Append(append)),
    }
}

async fn publish(
    cluster: &Cluster,
    client: &str,
    topic: &str,
    numbers: std::ops::Range<usize>,
    bytes: usize,
) {
    for number in numbers {
        let response = cluster
            .request(cluster.shard_of_client(client), message(topic, number, bytes))
            .await
            .unwrap();
        assert!(
            matches!(response.response, Some(Response::Appended(_))),
            "{response:?}"
        );
    }
}

fn number(queued: &Queued) -> usize {
    let text = String::from_utf8_lossy(&queued.publication.payload);
    text.split(':').next().unwrap().parse().unwrap()
}

/// Fetches the whole queue, waiting where bodies are read from disk; also answers how often it waited.
async fn fetch_all(cluster: &Cluster, client: &str, epoch: u64) -> (Vec<Queued>, usize) {
    let waker = Arc::new(Waker::default());
    cluster.attach(client, epoch, waker.clone());
    let (mut all, mut from, mut loads) = (Vec::new(), 0, 0);
    loop {
        match cluster.fetch(client, epoch, from, 50, 1 << 20) {
            Fetch::Ready { messages, .. } if messages.is_empty() => break,
            Fetch::Ready {
                messages,
                next_sequence,
            } => {
                all.extend(messages);
                from = next_sequence;
            }
            Fetch::Loading => {
                loads += 1;
                tokio::time::timeout(Duration::from_secs(10), waker.0.notified())
                    .await
                    .expect("bodies are read");
            }
            Fetch::Gone => panic!("the session is gone"),
        }
    }
    cluster.detach(client, epoch);
    (all, loads)
}

/// What a kill at this moment would leave on the disk.
fn crash_image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    copy(dir, image.path());
    image
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_messages_survive_a_kill_without_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(config(dir.path())).await;
    let epoch = connect(&cluster, "durable").await;
    subscribe(&cluster, "durable", epoch, "a/#").await;
    publish(&cluster, "durable", "a/b", 0..40, 100).await;

    let image = crash_image(dir.path());
    let (reopened, notes) = start_noting(config(image.path())).await;

    assert_eq!(
        (reopened.node_id(), reopened.incarnation()),
        (cluster.node_id(), 2)
    );
    let info = reopened.session_info("durable").unwrap();
    assert!(!info.connected, "the earlier incarnation's connections are gone");
    assert_eq!(info.queued_messages, 40);
    let epoch = connect(&reopened, "durable").await;
    let (queued, _) = fetch_all(&reopened, "durable", epoch).await;
    assert_eq!(
        queued.iter().map(number).collect::<Vec<_>>(),
        (0..40).collect::<Vec<_>>()
    );
    assert_eq!(notes.owners_lost.load(Ordering::Relaxed), 0);
}

/// Of the client "durable".
async fn acknowledge_up_to(cluster: &Cluster, epoch: u64, last: u64) {
    let acknowledge = Acknowledge {
        client: "durable".into(),
        epoch,
        ranges: vec![SequenceRange { first: 0, last }],
    };
    request(cluster, "durable", Command::Acknowledge(acknowledge)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_and_purges_keep_queues_and_bodies_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let often = Config {
        checkpoint_interval: Duration::from_millis(150),
        ..config(dir.path())
    };
    let cluster = start(often.clone()).await;
    let epoch = connect(&cluster, "durable").await;
    subscribe(&cluster, "durable", epoch, "a/#").await;
    subscribe(&cluster, "durable", epoch, "$share/s/x").await;
    for round in 0..8 {
        publish(&cluster, "durable", "a/b", round * 20..(round + 1) * 20, 100_000).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    acknowledge_up_to(&cluster, epoch, 9).await;
    cluster.shutdown().await;
    drop(cluster);

    let (reopened, notes) = start_noting(often).await;

    let epoch = connect(&reopened, "durable").await;
    let (queued, loads) = fetch_all(&reopened, "durable", epoch).await;
    let numbers: Vec<usize> = queued.iter().map(number).collect();
    let first = numbers[0];
    assert!(
        first == 9 || first == 10,
        "acknowledged messages are gone: {first}"
    );
    assert_eq!(numbers, (first..160).collect::<Vec<_>>());
    assert!(
        queued
            .iter()
            .all(|queued| queued.publication.payload.len() == 100_000)
    );
    assert!(
        loads > 0,
        "the log of the oldest ones is purged: they come from the state store"
    );
    assert_eq!(notes.shared_members.load(Ordering::Relaxed), 1);
}

/// Opens the state store of a node that has stopped, when its last tasks have let go of it.
async fn open_state(dir: &Path) -> SharedKv {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match Files::Real.open_kv(&dir.join("state"), 1 << 20) {
            Ok(kv) => return kv,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The bodies in the state store of a shard.
async fn bodies_on_disk(dir: &Path, shard: u16) -> usize {
    let kv = open_state(dir).await;
    let mut bodies = 0;
    let store = StateStore::open_bodies(kv, u64::from(shard) + 1).unwrap();
    store
        .scan(b"m", &mut |_, _| {
            bodies += 1;
            Ok(())
        })
        .unwrap();
    bodies
}

/// Publishes, and stops after two checkpoints: then the bodies of what waits are in the state store.
async fn spilled(dir: &Path, messages: usize) -> u16 {
    let cluster = start(config(dir)).await;
    let epoch = connect(&cluster, "durable").await;
    subscribe(&cluster, "durable", epoch, "t").await;
    publish(&cluster, "durable", "t", 0..messages, 1000).await;
    let shard = cluster.shard_of_client("durable");
    cluster.shutdown().await;
    drop(cluster);
    // A start and its stop are a second checkpoint.
    start(config(dir)).await.shutdown().await;
    shard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_reads_the_index_and_no_bodies() {
    let dir = tempfile::tempdir().unwrap();
    let shard = spilled(dir.path(), 300).await;
    assert_eq!(bodies_on_disk(dir.path(), shard).await, 300);
    let kv = open_state(dir.path()).await;
    kv.remove_tree((u64::from(shard) + 1) | 1 << 63).unwrap();
    kv.checkpoint().unwrap();
    drop(kv);

    let cluster = start(config(dir.path())).await;

    // Nobody has missed them so far.
    assert_eq!(cluster.session_info("durable").unwrap().queued_messages, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_finished_messages_leave_the_disk_whatever_is_started_between() {
    let dir = tempfile::tempdir().unwrap();
    let shard = spilled(dir.path(), 300).await;
    let cluster = start(config(dir.path())).await;
    let epoch = connect(&cluster, "durable").await;
    let (queued, loads) = fetch_all(&cluster, "durable", epoch).await;
    assert_eq!((queued.len(), loads > 0), (300, true));
    acknowledge_up_to(&cluster, epoch, 249).await;
    cluster.shutdown().await;
    drop(cluster);

    assert_eq!(bodies_on_disk(dir.path(), shard).await, 50);
    let cluster = start(config(dir.path())).await;
    let epoch = connect(&cluster, "durable").await;
    let (queued, _) = fetch_all(&cluster, "durable", epoch).await;
    assert_eq!(
        queued.iter().map(number).collect::<Vec<_>>(),
        (250..300).collect::<Vec<_>>()
    );
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// A process of its own measures the start.
const START_ONLY: &str = "FLOTILLA_MEASURE_START";

/// What a long backlog costs in memory, and a start with it: 200,000 messages of 1,000 bytes for ten sessions.
/// `cargo nextest run --workspace --run-ignored only --no-capture -E 'test(what_a_long_backlog_costs)'`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn what_a_long_backlog_costs() {
    let clients: Vec<String> = (0..10).map(|number| format!("away-{number}")).collect();
    let measured = |dir: &Path| Config {
        shards: 16,
        queue_memory_bytes: 64 << 20,
        checkpoint_interval: Duration::from_millis(500),
        ..config(dir)
    };
    if let Ok(dir) = std::env::var(START_ONLY) {
        let before = std::time::Instant::now();
        let cluster = start(measured(Path::new(&dir))).await;
        println!("start: {:?}, {} MiB resident", before.elapsed(), resident_mib());
        assert_eq!(cluster.totals().queued_messages, 200_000);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(measured(dir.path())).await;
    for client in &clients {
        let epoch = connect(&cluster, client).await;
        subscribe(&cluster, client, epoch, client).await;
    }
    println!("empty: {} MiB resident", resident_mib());
    for round in 0..200 {
        for client in &clients {
            let commands = (0..100)
                .map(|number| message(client, round * 100 + number, 1000))
                .collect();
            let (done, stored) = tokio::sync::oneshot::channel();
            let report = Box::new(move |result: Result<_, _>| done.send(result.is_ok()).unwrap());
            cluster.propose_batch(cluster.shard_of_client(client), commands, report);
            assert!(stored.await.unwrap());
        }
    }
    println!("published: {} MiB resident", resident_mib());
    cluster.shutdown().await;
    println!("checkpointed: {} MiB resident", resident_mib());
    drop(cluster);
    for _ in 0..2 {
        let start = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "what_a_long_backlog_costs"])
            .env(START_ONLY, dir.path())
            .status();
        assert!(start.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_memory_budget_are_read_from_disk_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(Config {
        queue_memory_bytes: 64 << 10,
        ..config(dir.path())
    })
    .await;
    let epoch = connect(&cluster, "slow").await;
    subscribe(&cluster, "slow", epoch, "t").await;
    publish(&cluster, "slow", "t", 0..300, 4000).await;

    let (queued, loads) = fetch_all(&cluster, "slow", epoch).await;

    assert_eq!(
        queued.iter().map(number).collect::<Vec<_>>(),
        (0..300).collect::<Vec<_>>()
    );
    assert!(loads > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_fences_the_earlier_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, notes) = start_noting(config(dir.path())).await;
    let first = connect(&cluster, "phone").await;
    let second = connect(&cluster, "phone").await;

    assert!(second > first);
    assert_eq!(notes.owners_lost.load(Ordering::Relaxed), 1);
    assert!(matches!(cluster.fetch("phone", first, 0, 10, 1000), Fetch::Gone));
    assert!(matches!(
        cluster.fetch("phone", second, 0, 10, 1000),
        Fetch::Ready { .. }
    ));
    let stale = Subscribe {
        client: "phone".into(),
        epoch: first,
        subscriptions: vec![Subscription::default()],
    };
    assert!(matches!(
        request(&cluster, "phone", Command::Subscribe(stale)).await,
        Response::Rejected(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_subscription_routes_its_topics_to_its_shard() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(config(dir.path())).await;
    let before = cluster.routes_generation();
    let epoch = connect(&cluster, "durable").await;
    subscribe(&cluster, "durable", epoch, "a/+").await;

    let mut shards = Vec::new();
    cluster.destinations("a/b", &mut Vec::new(), &mut shards);
    cluster.destinations("b/b", &mut Vec::new(), &mut shards);

    assert_eq!(shards, [cluster.shard_of_client("durable")]);
    assert!(cluster.routes_generation() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused_and_so_is_another_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(config(dir.path())).await;
    let again = Cluster::start(
        config(dir.path()),
        Arc::new(SystemClock::new()),
        Arc::new(Notes::default()),
    )
    .await;
    let Err(StartError::Storage(reason)) = again else {
        panic!("it was not refused")
    };
    assert!(reason.contains("used by another process"), "{reason}");
    cluster.shutdown().await;
    drop(cluster);

    let more = Config {
        shards: 3,
        ..config(dir.path())
    };
    let differs = Cluster::start(more, Arc::new(SystemClock::new()), Arc::new(Notes::default())).await;

    assert!(matches!(
        differs,
        Err(StartError::ShardsDiffer {
            found: 2,
            configured: 3
        })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_proposal_queue_is_congested_then_busy_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(Config {
        proposal_queue_bytes: 100_000,
        ..config(dir.path())
    })
    .await;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1000);
    let mut congested = false;
    for number in 0..100 {
        let sender = sender.clone();
        let done = move |result: Result<ShardResponse, ProposeError>| sender.try_send(result).unwrap();
        cluster.propose(0, message("t", number, 10_000), Box::new(done));
        congested |= cluster.is_congested(0);
    }
    drop(sender);
    let mut results = Vec::new();
    while let Some(result) = receiver.recv().await {
        results.push(result);
    }

    assert!(congested);
    assert_eq!(results.len(), 100, "every proposal is answered");
    assert!(results.iter().any(Result::is_ok));
    assert!(results.contains(&Err(ProposeError::Busy)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!cluster.is_congested(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_proposals_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(config(dir.path())).await;
    cluster.shutdown().await;

    let refused = cluster.request(0, message("t", 0, 10)).await;

    assert_eq!(refused, Err(ProposeError::Stopping));
    assert!(!cluster.is_ready());
}
