//! Sessions that leave a shard as copies, and come back into another one. A copy is what a client could go on with; what is newer
//! than it stays.

use std::sync::Arc;

use cluster_proto::{
    Appended, Owner, RestoreMessage, RestoreSession, ShardResponse, Subscription, rejected::Reason,
    shard_response::Response,
};

use super::append::has_room;
use super::connect::after;
use super::messages::{is_past, size_of};
use super::queue::{Manner, Queue};
use super::session::{NEVER_S, QueueLimits, Session, SessionId};
use super::subscribe::wanted;
use super::timers::Due;
use super::{ApplyContext, DropReason, Effect, EndReason, QueueItem, ShardState, answer, record};

/// More than any session has counted to; the rest is room for what comes.
const SEQUENCE_MAX: u64 = u64::MAX / 2;

/// A session without its messages.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionCopy {
    /// Whose it is.
    pub client: Arc<str>,
    /// The user name it authenticated with.
    pub user: String,
    /// Seconds that it outlives its connection.
    pub session_expiry_s: u32,
    /// When it expires, while disconnected.
    pub expires_at_ms: Option<u64>,
    /// In the order of filters.
    pub subscriptions: Vec<Subscription>,
    /// The number of the next message.
    pub next_sequence: u64,
    /// Messages with lower numbers may have been sent.
    pub sent_before: u64,
}

/// A message of a session's queue, without its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageCopy {
    /// The delivery.
    pub item: QueueItem,
    /// The shared subscription that chose the session.
    pub share_filter: Option<String>,
}

impl ShardState {
    /// The next session behind a client id that outlives its connection.
    pub fn session_copy_after(&self, client: &str, now_ms: u64) -> Option<SessionCopy> {
        let mut kept = self.sessions.behind(client).filter(|(_, _, session)| {
            let ends = session.connected && session.expiry_s == 0;
            !ends && session.is_alive(now_ms)
        });
        let (client, _, session) = kept.next()?;
        let subscriptions = session.subscriptions.iter();
        Some(SessionCopy {
            client: Arc::clone(client),
            user: session.user.clone(),
            session_expiry_s: session.expiry_s,
            expires_at_ms: session.expires_at_ms,
            subscriptions: subscriptions
                .map(|(filter, options)| options.with_filter(filter))
                .collect(),
            next_sequence: session.queue.next_sequence(),
            // While it is connected, all may be on their way.
            sent_before: match session.connected {
                true => session.queue.next_sequence(),
                false => session.queue.sent_before(),
            },
        })
    }

