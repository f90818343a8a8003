//! What a client has finished with, and what it has received at QoS 2.

use cluster_proto::{Acknowledge, Receive, ShardResponse};

use super::{Effect, ShardState, answer};

impl ShardState {
    /// Also of a connection that has ended, as long as no other has come: this only takes deliveries away.
    pub(super) fn acknowledge(&mut self, command: &Acknowledge, effects: &mut Vec<Effect>) -> ShardResponse {
        let id = match self.owned_once(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        for range in &command.ranges {
            while let Some((sequence, delivery)) = self
                .sessions
                .get(id)
                .and_then(|session| session.queue.first_in(range.first..=range.last))
            {
                self.finish(id, sequence, delivery.message(), effects);
            }
        }
        answer::done()
    }

    pub(super) fn receive(&mut self, command: &Receive) -> ShardResponse {
        let id = match self.owned_once(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        if let Some((_, session)) = self.sessions.get_mut(id) {
            command
                .sequences
                .iter()
                .for_each(|sequence| session.queue.receive(*sequence));
        }
        self.sessions.queue_changed(id);
        answer::done()
    }
}
