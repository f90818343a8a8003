//! The connections of this node by client id.

use std::sync::Arc;

use bytestring::ByteString;
use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::mailbox::{Close, Mailbox};

/// A connection that has its client id.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) epoch: u64,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Closed when the connection has ended and its last commands are proposed.
    pub(crate) ended: watch::Receiver<()>,
}

/// All of them.
#[derive(Default, Debug)]
pub(crate) struct Registry {
    clients: Mutex<HashMap<ByteString, Connected>>,
}

impl Registry {
    /// The connection that has a client id now.
    pub(crate) fn get(&self, client: &str) -> Option<Connected> {
        self.clients.lock().get(client).cloned()
    }

    /// Enters a connection; one with an older epoch is told to close. False: a newer one is here already.
    pub(crate) fn enter(&self, client: ByteString, connected: Connected) -> bool {
        let mut clients = self.clients.lock();
        if let Some(known) = clients.get(&client) {
            if known.epoch > connected.epoch {
                return false;
            }
            known.mailbox.close(Close::TakenOver);
        }
        clients.insert(client, connected);
        true
    }

    pub(crate) fn leave(&self, client: &str, epoch: u64) {
        let mut clients = self.clients.lock();
        if clients.get(client).is_some_and(|known| known.epoch == epoch) {
            clients.remove(client);
        }
    }

    /// Closes the client's connection if its epoch is not above the one that was lost.
    pub(crate) fn fence(&self, client: &str, epoch: u64, reason: Close) {
        if let Some(known) = self.clients.lock().get(client)
            && known.epoch <= epoch
        {
            known.mailbox.close(reason);
        }
    }

    pub(crate) fn close_all(&self, reason: Close) {
        for connected in self.clients.lock().values() {
            connected.mailbox.close(reason);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.lock().len()
    }
}
