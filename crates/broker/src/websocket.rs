//! MQTT over WebSocket (MQTT 5.0 section 6): a stream of bytes made of binary frames, split and joined at will.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::connection::Stream;

/// Bytes that wait inside the WebSocket layer before writing blocks.
const WRITE_BUFFER_MAX: usize = 512 * 1024;

/// A WebSocket as a byte stream.
pub(crate) struct ByteStream<S> {
    socket: WebSocketStream<S>,
    frame: Bytes,
}

/// Performs the handshake: the path and the subprotocol `mqtt` are demanded. [MQTT-6.0.0-3] [MQTT-6.0.0-4]
#[allow(
    clippy::result_large_err,
    reason = "the refusal is the HTTP response that the callback has to return"
)]
pub(crate) async fn accept<S: Stream>(
    stream: S,
    path: &str,
    frame_max: usize,
) -> Result<ByteStream<S>, Error> {
    let judge = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        if request.uri().path() != path {
            return Err(refusal(StatusCode::NOT_FOUND, "MQTT is served on another path\n"));
        }
        let offered = request.headers().get_all("Sec-WebSocket-Protocol");
        let mut names = offered
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        let Some(name) = names.find(|name| matches!(name.trim(), "mqtt" | "mqttv3.1")) else {
            return Err(refusal(
                StatusCode::BAD_REQUEST,
                "the subprotocol mqtt is needed\n",
            ));
        };
        if let Ok(name) = HeaderValue::from_str(name.trim()) {
            response.headers_mut().insert("Sec-WebSocket-Protocol", name);
        }
        Ok(response)
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(frame_max))
        .max_frame_size(Some(frame_max))
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0);
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, judge, Some(config)).await?;
    Ok(ByteStream {
        socket,
        frame: Bytes::new(),
    })
}

fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    response
}

impl<S: Stream> AsyncRead for ByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.frame.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(frame))) => self.frame = frame,
                // Only binary frames may carry MQTT. [MQTT-6.0.0-1]
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let length = self.frame.len().min(buf.remaining());
        buf.put_slice(&self.frame[..length]);
        self.frame.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for ByteStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io::Error::other)?;
        let frame = Message::Binary(Bytes::copy_from_slice(buf));
        Pin::new(&mut self.socket)
            .start_send(frame)
            .map_err(io::Error::other)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_flush(cx)
            .map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_close(cx)
            .map_err(io::Error::other)
    }
}
