//! Messages: published, retained, looked at as they pass.

use admin::encoding::{decode, encode, to_base64};
use admin::views::{Message, Outcome, Page, RetainedView, Watched};
use admin::{AdminError, RetainedQuery, limit_of};
use broker::operator::{self, NewMessage, Operator, WatchError};
use cluster::proto::Publication;
use mqtt_codec::MessageProperties;
use mqtt_topic::{TopicFilter, TopicName};
use tokio::sync::mpsc;

use super::NodeOperations;

/// Bytes of a payload that a list shows.
const SHOWN_BYTES: usize = 256;
/// Retained payloads in one answer with whole ones: the rest is on the next page.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages between the broker and whoever looks on. Behind them others wait where their bytes are counted.
const WATCHED_MAX: usize = 1;

impl NodeOperations {
    pub(super) async fn list_retained(&self, query: RetainedQuery) -> Result<Page<RetainedView>, AdminError> {
        let operator = self.operator()?;
        let filter = if query.filter.is_empty() {
            "#"
        } else {
            &query.filter
        };
        TopicFilter::parse(filter.into()).map_err(|error| AdminError::Invalid(error.to_string()))?;
        let limit = limit_of(query.limit);
        // One more tells whether there is another page.
        let found = operator
            .cluster()
            .retained_page(filter, &query.after, limit + 1)
            .await;
        let mut found = found.map_err(|error| AdminError::Unavailable(error.to_string()))?;
        let mut more = found.len() > limit;
        found.truncate(limit);
        if query.full {
            let mut bytes = 0;
            let fits = found.iter().take_while(|one| {
                let first = bytes == 0;
                bytes += one.payload.len() + one.properties.len() + 64;
                first || bytes <= PAGE_BYTES_MAX
            });
            let fits = fits.count();
            more |= fits < found.len();
            found.truncate(fits);
        }
        let next = found.last().filter(|_| more).map(|last| last.topic.clone());
        let items = found
            .iter()
            .map(|one| shown(&operator, one, query.full))
            .collect();
        Ok(Page {
            items,
            covers: self.covers_all(&operator),
            next,
            notes: Vec::new(),
        })
    }

    pub(super) async fn show_retained(&self, topic: String) -> Result<RetainedView, AdminError> {
        let operator = self.operator()?;
        TopicName::parse(topic.as_str().into()).map_err(|error| AdminError::Invalid(error.to_string()))?;
        let found = operator.cluster().retained(&topic, 1).await;
        let found = found.map_err(|error| AdminError::Unavailable(error.to_string()))?;
        match found.first() {
            Some(message) => Ok(shown(&operator, message, true)),
            None => Err(AdminError::NotFound(format!(
                "nothing is retained under `{topic}`"
            ))),
        }
    }

    pub(super) async fn publish_all(&self, messages: Vec<Message>) -> Result<Vec<Outcome>, AdminError> {
        let (operator, topics) = (self.ready()?, topics_of(&messages));
        let outcomes = operator.publish(read(messages)?).await;
        Ok(told(topics, outcomes))
    }

    pub(super) async fn retain_all(&self, messages: Vec<Message>) -> Result<Vec<Outcome>, AdminError> {
        let (operator, topics) = (self.ready()?, topics_of(&messages));
        let outcomes = operator.retain(read(messages)?).await;
        Ok(told(topics, outcomes))
    }

