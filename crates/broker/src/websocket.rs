//! The way to MQTT over WebSocket (MQTT 5.0 section 6): the HTTP upgrade. What follows is `websocket_frames`.

use std::net::IpAddr;

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode};

use crate::config::Listener;
use crate::connection::Stream;
use crate::websocket_frames::ByteStream;

/// Why there is no WebSocket.
pub(crate) enum Failed {
    Handshake(Error),
    /// A web page of this origin asked, and none of its pages may connect.
    ForeignPage(String),
}

/// Performs the handshake: the path and the subprotocol `mqtt` are demanded [MQTT-6.0.0-3] [MQTT-6.0.0-4], and of a web page that it
/// is the node's own or one that the listener knows.
#[allow(
    clippy::result_large_err,
    reason = "the refusal is the HTTP response that the callback has to return"
)]
pub(crate) async fn accept<S: Stream>(
    stream: S,
    listener: &Listener,
    permits_anonymous: bool,
) -> Result<ByteStream<S>, Failed> {
    let mut foreign = None;
    let judge = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        if let Some(page) = foreign_page(listener, permits_anonymous, request.headers()) {
            foreign = Some(page);
            return Err(refusal(
                StatusCode::FORBIDDEN,
                "web pages of this origin may not connect\n",
            ));
        }
        if request.uri().path() != listener.path {
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
    let upgraded = tokio_tungstenite::accept_hdr_async(stream, judge).await;
    match (upgraded, foreign) {
        // A client sends nothing before it has the answer, so nothing was read beyond the request.
        (Ok(upgraded), _) => Ok(ByteStream::new(upgraded.into_inner())),
        (Err(_), Some(page)) => Err(Failed::ForeignPage(page)),
        (Err(error), None) => Err(Failed::Handshake(error)),
    }
}

fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    response
}

/// The origin of a web page that may not connect. A browser says on whose behalf it asks, and asks for any page; other clients say
/// nothing.
fn foreign_page(listener: &Listener, permits_anonymous: bool, headers: &HeaderMap) -> Option<String> {
    let origin = String::from_utf8_lossy(headers.get("Origin")?.as_bytes()).into_owned();
    let mut allowed = listener.allowed_origins.iter();
    if allowed.any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(&origin)) {
        return None;
    }
    let host = headers.get("Host").and_then(|host| host.to_str().ok());
    let host = host_name(host.unwrap_or_default());
    // A name that was made to mean this machine is still said by its page, and by itself it would be the node's own.
    let is_rebound = permits_anonymous && listener.bind.ip().is_loopback() && !is_this_machine(host);
    let is_own = origin.split_once("://").is_some_and(|(_, page)| {
        let page = host_name(page);
        !page.is_empty()
            && (page.eq_ignore_ascii_case(host) || (is_this_machine(page) && is_this_machine(host)))
    });
    (is_rebound || !is_own).then_some(origin)
}

/// The host of `host:port`, also `[::1]:8083`.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, _)) => inner,
        None => host.split(':').next().unwrap_or(host),
    }
}

fn is_this_machine(name: &str) -> bool {
    let loopback = name
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback());
    loopback || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a page of this origin may connect to a node that it calls by this name.
    fn welcome(listener: &Listener, permits_anonymous: bool, host: &str, origin: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("Host", host.parse().unwrap());
        headers.insert("Origin", origin.parse().unwrap());
        foreign_page(listener, permits_anonymous, &headers).is_none()
    }

    fn on(bind: &str, allowed: &[&str]) -> Listener {
        Listener {
            bind: bind.parse().unwrap(),
            allowed_origins: allowed.iter().map(|origin| (*origin).to_owned()).collect(),
            ..Listener::default()
        }
    }

    #[test]
    fn who_is_no_browser_is_not_asked() {
        let mut headers = HeaderMap::new();
        headers.insert("Host", "anything:8083".parse().unwrap());
        for listener in [on("127.0.0.1:8083", &[]), on("0.0.0.0:8083", &[])] {
            assert_eq!(foreign_page(&listener, true, &headers), None);
        }
    }

    #[test]
    fn pages_of_the_same_host_may_connect_and_no_others() {
        let everywhere = on("0.0.0.0:8083", &[]);
        let page = |origin| welcome(&everywhere, false, "Mqtt.example:8083", origin);
        assert!(page("https://mqtt.example"));
        assert!(page("http://mqtt.example:9100"));
        for foreign in [
            "https://evil.example",
            "https://mqtt.example.evil.example",
            "https://evil.example/mqtt.example",
            "null",
            "https://",
            "mqtt.example",
        ] {
            assert!(!page(foreign), "{foreign}");
        }
        assert!(!welcome(&everywhere, false, "", "https://"));
    }

    #[test]
    fn without_users_on_loopback_the_node_is_to_be_called_by_its_own_name() {
        let home = on("127.0.0.1:8083", &[]);
        let page = |host, origin| welcome(&home, true, host, origin);
        assert!(page("localhost:8083", "http://localhost:9100"));
        assert!(page("127.0.0.1:8083", "http://localhost:9100"));
        assert!(page("[::1]:8083", "http://[::1]:9100"));
        // A name that was made to mean this machine.
        assert!(!page("evil.example:8083", "http://evil.example:8083"));
        assert!(!page("localhost:8083", "http://evil.example"));
        // Who has to say who it is may come by a proxy on this machine.
        let known = |host, origin| welcome(&home, false, host, origin);
        assert!(known("mqtt.example", "https://mqtt.example"));
    }

    #[test]
    fn other_pages_are_named_one_by_one_or_all_at_once() {
        let page = |allowed: &[&str], origin| welcome(&on("127.0.0.1:8083", allowed), true, "x:8083", origin);
        let named = ["https://app.example", "null"];
        assert!(page(&named, "https://app.example"));
        assert!(page(&named, "null"));
        assert!(!page(&named, "http://app.example"));
        assert!(!page(&named, "https://app.example:8443"));
        assert!(page(&["*"], "https://evil.example"));
    }
}
