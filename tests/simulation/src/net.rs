//! The network between nodes: turmoil's TCP below `transport`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use transport::{Accepted, BoxFuture, Incoming, Io, Net, Proof};
use turmoil::net::{TcpListener, TcpStream};

/// Connects and listens as whichever host asks.
pub(crate) struct SimulatedNet;

impl Net for SimulatedNet {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Incoming>>> {
        Box::pin(async move {
            let (_, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port: u16 = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await?;
            let address = address.to_owned();
            Ok(Box::new(SimulatedIncoming { listener, address }) as Box<dyn Incoming>)
        })
    }
}

struct SimulatedIncoming {
    listener: TcpListener,
    address: String,
}

impl Incoming for SimulatedIncoming {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            Ok((Box::new(stream) as Box<dyn Io>, peer.to_string(), Proof::none()))
        })
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}
