//! The network below gRPC as this crate sees it: something that connects and listens. Nothing else here knows sockets.

use std::io;

pub use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A way to reach other nodes.
pub trait Net: Send + Sync + 'static {
    /// Connects to an address (`host:port`). The caller bounds how long it waits.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>>;

    /// Listens at an address (`host:port`).
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Incoming>>>;
}

/// Connections from others.
pub trait Incoming: Send {
    /// The next connection, ready for use, and who is at its other end.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, String)>>;

    /// Where others connect to.
    fn local_address(&self) -> String;
}
