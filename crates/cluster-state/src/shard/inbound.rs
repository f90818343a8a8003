//! QoS 2 messages of clients until their PUBREL, and the outbox they go to then. [MQTT5 4.3.3]

use cluster_proto::{Inbound, OutboxDone, Release, ShardResponse};

use super::outbox::{OutboxBody, OutboxItem};
use super::{ApplyContext, Effect, ShardState, answer, record};

impl ShardState {
    /// Keeps a message under its packet id. A repeated PUBLISH finds it there and changes nothing. [MQTT-4.3.3-10]
    pub(super) fn inbound(
        &mut self,
        context: &ApplyContext,
        command: Inbound,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let id = match self.owned(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        let (Some(packet_id), Some(publication)) = (packet_id(command.packet_id), command.publication) else {
            return answer::malformed();
        };
        if publication.topic.is_empty() || publication.topic.len() > record::NAME_BYTES_MAX {
            return answer::malformed();
        }
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return answer::done();
        };
        if session.inbound.contains_key(&packet_id) {
            return answer::done();
        }
        session.inbound.insert(packet_id, context.message());
        self.sessions.queue_changed(id);
        self.messages.insert(context.message(), publication, 1, effects);
        answer::done()
    }

    /// PUBREL: the packet id is free again, and the message will be published once.
    pub(super) fn release(&mut self, command: &Release, effects: &mut Vec<Effect>) -> ShardResponse {
        let id = match self.owned(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        let Some(packet_id) = packet_id(command.packet_id) else {
            return answer::malformed();
        };
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return answer::done();
        };
        let Some(message) = session.inbound.remove(&packet_id) else {
            return answer::existed(vec![false]);
        };
        self.sessions.queue_changed(id);
        // The reference moves along with the message.
        self.put_in_outbox(OutboxBody::Message(message), effects);
        answer::existed(vec![true])
    }

    pub(super) fn put_in_outbox(&mut self, body: OutboxBody, effects: &mut Vec<Effect>) {
        self.outbox.push(body);
        if effects.last() != Some(&Effect::OutboxReady) {
            effects.push(Effect::OutboxReady);
        }
    }

    pub(super) fn outbox_done(&mut self, command: &OutboxDone, effects: &mut Vec<Effect>) -> ShardResponse {
        while let Some(body) = self.outbox.take_done(command.up_to) {
            if let Some(id) = body.message() {
                self.messages.release(id, effects);
            }
        }
        answer::done()
    }

    /// The messages that wait for their destinations, oldest first.
    pub fn outbox(&self) -> impl Iterator<Item = OutboxItem> {
        self.outbox.iter()
    }
}

fn packet_id(packet_id: u32) -> Option<u16> {
    u16::try_from(packet_id).ok().filter(|packet_id| *packet_id != 0)
}
