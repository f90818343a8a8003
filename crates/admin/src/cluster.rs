//! `/api/v1/cluster`: who belongs to the cluster, and what changes that for good. What they do is the business
//! of whoever implements `ClusterAdmin`.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

use crate::api::Query;

/// Clocks may differ by so much. It is what the nodes themselves go by.
const CLOCKS_DIFFER_MS: i64 = 2_000;

/// The cluster as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's own identifier; empty while the node belongs to none.
    pub cluster_id: String,
    /// The name of the node that answers.
    pub node: String,
    /// Whether the node that answers serves clients.
    pub ready: bool,
    /// How many shards there are.
    pub shards: u32,
    /// Every node of the cluster, in the order of names.
    pub members: Vec<MemberStatus>,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name, for people.
    pub name: String,
    /// Its identifier, in 16 hexadecimal digits.
    pub node_id: String,
    /// Where other nodes reach it; empty for a node that stays alone.
    pub address: String,
    /// Where it stands, if it says so.
    pub zone: String,
    /// Whether it takes part.
    pub state: MemberState,
    /// Whether it votes on the state of the whole cluster.
    pub voter: bool,
    /// Whether it leads the group that keeps the state of the whole cluster.
    pub leader: bool,
    /// Shards that it has a copy of.
    pub shards_held: u32,
    /// Shards that it leads.
    pub shards_led: u32,
    /// By how many milliseconds its clock is ahead of the cluster's time, which is that of most clocks; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_ms: Option<i64>,
}

impl MemberStatus {
    /// By how many seconds its clock is off, if that is more than clocks may differ: ahead, or behind below 0.
    pub fn clock_off_s(&self) -> Option<i64> {
        let ahead_ms = self.clock_ahead_ms.unwrap_or(0);
        (ahead_ms.abs() > CLOCKS_DIFFER_MS).then_some(ahead_ms / 1000)
    }
}

/// Whether a node takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It does.
    Up,
    /// It was not heard of for too long.
    Down,
    /// It hands over what it holds, and will be no member then.
    Leaving,
    /// It is being taken out of service, or is out of it, and stays a member.
    Draining,
}

/// How far a cluster is on its way to fewer nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleIn {
    /// How many nodes are to stay.
    pub to: u32,
    /// How many there are.
    pub members: u32,
    /// What comes next.
    pub state: ScaleInState,
    /// The nodes that go, in their order.
    pub going: Vec<MemberStatus>,
}

/// What comes next on the way to fewer nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleInState {
    /// The first of those that go can be told to.
    Ready,
    /// The first of them hands over what it holds.
    Leaving,
    /// Shards are waited for: they are being moved, or led by nobody.
    Settling,
    /// Nothing: no more nodes than wanted, and every shard has its replicas.
    Done,
}

/// How far a node is on its way out of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// The name of the node.
    pub node: String,
    /// Its identifier, in 16 hexadecimal digits.
    pub node_id: String,
    /// Where it is.
    pub state: LeaveState,
    /// Copies of shards that it still holds.
    pub replicas: u32,
    /// Clients that are still connected to it.
    pub connections: u64,
}

/// Where a node is on its way out of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaveState {
    /// It has not been told to leave.
    Staying,
    /// It asks its clients to go, and hands over what it holds.
    Leaving,
    /// It is a member no more.
    Left,
}

/// What is meant when a node leaves, though the others are worse off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveTerms {
    /// There may be fewer nodes than each shard is to have copies.
    #[serde(default)]
    pub fewer_copies: bool,
    /// Other members may be down.
    #[serde(default)]
    pub beside_down: bool,
}

/// Who asks how many nodes are to stay.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    to: u32,
    /// It may be fewer than each shard has copies.
    #[serde(default)]
    fewer_copies: bool,
}

/// Why there is no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminError {
    /// This version cannot do it.
    NotImplemented(String),
    /// It was asked for in a way that makes no sense.
    Invalid(String),
    /// A token is needed, or this one is not known.
    Unauthorized,
    /// Whoever asks may not.
    Forbidden(String),
    /// There is no such node, client, topic.
    NotFound(String),
    /// It would do harm, or contradicts what is under way.
    Conflict(String),
    /// It is larger than anything that is read.
    TooLarge(String),
    /// Not now: no majority, still starting, already stopping.
    Unavailable(String),
}

/// The end of a change, later.
pub type Change<'a> = Pin<Box<dyn Future<Output = Result<(), AdminError>> + Send + 'a>>;

/// How far it is after a step, later.
pub type Step<'a> = Pin<Box<dyn Future<Output = Result<ScaleIn, AdminError>> + Send + 'a>>;

