//! Topic aliases of both directions (MQTT 5.0 section 3.3.2.3.4). They live as long as the connection.

use std::collections::HashMap;
use std::num::NonZeroU16;

use mqtt_codec::{Limit, Publish, ReasonCode};
use mqtt_topic::TopicName;

use crate::ProtocolError;

/// Aliases the client has set.
#[derive(Debug)]
pub(crate) struct InboundAliases {
    maximum: u16,
    topics: Vec<Option<TopicName>>,
}

impl InboundAliases {
    pub(crate) fn new(maximum: u16) -> Self {
        Self {
            maximum,
            topics: Vec::new(),
        }
    }

    /// Gives the message the topic its alias stands for, or learns the alias. [MQTT-3.3.2-7..12]
    pub(crate) fn resolve(&mut self, publish: &mut Publish) -> Result<(), ProtocolError> {
        let unnamed = publish.publication.topic().as_str().is_empty();
        let Some(alias) = publish.topic_alias else {
            return if unnamed {
                Err(ProtocolError::violation("PUBLISH without topic or alias"))
            } else {
                Ok(())
            };
        };
        if alias.get() > self.maximum {
            return Err(ProtocolError::beyond(
                Limit::TopicAlias,
                ReasonCode::TopicAliasInvalid,
                "topic alias above the maximum",
            ));
        }
        let slot = usize::from(alias.get()) - 1;
        if slot >= self.topics.len() {
            self.topics.resize(slot + 1, None);
        }
        if !unnamed {
            self.topics[slot] = Some(publish.publication.topic().compact());
            return Ok(());
        }
        let Some(topic) = &self.topics[slot] else {
            return Err(ProtocolError::violation("topic alias was never set"));
        };
        publish.publication = publish.publication.clone().with_topic(topic.clone());
        Ok(())
    }

    /// The topic of a message, which may stand behind its alias.
    pub(crate) fn topic_of<'a>(&'a self, publish: &'a Publish) -> Option<&'a TopicName> {
        let topic = publish.publication.topic();
        match publish.topic_alias {
            Some(alias) if topic.as_str().is_empty() => {
                self.topics.get(usize::from(alias.get()) - 1)?.as_ref()
            }
            _ => Some(topic),
        }
    }
}

/// Aliases the server has set: the first topics it sends get one each, as many as the client accepts.
#[derive(Debug)]
pub(crate) struct OutboundAliases {
    maximum: u16,
    aliases: HashMap<TopicName, NonZeroU16>,
}

impl OutboundAliases {
    pub(crate) fn new(maximum: u16) -> Self {
        Self {
            maximum,
            aliases: HashMap::new(),
        }
    }

    /// The alias for a topic, and whether the client knows it already.
    pub(crate) fn alias(&self, topic: &TopicName) -> Option<(NonZeroU16, bool)> {
        if self.maximum == 0 {
            return None;
        }
        if let Some(alias) = self.aliases.get(topic) {
            return Some((*alias, true));
        }
        if self.aliases.len() >= usize::from(self.maximum) {
            return None;
        }
        Some((NonZeroU16::new(self.aliases.len() as u16 + 1)?, false))
    }

    /// The topic of a message that was sent, which may stand behind its alias.
    pub(crate) fn topic_of<'a>(&'a self, publish: &'a Publish) -> Option<&'a TopicName> {
        let topic = publish.publication.topic();
        match publish.topic_alias {
            Some(alias) if topic.as_str().is_empty() => {
                let mut known = self.aliases.iter();
                known.find(|(_, known)| **known == alias).map(|(topic, _)| topic)
            }
            _ => Some(topic),
        }
    }

    /// The client is told of the alias with the packet that goes out now.
    pub(crate) fn learn(&mut self, topic: &TopicName, alias: NonZeroU16) {
        self.aliases.insert(topic.compact(), alias);
    }
}
