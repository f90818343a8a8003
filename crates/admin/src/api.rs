//! `/api/v1`: each route asks `Operations` and writes down the answer. `openapi.json` describes them.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Extension, FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::info;

use crate::access::{Granted, Peer, Welcome};
use crate::cluster::{AdminError, refusal};
use crate::operations::{
    ClientQuery, ExplainQuery, Operations, RefusalQuery, RetainedQuery, TopicQuery, TraceOf, TraceQuery,
};
use crate::views::{LogLevel, Message, Messages, Outcome, Restore, RestoreResult};

/// Messages in one request.
const MESSAGES_MAX: usize = 1000;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// While nothing passes, whoever looks on is told so this often.
const STILL_HERE: Duration = Duration::from_secs(20);
/// How long a trace goes on, if nothing else is asked for, and at the most.
const TRACE_S: u32 = 60;
const TRACE_S_MAX: u32 = 3600;
/// The highest rate of connections in a second.
const RATE_MAX: u32 = 1_000_000;
const OPENAPI: &str = include_str!("openapi.json");

/// Set once the node has started.
pub(crate) type OperationsCell = Arc<OnceLock<Arc<dyn Operations>>>;

/// The node, for a handler; or an answer that it is still starting.
struct Node(Arc<dyn Operations>);

impl FromRequestParts<OperationsCell> for Node {
    type Rejection = AdminError;

    async fn from_request_parts(_: &mut Parts, cell: &OperationsCell) -> Result<Self, AdminError> {
        let node = cell.get().map(|node| Self(Arc::clone(node)));
        node.ok_or_else(|| AdminError::Unavailable("the node is still starting".to_owned()))
    }
}

/// What stands behind the `?`; what does not fit is told in a line.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        let query = query.map_err(|rejection| AdminError::Invalid(rejection.body_text()));
        query.map(|axum::extract::Query(query)| Self(query))
    }
}

/// A body in JSON.
struct Given<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Given<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let given = Json::from_request(request, state).await;
        let given = given.map_err(|rejection: JsonRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => AdminError::TooLarge(format!(
                "the body is larger than {BODY_BYTES_MAX} bytes: send it in parts"
            )),
            _ => AdminError::Invalid(rejection.body_text()),
        });
        given.map(|Json(given)| Self(given))
    }
}

/// A good answer, which no cache may keep.
struct Said<T>(T);

impl<T: Serialize> IntoResponse for Said<T> {
    fn into_response(self) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], Json(self.0)).into_response()
    }
}

/// A list that has no pages.
#[derive(Serialize)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfTopic {
    topic: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfFilter {
    filter: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    client: Option<String>,
    topic: Option<String>,
    seconds: Option<u32>,
}

