//! What a member of a shared subscription leaves behind: the outbox gives it to other members. [MQTT5 4.8.2]

use super::outbox::OutboxBody;
use super::session::SessionId;
use super::{Effect, ShardState};

impl ShardState {
    /// Moves what a client who is not connected any more has of these shared subscriptions. A session that ended with its
    /// connection has left everything behind by itself.
    pub(super) fn hand_over_named(&mut self, client: &str, filters: &[String], effects: &mut Vec<Effect>) {
        if filters.is_empty() {
            return;
        }
        if let Some(id) = self.sessions.find(client) {
            let wanted = |share: &str| filters.iter().any(|filter| filter == share);
            self.hand_over(id, 0, wanted, effects);
        }
    }

    /// Moves deliveries by shared subscriptions, from a sequence on, out of a session's queue. Each keeps its message.
    pub(super) fn hand_over(
        &mut self,
        id: SessionId,
        from: u64,
        is_wanted: impl Fn(&str) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        for (sequence, message, share) in session.queue.to_hand_over(from, is_wanted) {
            let size = self.messages.get(message).map_or(0, |stored| stored.size);
            let Some((_, session)) = self.sessions.get_mut(id) else {
                return;
            };
            if session.queue.remove(sequence, size).is_none() {
                continue;
            }
            self.totals.queued_messages -= 1;
            self.totals.queued_bytes -= size;
            self.sessions.queue_changed(id);
            // The reference moves along with the message.
            self.put_in_outbox(OutboxBody::Shared(message, share), effects);
        }
    }
}
