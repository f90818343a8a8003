//! Measures durable proposals: publishers that each wait for their acknowledgement, on one node with 16 shards.
//! `cargo run --release -p cluster --example proposals -- [publishers] [seconds] [bytes] [directory]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::proto::{
    Append, Connect, ForwardMessage, Publication, ShardCommand, ShareMember, Subscribe, Subscription,
    shard_command::Command,
};
use cluster::{Cluster, Config, Observer, SystemClock};

struct Quiet;

impl Observer for Quiet {
    fn outbox_ready(&self, _: u16) {}
    fn share_member(&self, _: &str, _: &ShareMember, _: bool) {}
    fn forwarded(&self, _: u64, _: Vec<ForwardMessage>) {}
    fn kick(&self, _: &str, _: u64, _: cluster::KickedBy) -> Option<cluster::Kicked> {
        None
    }
    fn fenced(&self) {}
    fn owner_lost(&self, _: &str, _: u64) {}
    fn session_ended(&self, _: &str, _: &'static str) {}
    fn dropped(&self, _: &'static str, _: u64) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let publishers: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let data_dir = arguments
        .next()
        .map_or_else(|| std::env::temp_dir().join("flotilla-proposals"), Into::into);
    let config = Config {
        data_dir,
        ..Config::default()
    };
    let cluster = Cluster::start(config, Arc::new(SystemClock::new()), Arc::new(Quiet)).await?;
    let idle = cpu_seconds();
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("idle: {:.2} % of a core", (cpu_seconds() - idle) / 5.0 * 100.0);
    for shard in 0..u64::from(cluster.shards()) {
        subscribe(&cluster, shard).await?;
    }
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..publishers)
        .map(|publisher| tokio::spawn(publish(cluster.clone(), publisher, bytes, end)))
        .collect();
    let mut acknowledged = 0;
    let mut slowest = Duration::ZERO;
    for task in tasks {
        let (count, longest) = task.await?;
        acknowledged += count;
        slowest = slowest.max(longest);
    }
    let rate = acknowledged as f64 / started.elapsed().as_secs_f64();
    println!(
        "{publishers} publishers, {bytes} bytes: {rate:.0} durable messages/s, the slowest took {slowest:?}"
    );
    cluster.shutdown().await;
    Ok(())
}

/// A durable session for each publisher's topic.
async fn subscribe(cluster: &Cluster, number: u64) -> Result<(), cluster::ProposeError> {
    let client = format!("session-{number}");
    let shard = cluster.shard_of_client(&client);
    let connect = Connect {
        client: client.clone(),
        node: cluster.node_id(),
        incarnation: cluster.incarnation(),
        session_expiry_s: 3600,
        clean_start: true,
        queue_messages_max: 1000,
        queue_bytes_max: 1 << 30,
        drop_oldest: true,
        ..Connect::default()
    };
    let connected = cluster
        .request(
            shard,
            ShardCommand {
                command: Some(Command::Connect(connect)),
            },
        )
        .await?;
    let epoch = match connected.response {
        Some(cluster::proto::shard_response::Response::Connected(connected)) => connected.epoch,
        _ => 0,
    };
    let subscription = Subscription {
        filter: "load/#".into(),
        qos: 1,
        ..Subscription::default()
    };
    let subscribe = Subscribe {
        client,
        epoch,
        subscriptions: vec![subscription],
    };
    cluster
        .request(
            shard,
            ShardCommand {
                command: Some(Command::Subscribe(subscribe)),
            },
        )
        .await
        .map(drop)
}

async fn publish(cluster: Cluster, publisher: u64, bytes: usize, end: Instant) -> (u64, Duration) {
    let shard = (publisher % u64::from(cluster.shards())) as u16;
    let payload = bytes::Bytes::from(vec![b'x'; bytes]);
    let (mut count, mut longest) = (0, Duration::ZERO);
    while Instant::now() < end {
        let publication = Publication {
            topic: format!("load/{publisher}"),
            payload: payload.clone(),
            qos: 1,
            ..Publication::default()
        };
        let append = Append {
            publication: Some(publication),
            ..Append::default()
        };
        let begun = Instant::now();
        if cluster
            .request(
                shard,
                ShardCommand {
                    command: Some(Command::Append(append)),
                },
            )
            .await
            .is_ok()
        {
            count += 1;
            longest = longest.max(begun.elapsed());
        }
    }
    (count, longest)
}

/// User and system time of this process; a tick is 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |field: usize| {
        fields
            .get(field)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
