//! Sockets that clients connect to, and the way from an accepted socket to a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use access::Certificate;
use socket2::{Domain, Protocol as SocketProtocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Error;
use tracing::{debug, warn};

use crate::BrokerError;
use crate::config::{Listener, Protocol, ProxyProtocol};
use crate::connection::{self, Origin, Stream};
use crate::handshakes::{Arriving, Handshakes, Place, gave_way};
use crate::places::PlaceOf;
use crate::proxy_protocol::ProxyCheck;
use crate::refusal::{Limited, Rejected};
use crate::shared::Shared;
use crate::tls::{self, ListenerTls};
use crate::websocket::{self, Failed};
use crate::websocket_frames;

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// A listener that is bound and waits to be run.
pub(crate) struct Bound {
    listener: Listener,
    socket: TcpListener,
    pub(crate) tls: Option<Arc<ListenerTls>>,
    pub(crate) address: SocketAddr,
}

/// Binds a listener; its certificates are read before.
pub(crate) fn bind(listener: &Listener) -> Result<Bound, BrokerError> {
    let tls = match listener.protocol.is_encrypted() {
        true => Some(Arc::new(ListenerTls::open(listener)?)),
        false => None,
    };
    let wrong = |error| BrokerError::Bind {
        listener: listener.name.clone(),
        address: listener.bind,
        error,
    };
    let socket = listen(listener.bind).map_err(wrong)?;
    let address = socket.local_addr().map_err(wrong)?;
    Ok(Bound {
        listener: listener.clone(),
        socket,
        tls,
        address,
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(SocketProtocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the node stops. With too many handshakes under way, the longest silent one gives way; while none is silent, the rest
/// waits in the kernel. Other listeners have places of their own.
pub(crate) async fn run(shared: Arc<Shared>, bound: Bound) {
    let handshakes = Handshakes::new(shared.config.limits.handshakes_max);
    let Bound {
        listener,
        socket,
        tls,
        ..
    } = bound;
    let listener = Arc::new(listener);
    let name: Arc<str> = listener.name.as_str().into();
    let proxy = Arc::new(ProxyCheck::new());
    loop {
        tokio::select! {
            () = pace(&shared) => {}
            () = shared.stopping.cancelled() => return,
        }
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = shared.stopping.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, as a rule: those who are connected go on.
                warn!(listener = %name, %error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        shared.accepts.lock().charge(1, shared.steady_ms() * 1000);
        // Only now, so that nobody gives way to nobody.
        let place = tokio::select! {
            place = handshakes.take() => place,
            () = shared.stopping.cancelled() => return,
        };
        configure(&stream, &listener);
        let origin = Origin {
            peer,
            listener: Arc::clone(&name),
            transport: listener.protocol,
            permits_anonymous: listener.permits_anonymous(&shared.config.auth),
            certificate: None,
        };
        let task = Arrival {
            shared: Arc::clone(&shared),
            listener: Arc::clone(&listener),
            acceptor: tls.as_ref().map(|tls| tls.acceptor()),
            proxy: Arc::clone(&proxy),
            origin,
            place,
        };
        tokio::spawn(task.run(stream));
    }
}

/// Waits while connections come faster than `limits.connects_per_second_max`.
async fn pace(shared: &Shared) {
    let wait_ms = || {
        let welcome_ms = shared.accepts.lock().welcome_ms();
        welcome_ms.saturating_sub(shared.steady_ms())
    };
    let mut wait = wait_ms();
    if wait > 0 {
        shared.metrics.limited(Limited::Connects);
    }
    while wait > 0 {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        wait = wait_ms();
    }
}

/// Half-open connections are found by the kernel: idle ones by keepalive, busy ones by the user timeout.
fn configure(stream: &TcpStream, listener: &Listener) {
    let socket = SockRef::from(stream);
    let keepalive = listener.tcp_keepalive.get();
    let mut result = stream.set_nodelay(true);
    if !keepalive.is_zero() {
        let probes = TcpKeepalive::new()
            .with_time(keepalive)
            .with_interval(Duration::from_secs(10))
            .with_retries(3);
        result = result.and(socket.set_tcp_keepalive(&probes));
    }
    if !listener.tcp_user_timeout.is_zero() {
        result = result.and(socket.set_tcp_user_timeout(Some(listener.tcp_user_timeout.get())));
    }
    if let Err(error) = result {
        debug!(%error, "socket options were refused");
    }
}

struct Arrival {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    acceptor: Option<TlsAcceptor>,
    proxy: Arc<ProxyCheck>,
    origin: Origin,
    place: Place,
}

impl Arrival {
    async fn run(mut self, mut stream: TcpStream) {
        let deadline = Instant::now() + self.shared.live().limits.connect_timeout.get();
        if self.listener.proxy_protocol != ProxyProtocol::Off
            && !Box::pin(self.ask_proxy(&mut stream, deadline)).await
        {
            return;
        }
        if !self.is_one_of_few() {
            return;
        }
        let stream = self.place.watch(stream);
        // Boxed where a handshake comes first, so that the task of a plain connection is small.
        match (self.listener.protocol, self.acceptor.clone()) {
            (Protocol::Tcp, _) => self.welcome(stream, deadline).await,
            (Protocol::Ws, _) => Box::pin(self.welcome_websocket(stream, deadline)).await,
            (Protocol::Tls, Some(acceptor)) => {
                if let Some(stream) = Box::pin(self.secure(&acceptor, stream, deadline)).await {
                    self.read_certificate(&stream);
                    Box::pin(self.welcome(stream, deadline)).await;
                }
            }
            (Protocol::Wss, Some(acceptor)) => {
                if let Some(stream) = Box::pin(self.secure(&acceptor, stream, deadline)).await {
                    self.read_certificate(&stream);
                    Box::pin(self.welcome_websocket(stream, deadline)).await;
                }
            }
            (Protocol::Tls | Protocol::Wss, None) => {
                unreachable!("bind made an acceptor for every encrypted listener")
            }
        }
    }

    /// Where connections of an address are limited, so are those that have not said who they are: by themselves, since nobody
    /// knows yet who of them takes the place of another.
    fn is_one_of_few(&self) -> bool {
        let max = self.shared.live().limits.connections_per_address_max;
        let of = PlaceOf::address(self.origin.peer.ip());
        let is_welcome = max == 0 || self.place.count_for(&of, max);
        if !is_welcome {
            self.shared.metrics.rejected(Rejected::ConnectionsPerAddress);
            debug!(address = %self.origin.peer, "too many unfinished connections of this address");
        }
        is_welcome
    }

    async fn secure(
        &self,
        acceptor: &TlsAcceptor,
        stream: Arriving,
        deadline: Instant,
    ) -> Option<tokio_rustls::server::TlsStream<Arriving>> {
        let metrics = &self.shared.metrics;
        let began = Instant::now();
        match tokio::time::timeout_at(deadline, Box::pin(acceptor.accept(stream))).await {
            Ok(Ok(stream)) => {
                metrics.tls_done.increment(1);
                metrics.tls_duration.record(began.elapsed());
                Some(stream)
            }
            Ok(Err(error)) if gave_way(&error) => {
                metrics.tls_late.increment(1);
                metrics.rejected(Rejected::Handshakes);
                None
            }
            Ok(Err(error)) => {
                metrics.tls_failed.increment(1);
                metrics.rejected(Rejected::Tls);
                debug!(address = %self.origin.peer, %error, "TLS handshake failed");
                if let Some(reason) = tls::refused_certificate(&error) {
                    self.shared.refusals().certificate(&self.origin, reason);
                }
                None
            }
            Err(_) => {
                metrics.tls_late.increment(1);
                self.was_silent()
            }
        }
    }

    /// Learns from the proxy in front who connects. Says whether the connection may go on.
    async fn ask_proxy(&mut self, stream: &mut TcpStream, deadline: Instant) -> bool {
        let peer = self.origin.peer;
        match self.proxy.meet(&self.listener, stream, peer, deadline).await {
            Ok(Some(header)) => {
                let name = header.certificate_name();
                self.origin.certificate = name.map(|name| Arc::new(Certificate::told_by_proxy(name)));
                self.origin.peer = header.source.unwrap_or(peer);
                true
            }
            Ok(None) => false,
            Err(rejection) => {
                self.shared.metrics.proxy_rejected(rejection);
                self.proxy.report(&self.listener.name, peer, rejection);
                false
            }
        }
    }

    /// The client's own certificate, verified in the handshake, counts; what a proxy tells of one is about another connection.
    fn read_certificate(&mut self, stream: &tokio_rustls::server::TlsStream<Arriving>) {
        let shown = stream.get_ref().1.peer_certificates();
        if let Some(certificate) = shown.and_then(|chain| Certificate::parse(chain.first()?)) {
            self.origin.certificate = Some(Arc::new(certificate));
        }
    }

    async fn welcome_websocket<S: Stream>(self, stream: S, deadline: Instant) {
        if let Some(stream) = self.upgrade(stream, deadline).await {
            self.welcome(stream, deadline).await;
        }
    }

    async fn upgrade<S: Stream>(
        &self,
        stream: S,
        deadline: Instant,
    ) -> Option<websocket_frames::ByteStream<S>> {
        let upgrade = Box::pin(websocket::accept(
            stream,
            &self.listener,
            self.origin.permits_anonymous,
        ));
        let metrics = &self.shared.metrics;
        match tokio::time::timeout_at(deadline, upgrade).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(Failed::Handshake(Error::Io(error)))) if gave_way(&error) => {
                metrics.rejected(Rejected::Handshakes);
            }
            Ok(Err(Failed::Handshake(error))) => {
                metrics.rejected(Rejected::WebSocket);
                debug!(address = %self.origin.peer, %error, "WebSocket handshake failed");
            }
            Ok(Err(Failed::ForeignPage(page))) => {
                metrics.rejected(Rejected::WebSocket);
                debug!(address = %self.origin.peer, page, "a web page of others may not connect");
                self.shared.refusals().page(&self.origin, &page);
            }
            Err(_) => return self.was_silent(),
        }
        None
    }

    fn was_silent<T>(&self) -> Option<T> {
        self.shared.metrics.rejected(Rejected::Timeout);
        None
    }

    async fn welcome<S: Stream>(self, stream: S, deadline: Instant) {
        let Self {
            shared,
            origin,
            place,
            ..
        } = self;
        let within = deadline.saturating_duration_since(Instant::now());
        let accepted = Box::pin(connection::accept(&shared, stream, origin, within)).await;
        drop(place);
        if let Some(accepted) = accepted {
            // A task of its own: this one is large, and the connection may be idle for years.
            tokio::spawn(connection::serve(shared, accepted));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TimeSpan;

    /// An accepted socket of this listener.
    async fn accepted(listener: &Listener) -> TcpStream {
        let socket = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let dialling = TcpStream::connect(socket.local_addr().unwrap());
        let (dialled, accepted) = tokio::join!(dialling, socket.accept());
        dialled.unwrap();
        let (stream, _) = accepted.unwrap();
        configure(&stream, listener);
        stream
    }

    #[tokio::test]
    async fn the_kernel_looks_for_connections_whose_other_end_is_gone() {
        let stream = accepted(&Listener {
            tcp_keepalive: TimeSpan::from_secs(45),
            tcp_user_timeout: TimeSpan::from_secs(33),
            ..Listener::default()
        })
        .await;
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(45));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(33)));
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn where_it_is_not_wanted_the_kernel_leaves_idle_connections_alone() {
        let stream = accepted(&Listener {
            tcp_keepalive: TimeSpan::ZERO,
            tcp_user_timeout: TimeSpan::ZERO,
            ..Listener::default()
        })
        .await;
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}
