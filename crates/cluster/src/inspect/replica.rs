//! What this node's replica of a shard answers to operators, on whatever node they ask.

use std::ops::ControlFlow;

use cluster_proto::inspect::Question;
use cluster_proto::{
    ClientSubscription, Failed, Inspect, Inspected, Keepers, KeepersOf, QueuedFacts, SessionFacts, SessionOf,
    SessionQuery, SubscriptionQuery, call_response, failed::Reason,
};
use cluster_state::{QueueItem, SessionView};

use crate::ShardId;
use crate::node::Inner;
use crate::slot::{Slot, failed};

/// Sessions looked at between two chances for the shard to apply entries.
const SLICE: usize = 1000;
/// Items in one answer, and bytes, about.
const ITEMS_MAX: usize = 10_000;
const PAGE_BYTES: usize = 2 << 20;

fn at_the_most(limit: u64) -> usize {
    ITEMS_MAX.min(usize::try_from(limit).unwrap_or(ITEMS_MAX))
}

/// A page that is being filled.
struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    fn new(limit: u64) -> Self {
        Self {
            items: at_the_most(limit),
            bytes: PAGE_BYTES,
        }
    }

    fn take(&mut self, bytes: usize) {
        self.items = self.items.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_full(&self) -> bool {
        self.items == 0 || self.bytes == 0
    }
}

impl Inner {
    /// As another node asks.
    pub(crate) async fn answer_inspect(&self, request: Inspect) -> call_response::Body {
        let Some(question) = request.question else {
            return call_response::Body::Failed(Failed {
                reason: Reason::Unknown.into(),
                leader: 0,
                detail: "this node does not know the question".to_owned(),
            });
        };
        if let Some(known) = self.inspect_node(&question) {
            return call_response::Body::Inspected(known);
        }
        let shard = u16::try_from(request.shard).unwrap_or(u16::MAX);
        match self.inspect(shard, &question).await {
            Some(found) => call_response::Body::Inspected(found),
            None => failed(Reason::NoReplica, None),
        }
    }

    /// What this node knows alone. None: the question is of a shard.
    pub(super) fn inspect_node(&self, question: &Question) -> Option<Inspected> {
        let known = Inspected::default();
        Some(match question {
            Question::Connected(query) => Inspected {
                subscriptions: self.observer.subscriptions(query),
                ..known
            },
            Question::Addresses(of) => Inspected {
                addresses: self.observer.addresses(&of.clients),
                ..known
            },
            Question::Refusals(query) => Inspected {
                refusals: self.observer.refusals(query),
                ..known
            },
            _ => return None,
        })
    }

    /// None: no replica here.
    pub(super) async fn inspect(&self, shard: ShardId, question: &Question) -> Option<Inspected> {
        let slot = self.slot(shard)?;
        match question {
            Question::Sessions(query) => sessions(slot, query).await,
            Question::Session(of) => session(slot, of),
            Question::Subscriptions(query) => subscriptions(slot, query).await,
            Question::Keepers(of) => keepers(slot, of),
            Question::Totals(_) => totals(slot),
            Question::Connected(_) | Question::Addresses(_) | Question::Refusals(_) => None,
        }
    }
}

