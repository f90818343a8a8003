//! The text of a rules file.

use super::condition::Condition;
use super::template::{Style, Template};
use super::{Action, Effect, RULES_MAX, Rule, Rules};
use crate::LineError;

pub(super) fn parse(text: &str) -> Result<Rules, Vec<LineError>> {
    let mut rules = Rules::default();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Err(message) = words(line).and_then(|words| read_line(index + 1, &words, &mut rules)) {
            errors.push(LineError::new(index + 1, message));
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

fn read_line(line: usize, words: &[String], rules: &mut Rules) -> Result<(), String> {
    match words {
        [first, group, members @ ..] if first == "group" => {
            if members.is_empty() {
                return Err("a group has members: write `group NAME USER USER`".to_owned());
            }
            for member in members {
                let groups = rules.groups_of.entry(member.clone()).or_default();
                groups.push(group.clone());
            }
            Ok(())
        }
        [effect, action, topics, conditions @ ..] => {
            if rules.len() >= RULES_MAX {
                return Err(format!("more than {RULES_MAX} rules"));
            }
            let conditions: Result<_, _> = conditions.iter().map(|text| Condition::parse(text)).collect();
            rules.push(Rule {
                line: line as u32,
                effect: read_effect(effect)?,
                action: read_action(action)?,
                topics: Template::parse(topics, Style::Own)?,
                conditions: conditions?,
            });
            Ok(())
        }
        _ => Err("write `allow publish TOPIC CONDITION...`".to_owned()),
    }
}

fn read_effect(word: &str) -> Result<Effect, String> {
    match word {
        "allow" => Ok(Effect::Allow),
        "deny" => Ok(Effect::Deny),
        _ => Err(format!("`{word}`: a line begins with allow, deny or group")),
    }
}

fn read_action(word: &str) -> Result<Action, String> {
    match word {
        "publish" => Ok(Action::Publish),
        "subscribe" => Ok(Action::Subscribe),
        "all" => Ok(Action::Both),
        _ => Err(format!(
            "`{word}`: what is allowed or denied is publish, subscribe or all"
        )),
    }
}

/// Words between spaces; inside double quotes a space belongs to the word.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for character in line.chars() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' | '\t' if !is_quoted => words.extend(word.take()),
            character => word.get_or_insert_default().push(character),
        }
    }
    if is_quoted {
        return Err("a double quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_line_is_named_with_what_would_be_right() {
        let text = "\
# comment
allow publish a/#
permit publish a
allow send a
allow publish a#
allow publish
allow all a/b color=red
allow all a/b address=10.0.0.0/99
group ops
allow all \"a b
allow all a user=
allow all a claim.=x
  deny subscribe \"a b/#\" user=\"anna b\" anonymous
";
        let errors = parse(text).unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12], "{errors:#?}");
        assert!(
            errors[4].message.contains("there are user, client"),
            "{errors:#?}"
        );
    }

    #[test]
    fn words_keep_quoted_spaces() {
        assert_eq!(
            words("a \"b c\"  d=\"e f\" \"\"").unwrap(),
            ["a", "b c", "d=e f", ""]
        );
    }
}
