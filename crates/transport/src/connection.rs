//! One connection to a peer with HTTP/2 on it, and when to try again after it failed.

use std::future::ready;
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::error::PeerError;
use crate::limits::{
    CONNECT_WITHIN, CONNECTION_WINDOW, HEADERS_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_WITHIN, RETRY_FIRST,
    RETRY_LAST, STREAM_WINDOW,
};
use crate::net::Net;

/// Connects. The channel does not connect a second time: its end is the end of its streams.
pub(crate) async fn connect(net: &dyn Net, address: &str) -> Result<Channel, PeerError> {
    let unreachable = |error: &dyn std::fmt::Display| PeerError::Unreachable(format!("{address}: {error}"));
    let connecting = async {
        let io = net.connect(address).await.map_err(|error| unreachable(&error))?;
        let mut once = Some(TokioIo::new(io));
        let connector = tower::service_fn(move |_| {
            ready(
                once.take()
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
            )
        });
        let channel = endpoint().connect_with_connector(connector).await;
        channel.map_err(|error| unreachable(&error))
    };
    match timeout(CONNECT_WITHIN, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(unreachable(&"connecting took too long")),
    }
}

fn endpoint() -> Endpoint {
    // Only a name for HTTP: the address was dialled already, and its certificate judged.
    Endpoint::from_static("http://peer")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_WITHIN)
        .keep_alive_while_idle(true)
}

/// How long to wait before the next attempt.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    last: Option<Duration>,
}

impl BackOff {
    /// After a failed attempt.
    pub(crate) fn failed(&mut self) -> Duration {
        let next = self.last.map_or(RETRY_FIRST, |last| (last * 2).min(RETRY_LAST));
        self.last = Some(next);
        next
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_further_apart_up_to_a_bound_and_begin_anew_after_a_success() {
        let mut back_off = BackOff::default();
        let waits: Vec<u128> = (0..6).map(|_| back_off.failed().as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 500, 500]);
        back_off.reset();
        assert_eq!(back_off.failed(), RETRY_FIRST);
    }
}
