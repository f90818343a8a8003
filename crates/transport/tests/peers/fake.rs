//! A node that remembers what it was asked, and answers as a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{
    AdoptRequest, AdoptResponse, Failed, ForwardMessage, HelloRequest, HelloResponse, Introduction, Opening,
    Proposed, ReadIndex, ReadIndexAnswer, SnapshotAnswer, SnapshotHeader, call_request, call_response,
    failed,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transport::{BoxFuture, MemoryNet, Net, PeerService, Peers, Proof, Received, Reply, TcpNet, serve};

/// Longer than anything takes; how long it really takes is not what a test is about.
pub(crate) const AMPLE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Fake {
    node: u64,
    /// Answers are kept instead of sent.
    holds: AtomicBool,
    held: Mutex<Vec<(u64, Reply)>>,
    calls: Mutex<Vec<u64>>,
    forwarded: Mutex<Vec<u64>>,
    snapshots: Mutex<Vec<Bytes>>,
    /// Whoever speaks has to prove that it is there.
    members_at: Mutex<Vec<String>>,
}

impl Fake {
    pub(crate) fn new(node: u64) -> Arc<Self> {
        Arc::new(Self {
            node,
            ..Self::default()
        })
    }

    /// From now on whoever speaks has to prove that it is there.
    pub(crate) fn expect_from(&self, address: &str) {
        *self.members_at.lock() = vec![address.to_owned()];
    }

    /// From now on answers are kept.
    pub(crate) fn hold(&self, holds: bool) {
        self.holds.store(holds, Ordering::SeqCst);
    }

    pub(crate) fn take_held(&self) -> Vec<(u64, Reply)> {
        std::mem::take(&mut self.held.lock())
    }

    pub(crate) fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// The numbers of the calls, in the order in which they came.
    pub(crate) fn calls(&self) -> Vec<u64> {
        self.calls.lock().clone()
    }

    /// The numbers of the messages, in the order in which they came.
    pub(crate) fn forwarded(&self) -> Vec<u64> {
        self.forwarded.lock().clone()
    }

    pub(crate) fn snapshots(&self) -> Vec<Bytes> {
        self.snapshots.lock().clone()
    }
}

impl PeerService for Fake {
    fn hello(&self, request: HelloRequest, _proof: Proof) -> BoxFuture<'_, HelloResponse> {
        let seeds = request.introduction.unwrap_or_default().seeds;
        Box::pin(async move {
            HelloResponse {
                introduction: Some(Introduction {
                    seeds,
                    ..introduction(self.node)
                }),
                ..HelloResponse::default()
            }
        })
    }

    fn adopt(&self, request: AdoptRequest, _proof: Proof) -> BoxFuture<'_, AdoptResponse> {
        Box::pin(async move {
            AdoptResponse {
                accepted: true,
                reason: request.cluster_id,
            }
        })
    }

    fn admit(&self, opening: &Opening, proof: &Proof) -> Result<(), Failed> {
        let covered = self.members_at.lock();
        if !covered.iter().all(|address| proof.covers(address)) {
            return Err(Failed {
                reason: failed::Reason::Refused.into(),
                leader: 0,
                detail: "not its certificate".to_owned(),
            });
        }
        if opening.to != self.node {
            return Err(Failed {
                reason: failed::Reason::Refused.into(),
                leader: 0,
                detail: "another node was meant".to_owned(),
            });
        }
        Ok(())
    }

    fn call(&self, _from: &Introduction, body: call_request::Body, reply: Reply) {
        match body {
            call_request::Body::ReadIndex(ReadIndex { group }) => {
                self.calls.lock().push(group);
                if self.holds.load(Ordering::SeqCst) {
                    self.held.lock().push((group, reply));
                } else {
                    reply.send(answer(group));
                }
            }
            // Answers with as many bytes as the group's number says.
            call_request::Body::Propose(propose) => {
                let bytes = usize::try_from(propose.group).unwrap();
                let topic = "x".repeat(bytes);
                reply.send(call_response::Body::Retained(cluster_proto::Retained {
                    publications: vec![cluster_proto::Publication {
                        topic,
                        ..cluster_proto::Publication::default()
                    }],
                    more: false,
                }));
            }
            call_request::Body::Barrier(_) => drop(reply),
            _ => reply.send(call_response::Body::Proposed(Proposed::default())),
        }
    }

    fn forward(&self, _from: &Introduction, messages: Vec<ForwardMessage>) {
        let numbers = messages.iter().map(|message| message.source_number);
        self.forwarded.lock().extend(numbers);
    }

    fn snapshot(
        &self,
        _header: SnapshotHeader,
        data: Bytes,
    ) -> BoxFuture<'_, Result<SnapshotAnswer, Failed>> {
        Box::pin(async move {
            self.snapshots.lock().push(data);
            Ok(SnapshotAnswer::default())
        })
    }
}

/// A call with a number.
pub(crate) fn question(number: u64) -> call_request::Body {
    call_request::Body::ReadIndex(ReadIndex { group: number })
}

/// Its answer.
pub(crate) fn answer(number: u64) -> call_response::Body {
    call_response::Body::ReadIndex(ReadIndexAnswer {
        index: number,
        ..Default::default()
    })
}

/// A message with a number.
pub(crate) fn message(number: u64, bytes: usize) -> ForwardMessage {
    ForwardMessage {
        publication: Some(cluster_proto::Publication {
            topic: "a/topic".to_owned(),
            payload: vec![0; bytes].into(),
            ..cluster_proto::Publication::default()
        }),
        source_number: number,
        ..ForwardMessage::default()
    }
}

pub(crate) fn introduction(node: u64) -> Introduction {
    Introduction {
        node,
        cluster_id: "c".to_owned(),
        ..Introduction::default()
    }
}

/// Node 1, which speaks to the others.
pub(crate) fn peers(net: Arc<dyn Net>) -> Peers {
    Peers::new(net, Arc::new(|| introduction(1)))
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: String,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    pub(crate) async fn start(
        net: &dyn Net,
        address: &str,
        fake: &Arc<Fake>,
        received: &Arc<Received>,
    ) -> Self {
        let incoming = net.listen(address).await.unwrap();
        let address = incoming.local_address();
        let stop = CancellationToken::new();
        let serving = serve(
            incoming,
            Arc::clone(fake) as _,
            Arc::clone(received),
            stop.clone(),
        );
        Self {
            address,
            stop,
            task: tokio::spawn(serving),
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A network as node 1 sees it, as node 2 does, and where node 2 listens.
type Network = (Arc<dyn Net>, Arc<dyn Net>, &'static str);

pub(crate) fn networks() -> [Network; 2] {
    let memory = MemoryNet::default();
    [
        (
            Arc::new(memory.at("one:1")),
            Arc::new(memory.at("two:1")),
            "two:1",
        ),
        (
            Arc::new(TcpNet::plain()),
            Arc::new(TcpNet::plain()),
            "127.0.0.1:0",
        ),
    ]
}

/// Waits until something is so.
pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(AMPLE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came to be: {what}");
}
