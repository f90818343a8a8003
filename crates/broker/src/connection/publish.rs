//! Messages this connection's client publishes: stored or received by every destination first, then acknowledged.

use std::sync::Arc;

use cluster::ProposeError;
use cluster::proto::{self, ShardCommand, ShardResponse, shard_command::Command};
use mqtt_codec::{PacketId, ProtocolVersion, Publication, QoS, ReasonCode};
use mqtt_session::ProtocolError;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::forward;
use crate::mailbox::{Event, LiveMessage, Mailbox};
use crate::message::{expires_at, to_owned, to_stored};
use crate::pass::Denied;
use crate::proposal::{Fate, Settled};
use crate::publisher::{Outgoing, Routed};
use crate::refusal::Limited;
use crate::retained_room::Owner;
use crate::shared::Shared;

use super::attachment::is_rejected;
use super::{Connection, End, Stream};

/// A publish that waits for retained messages before it.
pub(super) struct Held {
    message: LiveMessage,
    packet_id: Option<PacketId>,
}

/// A publish that more than one destination has to answer for.
pub(super) struct Part {
    packet_id: PacketId,
    missing: usize,
    worst: ReasonCode,
    /// One of them had room for it.
    has_room: bool,
}

impl<S: Stream> Connection<S> {
    /// The flow of every PUBLISH: kept in the publisher's own shard (QoS 2 of a durable session), or stored as
    /// retained and then routed; its acknowledgement follows when all of that is committed.
    pub(super) fn publish(
        &mut self,
        publication: Publication,
        qos: QoS,
        retain: bool,
        packet_id: Option<PacketId>,
        now: u64,
    ) -> Result<(), End> {
        if publication.topic().is_dollar() {
            // Topics that begin with `$` are the server's own.
            self.acknowledge_publish(packet_id, ReasonCode::NotAuthorized);
            return Ok(());
        }
        if !self.pass.may_publish(publication.topic()) {
            let topic = publication.topic().as_str();
            self.pass.denied(&self.shared, Denied::Publish, topic);
            // Before MQTT 5.0 an acknowledgement cannot say so. [MQTT-3.3.5-2] of 3.1.1
            self.acknowledge_publish(packet_id, ReasonCode::NotAuthorized);
            return Ok(());
        }
        let publication = self.enter(publication)?;
        let message = LiveMessage {
            expires_at: expires_at(&publication, now),
            publication,
            qos,
            retain,
        };
        let owner = retain.then(|| self.pass.owner(&self.shared.live().limits));
        if let Some(owner) = &owner
            && let Err(limited) = self.shared.may_retain(&message.publication, owner)
        {
            return self.refuse_retained(packet_id, limited);
        }
        if let (QoS::ExactlyOnce, true, Some(packet_id)) = (qos, self.session.is_durable(), packet_id) {
            self.keep(self.stored(&message, owner.as_ref()), packet_id);
            return Ok(());
        }
        if retain {
            let shard = self
                .shared
                .cluster
                .shard_of_topic(message.publication.topic().as_str());
            let retain = proto::Retain {
                publication: Some(self.stored(&message, owner.as_ref())),
                ..proto::Retain::default()
            };
            self.retains.push((
                shard,
                ShardCommand {
                    command: Some(Command::Retain(retain)),
                },
            ));
        }
        if retain || !self.held.is_empty() {
            self.held.push_back(Held { message, packet_id });
            return Ok(());
        }
        self.route(message, packet_id);
        Ok(())
    }

    /// A message of the client as everybody else sees it.
    pub(super) fn enter(&mut self, publication: Publication) -> Result<Publication, End> {
        let Some(tenant) = &self.pass.tenant else {
            return Ok(publication);
        };
        let entered = tenant.enter(publication, self.shared.topic_bounds(), &mut self.entered);
        entered.map_err(End::Protocol)
    }

    fn stored(&self, message: &LiveMessage, owner: Option<&Owner>) -> proto::Publication {
        let client = &self.attachment.client;
        owner.map_or_else(
            || to_stored(message, client),
            |owner| to_owned(message, client, owner),
        )
    }

