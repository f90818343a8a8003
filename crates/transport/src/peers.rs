//! The other nodes as this one speaks to them: where they are, and what is under way to each.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{
    AdoptRequest, AdoptResponse, ForwardMessage, HelloRequest, HelloResponse, Introduction, Opening,
    SnapshotAnswer, SnapshotHeader, call_request, call_response,
};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::calls::{Calls, client};
use crate::connection::connect;
use crate::error::{PeerError, error_of};
use crate::lane::{ForwardDone, Lane};
use crate::limits::LANES;
use crate::net::Net;
use crate::snapshot;

/// Which stream a call takes, and so what it does not wait behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// What keeps groups alive: heartbeats, votes, entries.
    Raft,
    /// Everything else.
    Data,
}

/// What is under way to one node.
#[derive(Debug, Clone)]
pub struct PeerStats {
    /// Whose.
    pub node: u64,
    /// Where it is.
    pub address: String,
    /// Calls of [`Channel::Raft`].
    pub raft: LinkStats,
    /// Calls of [`Channel::Data`].
    pub data: LinkStats,
    /// The lanes, by number.
    pub lanes: Vec<LaneStats>,
}

/// A stream of calls.
#[derive(Debug, Clone)]
pub struct LinkStats {
    /// Whether the peer has accepted the stream.
    pub connected: bool,
    /// From a call to its answer, of the latest answer.
    pub rtt: Option<Duration>,
    /// Calls without an answer.
    pub calls: usize,
    /// Bytes of them.
    pub bytes: usize,
}

/// A lane.
#[derive(Debug, Clone)]
pub struct LaneStats {
    /// Whether the peer has accepted the stream.
    pub connected: bool,
    /// Messages without acknowledgement.
    pub messages: usize,
    /// Bytes of them.
    pub bytes: usize,
}

type Introduce = Arc<dyn Fn() -> Introduction + Send + Sync>;

/// The other nodes. Clones are the same; when the last one is dropped, everything that waits is answered with `Gone`.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    net: Arc<dyn Net>,
    introduction: Introduce,
    runtime: Handle,
    nodes: RwLock<foldhash::HashMap<u64, Arc<Node>>>,
}

/// One other node.
struct Node {
    peer: Arc<Peer>,
    raft: Arc<Calls>,
    data: Arc<Calls>,
    lanes: Vec<Arc<Lane>>,
    /// One snapshot at a time.
    snapshots: Semaphore,
}

/// What the streams to a node need to know of it.
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) net: Arc<dyn Net>,
    pub(crate) runtime: Handle,
    /// Ends its streams.
    pub(crate) gone: CancellationToken,
    introduction: Introduce,
    address: Mutex<String>,
}

impl Peers {
    /// Nobody yet. `introduction` says who speaks, whenever a stream begins.
    ///
    /// # Panics
    /// Outside of a tokio runtime: the streams run in it.
    pub fn new(net: Arc<dyn Net>, introduction: Introduce) -> Self {
        Self {
            inner: Arc::new(Inner {
                net,
                introduction,
                runtime: Handle::current(),
                nodes: RwLock::default(),
            }),
        }
    }

    /// Says where a node is. Connections that exist stay; the next one goes there.
    pub fn set_address(&self, node: u64, address: &str) {
        let mut nodes = self.inner.nodes.write();
        if let Some(known) = nodes.get(&node) {
            known.peer.address.lock().replace_range(.., address);
            return;
        }
        let peer = Peer {
            id: node,
            net: Arc::clone(&self.inner.net),
            runtime: self.inner.runtime.clone(),
            gone: CancellationToken::new(),
            introduction: Arc::clone(&self.inner.introduction),
            address: Mutex::new(address.to_owned()),
        };
        nodes.insert(node, Arc::new(Node::new(peer)));
    }

    /// Ends everything that is under way to a node: whatever waits is answered with `Gone`.
    pub fn forget(&self, node: u64) {
        let known = self.inner.nodes.write().remove(&node);
        if let Some(known) = known {
            known.close();
        }
    }

