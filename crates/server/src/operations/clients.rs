//! Sessions: listed, shown in full, disconnected.

use admin::views::{ClientDetail, ClientView, ConnectionView, Page, QueuedView, SubscriptionView};
use admin::{AdminError, ClientQuery, limit_of};
use broker::operator::{Disconnected, Operator};
use cluster::Silent;
use cluster::proto::{QueuedFacts, SessionFacts, SessionQuery, Subscription};

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
        let asked = SessionQuery {
            behind: query.after,
            // One more tells whether there is another page.
            limit: limit as u64 + 1,
            client_part: query.filter,
            user: query.user,
            connected: query.connected,
            node,
        };
        let found = operator.cluster().sessions(&asked).await;
        let (covers, mut items) = (self.covers(&operator, found.shards), found.items);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| last.client.clone());
        let addresses = operator.cluster().addresses(&items).await;
        let items = items.into_iter().map(|facts| {
            let address = addresses.get(&facts.client).cloned();
            shown(&operator, &names, facts, address)
        });
        Ok(Page {
            items: items.collect(),
            covers,
            next,
            notes: Vec::new(),
        })
    }

    pub(super) async fn show_client(&self, client: String) -> Result<ClientDetail, AdminError> {
        let operator = self.operator()?;
        let (names, cluster) = (Names::of(&operator), operator.cluster());
        let session = cluster.session(&client, QUEUE_SHOWN).await;
        let session = session.map_err(|Silent(shard)| {
            AdminError::Unavailable(format!(
                "no node with a copy of shard {shard}, which `{client}` belongs to, answered"
            ))
        })?;
        let session = session.ok_or_else(|| missing(&client))?;
        let view = session.facts;
        let node = connected_to(&view);
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
            covers: self.covers_all(&operator),
            session: shown(&operator, &names, view, address),
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
            Ok(Disconnected::Unanswered) => Err(AdminError::Unavailable(format!(
                "the node that `{client}` is connected to did not answer"
            ))),
            Ok(Disconnected::NotConnected) => {
                Err(AdminError::Conflict(format!("`{client}` is not connected")))
            }
            Ok(Disconnected::Unknown) => Err(missing(&client)),
            Err(error) => Err(AdminError::Unavailable(error.to_string())),
        }
    }
}

fn missing(client: &str) -> AdminError {
    AdminError::NotFound(format!("there is no session `{client}`"))
}

/// Where a session's client is connected.
fn connected_to(view: &SessionFacts) -> Option<u64> {
    view.owner.filter(|_| view.connected).map(|owner| owner.node)
}

fn shown(operator: &Operator, names: &Names, view: SessionFacts, address: Option<String>) -> ClientView {
    let node = connected_to(&view);
    let now_ms = operator.now_ms();
    let left = |at: u64| at.saturating_sub(now_ms) / 1000;
    ClientView {
        shard: u32::from(operator.cluster().shard_of_client(&view.client)),
        client_id: view.client,
        connected: view.connected,
        node: node.map(|node| names.get(node)),
        node_id: node.map(shown_id),
        epoch: view.owner.unwrap_or_default().epoch.to_string(),
        user: view.user,
        subscriptions: view.subscriptions,
        queued_messages: view.queued_messages,
        queued_bytes: view.queued_bytes,
        expires_in_s: view.expires_at_ms.filter(|_| !view.connected).map(left),
        address,
    }
}

fn queued(item: &QueuedFacts, view: &SessionFacts, now_ms: u64) -> QueuedView {
    let expires = (item.expires_at_ms != 0).then_some(item.expires_at_ms);
    QueuedView {
        sequence: item.sequence,
        qos: item.qos as u8,
        retain: item.retain,
        received: item.received,
        sent_before: item.sequence < view.sent_before,
        expires_in_s: expires.map(|at| at.saturating_sub(now_ms) / 1000),
    }
}
