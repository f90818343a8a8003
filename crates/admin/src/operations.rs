//! What an operator asks of a node. How it is done is the business of whoever implements `Operations`; who may ask was judged
//! before.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;

use crate::cluster::AdminError;
use crate::views::{
    CertificateView, ClientDetail, ClientView, Explanation, Message, NodeView, Outcome, Overview, Page,
    Refusals, ReloadView, Restore, RestoreOutcome, RetainedView, RouteView, SessionLines, Setting, ShareView,
    SubscriptionView, TraceLine, Watched,
};

/// An answer, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, AdminError>> + Send + 'a>>;

/// Items of a page, unless something else is asked for.
const LIMIT: usize = 100;
/// Items of a page at the most.
const LIMIT_MAX: usize = 1000;

/// Which sessions, and from where on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientQuery {
    /// A part of the client id.
    #[serde(default)]
    pub filter: String,
    /// A whole user name.
    pub user: Option<String>,
    /// Connected or away.
    pub connected: Option<bool>,
    /// Connected to this node, by name or identifier.
    pub node: Option<String>,
    /// `next` of the page before.
    #[serde(default)]
    pub after: String,
    /// So many at the most.
    pub limit: Option<usize>,
}

/// Which filters, and from where on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicQuery {
    /// A part of the topic filter.
    #[serde(default)]
    pub filter: String,
    /// Of subscriptions: a part of the client id.
    #[serde(default)]
    pub client: String,
    /// `next` of the page before.
    #[serde(default)]
    pub after: String,
    /// So many at the most.
    pub limit: Option<usize>,
}

/// What would be published, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// Its topic.
    pub topic: String,
    /// Its quality of service.
    #[serde(default)]
    pub qos: u8,
    /// Who publishes: a client by its id.
    pub client: Option<String>,
    /// Or somebody by a user name.
    pub user: Option<String>,
}

/// Which refusals.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusalQuery {
    /// A whole client id.
    pub client: Option<String>,
    /// A whole user name.
    pub user: Option<String>,
    /// An address, without a port.
    pub address: Option<String>,
    /// So many at the most.
    pub limit: Option<usize>,
}

/// Which retained messages, and from where on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetainedQuery {
    /// A topic filter; `#`, if there is none.
    #[serde(default)]
    pub filter: String,
    /// `next` of the page before.
    #[serde(default)]
    pub after: String,
    /// So many at the most.
    pub limit: Option<usize>,
    /// Whole payloads and properties, as a backup needs them.
    #[serde(default)]
    pub full: bool,
}

/// What is traced, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceQuery {
    /// What.
    pub of: TraceOf,
    /// Then it ends by itself.
    pub within: Duration,
}

/// What is traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceOf {
    /// A whole client id.
    Client(String),
    /// A topic filter.
    Topic(String),
}

/// A limit within its bounds.
pub fn limit_of(limit: Option<usize>) -> usize {
    limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)
}

/// A node, as operators use it.
pub trait Operations: Send + Sync + 'static {
    /// The process.
    fn node(&self) -> NodeView;

    /// Everything at a glance.
    fn overview(&self) -> Answer<'_, Overview>;

    /// A page of sessions.
    fn clients(&self, query: ClientQuery) -> Answer<'_, Page<ClientView>>;

    /// A session in full.
    fn client(&self, client: String) -> Answer<'_, ClientDetail>;

    /// Closes a client's connection; with `end_session` its session is deleted.
    fn disconnect(&self, client: String, end_session: bool) -> Answer<'_, ()>;

    /// What this node refused lately.
    fn refusals(&self, query: RefusalQuery) -> Answer<'_, Refusals>;

    /// A page of subscriptions.
    fn subscriptions(&self, query: TopicQuery) -> Answer<'_, Page<SubscriptionView>>;

    /// A page of routes.
    fn routes(&self, query: TopicQuery) -> Answer<'_, Page<RouteView>>;

    /// Where a message would go, and whether it may be published.
    fn explain(&self, query: ExplainQuery) -> Answer<'_, Explanation>;

    /// A page of retained messages.
    fn retained(&self, query: RetainedQuery) -> Answer<'_, Page<RetainedView>>;

    /// One of them.
    fn retained_message(&self, topic: String) -> Answer<'_, RetainedView>;

    /// Publishes, and answers for each message when all its destinations have it.
    fn publish(&self, messages: Vec<Message>) -> Answer<'_, Vec<Outcome>>;

    /// Sets or deletes what is retained, and tells no subscriber.
    fn retain(&self, messages: Vec<Message>) -> Answer<'_, Vec<Outcome>>;

    /// A part of a backup of all sessions, from where the part before ended.
    fn sessions(&self, after: String) -> Answer<'_, SessionLines>;

    /// Brings a part back.
    fn restore(&self, restore: Restore) -> Answer<'_, Vec<RestoreOutcome>>;

    /// Messages that match, from now on; until the receiver is dropped.
    fn watch(&self, filter: String) -> Answer<'_, mpsc::Receiver<Watched>>;

    /// What happens to a client, or to topics, on this node, from now on; until its time is over or the receiver is dropped.
    fn trace(&self, query: TraceQuery) -> Answer<'_, mpsc::Receiver<TraceLine>>;

    /// The node is taken out of service; clients are asked to leave at the configured rate, or at so many in a second.
    fn drain(&self, connections_per_second: Option<u32>) -> Result<(), AdminError>;

    /// The node is taken back into service.
    fn undrain(&self) -> Result<(), AdminError>;

    /// Has nodes with more than their share of the connections ask some of their clients to go elsewhere.
    fn rebalance(&self, connections_per_second: Option<u32>) -> Answer<'_, Vec<ShareView>>;

    /// What the log tells.
    fn log_level(&self) -> String;

    /// Changes that until the next start.
    fn set_log_level(&self, level: &str) -> Result<(), AdminError>;

    /// The configuration, with secrets masked.
    fn settings(&self) -> Vec<Setting>;

    /// Reads users, keys, rules and certificates again, and of the configuration what can change. All or nothing.
    fn reload(&self) -> Answer<'_, ReloadView>;

    /// The certificates that the configuration names.
    fn certificates(&self) -> Answer<'_, Vec<CertificateView>>;
}
