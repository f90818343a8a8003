//! The connections of this node by client id.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use access::Principal;
use bytestring::ByteString;
use cluster::Ended;
use foldhash::HashMap;
use mqtt_codec::ProtocolVersion;
use parking_lot::Mutex;

use crate::config::Protocol;
use crate::mailbox::{Close, Mailbox};

/// A connection that has its client id.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) epoch: u64,
    pub(crate) address: SocketAddr,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) ended: Ended,
    /// For operators.
    pub(crate) facts: Arc<Facts>,
}

/// What operators want to know of a connection.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<str>,
    pub(crate) transport: Protocol,
    pub(crate) version: ProtocolVersion,
    /// Seconds; 0: none.
    pub(crate) keep_alive: u16,
    /// Milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    /// The session is kept in a shard.
    pub(crate) durable: bool,
    /// Who the client has shown to be, where rules are judged by it.
    pub(crate) principal: Option<Box<Principal>>,
    /// Deliveries that the client has not acknowledged, as of its last turn.
    pub(crate) in_flight: AtomicU32,
}

/// All of them.
#[derive(Default, Debug)]
pub(crate) struct Registry {
    clients: Mutex<Clients>,
}

#[derive(Default, Debug)]
struct Clients {
    connected: HashMap<ByteString, Connected>,
    claims: HashMap<ByteString, Claims>,
}

/// Connections that are about to have a client id.
#[derive(Default, Debug)]
struct Claims {
    count: usize,
    /// The highest epoch that was fenced meanwhile.
    fenced: Option<u64>,
}

/// A connection is about to have a client id: a fence that comes before it is entered is not forgotten.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    registry: &'a Registry,
    client: ByteString,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut clients = self.registry.clients.lock();
        if let Some(claims) = clients.claims.get_mut(&self.client) {
            claims.count -= 1;
            if claims.count == 0 {
                clients.claims.remove(&self.client);
            }
        }
    }
}

impl Registry {
    /// The connection that has a client id now.
    pub(crate) fn get(&self, client: &str) -> Option<Connected> {
        self.clients.lock().connected.get(client).cloned()
    }

    /// To be held from before the client's shard is asked until the connection is entered.
    pub(crate) fn claim(&self, client: ByteString) -> Claim<'_> {
        let mut clients = self.clients.lock();
        clients.claims.entry(client.clone()).or_default().count += 1;
        Claim {
            registry: self,
            client,
        }
    }

    /// Enters a connection; one with an older epoch is told to close. False: a newer one is here already, or somewhere else.
    pub(crate) fn enter(&self, claim: Claim<'_>, connected: Connected) -> bool {
        let mut clients = self.clients.lock();
        let client = claim.client.clone();
        let fenced = clients.claims.get(&client).and_then(|claims| claims.fenced);
        if fenced.is_some_and(|fenced| fenced >= connected.epoch) {
            return false;
        }
        if let Some(known) = clients.connected.get(&client) {
            if known.epoch > connected.epoch {
                return false;
            }
            known.mailbox.take_over(Some(connected.address));
        }
        clients.connected.insert(client, connected);
        true
    }

    pub(crate) fn leave(&self, client: &str, epoch: u64) {
        let clients = &mut self.clients.lock().connected;
        if clients.get(client).is_some_and(|known| known.epoch == epoch) {
            clients.remove(client);
        }
    }

    /// Closes the client's connection if its epoch is not above the one that was lost.
    pub(crate) fn fence(&self, client: &str, epoch: u64, reason: Close) -> Option<Connected> {
        self.fence_with(client, epoch, |mailbox| mailbox.close(reason))
    }

    /// The same, for a connection that has the client id somewhere else.
    pub(crate) fn take_over(&self, client: &str, epoch: u64, by: Option<SocketAddr>) -> Option<Connected> {
        self.fence_with(client, epoch, |mailbox| mailbox.take_over(by))
    }

    fn fence_with(&self, client: &str, epoch: u64, close: impl FnOnce(&Mailbox)) -> Option<Connected> {
        let mut clients = self.clients.lock();
        // An operator's end of a session is no judgement on the connection that makes the next one.
        if let Some(claims) = clients.claims.get_mut(client)
            && epoch != u64::MAX
        {
            claims.fenced = claims.fenced.max(Some(epoch));
        }
        let known = clients.connected.get(client)?;
        if known.epoch > epoch {
            return None;
        }
        close(&known.mailbox);
        Some(known.clone())
    }

    pub(crate) fn close_all(&self, reason: Close) {
        let clients = self.clients.lock();
        let mut connected: Vec<_> = clients.connected.values().collect();
        // The order of a hash table would be another one each time, also in a simulation.
        connected.sort_unstable_by_key(|connected| connected.epoch);
        for connected in connected {
            connected.mailbox.close(reason);
        }
    }

    /// The connections of now, those that came last first.
    pub(crate) fn newest_first(&self) -> Vec<Arc<Mailbox>> {
        let clients = self.clients.lock();
        let mut connected: Vec<_> = clients
            .connected
            .values()
            .map(|connected| Arc::clone(&connected.mailbox))
            .collect();
        drop(clients);
        connected.sort_unstable_by_key(|mailbox| std::cmp::Reverse(mailbox.id));
        connected
    }

    /// Every connection judges itself anew.
    pub(crate) fn recheck_all(&self) {
        for connected in self.clients.lock().connected.values() {
            connected.mailbox.recheck();
        }
    }

    /// Deliveries that clients have not acknowledged, of all of them together.
    pub(crate) fn in_flight(&self) -> u64 {
        let clients = self.clients.lock();
        let each = clients.connected.values();
        each.map(|connected| u64::from(connected.facts.in_flight.load(Relaxed)))
            .sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.lock().connected.len()
    }
}

#[cfg(test)]
mod tests {
    use cluster::Ending;

    use super::*;
    use crate::queue_memory::QueueMemory;

    fn connected(epoch: u64) -> Connected {
        Connected {
            epoch,
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            mailbox: Mailbox::new(epoch, "c".into(), 100, 100, &QueueMemory::unlimited()),
            ended: Ending::new().1,
            facts: Arc::new(Facts {
                peer: ([127, 0, 0, 1], 1).into(),
                listener: "mqtt".into(),
                transport: Protocol::Tcp,
                version: ProtocolVersion::V5,
                keep_alive: 60,
                since_ms: 0,
                durable: false,
                principal: None,
                in_flight: AtomicU32::new(0),
            }),
        }
    }

    #[test]
    fn a_fence_that_comes_before_its_connection_is_not_forgotten() {
        let registry = Registry::default();
        let claim = registry.claim("c".into());
        assert!(registry.fence("c", 3, Close::TakenOver).is_none());
        assert!(!registry.enter(claim, connected(3)));
        let claim = registry.claim("c".into());
        assert!(
            registry.enter(claim, connected(3)),
            "only what is being claimed remembers"
        );
    }

    #[test]
    fn a_fence_leaves_a_newer_connection_alone() {
        let registry = Registry::default();
        assert!(registry.enter(registry.claim("c".into()), connected(4)));
        assert!(registry.fence("c", 3, Close::TakenOver).is_none());
        assert!(registry.fence("c", 4, Close::TakenOver).is_some());
    }
}