    fn refuse_retained(&mut self, packet_id: Option<PacketId>, limited: Limited) -> Result<(), End> {
        self.shared.metrics.limited(limited);
        if packet_id.is_some() && self.session.version() != ProtocolVersion::V5 {
            // An acknowledgement would say that it is stored.
            let detail = "too much is retained already";
            return Err(End::Protocol(ProtocolError::new(
                ReasonCode::QuotaExceeded,
                detail,
            )));
        }
        self.acknowledge_publish(packet_id, ReasonCode::QuotaExceeded);
        Ok(())
    }

    /// Keeps a QoS 2 message in the publisher's shard until its PUBREL: the same shard then sends it on, once.
    fn keep(&mut self, publication: proto::Publication, packet_id: PacketId) {
        let command = Command::Inbound(proto::Inbound {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            packet_id: u32::from(packet_id.get()),
            publication: Some(publication),
        });
        self.batches_under_way += 1;
        let began = Instant::now();
        self.attachment.propose(command, move |stored| match stored {
            true => Event::Committed {
                packet_ids: SmallVec::from_iter([packet_id]),
                reason_code: ReasonCode::Success,
                without_room: SmallVec::new(),
                began,
            },
            false => Event::Failed,
        });
    }

    fn route(&mut self, message: LiveMessage, packet_id: Option<PacketId>) {
        let ticket = packet_id.unwrap_or_else(|| PacketId::new(1).expect("one is not zero"));
        let size = message.publication.size();
        let Routed {
            destinations,
            matched,
        } = self.publisher.publish(&self.shared, message, ticket, None);
        if !matched {
            self.shared.metrics.no_subscribers.increment(1);
        }
        if destinations > 0 {
            let level = self.shared.overload.level();
            let limited = self
                .throttle
                .charge_stored(size * destinations, self.steady, level);
            limited
                .into_iter()
                .for_each(|limited| self.shared.metrics.limited(limited));
        }
        let Some(packet_id) = packet_id else { return };
        match destinations {
            0 if matched => self.acknowledge_publish(Some(packet_id), ReasonCode::Success),
            0 => self.acknowledge_publish(Some(packet_id), ReasonCode::NoMatchingSubscribers),
            1 => {}
            _ => self.parts.push(Part {
                packet_id,
                missing: destinations,
                worst: ReasonCode::Success,
                has_room: false,
            }),
        }
    }

    fn acknowledge_publish(&mut self, packet_id: Option<PacketId>, reason_code: ReasonCode) {
        if let Some(packet_id) = packet_id {
            self.session.publish_done(packet_id, reason_code, &mut self.out);
        }
    }

    /// After a read: the messages leave for their receivers and for other nodes, and the commands for their shards.
    pub(super) fn flush_publishes(&mut self) {
        let Outgoing { proposals, forwards } = self.publisher.flush(&self.shared);
        if proposals.is_empty() && forwards.is_empty() {
            return;
        }
        self.congested = false;
        let began = Instant::now();
        for proposal in proposals {
            self.batches_under_way += 1;
            self.congested |= self.shared.cluster.is_congested(proposal.shard);
            let (mailbox, shared) = (Arc::clone(&self.attachment.mailbox), Arc::clone(&self.shared));
            let fate = proposal.fate;
            let done = move |result: Result<Vec<ShardResponse>, ProposeError>| {
                answer(&shared, mailbox, fate, result, began);
            };
            self.shared
                .cluster
                .propose_batch(proposal.shard, proposal.commands, Box::new(done));
        }
        for batch in forwards {
            self.congested |= batch.congested;
            self.batches_under_way += usize::from(!batch.tickets.is_empty());
            let mailbox = Arc::clone(&self.attachment.mailbox);
            batch.send(
                &self.shared,
                self.publisher.lane(),
                move |packet_ids, reason_code| {
                    mailbox.answer(Event::Committed {
                        packet_ids,
                        reason_code,
                        without_room: SmallVec::new(),
                        began,
                    });
                },
            );
        }
    }

