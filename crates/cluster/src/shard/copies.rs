//! Sessions of this replica as parts of a backup. May read from disk.

use cluster_proto::{RestoreMessage, RestoreSession, SessionCopies, SessionPart, SessionPlace, session_part};
use cluster_state::{MessageCopy, MessageId, SessionCopy};
use prost::Message;

use super::Shard;
use super::bodies::DecodedEntry;

/// Parts of one answer, and their bytes, but for the last one.
const PARTS_MAX: usize = 500;
const BYTES_MAX: usize = 1 << 20;

impl Shard {
    /// The next parts from a place on. A session's own part is as of one index of the log; its messages are those with the numbers
    /// that were given by then, but for the ones that are finished when they are read.
    pub(crate) fn session_copies(&self, mut place: SessionPlace, now_ms: u64) -> SessionCopies {
        let (mut parts, mut bytes) = (Vec::new(), 0);
        let mut entry = DecodedEntry::default();
        while parts.len() < PARTS_MAX && bytes < BYTES_MAX {
            if place.from_sequence >= place.end_sequence {
                let Some(session) = self.read(|state| state.session_copy_after(&place.client, now_ms)) else {
                    return SessionCopies { parts, next: None };
                };
                place = SessionPlace {
                    client: session.client.to_string(),
                    from_sequence: 0,
                    end_sequence: session.next_sequence,
                };
                let session = session_part(session, now_ms);
                bytes += session.encoded_len();
                parts.push(part(session_part::Part::Session(session)));
                continue;
            }
            let copies = self.read(|state| {
                let (messages, room) = (PARTS_MAX - parts.len(), BYTES_MAX - bytes);
                state.message_copies(&place.client, place.from_sequence, messages, room)
            });
            let Some(last) = copies.last().map(|copy| copy.item.sequence) else {
                place.from_sequence = place.end_sequence;
                continue;
            };
            place.from_sequence = last + 1;
            for copy in copies
                .into_iter()
                .filter(|copy| copy.item.sequence < place.end_sequence)
            {
                // Without a body it has been finished meanwhile.
                if let Some(message) = self.message_part(&place.client, copy, &mut entry) {
                    bytes += message.encoded_len();
                    parts.push(part(session_part::Part::Message(message)));
                }
            }
        }
        SessionCopies {
            parts,
            next: Some(place),
        }
    }

    fn message_part(
        &self,
        client: &str,
        copy: MessageCopy,
        entry: &mut DecodedEntry,
    ) -> Option<RestoreMessage> {
        let MessageCopy { item, share_filter } = copy;
        Some(RestoreMessage {
            backup: 0,
            client: client.to_owned(),
            sequence: item.sequence,
            publication: Some(self.copied_body(item.message, entry)?),
            qos: u32::from(item.qos),
            retain: item.retain,
            subscription_ids: item.subscription_ids,
            share_filter: share_filter.unwrap_or_default(),
            received: item.received,
        })
    }

    fn copied_body(&self, id: MessageId, entry: &mut DecodedEntry) -> Option<cluster_proto::Publication> {
        self.body(id, entry).unwrap_or_else(|error| {
            tracing::error!(%error, shard = self.id, index = id.index, "reading a message for a backup failed");
            None
        })
    }
}

fn part(part: session_part::Part) -> SessionPart {
    SessionPart { part: Some(part) }
}

fn session_part(session: SessionCopy, now_ms: u64) -> RestoreSession {
    let left_ms = session.expires_at_ms.map(|at| at.saturating_sub(now_ms));
    let left_s = left_ms.map(|left| u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX));
    RestoreSession {
        client: session.client.to_string(),
        user: session.user,
        session_expiry_s: session.session_expiry_s,
        expires_in_s: left_s.unwrap_or(session.session_expiry_s),
        subscriptions: session.subscriptions,
        next_sequence: session.next_sequence,
        sent_before: session.sent_before,
        ..RestoreSession::default()
    }
}