    /// A session's messages from a number on: so many, and of so many bytes, at the most; but one, if there is one.
    pub fn message_copies(
        &self,
        client: &str,
        from_sequence: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> Vec<MessageCopy> {
        let queue = self.sessions.find(client).and_then(|id| self.sessions.get(id));
        let share_of = |sequence| {
            let queue = &queue?.queue;
            let (_, delivery) = queue.first_in(sequence..=sequence)?;
            queue.share_of(delivery).map(str::to_owned)
        };
        let (items, _) = self.queue_from(client, from_sequence, messages_max, bytes_max);
        let copy = |item: QueueItem| MessageCopy {
            share_filter: share_of(item.sequence),
            item,
        };
        items.into_iter().map(copy).collect()
    }

    pub(super) fn bring_back_session(
        &mut self,
        context: &ApplyContext,
        command: RestoreSession,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let RestoreSession {
            backup,
            client,
            next_sequence,
            sent_before,
            ..
        } = &command;
        let name_fits = !client.is_empty() && client.len() <= record::NAME_BYTES_MAX;
        let is_kept = command.session_expiry_s != 0 && *backup != 0;
        let wanted = wanted(&command.subscriptions).filter(|_| name_fits && is_kept);
        let numbers_fit = sent_before <= next_sequence && *next_sequence <= SEQUENCE_MAX;
        let Some(wanted) = wanted.filter(|_| numbers_fit) else {
            return answer::malformed();
        };
        if let Some(id) = self.sessions.find(client) {
            if self.is_of_backup(id, *backup) {
                return self.subscribed(context, id, &wanted, vec![true]);
            }
            let expired = self.sessions.get(id);
            if expired.is_some_and(|session| session.is_alive(context.now_ms)) {
                return answer::rejected(Reason::SessionExists);
            }
            self.end(context, id, EndReason::Expired, effects);
        }
        self.last_epoch += 1;
        let expires = command.session_expiry_s != NEVER_S;
        let expires_at_ms = expires.then(|| after(context.now_ms, command.expires_in_s));
        let session = Session {
            owner: mark_of(*backup, self.last_epoch),
            user: command.user.clone(),
            expiry_s: command.session_expiry_s,
            expires_at_ms,
            limits: QueueLimits {
                messages_max: command.queue_messages_max,
                bytes_max: command.queue_bytes_max,
                drop_oldest: command.drop_oldest,
            },
            queue: Queue::restore(*next_sequence, *sent_before, Vec::new()),
            ..Session::default()
        };
        let client: Arc<str> = client.as_str().into();
        self.timers.set(expires_at_ms, Due::Expiry, &client);
        let id = self.sessions.insert(client, session);
        self.totals.sessions += 1;
        self.sessions.session_changed(id);
        for (parsed, filter, options) in &wanted {
            self.add_subscription(context, id, parsed, filter, *options, effects);
        }
        self.subscribed(context, id, &wanted, vec![false])
    }

    pub(super) fn bring_back_message(
        &mut self,
        context: &ApplyContext,
        command: RestoreMessage,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let fits = |topic: &str| !topic.is_empty() && topic.len() <= record::NAME_BYTES_MAX;
        let publication = command.publication.filter(|one| fits(&one.topic) && one.qos <= 2);
        let Some(publication) = publication.filter(|_| matches!(command.qos, 1 | 2)) else {
            return answer::malformed();
        };
        let found = self.sessions.find(&command.client);
        let Some(id) = found.filter(|id| self.is_of_backup(*id, command.backup)) else {
            return answer::rejected(Reason::NoSession);
        };
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return answer::rejected(Reason::NoSession);
        };
        // What was received is finished with the PUBREL: its body does not matter.
        if is_past(publication.expires_at_ms, context.now_ms) && !command.received {
            return appended(0, 0);
        }
        let size = size_of(&publication);
        if !has_room(session, size) {
            effects.push(Effect::Dropped {
                reason: DropReason::QueueFull,
                count: 1,
            });
            return appended(0, 1);
        }
        let share = Some(command.share_filter.as_str()).filter(|share| !share.is_empty());
        let manner = Manner {
            qos: command.qos as u8,
            retain: command.retain,
            share,
            subscription_ids: &command.subscription_ids,
        };
        if !session
            .queue
            .put_back(command.sequence, context.message(), size, &manner)
        {
            return appended(0, 0);
        }
        if command.received {
            session.queue.receive(command.sequence);
        }
        self.queued(id, publication.expires_at_ms, size);
        self.messages.insert(context.message(), publication, 1, effects);
        appended(1, 0)
    }

    /// Whether the session was brought by this backup, and no client has connected to it since.
    fn is_of_backup(&self, id: SessionId, backup: u64) -> bool {
        let session = self.sessions.get(id);
        session.is_some_and(|session| session.owner == mark_of(backup, session.owner.epoch))
    }
}

/// No node is 0: whoever connects takes the mark away.
fn mark_of(backup: u64, epoch: u64) -> Owner {
    Owner {
        node: 0,
        incarnation: backup,
        epoch,
    }
}

fn appended(sessions: u32, dropped: u32) -> ShardResponse {
    answer::of(Response::Appended(Appended { sessions, dropped }))
}
