//! A message for this shard: it is stored once, and every session that wants it gets a reference.

use std::sync::Arc;

use cluster_proto::{
    Append, Appended, Publication, ShardResponse, rejected::Reason, shard_response::Response,
};

use super::messages::{is_past, size_of};
use super::queue::Manner;
use super::session::{Options, QueueLimits, Session, SessionId};
use super::sources::Lane;
use super::tick::sweep_after;
use super::timers::Due;
use super::{ApplyContext, DropReason, Effect, ShardState, answer, record};

/// A subscription that wants the message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    session: SessionId,
    options: Options,
}

/// What came of a message.
#[derive(Clone, Copy, Default)]
struct Outcome {
    sessions: u32,
    /// Deliveries that did not find room, and older ones that had to make room.
    dropped: u32,
}

impl ShardState {
    pub(super) fn append(
        &mut self,
        context: &ApplyContext,
        command: Append,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let Some(publication) = command.publication else {
            return answer::malformed();
        };
        if publication.topic.is_empty()
            || publication.topic.len() > record::NAME_BYTES_MAX
            || publication.qos > 2
        {
            return answer::malformed();
        }
        let all = command.only_client.is_empty();
        let lane = if all {
            Lane::Append
        } else {
            Lane::Share(&command.share_filter)
        };
        if self
            .sources
            .has(command.source_shard, command.source_number, lane)
        {
            return appended(Outcome::default());
        }
        let mut matches = std::mem::take(&mut self.matches);
        matches.clear();
        if all {
            self.find_matches(&publication, &mut matches);
        } else if let Some(chosen) = self.chosen(&command.only_client, &command.share_filter) {
            matches.push(chosen);
        } else {
            self.matches = matches;
            return answer::rejected(Reason::NoSession);
        }
        self.sources
            .note(command.source_shard, command.source_number, lane);
        let kind = Kind {
            share: (!all && !command.retained).then_some(command.share_filter.as_str()),
            retained: command.retained,
        };
        let outcome = self.deliver(context, publication, &matches, kind, effects);
        self.matches = matches;
        appended(outcome)
    }

    /// The plain subscriptions that want a message, those of one session next to each other.
    fn find_matches(&self, publication: &Publication, matches: &mut Vec<Match>) {
        self.filters.for_each_match(&publication.topic, |subscribers| {
            matches.extend(subscribers.iter().map(|(session, options)| Match {
                session,
                options: *options,
            }));
        });
        // No Local is a matter of each subscription. [MQTT-3.8.3-3]
        matches.retain(|found| {
            !(found.options.no_local && self.is_client(found.session, &publication.publisher))
        });
        matches.sort_by_key(|found| found.session);
    }

    fn is_client(&self, id: SessionId, client: &str) -> bool {
        self.sessions.find(client) == Some(id)
    }

    fn chosen(&self, client: &str, filter: &str) -> Option<Match> {
        let id = self.sessions.find(client)?;
        let options = self.sessions.get(id)?.subscriptions.get(filter)?;
        Some(Match {
            session: id,
            options: *options,
        })
    }

