//! A shard that a test drives: commands in short words, effects and records kept.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file includes this and uses a part"
)]

pub mod meta;

use std::collections::BTreeMap;

use bytes::Bytes;
use cluster_proto::shard_command::Command;
use cluster_proto::shard_response::Response;
use cluster_proto::{
    Acknowledge, Append, Author, CertificateNames, Claim, Connect, Connected, Disconnect, Origin,
    Publication, SequenceRange, ShardCommand, Subscribe, Subscription, Tick, Unsubscribe, Will,
    rejected::Reason,
};
use cluster_state::{ApplyContext, Effect, EntryKind, MessageId, OutboxBody, QueueItem, ShardState};

pub const NODE: u64 = 1;
pub const NEVER_S: u32 = u32::MAX;

/// A shard, its clock, what it asked for so far, and the records of its checkpoints.
#[derive(Default)]
pub struct Shard {
    pub state: ShardState,
    pub now_ms: u64,
    pub index: u64,
    /// Of the last entry.
    pub effects: Vec<Effect>,
    /// What a node keeps: bodies by name.
    pub bodies: BTreeMap<MessageId, Publication>,
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Shard {
    pub fn new() -> Self {
        Self {
            now_ms: 1_000_000,
            ..Self::default()
        }
    }

    pub fn apply(&mut self, command: Command) -> Response {
        let mut responses = self.entry(None, vec![command]);
        responses.pop().expect("every command is answered")
    }

    /// Applies a whole entry of the log.
    pub fn entry(&mut self, origin: Option<Origin>, commands: Vec<Command>) -> Vec<Response> {
        self.index += 1;
        self.effects.clear();
        if self.state.begin_entry(origin.as_ref()) == EntryKind::Gap {
            return Vec::new();
        }
        let mut responses = Vec::new();
        for (position, command) in commands.into_iter().enumerate() {
            responses.push(self.apply_one(position as u32, command));
        }
        responses
    }

    fn apply_one(&mut self, position: u32, command: Command) -> Response {
        let context = ApplyContext {
            index: self.index,
            command: position,
            now_ms: self.now_ms,
            shard: 7,
        };
        let mut effects = Vec::new();
        let command = ShardCommand {
            command: Some(command),
        };
        let response = self.state.apply(&context, command, &mut effects);
        for effect in &effects {
            match effect {
                Effect::MessageStored { id, publication } => {
                    assert!(
                        self.bodies.insert(*id, publication.clone()).is_none(),
                        "{id:?} stored twice"
                    );
                }
                Effect::MessageReleased { id } => {
                    assert!(
                        self.bodies.remove(id).is_some(),
                        "{id:?} released, but not stored"
                    );
                }
                _ => {}
            }
        }
        self.effects.append(&mut effects);
        self.state
            .check()
            .unwrap_or_else(|rule| panic!("after command {}: {rule}", self.index));
        response.response.expect("every command is answered")
    }

    pub fn connect_with(&mut self, connect: Connect) -> Connected {
        match self.apply(Command::Connect(connect)) {
            Response::Connected(connected) => connected,
            other => panic!("{other:?}"),
        }
    }

    /// A connection that resumes or creates a session which never expires.
    pub fn connect(&mut self, client: &str) -> Connected {
        self.connect_with(persistent(client))
    }

    pub fn disconnect(&mut self, client: &str, epoch: u64) -> Response {
        self.apply(Command::Disconnect(disconnect(client, epoch)))
    }

    pub fn lose_connection(&mut self, client: &str, epoch: u64) -> Response {
        self.apply(Command::Disconnect(Disconnect {
            publish_will: true,
            ..disconnect(client, epoch)
        }))
    }

    pub fn subscribe(&mut self, client: &str, epoch: u64, subscription: Subscription) -> bool {
        let subscriptions = vec![subscription];
        match self.apply(Command::Subscribe(Subscribe {
            client: client.into(),
            epoch,
            subscriptions,
        })) {
            Response::Subscribed(subscribed) => subscribed.existed[0],
            other => panic!("{other:?}"),
        }
    }

    pub fn unsubscribe(&mut self, client: &str, epoch: u64, filter: &str) -> bool {
        let filters = vec![filter.into()];
        match self.apply(Command::Unsubscribe(Unsubscribe {
            client: client.into(),
            epoch,
            filters,
            ..Unsubscribe::default()
        })) {
            Response::Done(done) => done.existed[0],
            other => panic!("{other:?}"),
        }
    }

    /// How many sessions got it and how many deliveries were dropped.
    pub fn append(&mut self, publication: Publication) -> (u32, u32) {
        self.append_with(Append {
            publication: Some(publication),
            ..Append::default()
        })
    }

    pub fn append_with(&mut self, append: Append) -> (u32, u32) {
        match self.apply(Command::Append(append)) {
            Response::Appended(appended) => (appended.sessions, appended.dropped),
            other => panic!("{other:?}"),
        }
    }

    pub fn acknowledge(&mut self, client: &str, epoch: u64, first: u64, last: u64) -> Response {
        let ranges = vec![SequenceRange { first, last }];
        self.apply(Command::Acknowledge(Acknowledge {
            client: client.into(),
            epoch,
            ranges,
        }))
    }

    pub fn tick_after_s(&mut self, seconds: u64) {
        self.now_ms += seconds * 1000;
        self.apply(Command::Tick(Tick {}));
    }

    /// A durable subscriber, connected.
    pub fn subscriber(&mut self, client: &str, filter: &str, qos: u32) -> u64 {
        let epoch = self.connect(client).epoch;
        self.subscribe(client, epoch, subscription(filter, qos));
        epoch
    }

    pub fn queue(&self, client: &str) -> Vec<QueueItem> {
        self.state.queue_from(client, 0, usize::MAX, usize::MAX).0
    }

    /// The payloads in a client's queue.
    pub fn payloads(&self, client: &str) -> Vec<String> {
        self.queue(client)
            .iter()
            .map(|item| text(&self.bodies[&item.message]))
            .collect()
    }

    /// The payloads in the outbox.
    pub fn outbox(&self) -> Vec<String> {
        let body = |body| match body {
            OutboxBody::Message(id) | OutboxBody::Shared(id, _) => text(&self.bodies[&id]),
            OutboxBody::Will(publication, _) => text(&publication),
        };
        self.state.outbox().map(|item| body(item.body)).collect()
    }

    /// Takes a checkpoint and goes on from it, as after a restart.
    pub fn restart(&mut self) {
        self.checkpoint();
        let before = self.state.digest();
        self.state = ShardState::restore(&self.records).expect("a checkpoint can be restored");
        assert_eq!(self.state.digest(), before, "restored {:?}", self.state.records());
        self.state.check().expect("a restored state is sound");
    }

    pub fn checkpoint(&mut self) {
        for (key, value) in self.state.take_dirty() {
            match value {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        let all: BTreeMap<_, _> = self.state.records().into_iter().collect();
        assert!(self.records == all, "what changed adds up to everything");
    }

    pub fn has(&self, wanted: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(wanted)
    }
}

pub fn persistent(client: &str) -> Connect {
    Connect {
        client: client.into(),
        node: NODE,
        incarnation: 1,
        session_expiry_s: NEVER_S,
        queue_messages_max: 1000,
        queue_bytes_max: 1 << 20,
        ..Connect::default()
    }
}

pub fn clean(client: &str) -> Connect {
    Connect {
        clean_start: true,
        session_expiry_s: 0,
        ..persistent(client)
    }
}

pub fn will(payload: &str, delay_s: u32) -> Will {
    Will {
        publication: Some(message("wills", payload, 1)),
        delay_s,
        message_expiry_s: 0,
        author: None,
    }
}

/// One that is judged by what was known of its client.
pub fn judged_will(payload: &str, delay_s: u32) -> Will {
    Will {
        author: Some(Box::new(Author {
            user: Some("anna".into()),
            client_id: "c".into(),
            address: "10.0.0.1".into(),
            groups: vec!["staff".into()],
            claims: vec![Claim {
                name: "site".into(),
                values: vec!["7".into()],
            }],
            certificate: Some(CertificateNames {
                common_name: vec!["device-7".into()],
                dns: vec!["device-7.example".into()],
                ..CertificateNames::default()
            }),
            ..Author::default()
        })),
        ..will(payload, delay_s)
    }
}

pub fn disconnect(client: &str, epoch: u64) -> Disconnect {
    Disconnect {
        client: client.into(),
        epoch,
        publish_will: false,
        ..Disconnect::default()
    }
}

pub fn subscription(filter: &str, qos: u32) -> Subscription {
    Subscription {
        filter: filter.into(),
        qos,
        ..Subscription::default()
    }
}

pub fn message(topic: &str, payload: &str, qos: u32) -> Publication {
    Publication {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        publisher: "publisher".into(),
        ..Publication::default()
    }
}

pub fn text(publication: &Publication) -> String {
    String::from_utf8_lossy(&publication.payload).into_owned()
}

pub fn reason(response: &Response) -> Option<Reason> {
    match response {
        Response::Rejected(rejected) => Some(rejected.reason()),
        _ => None,
    }
}
