//! What other nodes ask of this one, and the server that lets them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cluster_proto::{
    AdoptRequest, AdoptResponse, Failed, ForwardMessage, HelloRequest, HelloResponse, Introduction, Opening,
    SnapshotAnswer, SnapshotHeader, call_request,
};
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::answers::Reply;
use crate::endpoint::Endpoint;
use crate::generated::peer_server::PeerServer;
use crate::guard::Guarded;
use crate::limits::{
    ACCEPT_PAUSE, CONNECTION_WINDOW, CONNECTIONS_MAX, FRAME_BYTES_MAX, HANDSHAKE_WITHIN, HEADERS_BYTES_MAX,
    KEEPALIVE_INTERVAL, KEEPALIVE_WITHIN, STOP_WITHIN, STREAM_WINDOW, STREAMS_MAX,
};
use crate::net::{BoxFuture, Incoming, Proof};
use crate::received::Received;

/// What this node does for others.
pub trait PeerService: Send + Sync + 'static {
    /// Who is here. Asked by anyone who reaches the port.
    fn hello(&self, request: HelloRequest, proof: Proof) -> BoxFuture<'_, HelloResponse>;

    /// Whether this node will belong to a cluster that is about to be founded. Asked by anyone who reaches the port.
    fn adopt(&self, request: AdoptRequest, proof: Proof) -> BoxFuture<'_, AdoptResponse>;

    /// Judges the opening of a stream or of a snapshot, by who says so and by what that has proved.
    ///
    /// # Errors
    /// It is refused.
    fn admit(&self, opening: &Opening, proof: &Proof) -> Result<(), Failed>;

    /// A call, in the order of its stream. It must not block; the answer may come from anywhere, at any time.
    fn call(&self, from: &Introduction, body: call_request::Body, reply: Reply);

    /// Messages of a lane, each once and in order. They are acknowledged when this returns. It must not block.
    fn forward(&self, from: &Introduction, messages: Vec<ForwardMessage>);

    /// A group's state.
    fn snapshot(&self, header: SnapshotHeader, data: Bytes) -> BoxFuture<'_, Result<SnapshotAnswer, Failed>>;
}

/// Serves peers until `stop`. Then streams end, and soon after whatever is still connected is cut.
///
/// # Errors
/// The server ended by itself.
pub fn serve(
    incoming: Box<dyn Incoming>,
    service: Arc<dyn PeerService>,
    received: Arc<Received>,
    stop: CancellationToken,
) -> BoxFuture<'static, io::Result<()>> {
    // Boxed here, the server is compiled in this crate, and not again in each that serves.
    Box::pin(serve_until(incoming, service, received, stop))
}

async fn serve_until(
    incoming: Box<dyn Incoming>,
    service: Arc<dyn PeerService>,
    received: Arc<Received>,
    stop: CancellationToken,
) -> io::Result<()> {
    // Also when this future is dropped, no connection outlives it.
    let cut = CancellationToken::new();
    let _cut_at_last = cut.clone().drop_guard();
    let peer = PeerServer::new(Endpoint::new(service, received, stop.clone()))
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    let serving = server()
        .add_service(peer)
        .serve_with_incoming_shutdown(connections(incoming, cut), stop.clone().cancelled_owned());
    tokio::pin!(serving);
    tokio::select! {
        biased;
        served = &mut serving => return served.map_err(io::Error::other),
        () = stop.cancelled() => {}
    }
    match timeout(STOP_WITHIN, serving).await {
        Ok(served) => served.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
}

/// The connections as tonic wants them. Beyond the largest number, accepting waits for one to end.
fn connections(
    incoming: Box<dyn Incoming>,
    cut: CancellationToken,
) -> impl Stream<Item = Result<Guarded<OwnedSemaphorePermit>, Infallible>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    futures_util::stream::unfold(
        (incoming, places, cut),
        |(mut incoming, places, cut)| async move {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            let (io, proof) = loop {
                match incoming.accept().await {
                    Ok((io, from, proof)) => {
                        tracing::debug!(from, "a peer connected");
                        break (io, proof);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a peer's connection cannot be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            let guarded = Guarded::new(io, &cut, place).with_proof(proof);
            let guarded = guarded.with_preface_within(HANDSHAKE_WITHIN);
            Some((Ok(guarded), (incoming, places, cut)))
        },
    )
}
