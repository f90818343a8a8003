//! Load that keeps book of what the broker acknowledged, and the oracle that compares it with what arrived.

pub mod oracle;
mod payload;
mod publisher;
mod retained;
mod subscriber;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use harness::{Client, ConnectOptions};
use mqtt_codec::{ProtocolVersion, ReasonCode};
use tokio::sync::watch;

pub use payload::of_number as payload_of;
pub use publisher::Publisher;
pub use retained::{RetainedWriter, look, look_on};
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
    /// How connections are opened: over TCP, or over a network that is simulated.
    pub dial: Dial,
    /// Between two new messages of a publisher: keeps the load below what a queue holds while its reader is away.
    pub pause: Duration,
}

/// Opens a connection to the broker at an address.
pub type Dial = Arc<dyn Fn(SocketAddr) -> Pin<Box<dyn Future<Output = Result<Client>> + Send>> + Send + Sync>;

/// Over TCP.
pub fn over_tcp() -> Dial {
    Arc::new(|address| Box::pin(Client::open(address)))
}

impl Run {
    /// The book, for a few lines.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run over TCP, with a load that a test machine carries.
    pub fn new(address: watch::Receiver<SocketAddr>, over: watch::Receiver<bool>) -> Self {
        Run {
            address,
            over,
            history: Arc::default(),
            dial: over_tcp(),
            pause: Duration::from_millis(1),
        }
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
    /// The node it is connected to, until it leaves by itself.
    connected_to: Option<SocketAddr>,
}

impl Identity {
    pub(crate) fn new(client_id: &str, version: ProtocolVersion) -> Self {
        Identity {
            client_id: client_id.to_owned(),
            version,
            has_session: false,
            connected_to: None,
        }
    }

    /// Connects with a session that outlives the connection; a session that is gone is written down as broken promise.
    pub(crate) async fn connect(&mut self, run: &Run) -> Result<Client> {
        if let Some(node) = self.connected_to.take() {
            run.history().disconnected(&self.client_id, node);
        }
        let address = *run.address.borrow();
        let options = ConnectOptions::new(self.version, self.client_id.as_str()).persistent();
        let mut client = (run.dial)(address).await?;
        let connack = client.handshake(options).await?;
        if connack.reason_code != ReasonCode::Success {
            bail!("refused: {:?}", connack.reason_code);
        }
        if self.has_session && !connack.session_present {
            run.history().session_lost(&self.client_id);
        }
        self.has_session = true;
        self.connected_to = Some(address);
        Ok(client)
    }

    /// It ends its connection by itself.
    pub(crate) fn leaves(&mut self) {
        self.connected_to = None;
    }
}
