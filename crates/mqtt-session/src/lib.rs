//! The server side of one client's protocol, without sockets, clocks or tasks: packets and time in,
//! packets and actions out. What a message is routed to, and where sessions are kept, is left to others.

mod aliases;
mod error;
mod explain;
mod handshake;
mod inbound;
mod outbound;
mod session;
mod subscribe;

pub use error::ProtocolError;
pub use handshake::{Handshake, ServerLimits};
pub use outbound::{Delivery, Outcome, Sending, packet_id_of};
pub use session::{Action, Resumed, Session};
pub use subscribe::{SubscribeRequest, Subscription};
