//! A node that stands still for a moment, too short to be given up, holds up those who publish to its clients. Nothing that is
//! promised is lost by it, and no other node fills its memory with what waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster, ClusterOptions, ConnectOptions, Message, wait_for};
use mqtt_codec::{Packet, QoS};
use tokio::task::block_in_place;
use tokio::time::Instant;

/// So that nobody is given up, and nobody fences itself, while the node stands still.
const PATIENT: &str = "lease_timeout = \"30s\"\ndown_after = \"40s\"\n";
/// Else a publisher of QoS 1 would stop by itself.
const WIDE: &str = "[limits]\nreceive_maximum = 65535\n";
/// Of QoS 1: 64 MiB, more than a node holds for another one.
const SURE: u64 = 2048;
const SURE_BYTES: usize = 32 << 10;
/// Of QoS 0, published while the node stands still.
const FAST_BYTES_MIN: u64 = 256 << 20;
const FAST_BYTES: usize = 16 << 10;
/// Of a session that is kept.
const KEPT: u64 = 200;
/// Lanes, queues of proposals and sockets' buffers have their bounds: together they are below this.
const GROWS_MAX: u64 = 48 << 20;
const MOMENT: Duration = Duration::from_secs(1);

/// A publisher that writes as fast as it is read.
struct Writer {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<Client>>,
}

fn write(mut client: Client, topic: &'static str, qos: u8, bytes: usize, count: u64) -> Writer {
    let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counter, over) = (sent.clone(), stop.clone());
    let task = tokio::spawn(async move {
        for number in 0..count {
            if over.load(Ordering::Relaxed) {
                break;
            }
            client
                .send_publish(Message::new(topic, payload(number, bytes)).qos(qos))
                .await?;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(client)
    });
    Writer { sent, stop, task }
}

impl Writer {
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until nothing more is taken from it.
    async fn held_back(&self) -> Result<()> {
        let (mut seen, mut since) = (self.sent(), Instant::now());
        let stands = async || {
            if self.sent() != seen {
                (seen, since) = (self.sent(), Instant::now());
            }
            since.elapsed() >= MOMENT
        };
        wait_for(stands, RECOVERY).await
    }
}

fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(bytes, b'x');
    payload
}

/// Receives so many messages, in order and each once.
async fn receive_all(mut client: Client, count: u64) -> Result<Client> {
    for expected in 0..count {
        let received = client.receive().await?;
        let payload = received.publication.payload();
        let number = u64::from_be_bytes(payload[..8].try_into()?);
        ensure!(
            number == expected && !received.dup,
            "{number} instead of {expected}"
        );
    }
    Ok(client)
}

/// A value of a node's metrics.
fn metric(cluster: &Cluster, node: usize, name: &str) -> Result<f64> {
    let page = block_in_place(|| cluster.admin_get(node, "/metrics"))?;
    let value = page.lines().find_map(|line| line.strip_prefix(name));
    Ok(value.context(name.to_owned())?.trim().parse()?)
}

/// Resident memory of a node, in bytes.
fn resident(cluster: &Cluster, node: usize) -> Result<u64> {
    let pid = cluster.pid(node).context("the node runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.context("VmRSS")?.parse::<u64>()? * 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_holds_publishers_back_and_nothing_promised_is_lost() -> Result<()> {
    let cluster = block_in_place(|| {
        Cluster::start(ClusterOptions {
            config: WIDE.to_owned(),
            cluster_keys: PATIENT.to_owned(),
            ..ClusterOptions::default()
        })
    })?;
    // At the node that will stand still: connected subscribers, and one whose session is kept.
    let mut sure = client(&cluster, 0, "sure").await?;
    subscribe(&mut sure, "sure", 1).await?;
    let mut fast = client(&cluster, 0, "fast").await?;
    subscribe(&mut fast, "fast", 0).await?;
    let mut kept = persistent(&cluster, 0, "kept").await?;
    subscribe(&mut kept, "kept", 1).await?;
    // At a node that goes on.
    let mut elsewhere = client(&cluster, 2, "elsewhere").await?;
    subscribe(&mut elsewhere, "elsewhere", 1).await?;
    let dropped = "flotilla_messages_dropped_total{reason=\"peer_congested\"}";
    ensure!(metric(&cluster, 1, dropped)? == 0.0, "dropped before it began");
    let before = resident(&cluster, 1)?;

    cluster.pause(0)?;
    // Before MQTT 5.0 a client knows no Receive Maximum: only its socket holds it back.
    let old = |name: &str| Client::connect(cluster.mqtt_addr(1), ConnectOptions::v311(name));
    let sure_writer = write(old("writes sure").await?, "sure", 1, SURE_BYTES, SURE);
    let fast_writer = write(old("writes fast").await?, "fast", 0, FAST_BYTES, u64::MAX);
    let mut kept_writer = client(&cluster, 1, "writes kept").await?;
    let kept_task = tokio::spawn(async move {
        for number in 0..KEPT {
            publish(&mut kept_writer, "kept", &format!("kept {number}"), 1).await?;
        }
        anyhow::Ok(())
    });
    sure_writer.held_back().await.context("QoS 1 is not held back")?;
    let sure_sent = sure_writer.sent();
    ensure!(sure_sent < SURE, "all of QoS 1 was taken");
    let enough = async || {
        let fast_bytes = fast_writer.sent() * FAST_BYTES as u64;
        fast_bytes >= FAST_BYTES_MIN && metric(&cluster, 1, dropped).unwrap_or(0.0) > 0.0
    };
    wait_for(enough, RECOVERY)
        .await
        .context("QoS 0 is neither taken nor dropped")?;
    // Nobody else waits.
    let mut other = client(&cluster, 1, "writes elsewhere").await?;
    publish(&mut other, "elsewhere", "goes on", 1).await?;
    expect_text(&mut elsewhere, "goes on").await?;
    let grown = resident(&cluster, 1)?.saturating_sub(before);
    ensure!(
        grown < GROWS_MAX,
        "{} MiB more, with {sure_sent} of QoS 1 and {} of QoS 0 sent",
        grown >> 20,
        fast_writer.sent()
    );
    println!(
        "{} MiB more, with {sure_sent} of QoS 1 and {} of QoS 0 sent",
        grown >> 20,
        fast_writer.sent()
    );
    ensure!(
        block_in_place(|| cluster.is_ready(1)),
        "the other node is not ready"
    );
    fast_writer.stop.store(true, Ordering::Relaxed);

    cluster.resume(0)?;
    let sure = tokio::spawn(receive_all(sure, SURE));
    let mut sure_writer = sure_writer.task.await??;
    for _ in 0..SURE {
        let answer = sure_writer.receive_packet().await?;
        ensure!(matches!(answer, Packet::PubAck(_)), "{answer:?}");
    }
    sure.await??;
    kept_task.await??;
    for number in 0..KEPT {
        expect_text(&mut kept, &format!("kept {number}")).await?;
    }
    // Of QoS 0 came what was taken, in order, and its connection is of use.
    fast_writer.task.await??;
    publish(&mut other, "fast", "the last", 0).await?;
    let mut last = None;
    loop {
        let received = fast.receive().await?;
        ensure!(received.qos == QoS::AtMostOnce, "{:?}", received.qos);
        let payload = received.publication.payload();
        if payload == "the last".as_bytes() {
            break;
        }
        let number = u64::from_be_bytes(payload[..8].try_into()?);
        ensure!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
    }
    ensure!(
        members(&cluster, 1)?.iter().all(|member| member.state == "up"),
        "a node was given up: {:?}",
        members(&cluster, 1)?
    );
    Ok(())
}
