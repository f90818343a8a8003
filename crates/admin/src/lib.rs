//! HTTP for operators: health (`/livez`, `/readyz`, `/startupz`, `/healthz`), `/metrics`, the API under `/api/v1`, and the
//! dashboard at `/`. Knows nothing of MQTT; the process that starts it says when it is ready and answers what is asked.

mod access;
mod api;
mod cluster;
mod connection;
mod dashboard;
pub mod encoding;
mod health;
mod operations;
mod process;
pub mod views;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

pub use access::{Access, Role, TOKEN_BYTES_MIN};
pub use cluster::{
    AdminError, Change, ClusterAdmin, ClusterStatus, Leave, LeaveState, LeaveTerms, Leaving, MemberState,
    MemberStatus, ScaleIn, ScaleInState, Step,
};
pub use health::{Health, Probe};
pub use operations::{
    Answer, ClientQuery, ExplainQuery, Operations, RefusalQuery, RetainedQuery, TopicQuery, TraceOf,
    TraceQuery, limit_of,
};

/// Histograms collect samples until upkeep puts them into buckets: this often, so that they stay small.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Requests under way at a stop get this long.
const STOP_LIMIT: Duration = Duration::from_secs(1);
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// What `flotilla_build_info` says.
#[derive(Debug, Clone, Copy)]
pub struct BuildInfo {
    /// Version of the program.
    pub version: &'static str,
    /// The commit it was built from.
    pub commit: &'static str,
    /// The compiler that built it.
    pub rustc: &'static str,
}

/// A running admin listener.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    cluster: ClusterHandle,
    operations: OperationsHandle,
    access: access::Current,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

/// Changes the tokens that are accepted.
#[derive(Debug, Clone)]
pub struct Tokens(access::Current);

impl Tokens {
    /// Whether there are any.
    pub fn are_asked_for(&self) -> bool {
        self.0.has_tokens()
    }

    /// From now on these and no others. Streams of those who are not welcome any more end.
    pub fn set(&self, access: Access) {
        self.0.set(access);
    }
}

/// Where the routes find the node, once it has started.
#[derive(Default)]
struct ClusterHandle(cluster::ClusterCell);

/// Where the other routes find it.
#[derive(Default)]
struct OperationsHandle(api::OperationsCell);

impl std::fmt::Debug for OperationsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperationsHandle")
    }
}

impl std::fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.get().map(|cluster| cluster.status()))
    }
}

#[derive(Clone)]
struct Shared {
    health: Arc<Health>,
    metrics: PrometheusHandle,
    /// Held by whoever writes the metrics out: that is work, and asked for too often it shall not keep all threads from clients.
    writing: Arc<Mutex<()>>,
    build: BuildInfo,
    started: Instant,
}

impl Admin {
    /// Binds the address and answers from now on. Has to be called on a Tokio runtime.
    pub async fn start(
        bind: SocketAddr,
        health: Arc<Health>,
        metrics: PrometheusHandle,
        build: BuildInfo,
        access: Access,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let (stop, mut stopping) = watch::channel(false);
        let upkeep = tokio::spawn(run_upkeep(metrics.clone()));
        let shared = Shared {
            health,
            metrics,
            writing: Arc::default(),
            build,
            started: Instant::now(),
        };
        let cluster = ClusterHandle::default();
        let operations = OperationsHandle::default();
        let access = access::Current::new(access);
        let api = cluster::routes(Arc::clone(&cluster.0))
            .merge(api::routes(Arc::clone(&operations.0)))
            .route("/api/{*path}", any(api::unknown))
            .layer(middleware::from_fn_with_state(access.clone(), access::guard));
        let router = router(shared)
            .merge(api)
            .merge(dashboard::routes(Arc::clone(&operations.0)));
        let service = router.into_make_service_with_connect_info::<access::Peer>();
        let server = axum::serve(connection::Guarded::new(listener), service)
            .with_graceful_shutdown(async move { drop(stopping.wait_for(|stop| *stop).await) });
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "admin listener ended");
            }
        });
        Ok(Self {
            address,
            cluster,
            operations,
            access,
            stop,
            server,
            upkeep,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `/api/v1/cluster` is answered by the node. Only the first call counts.
    pub fn set_cluster(&self, cluster: Arc<dyn ClusterAdmin>) {
        drop(self.cluster.0.set(cluster));
    }

    /// From now on the rest of `/api/v1` is answered by the node. Only the first call counts.
    pub fn set_operations(&self, operations: Arc<dyn Operations>) {
        drop(self.operations.0.set(operations));
    }

    /// A hand on the tokens that are accepted, for as long as it listens.
    pub fn tokens(&self) -> Tokens {
        Tokens(self.access.clone())
    }

    /// Lets requests under way finish for a moment and stops.
    pub async fn shutdown(mut self) {
        self.upkeep.abort();
        self.stop.send_replace(true);
        if tokio::time::timeout(STOP_LIMIT, &mut self.server).await.is_err() {
            self.server.abort();
        }
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/healthz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn run_upkeep(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

type Parameters = Query<Vec<(String, String)>>;

/// That this answers is the answer: the runtime turns. Never depends on other nodes, or a partition restarts them all.
async fn livez(State(shared): State<Shared>, parameters: Parameters) -> impl IntoResponse {
    answer(shared.health.live(), &parameters)
}

async fn readyz(State(shared): State<Shared>, parameters: Parameters) -> impl IntoResponse {
    answer(shared.health.ready(), &parameters)
}

async fn startupz(State(shared): State<Shared>, parameters: Parameters) -> impl IntoResponse {
    answer(shared.health.started(), &parameters)
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let _writing = shared.writing.lock().await;
    let mut text = shared.metrics.render();
    process::write_build_info(&mut text, &shared.build);
    process::write_metrics(&mut text, shared.started.elapsed());
    process::write_runtime(&mut text, &tokio::runtime::Handle::current().metrics());
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text)
}

fn answer(probe: Probe, parameters: &Parameters) -> impl IntoResponse + use<> {
    let verbose = parameters
        .iter()
        .any(|(name, value)| name == "verbose" && value != "0");
    let status = if probe.passed() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = if verbose || !probe.passed() {
        probe.to_string()
    } else {
        "ok\n".to_owned()
    };
    (status, [(header::CACHE_CONTROL, "no-store")], body)
}

#[cfg(test)]
mod tests;