    fn deliver(
        &mut self,
        context: &ApplyContext,
        publication: Publication,
        matches: &[Match],
        kind: Kind<'_>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let id = context.message();
        let mut outcome = Outcome::default();
        let mut expired = 0;
        for of_session in matches.chunk_by(|one, other| one.session == other.session) {
            let wanted = of_session
                .iter()
                .map(|found| found.options.qos)
                .max()
                .unwrap_or(0);
            let qos = publication.qos.min(u32::from(wanted)) as u8;
            if qos == 0 {
                continue;
            }
            if is_past(publication.expires_at_ms, context.now_ms) {
                expired += 1;
                continue;
            }
            self.enqueue(
                context,
                &publication,
                of_session,
                qos,
                kind,
                &mut outcome,
                effects,
            );
        }
        if outcome.sessions > 0 {
            self.messages
                .insert(id, publication, u64::from(outcome.sessions), effects);
        }
        if expired > 0 {
            effects.push(Effect::Dropped {
                reason: DropReason::Expired,
                count: expired,
            });
        }
        if outcome.dropped > 0 {
            effects.push(Effect::Dropped {
                reason: DropReason::QueueFull,
                count: outcome.dropped.into(),
            });
        }
        outcome
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of `deliver`, which has all of them at hand"
    )]
    fn enqueue(
        &mut self,
        context: &ApplyContext,
        publication: &Publication,
        of_session: &[Match],
        qos: u8,
        kind: Kind<'_>,
        outcome: &mut Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(id) = of_session.first().map(|found| found.session) else {
            return;
        };
        let size = size_of(publication);
        if !self.make_room(id, size, outcome, effects) {
            outcome.dropped += 1;
            return;
        }
        let mut ids = identifiers(of_session);
        ids.sort_unstable();
        let retain_as_published = of_session.iter().any(|found| found.options.retain_as_published);
        let manner = Manner {
            qos,
            retain: kind.retained || (publication.retain && retain_as_published),
            share: kind.share,
            subscription_ids: &ids,
        };
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return;
        };
        session.queue.push(context.message(), size, &manner);
        if session.connected {
            effects.push(Effect::QueueGrew {
                client: Arc::clone(client),
                epoch: session.owner.epoch,
            });
        }
        outcome.sessions += 1;
        self.queued(id, publication.expires_at_ms, size);
    }

    /// A session has one more message, which may have to be looked for when it expires.
    pub(super) fn queued(&mut self, id: SessionId, expires_at_ms: u64, size: u64) {
        if let Some((client, session)) = self.sessions.get_mut(id)
            && !session.connected
            && expires_at_ms != 0
        {
            let due_ms = sweep_after(session, expires_at_ms);
            if session.sweep.due_ms.is_none_or(|known| due_ms < known) {
                self.timers.cancel(session.sweep.due_ms, Due::Sweep, client);
                session.sweep.due_ms = Some(due_ms);
                self.timers.set(session.sweep.due_ms, Due::Sweep, client);
            }
        }
        self.totals.queued_messages += 1;
        self.totals.queued_bytes += size;
        self.sessions.queue_changed(id);
    }

    /// Drops older deliveries if the session's policy says so; false if there is no room for a new one.
    fn make_room(
        &mut self,
        id: SessionId,
        size: u64,
        outcome: &mut Outcome,
        effects: &mut Vec<Effect>,
    ) -> bool {
        loop {
            let Some(session) = self.sessions.get(id) else {
                return false;
            };
            let QueueLimits {
                bytes_max,
                drop_oldest,
                ..
            } = session.limits;
            if has_room(session, size) {
                return true;
            }
            if !drop_oldest || (bytes_max != 0 && size > bytes_max) {
                return false;
            }
            let Some((sequence, delivery)) = session.queue.droppable(session.connected) else {
                return false;
            };
            self.finish(id, sequence, delivery.message(), effects);
            outcome.dropped += 1;
        }
    }
}

/// What kind of message it is, apart from its content.
#[derive(Clone, Copy)]
struct Kind<'a> {
    /// The shared subscription that chose the session.
    share: Option<&'a str>,
    retained: bool,
}

pub(super) fn has_room(session: &Session, size: u64) -> bool {
    let QueueLimits {
        messages_max,
        bytes_max,
        ..
    } = session.limits;
    let messages = messages_max == 0 || session.queue.len() < messages_max;
    messages && (bytes_max == 0 || session.queue.bytes().saturating_add(size) <= bytes_max)
}

/// The identifiers of all subscriptions that matched. [MQTT-3.3.4-3]
fn identifiers(of_session: &[Match]) -> Vec<u32> {
    of_session
        .iter()
        .map(|found| found.options.subscription_id)
        .filter(|id| *id != 0)
        .collect()
}

fn appended(outcome: Outcome) -> ShardResponse {
    let Outcome { sessions, dropped } = outcome;
    answer::of(Response::Appended(Appended { sessions, dropped }))
}
