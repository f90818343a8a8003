//! Who owns a session: connections come, go and take over from each other, and with them wills and expiry.

use std::sync::Arc;

use cluster_proto::{
    Connect, Connected, Disconnect, EndSession, NodeDown, Owner, ShardResponse, Will, rejected::Reason,
    shard_response::Response,
};

use super::messages::MessageId;
use super::outbox::OutboxBody;
use super::session::{NEVER_S, QueueLimits, Session, SessionId};
use super::timers::Due;
use super::{ApplyContext, DropReason, Effect, EndReason, ShardState, answer, record};

impl ShardState {
    pub(super) fn connect(
        &mut self,
        context: &ApplyContext,
        command: Connect,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        if command.client.is_empty() || command.client.len() > record::NAME_BYTES_MAX {
            return answer::malformed();
        }
        if let Some(owner) = self.not_heard_out(&command) {
            return answer::of(Response::Owned(owner));
        }
        if command.existing_only && !self.has_alive(&command.client, context.now_ms) {
            return answer::rejected(Reason::NoSession);
        }
        let previous = self.take_from_owner(&command.client, effects);
        let survivor = self.survivor(context, &command, effects);
        let session_present = survivor.is_some();
        let id = match survivor {
            Some(id) => id,
            None => {
                self.totals.sessions += 1;
                self.sessions
                    .insert(command.client.as_str().into(), Session::default())
            }
        };
        self.last_epoch += 1;
        let owner = Owner {
            node: command.node,
            incarnation: command.incarnation,
            epoch: self.last_epoch,
        };
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return answer::malformed();
        };
        session.owner = owner;
        session.connected = true;
        session.user = command.user;
        session.expiry_s = command.session_expiry_s;
        session.will = command.will;
        session.limits = QueueLimits {
            messages_max: command.queue_messages_max,
            bytes_max: command.queue_bytes_max,
            drop_oldest: command.drop_oldest,
        };
        self.owners.insert(session.place_of(client));
        self.totals.connected += 1;
        let response = connected(session, session_present, previous);
        self.sessions.session_changed(id);
        answer::of(Response::Connected(response))
    }

    fn has_alive(&self, client: &str, now_ms: u64) -> bool {
        let session = self.sessions.find(client).and_then(|id| self.sessions.get(id));
        session.is_some_and(|session| session.is_alive(now_ms))
    }

    /// The connection on another node whose last acknowledgements may still be under way.
    fn not_heard_out(&self, command: &Connect) -> Option<Owner> {
        let heard_out = command.heard_out?;
        let session = self.sessions.get(self.sessions.find(&command.client)?)?;
        let owner = session.owner;
        let waits = session.connected && owner.node != command.node && owner.epoch > heard_out;
        waits.then_some(owner)
    }

    /// Fences the connection that owns the session now, if there is one.
    fn take_from_owner(&mut self, client: &str, effects: &mut Vec<Effect>) -> Option<Owner> {
        let id = self.sessions.find(client)?;
        let (client, session) = self.sessions.get_mut(id)?;
        if !session.connected {
            return None;
        }
        let Owner {
            node,
            incarnation,
            epoch,
        } = session.owner;
        effects.push(Effect::OwnerLost {
            client: Arc::clone(client),
            node,
            incarnation,
            epoch,
        });
        Some(session.owner)
    }

    /// The session that a CONNECT goes on with, its will settled and its deadlines cancelled.
    fn survivor(
        &mut self,
        context: &ApplyContext,
        command: &Connect,
        effects: &mut Vec<Effect>,
    ) -> Option<SessionId> {
        let id = self.sessions.find(&command.client)?;
        let session = self.sessions.get(id)?;
        let ended = if !session.is_alive(context.now_ms) {
            Some(EndReason::Expired)
        } else if session.connected && session.expiry_s == 0 {
            Some(EndReason::Disconnected)
        } else if command.clean_start {
            Some(EndReason::CleanStart)
        } else {
            None
        };
        if let Some(reason) = ended {
            self.end(context, id, reason, effects);
            return None;
        }
        self.forget_connection(id, None);
        let (client, session) = self.sessions.get_mut(id)?;
        let client = Arc::clone(client);
        // A connection in time cancels the will; one without a delay belongs to the lost connection. [MQTT-3.1.3-9]
        let delay_over = match session.will_due_ms.take() {
            Some(due_ms) => due_ms <= context.now_ms,
            None => session.will.as_ref().is_some_and(|will| will.delay_s == 0),
        };
        if let Some(will) = session.will.take().filter(|_| delay_over) {
            self.fire(context, &client, will, effects);
        }
        Some(id)
    }

    /// Takes a session out of the indexes of owners and deadlines. What was being sent may have arrived.
    fn forget_connection(&mut self, id: SessionId, sent_before: Option<u64>) {
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return;
        };
        self.timers.cancel(session.will_due_ms, Due::Will, client);
        self.timers
            .cancel(session.expires_at_ms.take(), Due::Expiry, client);
        self.timers
            .cancel(session.sweep.due_ms.take(), Due::Sweep, client);
        if session.connected {
            session.connected = false;
            session.queue.connection_lost(sent_before);
            self.owners.remove(&session.place_of(client));
            self.totals.connected -= 1;
        }
        self.sessions.session_changed(id);
    }

    pub(super) fn disconnect(
        &mut self,
        context: &ApplyContext,
        command: &Disconnect,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let id = match self.owned(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return answer::done();
        };
        // An expiry of 0 cannot be changed when disconnecting. [MQTT5 3.14.2.2.2]
        if let Some(expiry_s) = command.session_expiry_s.filter(|_| session.expiry_s != 0) {
            session.expiry_s = expiry_s;
        }
        if !command.publish_will {
            session.will = None;
        }
        self.connection_lost(context, id, command.sent_before, effects);
        self.hand_over_named(&command.client, &command.hand_over, effects);
        answer::done()
    }

    /// The connection is gone: the session ends, or its deadlines begin.
    fn connection_lost(
        &mut self,
        context: &ApplyContext,
        id: SessionId,
        sent_before: Option<u64>,
        effects: &mut Vec<Effect>,
    ) {
        self.forget_connection(id, sent_before);
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return;
        };
        if session.expiry_s == 0 {
            return self.end(context, id, EndReason::Disconnected, effects);
        }
        if session.expiry_s != NEVER_S {
            session.expires_at_ms = Some(after(context.now_ms, session.expiry_s));
            self.timers.set(session.expires_at_ms, Due::Expiry, client);
        }
        let Some(will) = &session.will else { return };
        if will.delay_s > 0 {
            session.will_due_ms = Some(after(context.now_ms, will.delay_s));
            self.timers.set(session.will_due_ms, Due::Will, client);
            return;
        }
        let client = Arc::clone(client);
        if let Some(will) = session.will.take() {
            self.fire(context, &client, will, effects);
        }
    }

    pub(super) fn end_session(
        &mut self,
        context: &ApplyContext,
        command: &EndSession,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let Some(id) = self.sessions.find(&command.client) else {
            return answer::rejected(Reason::NoSession);
        };
        self.take_from_owner(&command.client, effects);
        self.end(context, id, EndReason::Requested, effects);
        answer::done()
    }

    pub(super) fn node_down(
        &mut self,
        context: &ApplyContext,
        command: &NodeDown,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let first = (command.node, 0, Arc::from(""));
        let on_node = self.owners.range(first..).take_while(|(node, incarnation, _)| {
            *node == command.node && *incarnation <= command.incarnation
        });
        let mut clients: Vec<Arc<str>> = on_node.map(|(.., client)| Arc::clone(client)).collect();
        clients.sort_unstable();
        for client in clients {
            if let Some(id) = self.sessions.find(&client) {
                self.take_from_owner(&client, effects);
                self.connection_lost(context, id, None, effects);
            }
            self.hand_over_named(&client, &command.hand_over, effects);
        }
        answer::done()
    }

    /// Ends a session: all it held is released, and a will that is still to be sent is sent now. [MQTT-3.1.2-8]
    pub(super) fn end(
        &mut self,
        context: &ApplyContext,
        id: SessionId,
        reason: EndReason,
        effects: &mut Vec<Effect>,
    ) {
        self.forget_connection(id, None);
        if let Some((client, session)) = self.sessions.get_mut(id) {
            self.timers.cancel(session.will_due_ms.take(), Due::Will, client);
        }
        self.forget_subscriptions(context, id, effects);
        self.hand_over(id, 0, |_| true, effects);
        let Some((client, session)) = self.sessions.remove(id) else {
            return;
        };
        self.totals.sessions -= 1;
        self.totals.queued_messages -= session.queue.len();
        self.totals.queued_bytes -= session.queue.bytes();
        for message in session.queue.messages().chain(session.inbound.into_values()) {
            self.messages.release(message, effects);
        }
        if session.queue.len() > 0 {
            effects.push(Effect::Dropped {
                reason: DropReason::SessionEnded,
                count: session.queue.len(),
            });
        }
        if let Some(will) = session.will {
            self.fire(context, &client, will, effects);
        }
        effects.push(Effect::SessionEnded { client, reason });
    }

    /// Publishes a will: its time to live begins now.
    pub(super) fn fire(
        &mut self,
        context: &ApplyContext,
        client: &str,
        will: Will,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut publication) = will.publication else {
            return;
        };
        if will.message_expiry_s > 0 {
            publication.expires_at_ms = after(context.now_ms, will.message_expiry_s);
        }
        if publication.publisher.is_empty() {
            publication.publisher = client.to_owned();
        }
        let body = OutboxBody::Will(Box::new(publication), will.author);
        self.put_in_outbox(body, effects);
    }

    /// The session, if this connection owns it. [replication: one owner]
    pub(super) fn owned(&self, client: &str, epoch: u64) -> Result<SessionId, Reason> {
        let id = self.owned_once(client, epoch)?;
        match self.sessions.get(id) {
            Some(session) if session.connected => Ok(id),
            _ => Err(Reason::StaleEpoch),
        }
    }

    /// The session, if no other connection has owned it since: enough for what only takes things away.
    pub(super) fn owned_once(&self, client: &str, epoch: u64) -> Result<SessionId, Reason> {
        let id = self.sessions.find(client).ok_or(Reason::NoSession)?;
        match self.sessions.get(id) {
            Some(session) if session.owner.epoch == epoch => Ok(id),
            _ => Err(Reason::StaleEpoch),
        }
    }

    /// Takes one delivery out of a queue.
    pub(super) fn finish(
        &mut self,
        id: SessionId,
        sequence: u64,
        message: MessageId,
        effects: &mut Vec<Effect>,
    ) {
        let size = self.messages.get(message).map_or(0, |stored| stored.size);
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return;
        };
        if session.queue.remove(sequence, size).is_some() {
            self.totals.queued_messages -= 1;
            self.totals.queued_bytes -= size;
            self.messages.release(message, effects);
            self.sessions.queue_changed(id);
        }
    }
}

pub(super) fn connected(session: &Session, session_present: bool, previous: Option<Owner>) -> Connected {
    let subscription = |(filter, options): (&Arc<str>, &super::session::Options)| options.with_filter(filter);
    Connected {
        epoch: session.owner.epoch,
        session_present,
        previous,
        subscriptions: session.subscriptions.iter().map(subscription).collect(),
        first_sequence: session.queue.first_sequence(),
        next_sequence: session.queue.next_sequence(),
        acknowledged: session.queue.gaps(),
        received: session.queue.received(),
        inbound_packet_ids: session.inbound.keys().copied().map(u32::from).collect(),
        sent_before: session.queue.sent_before(),
    }
}

pub(super) fn after(now_ms: u64, seconds: u32) -> u64 {
    now_ms.saturating_add(u64::from(seconds) * 1000)
}
