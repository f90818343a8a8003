//! What the passing of time does: wills, sessions and messages whose time has come.

use cluster_proto::ShardResponse;

use super::session::{Session, SessionId};
use super::timers::Due;
use super::{ApplyContext, DropReason, Effect, EndReason, ShardState, answer};

/// A queue is not looked through more often than this.
const SWEEP_INTERVAL_MS: u64 = 1000;
/// ... and a long one more rarely, so that looking costs the same per second.
const SWEEP_INTERVAL_PER_MESSAGE_MS: u64 = 10;

/// When to look for expired messages if one expires at `expires_at_ms`.
pub(super) fn sweep_after(session: &Session, expires_at_ms: u64) -> u64 {
    let interval_ms = SWEEP_INTERVAL_MS + SWEEP_INTERVAL_PER_MESSAGE_MS * session.queue.len();
    expires_at_ms.max(session.sweep.last_ms.saturating_add(interval_ms))
}

impl ShardState {
    pub(super) fn tick(&mut self, context: &ApplyContext, effects: &mut Vec<Effect>) -> ShardResponse {
        while let Some((due, name)) = self.timers.take(context.now_ms) {
            if due == Due::Retained {
                self.retained.remove(&name, &mut self.timers);
                continue;
            }
            let Some(id) = self.sessions.find(&name) else {
                continue;
            };
            match due {
                Due::Will => self.will_due(context, id, effects),
                Due::Expiry => self.end(context, id, EndReason::Expired, effects),
                Due::Sweep => self.sweep(context, id, effects),
                Due::Retained => {}
            }
        }
        answer::done()
    }

    fn will_due(&mut self, context: &ApplyContext, id: SessionId, effects: &mut Vec<Effect>) {
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return;
        };
        let client = client.clone();
        session.will_due_ms = None;
        if let Some(will) = session.will.take() {
            self.fire(context, &client, will, effects);
        }
        self.sessions.session_changed(id);
    }

    /// Drops the expired messages of a disconnected session. One that may have been sent stays: its repetition is the
    /// client's right. [MQTT-4.4.0-1]
    fn sweep(&mut self, context: &ApplyContext, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let mut expired = Vec::new();
        let mut next_ms = None;
        for (sequence, delivery) in session.queue.from(session.queue.sent_before()) {
            let Some(stored) = self.messages.get(delivery.message()) else {
                continue;
            };
            if stored.is_expired(context.now_ms) {
                expired.push((sequence, delivery.message()));
            } else if stored.expires_at_ms != 0 {
                next_ms =
                    Some(next_ms.map_or(stored.expires_at_ms, |next: u64| next.min(stored.expires_at_ms)));
            }
        }
        for (sequence, message) in &expired {
            self.finish(id, *sequence, *message, effects);
        }
        if !expired.is_empty() {
            effects.push(Effect::Dropped {
                reason: DropReason::Expired,
                count: expired.len() as u64,
            });
        }
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return;
        };
        session.sweep.last_ms = context.now_ms;
        session.sweep.due_ms = next_ms.map(|expires_at_ms| sweep_after(session, expires_at_ms));
        self.timers.set(session.sweep.due_ms, Due::Sweep, client);
        self.sessions.queue_changed(id);
    }
}
