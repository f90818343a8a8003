//! Peers over gRPC: calls, lanes of published messages, snapshots. What is said is in `proto/peer.proto`; what it means is
//! the business of `cluster`.
//!
//! [`Peers`] speaks to other nodes, [`serve`] lets them speak to a [`PeerService`] of this one. Both stand on a [`Net`], so
//! that a test can put a simulated network below them. Each stream has a connection of its own: what is bulk never stands
//! in the way of a heartbeat, and the end of a connection is the end of its one stream.

mod answers;
mod calls;
mod connection;
mod endpoint;
mod error;
mod frame;
mod guard;
mod lane;
mod limits;
mod memory;
mod net;
mod peers;
mod received;
mod server;
mod snapshot;
mod tcp;
mod tls;

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated; the comments are in the .proto files"
    )]
    include!(concat!(env!("OUT_DIR"), "/flotilla.v1.rs"));
}

pub use answers::Reply;
pub use error::PeerError;
pub use lane::ForwardDone;
pub use limits::{
    CALL_BYTES_MAX, CALLS_MAX, LANE_BYTES_MAX, LANE_MESSAGES_MAX, LANES, MESSAGE_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
};
pub use memory::{MemoryNet, MemoryNode};
pub use net::{Accepted, BoxFuture, Incoming, Io, Net, Proof};
pub use peers::{Channel, LaneStats, LinkStats, PeerStats, Peers};
pub use received::Received;
pub use server::{PeerService, serve};
pub use tcp::TcpNet;
pub use tls::TlsFiles;
