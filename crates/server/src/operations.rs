//! What the running node answers to operators, and does for them: the words of the API on one side, the broker on the other.

mod alarms;
pub(crate) mod certificates;
mod clients;
mod messages;
mod overview;
mod refusals;
mod sessions;
mod topics;
mod trace;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use admin::views::{
    CertificateView, ClientDetail, ClientView, Covers, DrainView, Explanation, ListenerView, Message,
    NodeView, Outcome, Overview, Page, Refusals, ReloadView, Restore, RestoreOutcome, RetainedView,
    RouteView, SessionLines, Setting, ShareView, SubscriptionView, TraceLine, Watched,
};
use admin::{
    AdminError, Answer, ClientQuery, ExplainQuery, Operations, RefusalQuery, RetainedQuery, TopicQuery,
    TraceQuery,
};
use broker::Broker;
use broker::config::Config;
use broker::operator::{DrainPhase, Operator};
use tokio::sync::mpsc;

use crate::build;
use crate::cluster_admin::{NodeAdmin, SharedBroker, shown_id};
use crate::log::LogControl;
use crate::reload::Reloader;

/// A node, as operators use it.
pub(crate) struct NodeOperations {
    pub(crate) broker: SharedBroker,
    pub(crate) cluster: Arc<NodeAdmin>,
    pub(crate) config: Config,
    pub(crate) listeners: Vec<ListenerView>,
    pub(crate) log: Arc<LogControl>,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) started: Instant,
}

/// The members' names, as one answer needs them.
struct Names(HashMap<u64, String>);

impl Names {
    fn of(operator: &Operator) -> Self {
        let members = operator.cluster().status().members;
        Self(
            members
                .into_iter()
                .map(|member| (member.node, member.name))
                .collect(),
        )
    }

    fn get(&self, node: u64) -> String {
        self.0.get(&node).cloned().unwrap_or_else(|| shown_id(node))
    }

    /// The member of this name or identifier.
    fn find(&self, wanted: &str) -> Option<u64> {
        let mut found = self
            .0
            .iter()
            .filter(|(node, name)| *name == wanted || shown_id(**node) == wanted);
        found.next().map(|(node, _)| *node)
    }
}

impl NodeOperations {
    fn operator(&self) -> Result<Operator, AdminError> {
        let broker = self.broker.read().unwrap_or_else(PoisonError::into_inner);
        match broker.as_ref() {
            Some(broker) => Ok(broker.operator()),
            None => Err(AdminError::Unavailable("the node is stopping".to_owned())),
        }
    }

    fn name(&self) -> String {
        self.config.node.shown_name()
    }

    fn covers_all(&self, operator: &Operator) -> Covers {
        self.covers(operator, operator.cluster().shards().into())
    }

    fn covers(&self, operator: &Operator, shards: usize) -> Covers {
        Covers {
            node: self.name(),
            shards: shards as u32,
            of: u32::from(operator.cluster().shards()),
        }
    }
}

const DRAINED: &str = "drained";

/// None: it serves.
fn drain(operator: &Operator) -> Option<DrainView> {
    let (phase, remaining) = operator.drain_progress();
    let phase = match phase {
        DrainPhase::Serving => return None,
        DrainPhase::Waiting => "waiting",
        DrainPhase::HandingOver => "handing over",
        DrainPhase::Asking => "asking",
        DrainPhase::Drained => DRAINED,
    };
    Some(DrainView {
        phase: phase.to_owned(),
        remaining_connections: remaining as u64,
    })
}

impl Operations for NodeOperations {
    fn node(&self) -> NodeView {
        let broker = self.broker.read().unwrap_or_else(PoisonError::into_inner);
        let node = broker.as_ref().map_or(0, Broker::node_id);
        let drain = broker.as_ref().and_then(|broker| drain(&broker.operator()));
        let state = match (broker.as_ref(), &drain) {
            (None, _) => "stopping",
            (Some(_), Some(drain)) if drain.phase == DRAINED => DRAINED,
            (Some(_), Some(_)) => "draining",
            (Some(broker), None) if broker.is_ready() => "ready",
            (Some(_), None) => "not ready",
        };
        NodeView {
            name: self.name(),
            node_id: shown_id(node),
            version: build::VERSION.to_owned(),
            commit: build::COMMIT.to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            state: state.to_owned(),
            overload_level: broker.as_ref().map_or(0, |broker| broker.overload_level()),
            drain,
            listeners: self.listeners.clone(),
        }
    }

