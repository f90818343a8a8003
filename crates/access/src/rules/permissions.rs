//! What one client may do, with its names filled in.

use mqtt_topic::{TopicFilter, TopicName};

use super::{Action, Effect, Rule};
use crate::Principal;

/// A rule with a client's names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filled {
    effect: Effect,
    /// Of the file; 0: of none.
    line: u32,
    filter: TopicFilter,
}

/// What the rules say about a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is granted.
    pub is_allowed: bool,
    /// The line of the rule that decides, counted from 1; `None`: no rule speaks of it.
    pub line: Option<u32>,
}

/// The rules that speak of one client. Answers allocate nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    publish: Vec<Filled>,
    subscribe: Vec<Filled>,
}

impl Permissions {
    /// Everything, topics that begin with `$` included: for a broker without rules.
    pub fn everything() -> Self {
        let all = ["#", "$SYS/#"].map(|text| {
            let filter = TopicFilter::parse(text.into()).expect("a valid filter");
            Filled {
                effect: Effect::Allow,
                line: 0,
                filter,
            }
        });
        Self {
            publish: all.to_vec(),
            subscribe: all.to_vec(),
        }
    }

    /// Whether it may publish to a topic.
    pub fn may_publish(&self, topic: &TopicName) -> bool {
        self.publish(topic).is_allowed
    }

    /// Whether it may be sent messages of a topic.
    pub fn may_receive(&self, topic: &TopicName) -> bool {
        self.receive(topic).is_allowed
    }

    /// Whether it may be sent messages of a topic, and which rule says so.
    pub fn receive(&self, topic: &TopicName) -> Verdict {
        first(&self.subscribe, topic)
    }

    /// Whether it may publish to a topic, and which rule says so.
    pub fn publish(&self, topic: &TopicName) -> Verdict {
        first(&self.publish, topic)
    }

    /// Whether it may subscribe to a filter: every topic that the filter can match has to be one it may be sent. The
    /// filter has to lie inside that of one allowing rule, with no denying rule before it that touches it; so two rules
    /// that only together hold all of it do not suffice. For a shared subscription, ask for the filter behind its name.
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.subscribe(filter).is_allowed
    }

    /// As `may_subscribe`, and which rule says so.
    pub fn subscribe(&self, filter: &TopicFilter) -> Verdict {
        let decides = |rule: &&Filled| match rule.effect {
            Effect::Deny => overlaps(rule.filter.as_str(), filter.as_str()),
            Effect::Allow => rule.filter.covers(filter),
        };
        Verdict::of(self.subscribe.iter().find(decides))
    }

    pub(super) fn add(&mut self, rule: &Rule, principal: &Principal) {
        let Some(filter) = rule.topics.fill(principal, rule.effect) else {
            return;
        };
        let filled = Filled {
            effect: rule.effect,
            line: rule.line,
            filter,
        };
        if rule.action != Action::Subscribe {
            self.publish.push(filled.clone());
        }
        if rule.action != Action::Publish {
            self.subscribe.push(filled);
        }
    }
}

impl Verdict {
    fn of(rule: Option<&Filled>) -> Self {
        Self {
            is_allowed: rule.is_some_and(|rule| rule.effect == Effect::Allow),
            line: rule.map(|rule| rule.line).filter(|line| *line > 0),
        }
    }
}

fn first(rules: &[Filled], topic: &TopicName) -> Verdict {
    Verdict::of(rules.iter().find(|rule| rule.filter.matches(topic)))
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
