//! A connection that somebody traces: each packet, as it was read and as it waits to be written, is told to those who want it.

use std::sync::Arc;

use mqtt_codec::{DecodeLimits, Decoder, PACKET_SIZE_MAX, Packet, ProtocolVersion};

use crate::trace::{Event, TracedPacket, Tracer};

use super::{Connection, End, Stream};

/// Of a connection that is traced; the others have none.
pub(super) struct Traced {
    tracers: Vec<Arc<Tracer>>,
    decoder: Decoder,
    /// Bytes at the front of what waits to be written that were looked at.
    seen: usize,
}

impl Traced {
    fn new(version: ProtocolVersion, tracers: Vec<Arc<Tracer>>, seen: usize) -> Self {
        // What this node has written itself is judged by nothing.
        let limits = DecodeLimits {
            packet_size_max: PACKET_SIZE_MAX,
            topic_levels_max: u16::MAX,
            user_properties_max: u16::MAX,
        };
        Self {
            tracers,
            decoder: Decoder::client(version, limits),
            seen,
        }
    }
}

impl<S: Stream> Connection<S> {
    /// Somebody has begun to trace, or ended: whom do this connection's packets concern? Of what waits to be written so many
    /// bytes are older.
    #[cold]
    pub(super) fn trace_anew(&mut self, seen: usize) {
        self.traces_version = self.shared.traces.version();
        let tracers = self.shared.traces.of(&self.attachment.client);
        match &mut self.traced {
            _ if tracers.is_empty() => self.traced = None,
            Some(traced) => traced.tracers = tracers,
            None => self.traced = Some(Box::new(Traced::new(self.session.version(), tracers, seen))),
        }
    }

    /// A packet was read, and not handled yet.
    #[cold]
    pub(super) fn trace_received(&self, packet: &Packet, bytes: usize, now: u64) {
        let Some(traced) = &self.traced else { return };
        let topic = match packet {
            Packet::Publish(publish) => self.session.topic_received(publish),
            _ => None,
        };
        for tracer in traced.tracers.iter().filter(|tracer| tracer.wants(packet, topic)) {
            let packet = TracedPacket::of(packet, bytes, topic);
            tracer.tell(&self.attachment.client, now, Event::Received(packet));
        }
    }

    /// What was added to that which waits to be written. To be asked before any of it is written.
    #[cold]
    pub(super) fn trace_sent(&mut self, now: u64) {
        let Some(traced) = &mut self.traced else { return };
        if self.out.len() <= traced.seen {
            return;
        }
        let mut fresh = self.out.copy_behind(traced.seen);
        traced.seen = self.out.len();
        loop {
            let waiting = fresh.len();
            // Whole packets, and good ones: this node has made them.
            let Ok(Some(packet)) = traced.decoder.decode(&mut fresh) else {
                return;
            };
            let topic = match &packet {
                Packet::Publish(publish) => self.session.topic_sent(publish),
                _ => None,
            };
            for tracer in traced
                .tracers
                .iter()
                .filter(|tracer| tracer.wants(&packet, topic))
            {
                let packet = TracedPacket::of(&packet, waiting - fresh.len(), topic);
                tracer.tell(&self.attachment.client, now, Event::Sent(packet));
            }
        }
    }

    /// Some of what waited is written.
    #[inline]
    pub(super) fn trace_written(&mut self) {
        if let Some(traced) = &mut self.traced {
            traced.seen = self.out.len();
        }
    }

    pub(super) fn trace_end(&self, end: &End) {
        let detail = match end {
            End::Protocol(error) => Some(error.detail),
            _ => None,
        };
        let now = self.shared.clock.now_ms();
        self.shared
            .traces
            .tell(&self.attachment.client, now, || Event::Closed {
                reason: end.metric(),
                detail,
            });
    }
}