    /// One destination has a publish, or failed to take it, or has full queues only. Err: this version cannot say that
    /// it failed.
    pub(super) fn committed(
        &mut self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        mut has_room: bool,
    ) -> Result<(), ()> {
        let failed = reason_code as u8 >= 0x80;
        if failed && self.session.version() != ProtocolVersion::V5 {
            return Err(());
        }
        let mut reason_code = reason_code;
        if let Some(place) = self.parts.iter().position(|part| part.packet_id == packet_id) {
            let part = &mut self.parts[place];
            part.missing -= 1;
            part.has_room |= has_room;
            if failed {
                part.worst = reason_code;
            }
            if part.missing > 0 {
                return Ok(());
            }
            (reason_code, has_room) = (part.worst, part.has_room);
            self.parts.swap_remove(place);
        }
        if !has_room && reason_code == ReasonCode::Success && self.session.version() == ProtocolVersion::V5 {
            reason_code = ReasonCode::QuotaExceeded;
        }
        self.acknowledge_publish(Some(packet_id), reason_code);
        Ok(())
    }

    /// Retained messages are committed before they are routed: a subscriber that comes in between finds them.
    pub(super) fn flush_retains(&mut self) {
        if self.retains.is_empty() || self.retains_under_way > 0 {
            return;
        }
        let mut by_shard: Vec<(cluster::ShardId, Vec<ShardCommand>)> = Vec::new();
        for (shard, command) in self.retains.drain(..) {
            match by_shard.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, commands)) => commands.push(command),
                None => by_shard.push((shard, vec![command])),
            }
        }
        for (shard, commands) in by_shard {
            self.retains_under_way += 1;
            let (mailbox, count) = (Arc::clone(&self.attachment.mailbox), commands.len());
            let done = move |result: Result<Vec<ShardResponse>, ProposeError>| {
                mailbox.answer(Event::Retained {
                    count,
                    reason_code: outcome(&result),
                });
            };
            self.shared.cluster.propose_batch(shard, commands, Box::new(done));
        }
    }

    /// When all of them are stored, everything that waited for them is routed in its order.
    pub(super) fn retains_stored(
        &mut self,
        _count: usize,
        reason_code: ReasonCode,
        _now: u64,
    ) -> Result<(), ()> {
        self.retains_under_way -= 1;
        self.retain_failed |= reason_code as u8 >= 0x80;
        if self.retains_under_way > 0 {
            return Ok(());
        }
        let failed = std::mem::take(&mut self.retain_failed);
        for Held { message, packet_id } in std::mem::take(&mut self.held) {
            if !(failed && message.retain) {
                self.route(message, packet_id);
                continue;
            }
            if self.session.version() != ProtocolVersion::V5 {
                return Err(());
            }
            self.acknowledge_publish(packet_id, ReasonCode::UnspecifiedError);
        }
        Ok(())
    }
}

/// A shard has answered, or not.
fn answer(
    shared: &Arc<Shared>,
    mailbox: Arc<Mailbox>,
    mut fate: Fate<PacketId>,
    result: Result<Vec<ShardResponse>, ProposeError>,
    began: Instant,
) {
    let without_room = match &result {
        Ok(responses) => fate.without_room(responses),
        Err(_) => SmallVec::new(),
    };
    let packet_ids = std::mem::take(&mut fate.tickets);
    fate.settle(shared, result, move |settled| {
        let reason_code = match settled {
            Err(error) => forward::reason_code(&error),
            Ok(Settled { failed: true, .. }) => ReasonCode::UnspecifiedError,
            Ok(Settled { handed_over, .. }) => handed_over,
        };
        mailbox.answer(Event::Committed {
            packet_ids,
            reason_code,
            without_room,
            began,
        });
    });
}

/// The reason code for a batch: it is one entry of the log, committed whole or not at all.
fn outcome(result: &Result<Vec<ShardResponse>, ProposeError>) -> ReasonCode {
    match result {
        Ok(responses) if responses.iter().any(is_rejected) => ReasonCode::UnspecifiedError,
        Ok(_) => ReasonCode::Success,
        Err(error) => forward::reason_code(error),
    }
}