async fn sessions(slot: &Slot, query: &SessionQuery) -> Option<Inspected> {
    let (mut found, mut room) = (Inspected::default(), Room::new(query.limit));
    let mut behind = query.behind.clone();
    loop {
        let replica = slot.replica()?;
        let mut seen = 0;
        replica.machine.read(|state| {
            state.sessions_after(&behind.clone(), &mut |client, view| {
                seen += 1;
                behind = client.to_string();
                if is_wanted(query, client, &view) {
                    room.take(client.len() + view.user.len() + 64);
                    found.sessions.push(facts(client, view));
                }
                match room.is_full() || seen == SLICE {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
        });
        if room.is_full() || seen < SLICE {
            found.more = room.is_full();
            return Some(found);
        }
        tokio::task::yield_now().await;
    }
}

fn is_wanted(query: &SessionQuery, client: &str, view: &SessionView) -> bool {
    client.contains(&query.client_part)
        && query.user.as_ref().is_none_or(|user| *user == view.user)
        && query
            .connected
            .is_none_or(|connected| connected == view.connected)
        && query
            .node
            .is_none_or(|node| view.connected && node == view.owner.node)
}

fn session(slot: &Slot, of: &SessionOf) -> Option<Inspected> {
    let queue_max = at_the_most(of.queue_max);
    slot.replica()?.machine.read(|state| {
        let Some(view) = state.session(&of.client) else {
            return Some(Inspected::default());
        };
        let subscriptions = state.subscriptions(&of.client).into_iter();
        let queue = state.queue_from(&of.client, 0, queue_max, usize::MAX).0;
        Some(Inspected {
            sessions: vec![facts(&of.client, view)],
            subscriptions: subscriptions
                .map(|subscription| ClientSubscription {
                    client: String::new(),
                    subscription: Some(subscription),
                })
                .collect(),
            queue: queue.iter().map(queued).collect(),
            ..Inspected::default()
        })
    })
}

async fn subscriptions(slot: &Slot, query: &SubscriptionQuery) -> Option<Inspected> {
    let (mut found, mut room) = (Inspected::default(), Room::new(query.limit));
    // The session of the last page may have more.
    let mut behind = query.behind_client.clone();
    add_subscriptions(slot, &behind, query, &mut found, &mut room)?;
    while !room.is_full() {
        let clients = clients_with_subscriptions(slot, &behind)?;
        let Some(last) = clients.last() else {
            return Some(found);
        };
        behind.clone_from(last);
        for client in &clients {
            add_subscriptions(slot, client, query, &mut found, &mut room)?;
        }
        tokio::task::yield_now().await;
    }
    found.more = true;
    Some(found)
}

/// Two looks at the shard, here and for the clients: a session may have changed in between, as it may after the answer.
fn add_subscriptions(
    slot: &Slot,
    client: &str,
    query: &SubscriptionQuery,
    found: &mut Inspected,
    room: &mut Room,
) -> Option<()> {
    if !client.contains(&query.client_part) {
        return Some(());
    }
    let kept = slot.replica()?.machine.read(|state| state.subscriptions(client));
    let behind = (&*query.behind_client, &*query.behind_filter);
    for subscription in kept {
        let filter = &*subscription.filter;
        if room.is_full() {
            break;
        }
        if (client, filter) <= behind || !filter.contains(&query.filter_part) {
            continue;
        }
        room.take(client.len() + filter.len() + 32);
        found.subscriptions.push(ClientSubscription {
            client: client.to_owned(),
            subscription: Some(subscription),
        });
    }
    Some(())
}

/// The next sessions of a shard that have subscriptions, or what was looked at last. None: no replica here.
fn clients_with_subscriptions(slot: &Slot, behind: &str) -> Option<Vec<String>> {
    let replica = slot.replica()?;
    let mut clients = Vec::new();
    let mut seen = 0;
    replica.machine.read(|state| {
        state.sessions_after(behind, &mut |client, view| {
            seen += 1;
            if view.subscriptions > 0 || seen == SLICE {
                clients.push(client.to_string());
            }
            match seen == SLICE {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
    });
    Some(clients)
}

fn keepers(slot: &Slot, of: &KeepersOf) -> Option<Inspected> {
    let mut clients = std::collections::BTreeSet::new();
    slot.replica()?.machine.read(|state| {
        state.keepers(&of.topic, &mut |client| {
            clients.insert(client.clone());
        });
    });
    let listed = at_the_most(of.listed_max);
    Some(Inspected {
        keepers: Some(Keepers {
            count: clients.len() as u64,
            first: clients.iter().take(listed).map(ToString::to_string).collect(),
        }),
        ..Inspected::default()
    })
}

fn totals(slot: &Slot) -> Option<Inspected> {
    Some(Inspected {
        totals: Some(slot.replica()?.machine.totals()),
        ..Inspected::default()
    })
}

fn facts(client: &str, view: SessionView) -> SessionFacts {
    SessionFacts {
        client: client.to_owned(),
        owner: Some(view.owner),
        connected: view.connected,
        user: view.user,
        queued_messages: view.queued_messages,
        queued_bytes: view.queued_bytes,
        subscriptions: view.subscriptions,
        expires_at_ms: view.expires_at_ms,
        expiry_s: view.expiry_s,
        sent_before: view.sent_before,
    }
}

fn queued(item: &QueueItem) -> QueuedFacts {
    QueuedFacts {
        sequence: item.sequence,
        qos: item.qos.into(),
        retain: item.retain,
        received: item.received,
        expires_at_ms: item.expires_at_ms,
    }
}
