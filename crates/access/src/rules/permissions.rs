//! What one client may do, with its names filled in.

use mqtt_topic::{TopicFilter, TopicName};

use super::{Action, Effect, Rule};
use crate::Principal;

/// The rules that speak of one client. Answers allocate nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    publish: Vec<(Effect, TopicFilter)>,
    subscribe: Vec<(Effect, TopicFilter)>,
}

impl Permissions {
    /// Everything, topics that begin with `$` included: for a broker without rules.
    pub fn everything() -> Self {
        let all = ["#", "$SYS/#"].map(|text| {
            let filter = TopicFilter::parse(text.into()).expect("a valid filter");
            (Effect::Allow, filter)
        });
        Self {
            publish: all.to_vec(),
            subscribe: all.to_vec(),
        }
    }

    /// Whether it may publish to a topic.
    pub fn may_publish(&self, topic: &TopicName) -> bool {
        is_allowed(&self.publish, topic)
    }

    /// Whether it may be sent messages of a topic.
    pub fn may_receive(&self, topic: &TopicName) -> bool {
        is_allowed(&self.subscribe, topic)
    }

    /// Whether it may subscribe to a filter: every topic that the filter can match has to be one it may be sent. The
    /// filter has to lie inside that of one allowing rule, with no denying rule before it that touches it; so two rules
    /// that only together hold all of it do not suffice. For a shared subscription, ask for the filter behind its name.
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        for (effect, rule) in &self.subscribe {
            match effect {
                Effect::Deny if overlaps(rule.as_str(), filter.as_str()) => return false,
                Effect::Allow if rule.covers(filter) => return true,
                _ => {}
            }
        }
        false
    }

    pub(super) fn add(&mut self, rule: &Rule, principal: &Principal) {
        let Some(filter) = rule.topics.fill(principal, rule.effect) else {
            return;
        };
        if rule.action != Action::Subscribe {
            self.publish.push((rule.effect, filter.clone()));
        }
        if rule.action != Action::Publish {
            self.subscribe.push((rule.effect, filter));
        }
    }
}

fn is_allowed(rules: &[(Effect, TopicFilter)], topic: &TopicName) -> bool {
    let first = rules.iter().find(|(_, filter)| filter.matches(topic));
    first.is_some_and(|(effect, _)| *effect == Effect::Allow)
}

/// Whether some topic matches both filters.
fn overlaps(one: &str, other: &str) -> bool {
    // Leading wildcards do not match topics that begin with `$`. [MQTT-4.7.2-1]
    let is_wild = |filter: &str| filter.starts_with(['+', '#']);
    if (one.starts_with('$') && is_wild(other)) || (other.starts_with('$') && is_wild(one)) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}
