//! Sessions as lines of a backup, and back. All shards, one after the other, whatever node is asked.

use admin::AdminError;
use admin::encoding::{Encoding, decode, encode, to_base64};
use admin::views::{
    Restore, RestoreOutcome, RestoreResult, SavedMessage, SavedSession, SavedSubscription, SessionLine,
    SessionLines,
};
use broker::operator::Restored;
use cluster::ShardId;
use cluster::proto::{
    Publication, RestoreMessage, RestoreSession, SessionPart, SessionPlace, Subscription, session_part::Part,
};

use super::NodeOperations;

impl NodeOperations {
    pub(super) async fn save_sessions(&self, after: String) -> Result<SessionLines, AdminError> {
        let operator = self.ready()?;
        let (shard, place) = match after.as_str() {
            "" => (0, SessionPlace::default()),
            after => {
                let place = place_of(after).filter(|(shard, _)| *shard < operator.cluster().shards());
                place.ok_or_else(|| {
                    AdminError::Invalid("`after` is not what a part before has said".to_owned())
                })?
            }
        };
        let copies = operator.cluster().session_copies(shard, place).await;
        let copies = copies.map_err(|error| AdminError::Unavailable(format!("shard {shard}: {error}")))?;
        let now_ms = operator.now_ms();
        let next = match copies.next {
            Some(place) => Some(said(shard, &place)),
            None if shard + 1 < operator.cluster().shards() => {
                Some(said(shard + 1, &SessionPlace::default()))
            }
            None => None,
        };
        let parts = copies.parts.into_iter().filter_map(|part| part.part);
        Ok(SessionLines {
            items: parts.map(|part| line_of(part, now_ms)).collect(),
            next,
        })
    }

    pub(super) async fn restore_sessions(&self, restore: Restore) -> Result<Vec<RestoreOutcome>, AdminError> {
        let operator = self.ready()?;
        let backup = u64::from_str_radix(&restore.backup, 16)
            .ok()
            .filter(|backup| *backup != 0);
        let backup =
            backup.ok_or_else(|| AdminError::Invalid("`backup` is not its identifier".to_owned()))?;
        let now_ms = operator.now_ms();
        let names: Vec<_> = restore.items.iter().map(name_of).collect();
        let parts = restore.items.into_iter().map(|line| part_of(line, now_ms));
        let parts = parts
            .collect::<Result<Vec<_>, _>>()
            .map_err(AdminError::Invalid)?;
        let outcomes = operator.restore(backup, parts).await;
        let told = names
            .into_iter()
            .zip(outcomes)
            .map(|((client_id, sequence), outcome)| {
                let (outcome, reason) = told(outcome);
                RestoreOutcome {
                    client_id,
                    sequence,
                    outcome,
                    reason,
                }
            });
        Ok(told.collect())
    }
}

/// A place as `after` says it. The client id comes last: it may have any sign.
fn said(shard: ShardId, place: &SessionPlace) -> String {
    let SessionPlace {
        client,
        from_sequence,
        end_sequence,
    } = place;
    format!("{shard}.{from_sequence}.{end_sequence}.{client}")
}

fn place_of(after: &str) -> Option<(ShardId, SessionPlace)> {
    let mut parts = after.splitn(4, '.');
    let shard = parts.next()?.parse().ok()?;
    let place = SessionPlace {
        from_sequence: parts.next()?.parse().ok()?,
        end_sequence: parts.next()?.parse().ok()?,
        client: parts.next()?.to_owned(),
    };
    Some((shard, place))
}

fn line_of(part: Part, now_ms: u64) -> SessionLine {
    match part {
        Part::Session(session) => SessionLine::Session(SavedSession {
            client_id: session.client,
            user: session.user,
            session_expiry_s: session.session_expiry_s,
            expires_in_s: session.expires_in_s,
            next_sequence: session.next_sequence,
            sent_before: session.sent_before,
            subscriptions: session.subscriptions.into_iter().map(saved).collect(),
        }),
        Part::Message(message) => {
            let publication = message.publication.unwrap_or_default();
            let (payload, encoding) = encode(&publication.payload);
            let has_properties = !publication.properties.is_empty();
            let left_ms = publication.expires_at_ms.saturating_sub(now_ms);
            let left_s = u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
            SessionLine::Message(SavedMessage {
                client_id: message.client,
                sequence: message.sequence,
                topic: publication.topic,
                payload,
                encoding,
                published_qos: publication.qos as u8,
                published_retain: publication.retain,
                publisher: publication.publisher,
                properties: has_properties.then(|| to_base64(&publication.properties)),
                expires_in_s: (publication.expires_at_ms != 0).then_some(left_s),
                qos: message.qos as u8,
                retain: message.retain,
                subscription_ids: message.subscription_ids,
                share: Some(message.share_filter).filter(|share| !share.is_empty()),
                received: message.received,
            })
        }
    }
}

