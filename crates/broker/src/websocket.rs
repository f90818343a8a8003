//! The way to MQTT over WebSocket (MQTT 5.0 section 6): the HTTP upgrade. What follows is `websocket_frames`.

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};

use crate::connection::Stream;
use crate::websocket_frames::ByteStream;

/// Performs the handshake: the path and the subprotocol `mqtt` are demanded. [MQTT-6.0.0-3] [MQTT-6.0.0-4]
#[allow(
    clippy::result_large_err,
    reason = "the refusal is the HTTP response that the callback has to return"
)]
pub(crate) async fn accept<S: Stream>(stream: S, path: &str) -> Result<ByteStream<S>, Error> {
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
    let upgraded = tokio_tungstenite::accept_hdr_async(stream, judge).await?;
    // A client sends nothing before it has the answer, so nothing was read beyond the request.
    Ok(ByteStream::new(upgraded.into_inner()))
}

fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    response
}
