//! New values of topics that overtake copies of the old ones on their way to a new subscription. Such a copy is not sent any more:
//! the client would take it for the latest.

use cluster::proto::{Append, shard_command::Command};
use foldhash::HashSet;

use super::retained::Retained;

/// Topics remembered at the most. Beyond it a client may get an old value behind a new one.
const TOPICS_MAX: usize = 100_000;

/// Topics of which a client has been sent something newer than the copies that wait for it.
#[derive(Default)]
pub(super) struct Newer {
    topics: HashSet<Box<str>>,
    /// There may be copies in the session's replicated queue.
    pub(super) in_queue: bool,
}

impl Newer {
    /// A message that was published as the topic's new value has gone to the client.
    pub(super) fn note(&mut self, topic: &str) {
        if self.topics.len() < TOPICS_MAX && !self.topics.contains(topic) {
            self.topics.insert(topic.into());
        }
    }

    pub(super) fn has(&self, topic: &str) -> bool {
        self.topics.contains(topic)
    }

    /// Copies that were read after what is known of here: they are the latest again.
    pub(super) fn read_anew(&mut self, copies: &Retained) {
        if self.topics.is_empty() {
            return;
        }
        for delivery in &copies.deliveries {
            self.topics.remove(delivery.publication.topic().as_str());
        }
        for command in &copies.appends {
            if let Some(Command::Append(Append {
                publication: Some(publication),
                ..
            })) = &command.command
            {
                self.topics.remove(&*publication.topic);
            }
        }
    }

    /// No copies wait any more.
    pub(super) fn clear(&mut self) {
        if !self.topics.is_empty() {
            self.topics = HashSet::default();
        }
    }
}
