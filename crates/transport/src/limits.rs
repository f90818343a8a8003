//! The bounds of everything peers may make each other hold, and the ends of everything they may wait for.

use std::time::Duration;

/// The largest message: a request, an answer, a frame of a lane. A larger one is refused where it is made.
pub const MESSAGE_BYTES_MAX: usize = 40 << 20;
/// What gRPC accepts: its framing and the ids around a message must not make the largest one too large.
pub(crate) const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (64 << 10);

/// Calls under way per peer and channel. A caller gets `Busy` beyond that; a server stops reading.
pub const CALLS_MAX: usize = 4096;
/// Bytes of requests without an answer per peer and channel; `Busy` beyond that.
pub const CALL_BYTES_MAX: usize = 64 << 20;

/// Lanes of published messages per peer.
pub const LANES: u32 = 4;
/// A lane with more unacknowledged bytes is congested; with twice as many it takes nothing.
pub const LANE_BYTES_MAX: usize = 8 << 20;
/// A lane with more unacknowledged messages is congested; with twice as many it takes nothing.
pub const LANE_MESSAGES_MAX: usize = 64 << 10;
/// Waiting batches are joined into one frame up to this size: larger frames gain nothing and delay acknowledgements.
pub(crate) const JOIN_BYTES_MAX: usize = 256 << 10;
/// Messages that are joined into one frame.
pub(crate) const JOIN_MESSAGES_MAX: usize = 512;
/// Lanes of senders that are remembered. Beyond that, those without a stream are forgotten.
pub(crate) const RECEIVED_MAX: usize = 4096;

/// A snapshot as a whole; a longer one is refused.
pub const SNAPSHOT_BYTES_MAX: usize = 4 << 30;
/// One part of a snapshot.
pub(crate) const SNAPSHOT_PART_BYTES: usize = 1 << 20;
/// Snapshots that a node receives at the same time; more wait, since each is held in memory.
pub(crate) const SNAPSHOTS_MAX: usize = 2;

/// Connections from peers. More wait in the operating system's queue.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// TLS handshakes under way. More wait in the operating system's queue.
pub(crate) const HANDSHAKES_MAX: usize = 64;
/// Streams per connection: a peer needs one, the rest is for calls that overlap with the end of others.
pub(crate) const STREAMS_MAX: u32 = 16;
/// Bytes of headers per request.
pub(crate) const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// 64 KiB, the default of HTTP/2, would limit a link of one millisecond to 64 MB/s.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// For all streams of a connection.
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

/// A connection that is silent for so long is asked whether it is alive,
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// and has so long to answer.
pub(crate) const KEEPALIVE_WITHIN: Duration = Duration::from_secs(3);
/// Connecting, with the TLS handshake.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The TLS handshake of an accepted connection, and its first bytes of HTTP/2.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// The first message of a stream, and the answer to it.
pub(crate) const OPENING_WITHIN: Duration = Duration::from_secs(5);
/// Between two parts of a snapshot.
pub(crate) const SNAPSHOT_PART_WITHIN: Duration = Duration::from_secs(30);
/// After a failed attempt to connect; doubled with each further one,
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(50);
/// up to this.
pub(crate) const RETRY_LAST: Duration = Duration::from_millis(500);
/// Streams have so long to end when the server stops; then their connections are cut.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(1);
/// Accepting pauses when the operating system has no descriptor left.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Certificate files are looked at no more often than this.
pub(crate) const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(2);
