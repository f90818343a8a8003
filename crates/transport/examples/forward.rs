//! How many messages a second a lane carries over loopback, and what one costs both ends together, at some batch sizes.
//! `cargo run --release -p transport --example forward`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_proto::{
    AdoptRequest, AdoptResponse, Empty, Failed, ForwardMessage, HelloRequest, HelloResponse, Introduction,
    Opening, Publication, SnapshotAnswer, SnapshotHeader, call_request, call_response,
};
use tokio_util::sync::CancellationToken;
use transport::{BoxFuture, Net, PeerService, Peers, Proof, Received, Reply, TcpNet, serve};

const NODE: u64 = 2;
const PAYLOAD_BYTES: usize = 256;
const RUN: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let net = TcpNet::plain();
    let incoming = net.listen("127.0.0.1:0").await?;
    let address = incoming.local_address();
    tokio::spawn(serve(
        incoming,
        Arc::new(Sink),
        Received::new(),
        CancellationToken::new(),
    ));
    let peers = Peers::new(Arc::new(net), Arc::new(Introduction::default));
    peers.set_address(NODE, &address);
    println!("{PAYLOAD_BYTES} B a message");
    for batch in [1, 16, 256] {
        measure(&peers, batch).await;
    }
    Ok(())
}

async fn measure(peers: &Peers, batch: usize) {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let (started, cpu) = (Instant::now(), cpu_time());
    while started.elapsed() < RUN {
        let messages = (0..batch).map(|_| message(&payload)).collect();
        let done = Arc::clone(&acknowledged);
        let count = batch as u64;
        let sent = peers.forward(
            NODE,
            0,
            messages,
            Box::new(move |_| {
                done.fetch_add(count, Ordering::Relaxed);
            }),
        );
        if sent.is_err() || peers.is_congested(NODE, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let messages = acknowledged.load(Ordering::Relaxed) as f64;
    println!(
        "batches of {batch:>3}: {:>9.0} messages/s, {:.2} us of CPU each",
        messages / started.elapsed().as_secs_f64(),
        (cpu_time() - cpu).as_secs_f64() * 1e6 / messages,
    );
}

fn message(payload: &Bytes) -> ForwardMessage {
    ForwardMessage {
        publication: Some(Publication {
            topic: "some/topic/of/usual/length".to_owned(),
            payload: payload.clone(),
            qos: 1,
            publisher: "some-publisher".to_owned(),
            ..Publication::default()
        }),
        ..ForwardMessage::default()
    }
}

/// Of this process, in user and kernel mode. Linux counts in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).flat_map(str::parse::<u64>).sum();
    Duration::from_millis(ticks * 10)
}

struct Sink;

impl PeerService for Sink {
    fn hello(&self, _request: HelloRequest, _proof: Proof) -> BoxFuture<'_, HelloResponse> {
        Box::pin(async { HelloResponse::default() })
    }

    fn adopt(&self, _request: AdoptRequest, _proof: Proof) -> BoxFuture<'_, AdoptResponse> {
        Box::pin(async { AdoptResponse::default() })
    }

    fn admit(&self, _opening: &Opening, _proof: &Proof) -> Result<(), Failed> {
        Ok(())
    }

    fn call(&self, _from: &Introduction, _body: call_request::Body, reply: Reply) {
        reply.send(call_response::Body::Done(Empty {}));
    }

    fn forward(&self, _from: &Introduction, _messages: Vec<ForwardMessage>) {}

    fn snapshot(
        &self,
        _header: SnapshotHeader,
        _data: Bytes,
    ) -> BoxFuture<'_, Result<SnapshotAnswer, Failed>> {
        Box::pin(async { Ok(SnapshotAnswer::default()) })
    }
}
