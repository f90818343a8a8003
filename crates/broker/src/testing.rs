//! For this crate's own tests: a node without listeners, and clients that are only mailboxes.

use std::sync::Arc;
use std::task::Waker;

use cluster::{Cluster, SystemClock, proto};
use mqtt_codec::QoS;
use mqtt_topic::SubscriptionFilter;
use smallvec::SmallVec;
use tempfile::TempDir;

use crate::auth::Anonymous;
use crate::config::Config;
use crate::mailbox::{Event, Grant, Mailbox};
use crate::observer::OutboxSignal;
use crate::router::Subscriber;
use crate::share::Here;
use crate::shared::Shared;

/// A node of its own. The folder has to outlive it.
pub(crate) async fn node() -> (TempDir, Arc<Shared>) {
    let files = TempDir::with_prefix("flotilla-test-").unwrap();
    let mut config = Config::default();
    config.node.data_dir = files.path().to_owned();
    config.storage.shards = 2;
    let outboxes = Arc::new(OutboxSignal::new(config.storage.shards));
    let clock = Arc::new(SystemClock::default());
    let opened = crate::open_shared(
        config,
        Arc::new(Anonymous),
        clock,
        &outboxes,
        Box::new(Cluster::start),
    );
    let shared = opened.await.unwrap();
    (files, shared)
}

/// What a client is granted.
pub(crate) fn grant(qos: QoS) -> Grant {
    Grant {
        qos,
        no_local: false,
        retain_as_published: false,
        subscription_ids: SmallVec::new(),
    }
}

/// A connected client's plain or shared subscription.
pub(crate) fn subscribe(
    shared: &Shared,
    client: &str,
    filter: &str,
    grant: Grant,
    durable: bool,
) -> Arc<Mailbox> {
    let mailbox = Mailbox::new(
        shared.next_connection(),
        client.into(),
        10_000,
        100_000,
        &shared.memory,
    );
    let parsed = SubscriptionFilter::parse(filter.into()).unwrap();
    let (filter_part, grant) = (parsed.filter(), Arc::new(grant));
    if parsed.share().is_some() {
        let here = Here {
            mailbox: Arc::clone(&mailbox),
            grant,
            shard: None,
        };
        shared.router.join(filter, filter_part, here);
    } else {
        let subscriber = Subscriber {
            mailbox: Arc::clone(&mailbox),
            grant,
            own_grant: None,
            durable,
        };
        shared.router.subscribe(filter_part, subscriber);
    }
    mailbox
}

/// Payloads that were left in a mailbox since the last look, with the QoS they came with.
pub(crate) fn received(mailbox: &Mailbox) -> Vec<(String, QoS)> {
    let mut events = Vec::new();
    mailbox.take(&mut events, Waker::noop());
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    let mut found = Vec::new();
    for event in events {
        match event {
            Event::Deliver { batch, .. } => found.extend(
                batch
                    .messages
                    .iter()
                    .map(|message| (text(&message.publication.payload()), message.qos)),
            ),
            Event::DeliverOne(delivery) => found.push((text(&delivery.publication.payload()), delivery.qos)),
            _ => {}
        }
    }
    found
}

/// A message on its way to another node.
pub(crate) fn message(publisher: &str, topic: &str, payload: &str, qos: u32) -> proto::ForwardMessage {
    proto::ForwardMessage {
        publication: Some(proto::Publication {
            topic: topic.into(),
            payload: payload.to_owned().into(),
            qos,
            publisher: publisher.into(),
            ..proto::Publication::default()
        }),
        ..proto::ForwardMessage::default()
    }
}
