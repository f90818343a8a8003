//! Sessions of a backup, brought back: into shards that have nothing newer, and announced to every node like subscriptions of clients.

use bytes::Bytes;
use cluster::proto::{
    RestoreMessage, RestoreSession, SessionPart, ShardCommand, ShardResponse, rejected::Reason,
    session_part::Part, shard_command::Command, shard_response::Response,
};
use cluster::{ProposeError, ShardId, Unannounced};
use futures_util::future::join_all;
use mqtt_codec::Publication;
use mqtt_topic::{SubscriptionFilter, TopicName};
use tokio::sync::oneshot;

use super::Operator;

/// Bytes of one entry, but for its last command.
const ENTRY_BYTES: usize = 256 << 10;
/// What a command has besides its content.
const COMMAND_BYTES: usize = 256;

/// What became of a part of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It is there now.
    Done,
    /// Nothing was to be done: it had been restored before, or has expired.
    Known,
    /// The session is newer than the backup, or that of another backup: it stays as it is.
    Newer,
    /// The message has no session that this backup has brought, or a client has connected to it since.
    NoSession,
    /// The session's queue is full.
    NoRoom,
    /// It breaks a rule: trying again does not help.
    Refused(String),
    /// Whether it was done is not known: to be tried again.
    Failed(String),
}

/// Commands of one entry, with the places of their parts.
struct Entry {
    shard: ShardId,
    places: Vec<usize>,
    commands: Vec<ShardCommand>,
    bytes: usize,
}

impl Operator {
    /// Brings parts of one backup back, in their order, and answers for each when it is committed, and every node routes by it.
    pub async fn restore(&self, backup: u64, parts: Vec<SessionPart>) -> Vec<Restored> {
        let mut outcomes = vec![Restored::Done; parts.len()];
        let mut entries: Vec<Entry> = Vec::new();
        for (place, part) in parts.into_iter().enumerate() {
            match self.command_of(backup, part) {
                Ok((shard, command, bytes)) => enter(&mut entries, shard, place, command, bytes),
                Err(reason) => outcomes[place] = Restored::Refused(reason),
            }
        }
        let committing = entries.into_iter().map(|entry| self.commit(entry));
        // Proposed here, in their order; only then they are waited for.
        let committing: Vec<_> = committing.collect();
        for (places, restored) in join_all(committing).await {
            for (place, outcome) in places.into_iter().zip(restored) {
                outcomes[place] = outcome;
            }
        }
        if !self.shared.cluster.may_acknowledge() {
            let done = outcomes.iter_mut().filter(|outcome| **outcome == Restored::Done);
            done.for_each(|outcome| {
                *outcome = Restored::Failed("this node may be cut off from the cluster".to_owned());
            });
        }
        outcomes
    }

    fn commit(&self, entry: Entry) -> impl Future<Output = (Vec<usize>, Vec<Restored>)> + use<> {
        let cluster = self.shared.cluster.clone();
        let Entry {
            shard,
            places,
            commands,
            ..
        } = entry;
        let (done, answer) = oneshot::channel();
        // Nobody may be waiting any more.
        cluster.propose_batch(
            shard,
            commands,
            Box::new(move |responses| drop(done.send(responses))),
        );
        async move {
            let responses = answer.await.unwrap_or(Err(ProposeError::Stopping));
            let count = places.len();
            let failed = |error: &ProposeError| vec![Restored::Failed(error.to_string()); count];
            let responses = match responses {
                Ok(responses) => responses,
                Err(error) => return (places, failed(&error)),
            };
            let mut unannounced = None;
            let outcomes: Vec<_> = responses
                .into_iter()
                .map(|response| outcome_of(response, shard, &mut unannounced))
                .collect();
            if let Some(unannounced) = unannounced
                && let Err(error) = cluster.announced(Some(unannounced)).await
            {
                return (places, failed(&error));
            }
            (places, outcomes)
        }
    }

