//! Requests to the services that the configuration names. Who asks says how long it waits.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::connection::Stream;
use crate::tls;

/// Connections that nobody uses are kept this long.
const IDLE: Duration = Duration::from_secs(30);
/// And so many of them.
const IDLE_MAX: usize = 16;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One address that is asked. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    uri: Uri,
    answer_bytes_max: usize,
}

/// Why there is no answer. Shows nothing of the question.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No connection, or it broke.
    #[error("{0}")]
    Failed(String),
    /// Another status than 200.
    #[error("the status is {0}")]
    Status(StatusCode),
    /// It broke off, or is larger than permitted.
    #[error("the answer is not whole, or too large")]
    Body,
}

impl HttpClient {
    /// Reads the file with those who sign the service's certificate; answers up to so many bytes are read. Blocks.
    ///
    /// # Errors
    /// The address is none, or the file cannot be used.
    pub(crate) fn new(url: &str, ca: Option<&Path>, answer_bytes_max: usize) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "is not an address".to_owned())?;
        let tls = ca.map(tls::client_config).transpose()?;
        let connector = Connector {
            tls: tls.map(TlsConnector::from),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Ok(Self {
            client,
            uri,
            answer_bytes_max,
        })
    }

    /// Fetches what is there.
    pub(crate) async fn get(&self) -> Result<Bytes, HttpError> {
        self.ask(Method::GET, Bytes::new()).await
    }

    /// Sends a document in JSON, and answers with what comes back.
    pub(crate) async fn post(&self, json: Bytes) -> Result<Bytes, HttpError> {
        self.ask(Method::POST, json).await
    }

    /// Redirections are not followed: the answer comes from the address that is configured, or not at all.
    async fn ask(&self, method: Method, body: Bytes) -> Result<Bytes, HttpError> {
        let mut request = Request::new(Full::new(body));
        if method == Method::POST {
            request.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        request.headers_mut().insert(ACCEPT, JSON);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| HttpError::Failed(with_sources(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(HttpError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), self.answer_bytes_max).collect();
        body.await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|_| HttpError::Body)
    }
}

/// The error and what is behind it: the outermost one says only that something failed.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Opens connections, over TLS where there is somebody to trust.
#[derive(Clone)]
struct Connector {
    tls: Option<TlsConnector>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<TokioIo<Link>> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match (uri.port_u16(), &self.tls) {
            (Some(port), _) => port,
            (None, Some(_)) => 443,
            (None, None) => 80,
        };
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                Box::new(tls.connect(name, stream).await?)
            }
        };
        Ok(TokioIo::new(Link(stream)))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Link>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection to a service.
struct Link(Box<dyn Stream>);

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
