//! Load that keeps book of what the broker acknowledged, and the oracle that compares it with what arrived.

pub mod oracle;
mod payload;
mod publisher;
mod retained;
mod subscriber;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use harness::{Client, ConnectOptions};
use mqtt_codec::{ProtocolVersion, ReasonCode};
use tokio::sync::watch;

pub use publisher::Publisher;
pub use retained::{RetainedWriter, look};
pub use subscriber::Subscriber;

use oracle::History;

/// What all clients of one run share: where the broker is at present, whether the run is over, and the book.
#[derive(Clone)]
pub struct Run {
    /// Changes when a restarted broker listens somewhere else.
    pub address: watch::Receiver<SocketAddr>,
    /// True when no new messages are wanted.
    pub over: watch::Receiver<bool>,
    /// Everything that was sent, acknowledged and received.
    pub history: Arc<Mutex<History>>,
}

impl Run {
    /// The book, for a few lines.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        *self.over.borrow()
    }
}

/// Who a client is, and whether the broker has promised it a session.
pub(crate) struct Identity {
    pub(crate) client_id: String,
    pub(crate) version: ProtocolVersion,
    has_session: bool,
}

impl Identity {
    pub(crate) fn new(client_id: &str, version: ProtocolVersion) -> Self {
        Identity {
            client_id: client_id.to_owned(),
            version,
            has_session: false,
        }
    }

    /// Connects with a session that outlives the connection; a session that is gone is written down as broken promise.
    pub(crate) async fn connect(&mut self, run: &Run) -> Result<Client> {
        let address = *run.address.borrow();
        let options = ConnectOptions::new(self.version, self.client_id.as_str()).persistent();
        let mut client = Client::open(address).await?;
        let connack = client.handshake(options).await?;
        if connack.reason_code != ReasonCode::Success {
            bail!("refused: {:?}", connack.reason_code);
        }
        if self.has_session && !connack.session_present {
            run.history().session_lost(&self.client_id);
        }
        self.has_session = true;
        Ok(client)
    }
}