impl Trace {
    fn checked(self) -> Result<TraceQuery, AdminError> {
        let invalid = |reason: &str| AdminError::Invalid(reason.to_owned());
        let of = match (self.client, self.topic) {
            (Some(client), None) if !client.is_empty() => TraceOf::Client(client),
            (None, Some(topic)) => TraceOf::Topic(topic),
            _ => return Err(invalid("a trace is of one `client` or of one `topic` filter")),
        };
        let seconds = self.seconds.unwrap_or(TRACE_S);
        if !(1..=TRACE_S_MAX).contains(&seconds) {
            return Err(invalid(&format!("seconds is from 1 to {TRACE_S_MAX}")));
        }
        let within = Duration::from_secs(seconds.into());
        Ok(TraceQuery { of, within })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    /// Connections in a second.
    rate: Option<u32>,
}

impl Rate {
    fn checked(self) -> Result<Option<u32>, AdminError> {
        match self.rate {
            Some(rate) if !(1..=RATE_MAX).contains(&rate) => {
                Err(AdminError::Invalid(format!("rate is from 1 to {RATE_MAX}")))
            }
            rate => Ok(rate),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    #[serde(default)]
    after: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    #[serde(default)]
    session: SessionStays,
}

/// What becomes of the session of a client that is disconnected.
#[derive(Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SessionStays {
    #[default]
    Keep,
    End,
}

pub(crate) fn routes(operations: OperationsCell) -> Router {
    Router::new()
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/v1/access", get(access))
        .route("/api/v1/overview", get(overview))
        .route("/api/v1/node", get(node))
        .route("/api/v1/node/drain", post(drain))
        .route("/api/v1/node/undrain", post(undrain))
        .route("/api/v1/rebalance", post(rebalance))
        .route("/api/v1/clients", get(clients))
        .route("/api/v1/clients/{client}", get(client))
        .route("/api/v1/clients/{client}/disconnect", post(disconnect))
        .route("/api/v1/sessions", get(sessions).post(restore))
        .route("/api/v1/refusals", get(refusals))
        .route("/api/v1/subscriptions", get(subscriptions))
        .route("/api/v1/routes", get(routes_of_filters))
        .route("/api/v1/explain", get(explain))
        .route("/api/v1/retained", get(retained).post(retain))
        .route(
            "/api/v1/retained/message",
            get(retained_message).delete(delete_retained),
        )
        .route("/api/v1/publish", post(publish))
        .route("/api/v1/watch", get(watch))
        .route("/api/v1/trace", get(trace))
        .route("/api/v1/log", get(log_level).put(set_log_level))
        .route("/api/v1/config", get(settings))
        .route("/api/v1/config/reload", post(reload))
        .route("/api/v1/certificates", get(certificates))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(operations)
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn access(Extension(granted): Extension<Granted>) -> impl IntoResponse {
    Said(granted)
}

async fn overview(Node(node): Node) -> Result<impl IntoResponse, AdminError> {
    node.overview().await.map(Said)
}

async fn node(Node(node): Node) -> impl IntoResponse {
    Said(node.node())
}

async fn drain(Node(node): Node, Query(query): Query<Rate>) -> Result<StatusCode, AdminError> {
    node.drain(query.checked()?).map(|()| StatusCode::ACCEPTED)
}

async fn rebalance(Node(node): Node, Query(query): Query<Rate>) -> Result<impl IntoResponse, AdminError> {
    let items = node.rebalance(query.checked()?).await?;
    Ok(Said(Items { items }))
}

async fn undrain(Node(node): Node) -> Result<StatusCode, AdminError> {
    node.undrain().map(|()| StatusCode::NO_CONTENT)
}

async fn clients(
    Node(node): Node,
    Query(query): Query<ClientQuery>,
) -> Result<impl IntoResponse, AdminError> {
    node.clients(query).await.map(Said)
}

async fn client(Node(node): Node, Path(client): Path<String>) -> Result<impl IntoResponse, AdminError> {
    node.client(client).await.map(Said)
}

async fn disconnect(
    Node(node): Node,
    Path(client): Path<String>,
    Query(query): Query<Disconnect>,
) -> Result<StatusCode, AdminError> {
    let end_session = query.session == SessionStays::End;
    let done = node.disconnect(client, end_session).await;
    done.map(|()| StatusCode::NO_CONTENT)
}

async fn refusals(
    Node(node): Node,
    Query(query): Query<RefusalQuery>,
) -> Result<impl IntoResponse, AdminError> {
    node.refusals(query).await.map(Said)
}

async fn subscriptions(
    Node(node): Node,
    Query(query): Query<TopicQuery>,
) -> Result<impl IntoResponse, AdminError> {
    node.subscriptions(query).await.map(Said)
}

async fn routes_of_filters(
    Node(node): Node,
    Query(query): Query<TopicQuery>,
) -> Result<impl IntoResponse, AdminError> {
    node.routes(query).await.map(Said)
}

async fn explain(
    Node(node): Node,
    Query(query): Query<ExplainQuery>,
) -> Result<impl IntoResponse, AdminError> {
    if query.qos > 2 {
        return Err(AdminError::Invalid("qos is 0, 1 or 2".to_owned()));
    }
    if query.client.is_some() && query.user.is_some() {
        return Err(AdminError::Invalid("give client or user, not both".to_owned()));
    }
    node.explain(query).await.map(Said)
}

async fn retained(
    Node(node): Node,
    Query(query): Query<RetainedQuery>,
) -> Result<impl IntoResponse, AdminError> {
    node.retained(query).await.map(Said)
}

async fn retained_message(
    Node(node): Node,
    Query(query): Query<OfTopic>,
) -> Result<impl IntoResponse, AdminError> {
    node.retained_message(query.topic).await.map(Said)
}

async fn delete_retained(Node(node): Node, Query(query): Query<OfTopic>) -> Result<StatusCode, AdminError> {
    let nothing = Message {
        topic: query.topic,
        ..Message::default()
    };
    let outcome = node.retain(vec![nothing]).await?.into_iter().next();
    match outcome {
        Some(Outcome { done: true, .. }) => Ok(StatusCode::NO_CONTENT),
        Some(Outcome {
            reason: Some(reason),
            refused: true,
            ..
        }) => Err(AdminError::Invalid(reason)),
        outcome => Err(AdminError::Unavailable(
            outcome.and_then(|outcome| outcome.reason).unwrap_or_default(),
        )),
    }
}

async fn publish(Node(node): Node, Given(given): Given<Messages>) -> Result<Response, AdminError> {
    node.publish(checked(given)?).await.map(told)
}

async fn retain(Node(node): Node, Given(given): Given<Messages>) -> Result<Response, AdminError> {
    node.retain(checked(given)?).await.map(told)
}

fn checked(Messages(messages): Messages) -> Result<Vec<Message>, AdminError> {
    match messages.len() {
        0 => Err(AdminError::Invalid("there is no message".to_owned())),
        1..=MESSAGES_MAX => Ok(messages),
        count => Err(AdminError::Invalid(format!(
            "{count} messages are more than {MESSAGES_MAX}: send them in parts"
        ))),
    }
}

/// Good only if all is done; a fault of the cluster outweighs one of the caller.
fn told(outcomes: Vec<Outcome>) -> Response {
    let failed = outcomes.iter().any(|outcome| !outcome.done && !outcome.refused);
    let refused = outcomes.iter().any(|outcome| outcome.refused);
    let status = match (failed, refused) {
        (true, _) => StatusCode::SERVICE_UNAVAILABLE,
        (false, true) => StatusCode::UNPROCESSABLE_ENTITY,
        (false, false) => StatusCode::OK,
    };
    (status, Said(Items { items: outcomes })).into_response()
}

async fn sessions(Node(node): Node, Query(query): Query<After>) -> Result<impl IntoResponse, AdminError> {
    node.sessions(query.after).await.map(Said)
}

/// A fault of the cluster outweighs one of the caller; what is newer than the backup is no fault.
async fn restore(Node(node): Node, Given(restore): Given<Restore>) -> Result<Response, AdminError> {
    if restore.items.len() > MESSAGES_MAX {
        let count = restore.items.len();
        let reason = format!("{count} lines are more than {MESSAGES_MAX}: send them in parts");
        return Err(AdminError::Invalid(reason));
    }
    let items = node.restore(restore).await?;
    let any = |wanted| items.iter().any(|item| item.outcome == wanted);
    let status = match (any(RestoreResult::Failed), any(RestoreResult::Refused)) {
        (true, _) => StatusCode::SERVICE_UNAVAILABLE,
        (false, true) => StatusCode::UNPROCESSABLE_ENTITY,
        (false, false) => StatusCode::OK,
    };
    Ok((status, Said(Items { items })).into_response())
}

/// Server-sent events, one a message.
async fn watch(
    Node(node): Node,
    Extension(welcome): Extension<Welcome>,
    Query(query): Query<OfFilter>,
) -> Result<Response, AdminError> {
    let receiver = node.watch(query.filter).await?;
    Ok(stream(receiver, welcome))
}

/// Server-sent events, one for each thing that happens. It tells less than `watch` does, so whoever may look may ask for it.
async fn trace(
    Node(node): Node,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Extension(granted): Extension<Granted>,
    Extension(welcome): Extension<Welcome>,
    Query(query): Query<Trace>,
) -> Result<Response, AdminError> {
    let query = query.checked()?;
    let receiver = node.trace(query.clone()).await?;
    info!(target: "audit", event = "trace", %peer, by = granted.by, subject = ?query.of, within = ?query.within);
    Ok(stream(receiver, welcome))
}

/// Until there is no more, or the one who looks on is not welcome any more.
fn stream<T: Serialize + Send + 'static>(receiver: mpsc::Receiver<T>, welcome: Welcome) -> Response {
    let events =
        futures_util::stream::unfold((receiver, welcome), |(mut receiver, mut welcome)| async move {
            let event = tokio::select! {
                event = event(&mut receiver) => event?,
                () = welcome.is_over() => return None,
            };
            Some((Ok::<_, Infallible>(event), (receiver, welcome)))
        });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (head, Body::from_stream(events)).into_response()
}

async fn event<T: Serialize>(receiver: &mut mpsc::Receiver<T>) -> Option<Bytes> {
    let Ok(watched) = tokio::time::timeout(STILL_HERE, receiver.recv()).await else {
        return Some(Bytes::from_static(b": nothing has passed\n\n"));
    };
    let json = serde_json::to_string(&watched?).expect("text and numbers can be written");
    Some(Bytes::from(format!("data: {json}\n\n")))
}

async fn log_level(Node(node): Node) -> impl IntoResponse {
    Said(LogLevel {
        level: node.log_level(),
    })
}

async fn set_log_level(Node(node): Node, Given(wanted): Given<LogLevel>) -> Result<StatusCode, AdminError> {
    node.set_log_level(&wanted.level).map(|()| StatusCode::NO_CONTENT)
}

async fn settings(Node(node): Node) -> impl IntoResponse {
    Said(Items {
        items: node.settings(),
    })
}

async fn reload(Node(node): Node) -> Result<impl IntoResponse, AdminError> {
    node.reload().await.map(Said)
}

async fn certificates(Node(node): Node) -> Result<impl IntoResponse, AdminError> {
    let items = node.certificates().await?;
    Ok(Said(Items { items }))
}

/// For paths of the API that there are not.
pub(crate) async fn unknown() -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "there is no such path: see /api/v1/openapi.json",
    )
}
