//! mosquitto's `acl_file` as mosquitto 2.0 reads it (mosquitto.conf(5)): a client is judged by the lines of its user name,
//! or by those before the first `user` when it has none, then by the patterns; in both, what is denied comes first.
//!
//! One thing is stricter here: mosquitto accepts any SUBSCRIBE and looks at each message it would deliver; here the filter
//! of a SUBSCRIBE has to lie inside what may be read.

use super::condition::Condition;
use super::template::{Style, Template};
use super::{Action, Effect, RULES_MAX, Rule, Rules};
use crate::LineError;

/// Where a line belongs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Anonymous,
    User(String),
    Pattern,
}

pub(super) fn parse(text: &str) -> Result<Rules, Vec<LineError>> {
    let mut errors = Vec::new();
    let mut found: Vec<(Owner, Rule)> = Vec::new();
    let mut owner = Owner::Anonymous;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        let read = match (word, rest) {
            (_, "") => Err(format!("`{word}` is followed by nothing")),
            ("user", name) => {
                owner = Owner::User(name.to_owned());
                Ok(())
            }
            ("topic", rest) => {
                read_rule(index + 1, rest, Style::Literal, owner.clone()).map(|rule| found.push(rule))
            }
            ("pattern", rest) => {
                read_rule(index + 1, rest, Style::Mosquitto, Owner::Pattern).map(|rule| found.push(rule))
            }
            _ => Err(format!("`{word}`: a line begins with user, topic or pattern")),
        };
        if let Err(message) = read {
            errors.push(LineError::new(index + 1, message));
        }
    }
    if found.len() > RULES_MAX {
        errors.push(LineError::new(1, format!("more than {RULES_MAX} rules")));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    // Patterns are last among owners; the sort keeps the order of the file otherwise.
    found.sort_by_key(|(owner, rule)| (*owner == Owner::Pattern, rule.effect != Effect::Deny));
    let mut rules = Rules::default();
    for (_, rule) in found {
        rules.push(rule);
    }
    Ok(rules)
}

fn read_rule(line: usize, text: &str, style: Style, owner: Owner) -> Result<(Owner, Rule), String> {
    let (effect, action, topic) = match text.split_once([' ', '\t']) {
        None => (Effect::Allow, Action::Both, text),
        Some((access, topic)) => {
            let (effect, action) = match access {
                "read" => (Effect::Allow, Action::Subscribe),
                "write" => (Effect::Allow, Action::Publish),
                "readwrite" => (Effect::Allow, Action::Both),
                "deny" => (Effect::Deny, Action::Both),
                _ => return Err(format!("`{access}` is not read, write, readwrite or deny")),
            };
            (effect, action, topic.trim())
        }
    };
    let conditions = match &owner {
        Owner::Anonymous => vec![Condition::Anonymous],
        Owner::User(name) => vec![Condition::User(name.clone())],
        Owner::Pattern => Vec::new(),
    };
    let rule = Rule {
        line: line as u32,
        effect,
        action,
        topics: Template::parse(topic, style)?,
        conditions,
    };
    Ok((owner, rule))
}