    /// Asks who is at an address.
    ///
    /// # Errors
    /// There is no answer in time.
    pub async fn hello(
        &self,
        address: &str,
        request: HelloRequest,
        within: Duration,
    ) -> Result<HelloResponse, PeerError> {
        once(within, async {
            let mut client = client(connect(&*self.inner.net, address).await?);
            let answer = client.hello(request).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| error_of(&status))
        })
        .await
    }

    /// Asks the node at an address to belong to a cluster.
    ///
    /// # Errors
    /// There is no answer in time.
    pub async fn adopt(
        &self,
        address: &str,
        request: AdoptRequest,
        within: Duration,
    ) -> Result<AdoptResponse, PeerError> {
        once(within, async {
            let mut client = client(connect(&*self.inner.net, address).await?);
            let answer = client.adopt(request).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| error_of(&status))
        })
        .await
    }

    /// Calls a node. The call is enqueued before this returns, so calls of one channel are sent in the order in which they were
    /// made; the future only waits. Dropped, it takes a call back that was not sent yet.
    pub fn call(
        &self,
        node: u64,
        channel: Channel,
        body: call_request::Body,
        within: Duration,
    ) -> impl Future<Output = Result<call_response::Body, PeerError>> + Send + 'static + use<> {
        let waiting = self.node(node).map(|node| {
            let calls = match channel {
                Channel::Raft => &node.raft,
                Channel::Data => &node.data,
            };
            calls.call(&node.peer, body, within)
        });
        async move {
            match waiting {
                Some(waiting) => waiting.await,
                None => Err(PeerError::Gone),
            }
        }
    }

    /// Sends a group's state. `header.opening` is filled in here.
    ///
    /// # Errors
    /// The peer did not take it, or not in time.
    pub async fn snapshot(
        &self,
        node: u64,
        header: SnapshotHeader,
        data: Bytes,
        within: Duration,
    ) -> Result<SnapshotAnswer, PeerError> {
        let node = self.node(node).ok_or(PeerError::Gone)?;
        let send = async {
            let _one = node.snapshots.acquire().await.map_err(|_| PeerError::Gone)?;
            snapshot::send(&node.peer, header, data).await
        };
        tokio::select! {
            biased;
            () = node.peer.gone.cancelled() => Err(PeerError::Gone),
            sent = once(within, send) => sent,
        }
    }

    /// Sends messages in a lane (below [`LANES`]), after all that went there before. `done` is told when the peer has
    /// acknowledged the last one; it may be told before this returns.
    ///
    /// # Errors
    /// The lane is full: the messages come back.
    ///
    /// # Panics
    /// There is no such lane.
    pub fn forward(
        &self,
        node: u64,
        lane: u32,
        messages: Vec<ForwardMessage>,
        done: ForwardDone,
    ) -> Result<(), Vec<ForwardMessage>> {
        let Some(node) = self.node(node) else {
            done(Err(PeerError::Gone));
            return Ok(());
        };
        node.lanes[lane as usize].forward(&node.peer, messages, done)
    }

    /// Whether more waits in a lane than should. It takes messages up to twice that.
    ///
    /// # Panics
    /// There is no such lane.
    pub fn is_congested(&self, node: u64, lane: u32) -> bool {
        self.node(node)
            .is_some_and(|node| node.lanes[lane as usize].is_congested())
    }

    /// What is under way, node by node.
    pub fn stats(&self) -> Vec<PeerStats> {
        let nodes: Vec<Arc<Node>> = self.inner.nodes.read().values().cloned().collect();
        let mut stats: Vec<PeerStats> = nodes.iter().map(|node| node.stats()).collect();
        stats.sort_by_key(|stats| stats.node);
        stats
    }

    fn node(&self, node: u64) -> Option<Arc<Node>> {
        self.inner.nodes.read().get(&node).cloned()
    }
}

/// An answer within the caller's deadline.
async fn once<T>(
    within: Duration,
    answer: impl Future<Output = Result<T, PeerError>>,
) -> Result<T, PeerError> {
    timeout(within, answer).await.unwrap_or(Err(PeerError::Late))
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (_, node) in self.nodes.get_mut().drain() {
            node.close();
        }
    }
}

impl Node {
    fn new(peer: Peer) -> Self {
        Self {
            peer: Arc::new(peer),
            raft: Calls::new(),
            data: Calls::new(),
            lanes: (0..LANES).map(Lane::new).collect(),
            snapshots: Semaphore::new(1),
        }
    }

    fn close(&self) {
        self.peer.gone.cancel();
        self.raft.close();
        self.data.close();
        for lane in &self.lanes {
            lane.close();
        }
    }

    fn stats(&self) -> PeerStats {
        PeerStats {
            node: self.peer.id,
            address: self.peer.address(),
            raft: self.raft.stats(),
            data: self.data.stats(),
            lanes: self.lanes.iter().map(|lane| lane.stats()).collect(),
        }
    }
}

impl Peer {
    pub(crate) fn address(&self) -> String {
        self.address.lock().clone()
    }

    pub(crate) fn opening(&self) -> Opening {
        Opening {
            from: Some((self.introduction)()),
            to: self.id,
        }
    }
}
