//! The dashboard: a handful of files in the binary, for any browser. They tell nothing by themselves, so anybody may have them;
//! what they show, they ask of `/api/v1`.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::access::host_name;
use crate::api::OperationsCell;

const INDEX: &str = include_str!("dashboard/index.html");

macro_rules! files {
    ($($name:literal => $kind:expr),* $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("dashboard/", $name)))),*]
    };
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// Name, type, content.
const FILES: &[(&str, &str, &str)] = files!(
    "app.js" => JAVASCRIPT,
    "api.js" => JAVASCRIPT,
    "clients.js" => JAVASCRIPT,
    "console.js" => JAVASCRIPT,
    "dom.js" => JAVASCRIPT,
    "live.js" => JAVASCRIPT,
    "mqtt.js" => JAVASCRIPT,
    "node.js" => JAVASCRIPT,
    "overview.js" => JAVASCRIPT,
    "plot.js" => JAVASCRIPT,
    "retained.js" => JAVASCRIPT,
    "routes.js" => JAVASCRIPT,
    "icon.svg" => "image/svg+xml",
    "style.css" => "text/css; charset=utf-8",
);

pub(crate) fn routes(operations: OperationsCell) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/dashboard", get(index))
        .route("/dashboard/{file}", get(file))
        .with_state(operations)
}

async fn index(State(operations): State<OperationsCell>, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let listeners = operations.get().map(|operations| operations.node().listeners);
    let websockets = listeners
        .iter()
        .flatten()
        .filter(|listener| listener.protocol == "ws" || listener.protocol == "wss")
        .filter_map(|listener| Some((listener.protocol.as_str(), listener.address.rsplit(':').next()?)));
    let policy = policy(host_name(host.unwrap_or("")), websockets);
    let head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (hardening(), head, INDEX).into_response()
}

async fn file(Path(name): Path<String>) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
    };
    (hardening(), [(header::CONTENT_TYPE, *kind)], *content).into_response()
}

/// Nothing but what comes from here; beyond that only the node's own WebSocket listeners, for the MQTT client in the page.
fn policy<'a>(host: &str, websockets: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut connect = "'self'".to_owned();
    // The name comes from the request: it must not add words of its own.
    let is_name = |host: &str| {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte))
    };
    if is_name(host) {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        for (protocol, port) in websockets {
            connect.push_str(&format!(" {protocol}://{host}:{port}"));
        }
    }
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {connect}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

fn hardening() -> [(header::HeaderName, &'static str); 5] {
    [
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_lets_the_page_reach_this_node_alone() {
        let shown = policy("node.example", [("ws", "8083")].into_iter());
        assert!(
            shown.contains("connect-src 'self' ws://node.example:8083;"),
            "{shown}"
        );
        assert!(shown.starts_with("default-src 'none'; script-src 'self';"));
        let six = policy("::1", [("wss", "8084")].into_iter());
        assert!(six.contains("wss://[::1]:8084;"), "{six}");
    }

    #[test]
    fn a_name_from_outside_cannot_widen_the_policy() {
        for name in ["x; script-src *", "a b", "*", "", "'unsafe-inline'"] {
            let shown = policy(name, [("ws", "8083")].into_iter());
            assert!(shown.contains("connect-src 'self';"), "{name}: {shown}");
        }
    }

    #[test]
    fn no_file_names_an_address_outside() {
        let allowed = ["http://www.w3.org/2000/svg"];
        for (name, _, content) in FILES.iter().chain([&("index.html", "", INDEX)]) {
            let mut rest = content.to_string();
            for known in allowed {
                rest = rest.replace(known, "");
            }
            assert!(!rest.contains("http://") && !rest.contains("https://"), "{name}");
        }
    }

    #[test]
    fn every_file_that_is_asked_for_is_there() {
        let named: Vec<&str> = FILES.iter().map(|(name, ..)| *name).collect();
        for (name, _, content) in FILES {
            for part in content.split("from './").skip(1) {
                let wanted = part.split('\'').next().unwrap();
                assert!(named.contains(&wanted), "{name} asks for {wanted}");
            }
        }
    }
}