    pub(super) async fn look_on(&self, filter: String) -> Result<mpsc::Receiver<Watched>, AdminError> {
        let operator = self.ready()?;
        let watching = operator.watch(&filter).await;
        let mut watching = watching.map_err(|error| match error {
            WatchError::Filter(reason) => AdminError::Invalid(reason),
            error => AdminError::Unavailable(error.to_string()),
        })?;
        let (sender, receiver) = mpsc::channel(WATCHED_MAX);
        tokio::spawn(async move {
            loop {
                let watched = tokio::select! {
                    watched = watching.next() => watched,
                    () = sender.closed() => return,
                };
                let Some(watched) = watched else { return };
                let (payload, encoding) = encode(&watched.payload);
                let watched = Watched {
                    topic: watched.topic,
                    qos: watched.qos,
                    retain: watched.retain,
                    payload,
                    encoding,
                };
                if sender.send(watched).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    pub(super) fn ready(&self) -> Result<Operator, AdminError> {
        let operator = self.operator()?;
        match operator.cluster().is_ready() {
            true => Ok(operator),
            false => Err(AdminError::Unavailable("this node is not ready".to_owned())),
        }
    }
}

fn topics_of(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| message.topic.clone()).collect()
}

fn read(messages: Vec<Message>) -> Result<Vec<NewMessage>, AdminError> {
    messages.into_iter().map(new_message).collect()
}

fn new_message(message: Message) -> Result<NewMessage, AdminError> {
    let wrong = |what: &str| AdminError::Invalid(format!("`{}`: {what}", message.topic));
    let payload =
        decode(&message.payload, message.encoding).ok_or_else(|| wrong("the payload is not base64"))?;
    let properties_wire = match &message.properties {
        None => None,
        Some(text) => {
            let bytes = decode(text, admin::encoding::Encoding::Base64);
            Some(bytes.ok_or_else(|| wrong("`properties` is not base64"))?.into())
        }
    };
    let fits = |text: &Option<String>| {
        text.as_ref()
            .is_none_or(|text| text.len() <= usize::from(u16::MAX))
    };
    let mut user = message.user_properties.iter();
    let user_fits = user.all(|(name, value)| name.len().max(value.len()) <= usize::from(u16::MAX));
    if !(fits(&message.content_type)
        && fits(&message.response_topic)
        && fits(&message.correlation_data)
        && user_fits)
    {
        return Err(wrong("a property is longer than 65,535 bytes"));
    }
    if let Some(topic) = &message.response_topic {
        TopicName::parse(topic.as_str().into())
            .map_err(|error| wrong(&format!("response_topic: {error}")))?;
    }
    let user_properties = message.user_properties.into_iter();
    let properties = MessageProperties {
        payload_format_indicator: None,
        content_type: message.content_type.map(Into::into),
        response_topic: message.response_topic.map(Into::into),
        correlation_data: message.correlation_data.map(|text| text.into_bytes().into()),
        user_properties: user_properties
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    };
    Ok(NewMessage {
        topic: message.topic,
        payload: payload.into(),
        qos: message.qos,
        retain: message.retain,
        expiry_s: message.expires_in_s,
        properties,
        properties_wire,
    })
}

fn told(topics: Vec<String>, outcomes: Vec<operator::Outcome>) -> Vec<Outcome> {
    let outcome = |(topic, outcome)| {
        let (done, matched, reason, refused) = match outcome {
            operator::Outcome::Done(matched) => (true, matched, None, false),
            operator::Outcome::Refused(reason) => (false, false, Some(reason), true),
            operator::Outcome::Failed(reason) => (false, false, Some(reason), false),
        };
        Outcome {
            topic,
            done,
            matched,
            reason,
            refused,
        }
    };
    topics.into_iter().zip(outcomes).map(outcome).collect()
}

fn shown(operator: &Operator, message: &Publication, full: bool) -> RetainedView {
    let bytes = message.payload.len();
    let (payload, encoding, truncated) = match full || bytes <= SHOWN_BYTES {
        true => {
            let (text, encoding) = encode(&message.payload);
            (text, encoding, false)
        }
        false => {
            let (text, encoding) = encode(beginning(&message.payload));
            (text, encoding, true)
        }
    };
    let now_ms = operator.now_ms();
    let expires = (message.expires_at_ms != 0).then_some(message.expires_at_ms);
    RetainedView {
        shard: u32::from(operator.cluster().shard_of_topic(&message.topic)),
        topic: message.topic.clone(),
        qos: message.qos as u8,
        bytes: bytes as u64,
        payload,
        encoding,
        truncated,
        properties: (full && !message.properties.is_empty()).then(|| to_base64(&message.properties)),
        expires_in_s: expires.map(|at| at.saturating_sub(now_ms) / 1000),
        publisher: message.publisher.clone(),
    }
}

/// The first bytes, and of text no part of a character.
fn beginning(payload: &[u8]) -> &[u8] {
    let first = &payload[..payload.len().min(SHOWN_BYTES)];
    match std::str::from_utf8(first) {
        Err(error) if error.error_len().is_none() => &first[..error.valid_up_to()],
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use admin::encoding::Encoding;

    use super::*;

    #[test]
    fn a_list_shows_the_beginning_of_a_text_without_half_a_character() {
        let text = "x".repeat(SHOWN_BYTES - 1) + "ä";
        assert_eq!(beginning(text.as_bytes()).len(), SHOWN_BYTES - 1);
        assert_eq!(beginning(&[0xff; 300]).len(), SHOWN_BYTES);
        assert_eq!(beginning(b"ab"), b"ab");
    }

    #[test]
    fn a_message_that_cannot_be_written_is_refused_with_its_topic() {
        let message = |payload: &str, response: Option<&str>| Message {
            topic: "t".to_owned(),
            payload: payload.to_owned(),
            encoding: Encoding::Base64,
            response_topic: response.map(str::to_owned),
            ..Message::default()
        };
        assert_eq!(&new_message(message("Zm9v", None)).unwrap().payload[..], b"foo");
        for broken in [message("?", None), message("", Some("a/#"))] {
            let Err(AdminError::Invalid(reason)) = new_message(broken) else {
                panic!("it was taken");
            };
            assert!(reason.starts_with("`t`: "), "{reason}");
        }
    }
}