/// How far a node is after it was told to leave, later.
pub type Leaving<'a> = Pin<Box<dyn Future<Output = Result<Leave, AdminError>> + Send + 'a>>;

/// What an operator asks of the cluster.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// The cluster as this node sees it.
    fn status(&self) -> ClusterStatus;

    /// How far this node is on its way out.
    fn leaving(&self) -> Result<Leave, AdminError>;

    /// This node is told to hand over what it holds and to leave the cluster for good.
    fn leave(&self, terms: LeaveTerms) -> Leaving<'_>;

    /// A node, by name or identifier, that is down and will not come back is no member any more.
    fn forget(&self, node: &str) -> Change<'_>;

    /// Who goes if so many nodes are to stay, or why that may not be.
    fn scale_in(&self, to: u32, fewer_copies: bool) -> Result<ScaleIn, AdminError>;

    /// The next of them is told to go, if it is time for that.
    fn scale_in_step(&self, to: u32, fewer_copies: bool) -> Step<'_>;
}

/// Set once the node has started.
pub(crate) type ClusterCell = Arc<OnceLock<Arc<dyn ClusterAdmin>>>;

impl MemberState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
        }
    }
}

pub(crate) fn routes(cluster: ClusterCell) -> axum::Router {
    axum::Router::new()
        .route("/api/v1/cluster", get(status))
        .route("/api/v1/cluster/leave", get(leaving).post(leave))
        .route("/api/v1/cluster/forget/{node}", post(forget))
        .route("/api/v1/cluster/scale-in", get(scale_in).post(scale_in_step))
        .with_state(cluster)
}

async fn status(State(cluster): State<ClusterCell>) -> Response {
    match cluster.get() {
        Some(cluster) => fresh(cluster.status()),
        None => still_starting().into_response(),
    }
}

async fn leaving(State(cluster): State<ClusterCell>) -> Result<Response, AdminError> {
    let cluster = cluster.get().ok_or_else(still_starting)?;
    Ok(fresh(cluster.leaving()?))
}

async fn leave(
    State(cluster): State<ClusterCell>,
    Query(terms): Query<LeaveTerms>,
) -> Result<Response, AdminError> {
    let cluster = cluster.get().ok_or_else(still_starting)?;
    Ok(fresh(cluster.leave(terms).await?))
}

async fn forget(State(cluster): State<ClusterCell>, Path(node): Path<String>) -> Response {
    match cluster.get() {
        Some(cluster) => changed(cluster.forget(&node).await),
        None => still_starting().into_response(),
    }
}

async fn scale_in(
    State(cluster): State<ClusterCell>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, AdminError> {
    let cluster = cluster.get().ok_or_else(still_starting)?;
    Ok(fresh(cluster.scale_in(wanted.to, wanted.fewer_copies)?))
}

async fn scale_in_step(
    State(cluster): State<ClusterCell>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, AdminError> {
    let cluster = cluster.get().ok_or_else(still_starting)?;
    let found = cluster.scale_in_step(wanted.to, wanted.fewer_copies);
    Ok(fresh(found.await?))
}

fn fresh(answer: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

fn changed(outcome: Result<(), AdminError>) -> Response {
    match outcome {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.into_response(),
    }
}

fn still_starting() -> AdminError {
    AdminError::Unavailable("the node is still starting".to_owned())
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let (status, reason) = match self {
            Self::NotImplemented(reason) => (StatusCode::NOT_IMPLEMENTED, reason),
            Self::Invalid(reason) => (StatusCode::BAD_REQUEST, reason),
            Self::Unauthorized => {
                let answer = refusal(
                    StatusCode::UNAUTHORIZED,
                    "a token is needed: Authorization: Bearer TOKEN",
                );
                return ([(header::WWW_AUTHENTICATE, "Bearer")], answer).into_response();
            }
            Self::Forbidden(reason) => (StatusCode::FORBIDDEN, reason),
            Self::NotFound(reason) => (StatusCode::NOT_FOUND, reason),
            Self::Conflict(reason) => (StatusCode::CONFLICT, reason),
            Self::TooLarge(reason) => (StatusCode::PAYLOAD_TOO_LARGE, reason),
            Self::Unavailable(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
        };
        refusal(status, &reason)
    }
}

/// A line for people; the status is for programs.
pub(crate) fn refusal(status: StatusCode, reason: &str) -> Response {
    (
        status,
        [(header::CACHE_CONTROL, "no-store")],
        format!("{reason}\n"),
    )
        .into_response()
}
