//! A network in memory, for tests: links that can be cut and healed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::duplex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::guard::Guarded;
use crate::net::{Accepted, BoxFuture, Incoming, Io, Net, Proof};

/// What is under way in each direction of a connection.
const PIPE_BYTES: usize = 256 << 10;
/// Connections that nobody accepted yet.
const BACKLOG: usize = 64;

/// The network. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNet {
    links: Arc<Mutex<Links>>,
}

#[derive(Default)]
struct Links {
    listeners: HashMap<String, mpsc::Sender<Accepted>>,
    cut: HashSet<(String, String)>,
    /// What cuts the connections of a pair of addresses that exist now.
    tokens: HashMap<(String, String), CancellationToken>,
}

impl MemoryNet {
    /// The network as the node with this address sees it.
    pub fn at(&self, address: &str) -> MemoryNode {
        MemoryNode {
            net: self.clone(),
            address: address.to_owned(),
        }
    }

    /// Cuts the connections between two addresses, and lets them have no new ones.
    pub fn cut(&self, one: &str, other: &str) {
        let pair = pair(one, other);
        let mut links = self.links.lock();
        let token = links.tokens.remove(&pair);
        links.cut.insert(pair);
        drop(links);
        if let Some(token) = token {
            token.cancel();
        }
    }

    /// Lets two addresses connect again.
    pub fn heal(&self, one: &str, other: &str) {
        self.links.lock().cut.remove(&pair(one, other));
    }

    async fn connect(&self, from: &str, to: &str) -> io::Result<Box<dyn Io>> {
        let (listener, token) = {
            let mut links = self.links.lock();
            let pair = pair(from, to);
            if links.cut.contains(&pair) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            let listener = links.listeners.get(to).cloned();
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            (listener, links.tokens.entry(pair).or_default().clone())
        };
        let (near, far) = duplex(PIPE_BYTES);
        let far: Box<dyn Io> = Box::new(Guarded::new(Box::new(far), &token, ()));
        let sent = listener.send((far, from.to_owned(), Proof::none())).await;
        sent.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(Guarded::new(Box::new(near), &token, ())))
    }

    fn listen(&self, address: &str) -> io::Result<MemoryIncoming> {
        let (sender, accepted) = mpsc::channel(BACKLOG);
        let mut links = self.links.lock();
        if links
            .listeners
            .get(address)
            .is_some_and(|listener| !listener.is_closed())
        {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        links.listeners.insert(address.to_owned(), sender);
        Ok(MemoryIncoming {
            address: address.to_owned(),
            accepted,
        })
    }
}

fn pair(one: &str, other: &str) -> (String, String) {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    (low.to_owned(), high.to_owned())
}

/// A [`MemoryNet`], seen from one address.
#[derive(Clone)]
pub struct MemoryNode {
    net: MemoryNet,
    address: String,
}

impl Net for MemoryNode {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(self.net.connect(&self.address, address))
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Incoming>>> {
        Box::pin(async move {
            let incoming = self.net.listen(address)?;
            Ok(Box::new(incoming) as Box<dyn Incoming>)
        })
    }
}

struct MemoryIncoming {
    address: String,
    accepted: mpsc::Receiver<Accepted>,
}

impl Incoming for MemoryIncoming {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let next = self.accepted.recv().await;
            next.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
        })
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}
