//! Whether a new connection is asked for a header, whether it is believed, and what is said when it is not.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::config::{Listener, ProxyProtocol};
use crate::log_limit::LogLimit;

use super::read::{self, ReadError};
use super::{Header, Malformed, may_begin_with};

/// A proxy sends its header at once; the time of the listener for everything up to CONNECT may be longer.
const HEADER_WAIT: Duration = Duration::from_secs(5);
/// Between two lines about headers that were refused.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a connection is closed before its first byte of MQTT, TLS or HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Only proxies may connect here, and this is not one of them.
    Untrusted,
    /// A header has to come, and something else came.
    Missing,
    /// It began like a header.
    Malformed(Malformed),
    /// It did not come in time.
    Late,
}

impl Rejection {
    /// The words of the metric, in the order of `place`.
    pub(crate) const REASONS: [&str; 4] = ["untrusted", "missing", "malformed", "late"];

    /// Which of the words it is.
    pub(crate) fn place(self) -> usize {
        match self {
            Self::Untrusted => 0,
            Self::Missing => 1,
            Self::Malformed(_) => 2,
            Self::Late => 3,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => f.write_str("only the addresses of proxy_trusted may connect here"),
            Self::Missing => f.write_str("the PROXY protocol header is missing"),
            Self::Malformed(why) => write!(f, "the PROXY protocol header is malformed: {why}"),
            Self::Late => f.write_str("the PROXY protocol header did not come in time"),
        }
    }
}

/// What is known of a listener's proxies, shared by its connections.
pub(crate) struct ProxyCheck {
    log: LogLimit,
}

impl ProxyCheck {
    pub(crate) fn new() -> Self {
        Self {
            log: LogLimit::new(LOG_INTERVAL),
        }
    }

    /// Reads the header where one is due. `Ok(None)`: the connection is gone, as probes are at once.
    pub(crate) async fn meet(
        &self,
        listener: &Listener,
        stream: &mut TcpStream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Option<Header>, Rejection> {
        let required = listener.proxy_protocol == ProxyProtocol::Required;
        let trusted = listener.proxy_trusted.iter();
        if !trusted.into_iter().any(|block| block.contains(peer.ip())) {
            // A header of somebody who is not trusted is left in the stream, where it is not MQTT.
            return if required {
                Err(Rejection::Untrusted)
            } else {
                Ok(Some(Header::default()))
            };
        }
        let until = deadline.min(Instant::now() + HEADER_WAIT);
        let outcome = timeout_at(until, async {
            let Some(byte) = read::first_byte(stream).await else {
                return Ok(None);
            };
            match may_begin_with(byte) {
                true => {}
                false if required => return Err(Rejection::Missing),
                false => return Ok(Some(Header::default())),
            }
            match read::header(stream).await {
                Ok(header) => Ok(Some(header)),
                Err(ReadError::Gone) => Ok(None),
                Err(ReadError::Malformed(why)) => Err(Rejection::Malformed(why)),
            }
        });
        outcome.await.unwrap_or(Err(Rejection::Late))
    }

    /// Says what was refused, now and then.
    pub(crate) fn report(&self, listener: &str, peer: SocketAddr, rejection: Rejection) {
        match self.log.line() {
            Some(unsaid) => warn!(listener, address = %peer, unsaid, "connection refused: {rejection}"),
            None => debug!(listener, address = %peer, "connection refused: {rejection}"),
        }
    }
}