    /// The command, its shard, and about how many bytes it has.
    fn command_of(&self, backup: u64, part: SessionPart) -> Result<(ShardId, ShardCommand, usize), String> {
        let (shard, command, bytes) = match part.part {
            Some(Part::Session(session)) => {
                let shard = self.shared.cluster.shard_of_client(&session.client);
                let session = self.session(backup, session)?;
                let filters = session.subscriptions.iter();
                let bytes = filters.map(|one| one.filter.len() + 16).sum();
                (shard, Command::RestoreSession(session), bytes)
            }
            Some(Part::Message(message)) => {
                let shard = self.shared.cluster.shard_of_client(&message.client);
                let message = self.message(backup, message)?;
                let publication = message.publication.iter();
                let bytes = publication
                    .map(|one| one.payload.len() + one.properties.len())
                    .sum();
                (shard, Command::RestoreMessage(message), bytes)
            }
            None => return Err("neither a session nor a message".to_owned()),
        };
        let command = ShardCommand {
            command: Some(command),
        };
        Ok((shard, command, bytes))
    }

    fn session(&self, backup: u64, session: RestoreSession) -> Result<RestoreSession, String> {
        for subscription in &session.subscriptions {
            let filter = subscription.filter.as_str();
            SubscriptionFilter::parse(filter.into()).map_err(|error| format!("`{filter}`: {error}"))?;
        }
        let live = self.shared.live();
        let queues = &live.session;
        Ok(RestoreSession {
            backup,
            queue_messages_max: queues.queue_messages_max as u64,
            queue_bytes_max: queues.queue_bytes_max as u64,
            drop_oldest: queues.drop_oldest,
            ..session
        })
    }

    fn message(&self, backup: u64, message: RestoreMessage) -> Result<RestoreMessage, String> {
        let Some(publication) = message.publication else {
            return Err("a message without content".to_owned());
        };
        let topic = TopicName::parse(publication.topic.as_str().into()).map_err(|error| error.to_string())?;
        // Written anew from its values: what comes from a file may be anything.
        let wire = Publication::with_properties(topic.clone(), publication.properties, None, Bytes::new());
        let anew = Publication::from_parts(topic, &wire.properties(), publication.payload);
        if anew.size() > self.shared.live().limits.packet_size_max.as_usize() {
            return Err("the message is larger than limits.packet_size_max".to_owned());
        }
        Ok(RestoreMessage {
            backup,
            publication: Some(cluster::proto::Publication {
                properties: anew.properties_wire(),
                payload: anew.payload(),
                ..publication
            }),
            ..message
        })
    }
}

/// Adds a command to the last entry of its shard, or begins another one.
fn enter(entries: &mut Vec<Entry>, shard: ShardId, place: usize, command: ShardCommand, bytes: usize) {
    let last = entries.iter_mut().rev().find(|entry| entry.shard == shard);
    if let Some(last) = last.filter(|last| last.bytes < ENTRY_BYTES) {
        last.bytes += bytes + COMMAND_BYTES;
        last.places.push(place);
        last.commands.push(command);
        return;
    }
    entries.push(Entry {
        shard,
        places: vec![place],
        commands: vec![command],
        bytes: bytes + COMMAND_BYTES,
    });
}

fn outcome_of(response: ShardResponse, shard: ShardId, unannounced: &mut Option<Unannounced>) -> Restored {
    match response.response {
        Some(Response::Subscribed(subscribed)) => {
            let routes = unannounced.get_or_insert_with(|| Unannounced {
                shard,
                filters: Vec::new(),
                version: subscribed.index,
            });
            routes.filters.extend(subscribed.unannounced);
            match subscribed.existed.first() {
                Some(true) => Restored::Known,
                _ => Restored::Done,
            }
        }
        Some(Response::Appended(appended)) if appended.sessions > 0 => Restored::Done,
        Some(Response::Appended(appended)) if appended.dropped > 0 => Restored::NoRoom,
        Some(Response::Appended(_)) => Restored::Known,
        Some(Response::Rejected(rejected)) => match rejected.reason() {
            Reason::SessionExists => Restored::Newer,
            Reason::NoSession => Restored::NoSession,
            reason => Restored::Refused(format!("its shard refused it: {reason:?}")),
        },
        _ => Restored::Failed("its shard gave another answer".to_owned()),
    }
}