    fn overview(&self) -> Answer<'_, Overview> {
        Box::pin(self.look_over())
    }

    fn clients(&self, query: ClientQuery) -> Answer<'_, Page<ClientView>> {
        Box::pin(self.list_clients(query))
    }

    fn client(&self, client: String) -> Answer<'_, ClientDetail> {
        Box::pin(self.show_client(client))
    }

    fn disconnect(&self, client: String, end_session: bool) -> Answer<'_, ()> {
        Box::pin(self.disconnect_client(client, end_session))
    }

    fn refusals(&self, query: RefusalQuery) -> Answer<'_, Refusals> {
        Box::pin(self.list_refusals(query))
    }

    fn subscriptions(&self, query: TopicQuery) -> Answer<'_, Page<SubscriptionView>> {
        Box::pin(self.list_subscriptions(query))
    }

    fn routes(&self, query: TopicQuery) -> Answer<'_, Page<RouteView>> {
        Box::pin(async move { self.list_routes(&query) })
    }

    fn explain(&self, query: ExplainQuery) -> Answer<'_, Explanation> {
        Box::pin(self.explain_topic(query))
    }

    fn retained(&self, query: RetainedQuery) -> Answer<'_, Page<RetainedView>> {
        Box::pin(self.list_retained(query))
    }

    fn retained_message(&self, topic: String) -> Answer<'_, RetainedView> {
        Box::pin(self.show_retained(topic))
    }

    fn publish(&self, messages: Vec<Message>) -> Answer<'_, Vec<Outcome>> {
        Box::pin(self.publish_all(messages))
    }

    fn retain(&self, messages: Vec<Message>) -> Answer<'_, Vec<Outcome>> {
        Box::pin(self.retain_all(messages))
    }

    fn sessions(&self, after: String) -> Answer<'_, SessionLines> {
        Box::pin(self.save_sessions(after))
    }

    fn restore(&self, restore: Restore) -> Answer<'_, Vec<RestoreOutcome>> {
        Box::pin(self.restore_sessions(restore))
    }

    fn watch(&self, filter: String) -> Answer<'_, mpsc::Receiver<Watched>> {
        Box::pin(self.look_on(filter))
    }

    fn trace(&self, query: TraceQuery) -> Answer<'_, mpsc::Receiver<TraceLine>> {
        Box::pin(async move { self.begin_trace(query) })
    }

    fn drain(&self, connections_per_second: Option<u32>) -> Result<(), AdminError> {
        self.operator()?.drain(connections_per_second);
        Ok(())
    }

    fn undrain(&self) -> Result<(), AdminError> {
        match self.operator()?.undrain() {
            true => Ok(()),
            false => Err(AdminError::Conflict(
                "the node is stopping: it comes back when it is started".to_owned(),
            )),
        }
    }

    fn rebalance(&self, connections_per_second: Option<u32>) -> Answer<'_, Vec<ShareView>> {
        Box::pin(async move {
            let operator = self.operator()?;
            let names = Names::of(&operator);
            let shares = operator.rebalance(connections_per_second).await.into_iter();
            let shown = shares.map(|share| ShareView {
                name: names.get(share.node),
                node_id: shown_id(share.node),
                connections: share.connections,
                moving: share.excess,
            });
            Ok(shown.collect())
        })
    }

    fn log_level(&self) -> String {
        self.log.level()
    }

    fn set_log_level(&self, level: &str) -> Result<(), AdminError> {
        self.log.set(level).map_err(AdminError::Invalid)
    }

    fn settings(&self) -> Vec<Setting> {
        self.reloader.settings()
    }

    fn reload(&self) -> Answer<'_, ReloadView> {
        Box::pin(async move {
            let reloaded = self.reloader.reload("asked by the API").await;
            reloaded.map_err(|problems| AdminError::Conflict(format!("all stays as it was: {problems}")))
        })
    }

    fn certificates(&self) -> Answer<'_, Vec<CertificateView>> {
        let config = self.config.clone();
        Box::pin(async move {
            let now_s = (self.operator()?.now_ms() / 1000) as i64;
            let reading = tokio::task::spawn_blocking(move || certificates::read_all(&config, now_s));
            reading
                .await
                .map_err(|error| AdminError::Unavailable(error.to_string()))
        })
    }
}
