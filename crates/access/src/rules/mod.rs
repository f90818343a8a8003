//! Access rules: who may publish and subscribe what. The first rule that says something about a topic decides; what no
//! rule speaks of is denied.

mod condition;
mod mosquitto;
mod parse;
mod permissions;
mod template;

use foldhash::HashMap;
use mqtt_topic::TopicName;

use crate::{LineError, Principal};
use condition::Condition;
use template::Template;

pub use permissions::{Permissions, Verdict};

/// Most rules in a file.
pub const RULES_MAX: usize = 100_000;

/// What a rule does to what it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

/// What a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Publish,
    Subscribe,
    Both,
}

#[derive(Debug, Clone)]
struct Rule {
    /// Of the file, counted from 1.
    line: u32,
    effect: Effect,
    action: Action,
    topics: Template,
    /// All have to hold.
    conditions: Vec<Condition>,
}

/// The rules of a file, in its order.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Rules that speak of one user, by name; a file for a million users is not walked at each login.
    of_user: HashMap<String, Vec<u32>>,
    of_anybody: Vec<u32>,
    /// Who belongs to which group.
    groups_of: HashMap<String, Vec<String>>,
}

impl Rules {
    /// Reads rules. One a line: `allow` or `deny`; `publish`, `subscribe` or `all`; a topic filter, in double quotes if it
    /// has spaces; conditions like `user=anna` or `address=10.0.0.0/8`, all of which have to hold. `group NAME MEMBER...`
    /// puts users into a group. Lines that begin with `#` are comments.
    ///
    /// # Errors
    /// Every line that is not that; nothing of the file is used then.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        parse::parse(text)
    }

    /// Reads a file for mosquitto's `acl_file` (mosquitto.conf(5), mosquitto 2.0): `user`, `topic`, `pattern`.
    ///
    /// # Errors
    /// Every line that is not that; nothing of the file is used then.
    pub fn parse_mosquitto(text: &str) -> Result<Self, Vec<LineError>> {
        mosquitto::parse(text)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none: then all is denied.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether somebody who is gone, and of whom only user and client id are left, might still publish to a topic: false
    /// only if no address, token or certificate could make it allowed. For a will that fires late.
    pub fn might_publish(&self, principal: &Principal, topic: &TopicName) -> bool {
        let groups: Vec<&str> = self.groups_of_user(principal).collect();
        for rule in self
            .about(principal)
            .filter(|rule| rule.action != Action::Subscribe)
        {
            let held: Vec<_> = rule
                .conditions
                .iter()
                .map(|condition| condition.held(principal, &groups))
                .collect();
            if held.contains(&Some(false)) {
                continue;
            }
            let Some((filter, is_exact)) = rule.topics.fill_unknown(principal, rule.effect) else {
                continue;
            };
            let is_certain = is_exact && !held.contains(&None);
            match rule.effect {
                _ if !filter.matches(topic) => {}
                Effect::Allow => return true,
                Effect::Deny if is_certain => return false,
                Effect::Deny => {}
            }
        }
        false
    }

    /// What one client may do: the rules that speak of it, with its names filled in.
    pub fn permissions(&self, principal: &Principal) -> Permissions {
        let own_groups = principal.groups.iter().map(String::as_str);
        let groups: Vec<&str> = own_groups.chain(self.groups_of_user(principal)).collect();
        let mut permissions = Permissions::default();
        for rule in self.about(principal) {
            if rule
                .conditions
                .iter()
                .all(|condition| condition.holds(principal, &groups))
            {
                permissions.add(rule, principal);
            }
        }
        permissions
    }

    /// Groups by this file.
    fn groups_of_user(&self, principal: &Principal) -> impl Iterator<Item = &str> {
        let found = principal.user.as_ref().and_then(|user| self.groups_of.get(user));
        found.into_iter().flatten().map(String::as_str)
    }

    /// The rules that may speak of a client, in the order of the file.
    fn about(&self, principal: &Principal) -> impl Iterator<Item = &Rule> {
        let own = principal.user.as_ref().and_then(|user| self.of_user.get(user));
        let own = own.map_or(&[][..], Vec::as_slice);
        merged(own, &self.of_anybody).map(|index| &self.rules[index as usize])
    }

    fn push(&mut self, rule: Rule) {
        let index = self.rules.len() as u32;
        let user = rule.conditions.iter().find_map(|condition| match condition {
            Condition::User(user) => Some(user.clone()),
            _ => None,
        });
        match user {
            Some(user) => self.of_user.entry(user).or_default().push(index),
            None => self.of_anybody.push(index),
        }
        self.rules.push(rule);
    }
}

/// Two rising lists as one.
fn merged<'a>(mut one: &'a [u32], mut other: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
    std::iter::from_fn(move || {
        let from_one = match (one.first(), other.first()) {
            (Some(a), Some(b)) => a < b,
            (first, _) => first.is_some(),
        };
        let list = if from_one { &mut one } else { &mut other };
        let (first, rest) = list.split_first()?;
        *list = rest;
        Some(*first)
    })
}
