//! Sessions: listed, shown in full, disconnected.

use admin::views::{ClientDetail, ClientView, ConnectionView, Page, QueuedView, SubscriptionView};
use admin::{AdminError, ClientQuery, limit_of};
use broker::operator::{Disconnected, Operator};
use cluster::proto::Subscription;
use cluster::{QueueItem, SessionView};

use super::{Names, NodeOperations};
use crate::cluster_admin::shown_id;

/// Waiting messages that are shown of a session.
const QUEUE_SHOWN: usize = 50;

impl NodeOperations {
    pub(super) async fn list_clients(&self, query: ClientQuery) -> Result<Page<ClientView>, AdminError> {
        let operator = self.operator()?;
        let (names, limit) = (Names::of(&operator), limit_of(query.limit));
        let node = match &query.node {
            None => None,
            Some(wanted) => Some(
                names
                    .find(wanted)
                    .ok_or_else(|| AdminError::NotFound(format!("there is no node `{wanted}`")))?,
            ),
        };
        let wanted = |client: &str, view: &SessionView| {
            client.contains(&query.filter)
                && query.user.as_ref().is_none_or(|user| *user == view.user)
                && query
                    .connected
                    .is_none_or(|connected| connected == view.connected)
                && node.is_none_or(|node| view.connected && node == view.owner.node)
        };
        // One more tells whether there is another page.
        let mut found = operator.cluster().sessions(&query.after, limit + 1, wanted).await;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(client, _)| client.clone());
        let items = found.into_iter().map(|(client, view)| {
            let address = operator.facts(&client).map(|facts| facts.address);
            shown(&operator, &names, client, &view, address)
        });
        Ok(Page {
            items: items.collect(),
            covers: self.covers(&operator),
            next,
            notes: Vec::new(),
        })
    }

    pub(super) async fn show_client(&self, client: String) -> Result<ClientDetail, AdminError> {
        let operator = self.operator()?;
        let (names, cluster) = (Names::of(&operator), operator.cluster());
        let Some(session) = cluster.session(&client, QUEUE_SHOWN) else {
            return Err(missing(&operator, &client));
        };
        let view = session.view;
        let node = view.connected.then_some(view.owner.node);
        let facts = match node {
            Some(node) => cluster.connection(node, &client).await,
            None => None,
        };
        let mut notes = Vec::new();
        if let (Some(node), None) = (node, &facts) {
            notes.push(format!(
                "{} did not say anything of this connection.",
                names.get(node)
            ));
        }
        let subscription = |subscription: &Subscription, kept: bool| {
            let node = node.filter(|_| !kept).map(|node| names.get(node));
            super::topics::subscription(client.clone(), subscription, kept, node)
        };
        let kept = session.subscriptions.iter().map(|one| subscription(one, true));
        let with_connection = facts.iter().flat_map(|facts| &facts.subscriptions);
        let subscriptions: Vec<SubscriptionView> = kept
            .chain(with_connection.map(|one| subscription(one, false)))
            .collect();
        let now_ms = operator.now_ms();
        let queue = session
            .queue
            .iter()
            .map(|item| queued(item, &view, now_ms))
            .collect();
        let address = facts.as_ref().map(|facts| facts.address.clone());
        let connection = facts.map(|facts| ConnectionView {
            address: facts.address,
            listener: facts.listener,
            protocol: facts.protocol,
            keep_alive_s: facts.keep_alive_s,
            connected_for_s: facts.connected_for_s,
            persistent: facts.persistent,
            in_flight: facts.in_flight,
        });
        Ok(ClientDetail {
            covers: self.covers(&operator),
            session: shown(&operator, &names, client, &view, address),
            connection,
            subscriptions,
            queue,
            notes,
        })
    }

    pub(super) async fn disconnect_client(
        &self,
        client: String,
        end_session: bool,
    ) -> Result<(), AdminError> {
        let operator = self.operator()?;
        match operator.disconnect(&client, end_session).await {
            Ok(Disconnected::Told | Disconnected::Ended) => Ok(()),
            Ok(Disconnected::NotConnected) => {
                Err(AdminError::Conflict(format!("`{client}` is not connected")))
            }
            Ok(Disconnected::Unknown) => Err(missing(&operator, &client)),
            Err(error) => Err(AdminError::Unavailable(error.to_string())),
        }
    }
}

/// Not there, or not known here.
fn missing(operator: &Operator, client: &str) -> AdminError {
    if operator.cluster().holds_client(client) {
        return AdminError::NotFound(format!("there is no session `{client}`"));
    }
    let shard = operator.cluster().shard_of_client(client);
    AdminError::Unavailable(format!(
        "this node has no copy of shard {shard}, which `{client}` belongs to: ask another one"
    ))
}

fn shown(
    operator: &Operator,
    names: &Names,
    client: String,
    view: &SessionView,
    address: Option<String>,
) -> ClientView {
    let node = view.connected.then_some(view.owner.node);
    let now_ms = operator.now_ms();
    let left = |at: u64| at.saturating_sub(now_ms) / 1000;
    ClientView {
        shard: u32::from(operator.cluster().shard_of_client(&client)),
        client_id: client,
        connected: view.connected,
        node: node.map(|node| names.get(node)),
        node_id: node.map(shown_id),
        epoch: view.owner.epoch.to_string(),
        user: view.user.clone(),
        subscriptions: view.subscriptions,
        queued_messages: view.queued_messages,
        queued_bytes: view.queued_bytes,
        expires_in_s: view.expires_at_ms.filter(|_| !view.connected).map(left),
        address,
    }
}

fn queued(item: &QueueItem, view: &SessionView, now_ms: u64) -> QueuedView {
    let expires = (item.expires_at_ms != 0).then_some(item.expires_at_ms);
    QueuedView {
        sequence: item.sequence,
        qos: item.qos,
        retain: item.retain,
        received: item.received,
        sent_before: item.sequence < view.sent_before,
        expires_in_s: expires.map(|at| at.saturating_sub(now_ms) / 1000),
    }
}