fn part_of(line: SessionLine, now_ms: u64) -> Result<SessionPart, String> {
    let part = match line {
        SessionLine::Session(session) => Part::Session(RestoreSession {
            client: session.client_id,
            user: session.user,
            session_expiry_s: session.session_expiry_s,
            expires_in_s: session.expires_in_s,
            subscriptions: session.subscriptions.into_iter().map(subscription).collect(),
            next_sequence: session.next_sequence,
            sent_before: session.sent_before,
            ..RestoreSession::default()
        }),
        SessionLine::Message(message) => Part::Message(message_of(message, now_ms)?),
    };
    Ok(SessionPart { part: Some(part) })
}

fn message_of(message: SavedMessage, now_ms: u64) -> Result<RestoreMessage, String> {
    let wrong = |what: &str| {
        format!(
            "`{}`, {}: {what} is not base64",
            message.client_id, message.sequence
        )
    };
    let payload = decode(&message.payload, message.encoding).ok_or_else(|| wrong("the payload"))?;
    let properties = match &message.properties {
        Some(text) => decode(text, Encoding::Base64).ok_or_else(|| wrong("`properties`"))?,
        None => Vec::new(),
    };
    let expires = message.expires_in_s;
    let publication = Publication {
        topic: message.topic,
        properties: properties.into(),
        payload: payload.into(),
        qos: message.published_qos.into(),
        retain: message.published_retain,
        expires_at_ms: expires.map_or(0, |seconds| now_ms + u64::from(seconds) * 1000),
        publisher: message.publisher,
        // It waits in a queue, and is not retained by this.
        owner: String::new(),
    };
    Ok(RestoreMessage {
        backup: 0,
        client: message.client_id,
        sequence: message.sequence,
        publication: Some(publication),
        qos: message.qos.into(),
        retain: message.retain,
        subscription_ids: message.subscription_ids,
        share_filter: message.share.unwrap_or_default(),
        received: message.received,
    })
}

fn saved(subscription: Subscription) -> SavedSubscription {
    SavedSubscription {
        filter: subscription.filter,
        qos: subscription.qos as u8,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        retain_handling: subscription.retain_handling as u8,
        subscription_id: subscription.subscription_id,
    }
}

fn subscription(saved: SavedSubscription) -> Subscription {
    Subscription {
        filter: saved.filter,
        qos: saved.qos.into(),
        no_local: saved.no_local,
        retain_as_published: saved.retain_as_published,
        retain_handling: saved.retain_handling.into(),
        subscription_id: saved.subscription_id,
    }
}

fn name_of(line: &SessionLine) -> (String, Option<u64>) {
    match line {
        SessionLine::Session(session) => (session.client_id.clone(), None),
        SessionLine::Message(message) => (message.client_id.clone(), Some(message.sequence)),
    }
}

fn told(outcome: Restored) -> (RestoreResult, Option<String>) {
    match outcome {
        Restored::Done => (RestoreResult::Restored, None),
        Restored::Known => (RestoreResult::Known, None),
        Restored::Newer | Restored::NoSession => (RestoreResult::Newer, None),
        Restored::NoRoom => (RestoreResult::Full, None),
        Restored::Refused(reason) => (RestoreResult::Refused, Some(reason)),
        Restored::Failed(reason) => (RestoreResult::Failed, Some(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_whatever_the_client_is_called() {
        for client in ["", "a", "a.b..c", "1.2.3.4", "ü\n"] {
            let place = SessionPlace {
                client: client.to_owned(),
                from_sequence: 7,
                end_sequence: u64::MAX,
            };
            assert_eq!(place_of(&said(3, &place)), Some((3, place)));
        }
        for wrong in ["x", "1.2", "1.2.3", "99999.1.1.c", "1.-1.1.c"] {
            assert_eq!(place_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_line_becomes_what_it_was_made_of() {
        let session = Part::Session(RestoreSession {
            client: "c".to_owned(),
            user: "u".to_owned(),
            session_expiry_s: 60,
            expires_in_s: 30,
            subscriptions: vec![Subscription {
                filter: "$share/g/a".to_owned(),
                qos: 2,
                no_local: false,
                retain_as_published: true,
                retain_handling: 1,
                subscription_id: 9,
            }],
            next_sequence: 12,
            sent_before: 3,
            ..RestoreSession::default()
        });
        let message = Part::Message(RestoreMessage {
            client: "c".to_owned(),
            sequence: 5,
            publication: Some(Publication {
                topic: "a".to_owned(),
                properties: vec![1, 1].into(),
                payload: vec![0xff, 0].into(),
                qos: 2,
                retain: true,
                expires_at_ms: 61_000,
                publisher: "p".to_owned(),
                owner: String::new(),
            }),
            qos: 2,
            retain: true,
            subscription_ids: vec![9],
            share_filter: "$share/g/a".to_owned(),
            received: true,
            backup: 0,
        });
        for part in [session, message] {
            let text = serde_json::to_string(&line_of(part.clone(), 1000)).unwrap();
            let line = serde_json::from_str(&text).unwrap();
            assert_eq!(part_of(line, 1000).unwrap().part, Some(part), "{text}");
        }
    }
}
