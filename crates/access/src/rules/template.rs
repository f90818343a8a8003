//! Topic filters with places for a client's own names: `devices/${client}/#`. A name fills a place as it is, inside one
//! level: it can neither add levels nor wildcards, nor reach the topics that begin with `$`.

use bytestring::ByteString;
use mqtt_topic::TopicFilter;

use super::Effect;
use crate::Principal;

/// A topic filter, with or without places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Template {
    Fixed(TopicFilter),
    /// Levels, each of parts.
    Places(Vec<Vec<Part>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    User,
    Client,
    CommonName,
    Claim(String),
}

/// How places are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `${user}`, `${client}`, `${cn}`, `${claim.NAME}`, `%u`, `%c`.
    Own,
    /// `%u`, `%c` alone, as mosquitto's `pattern` has them.
    Mosquitto,
    /// None: the text is the filter, as mosquitto's `topic` has it.
    Literal,
}

/// What filling in gave.
enum Filled {
    Text(String),
    /// The client has no such name.
    Missing,
    /// The name has a character that must not come into a level, or there is more than one.
    Unfit,
}

impl Template {
    pub(super) fn parse(text: &str, style: Style) -> Result<Self, String> {
        let mut levels = Vec::new();
        // A claim's name may hold a slash, as those of OpenID do: so places are found before levels.
        let mut level = Vec::new();
        for part in parts(text, style)? {
            let Part::Text(text) = part else {
                level.push(part);
                continue;
            };
            let mut pieces = text.split('/');
            level.extend(pieces.next().filter(|piece| !piece.is_empty()).map(text_part));
            for piece in pieces {
                levels.push(std::mem::take(&mut level));
                level.extend(Some(piece).filter(|piece| !piece.is_empty()).map(text_part));
            }
        }
        levels.push(level);
        let template = Self::Places(levels);
        // Any name without special characters gives a filter, or none does.
        let example = template.example();
        let filter = TopicFilter::parse(ByteString::from(example))
            .map_err(|error| format!("`{text}` is no topic filter: {error}"))?;
        if filter.as_str().starts_with("$share/") {
            return Err(format!(
                "`{text}`: write the filter behind the share's name; it holds for shares, too"
            ));
        }
        Ok(if template.has_places() {
            template
        } else {
            Self::Fixed(filter)
        })
    }

    /// The filter for one client; `None`: the rule says nothing about it.
    pub(super) fn fill(&self, principal: &Principal, effect: Effect) -> Option<TopicFilter> {
        let levels = match self {
            Self::Fixed(filter) => return Some(filter.clone()),
            Self::Places(levels) => levels,
        };
        let mut text = String::new();
        for (index, level) in levels.iter().enumerate() {
            if index > 0 {
                text.push('/');
            }
            match fill_level(level, index == 0, principal) {
                Filled::Text(level) => text.push_str(&level),
                Filled::Missing => return None,
                Filled::Unfit if effect == Effect::Allow => return None,
                // What is meant to be denied cannot be said, so everything that it could be is.
                Filled::Unfit => {
                    text.push('#');
                    break;
                }
            }
        }
        TopicFilter::parse(text.into()).ok()
    }

    /// As `fill`, for somebody who is gone: a place whose name is not known may have held any. The filter, and whether it is
    /// the very one.
    pub(super) fn fill_unknown(&self, principal: &Principal, effect: Effect) -> Option<(TopicFilter, bool)> {
        let is_known = |part: &Part| !matches!(part, Part::CommonName | Part::Claim(_));
        let levels = match self {
            Self::Places(levels) if !levels.iter().flatten().all(is_known) => levels,
            _ => return Some((self.fill(principal, effect)?, true)),
        };
        let any = |level: &Vec<Part>| match level.iter().all(is_known) {
            true => level.clone(),
            false => vec![Part::Text("+".to_owned())],
        };
        let widened = Self::Places(levels.iter().map(any).collect());
        Some((widened.fill(principal, effect)?, false))
    }

    fn has_places(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Places(levels) => levels.iter().flatten().any(|part| !matches!(part, Part::Text(_))),
        }
    }

    /// The filter with `x` in each place.
    fn example(&self) -> String {
        match self {
            Self::Fixed(filter) => filter.to_string(),
            Self::Places(levels) => {
                let level = |parts: &Vec<Part>| -> String {
                    let text = |part: &Part| match part {
                        Part::Text(text) => text.clone(),
                        _ => "x".to_owned(),
                    };
                    parts.iter().map(text).collect()
                };
                levels.iter().map(level).collect::<Vec<_>>().join("/")
            }
        }
    }
}

fn text_part(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn fill_level(level: &[Part], is_first: bool, principal: &Principal) -> Filled {
    let mut text = String::new();
    let mut is_filled = false;
    for part in level {
        let value = match part {
            Part::Text(part) => {
                text.push_str(part);
                continue;
            }
            Part::User => principal.user.as_deref(),
            Part::Client => Some(principal.client_id.as_str()),
            Part::CommonName => match principal
                .certificate
                .as_ref()
                .map(|shown| shown.common_names.as_slice())
            {
                Some([name]) => Some(name.as_str()),
                Some([_, _, ..]) => return Filled::Unfit,
                Some([]) | None => None,
            },
            Part::Claim(name) => match principal.claims.get(name).map(Vec::as_slice) {
                Some([value]) => Some(value.as_str()),
                // It is not clear which one is meant.
                Some([_, _, ..]) => return Filled::Unfit,
                Some([]) | None => None,
            },
        };
        match value {
            None => return Filled::Missing,
            Some(value) if value.is_empty() || value.contains(['/', '+', '#', '\0']) => return Filled::Unfit,
            Some(value) => text.push_str(value),
        }
        is_filled = true;
    }
    if is_first && is_filled && text.starts_with('$') && !starts_with_dollar(level) {
        return Filled::Unfit;
    }
    Filled::Text(text)
}

/// Whether the rule itself says `$`.
fn starts_with_dollar(level: &[Part]) -> bool {
    matches!(level.first(), Some(Part::Text(text)) if text.starts_with('$'))
}

fn parts(text: &str, style: Style) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let found = match style {
            Style::Literal => None,
            Style::Mosquitto => percent(rest),
            Style::Own => match percent(rest) {
                Some(found) => Some(found),
                None => braced(rest)?,
            },
        };
        let Some((part, len)) = found else {
            plain.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(part);
        rest = &rest[len..];
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// A place at the beginning of the text, and its length.
fn percent(text: &str) -> Option<(Part, usize)> {
    match text.as_bytes() {
        [b'%', b'u', ..] => Some((Part::User, 2)),
        [b'%', b'c', ..] => Some((Part::Client, 2)),
        _ => None,
    }
}

fn braced(text: &str) -> Result<Option<(Part, usize)>, String> {
    let Some(rest) = text.strip_prefix("${") else {
        return Ok(None);
    };
    let (name, _) = rest
        .split_once('}')
        .ok_or_else(|| format!("`{text}` has no closing brace"))?;
    let part = match (name, name.strip_prefix("claim.")) {
        ("user", _) => Part::User,
        ("client", _) => Part::Client,
        ("cn", _) => Part::CommonName,
        (_, Some(claim)) if !claim.is_empty() => Part::Claim(claim.to_owned()),
        _ => {
            return Err(format!(
                "`${{{name}}}` is unknown; there are ${{user}}, ${{client}}, ${{cn}} and ${{claim.NAME}}"
            ));
        }
    };
    Ok(Some((part, name.len() + 3)))
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::Certificate;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn filled(text: &str, principal: &Principal, effect: Effect) -> Option<String> {
        let template = Template::parse(text, Style::Own).unwrap();
        template.fill(principal, effect).map(|filter| filter.to_string())
    }

    #[test]
    fn names_are_put_into_their_places() {
        let mut anna = Principal::named("anna", "c-1", HOME);
        anna.certificate = Some(Certificate::told_by_proxy("device").into());
        anna.claims.insert("site".to_owned(), vec!["7".to_owned()]);
        anna.claims.insert("https://x/y".to_owned(), vec!["z".to_owned()]);
        for (text, expected) in [
            ("%u/%c/#", "anna/c-1/#"),
            ("a/${user}", "a/anna"),
            ("${client}-${user}/+", "c-1-anna/+"),
            ("${cn}/${claim.site}//", "device/7//"),
            ("a/${claim.https://x/y}/b", "a/z/b"),
            ("/%d/$", "/%d/$"),
        ] {
            assert_eq!(
                filled(text, &anna, Effect::Allow).as_deref(),
                Some(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_with_special_characters_allows_nothing_and_denies_what_it_could_mean() {
        for user in ["a/b", "+", "#", "a+", "", "\0", "/"] {
            let user = Principal::named(user, "c", HOME);
            assert_eq!(filled("x/%u/y", &user, Effect::Allow), None, "{user:?}");
            assert_eq!(
                filled("x/%u/y", &user, Effect::Deny).as_deref(),
                Some("x/#"),
                "{user:?}"
            );
        }
    }

    #[test]
    fn a_name_does_not_reach_dollar_topics() {
        let user = Principal::named("$SYS", "SYS", HOME);
        assert_eq!(filled("%u/#", &user, Effect::Allow), None);
        assert_eq!(filled("%u/#", &user, Effect::Deny).as_deref(), Some("#"));
        assert_eq!(filled("a/%u", &user, Effect::Allow).as_deref(), Some("a/$SYS"));
        assert_eq!(
            filled("$%c/#", &user, Effect::Allow).as_deref(),
            Some("$SYS/#"),
            "the rule says so"
        );
    }

    #[test]
    fn a_rule_about_a_name_that_is_missing_says_nothing() {
        let nobody = Principal::anonymous("c", HOME);
        for text in ["%u/#", "${cn}", "a/${claim.site}"] {
            assert_eq!(filled(text, &nobody, Effect::Allow), None, "{text}");
            assert_eq!(filled(text, &nobody, Effect::Deny), None, "{text}");
        }
    }

    #[test]
    fn a_claim_with_several_values_allows_nothing_and_denies_what_it_could_mean() {
        let mut many = Principal::named("u", "c", HOME);
        many.claims
            .insert("site".to_owned(), vec!["1".to_owned(), "2".to_owned()]);
        assert_eq!(filled("a/${claim.site}/b", &many, Effect::Allow), None);
        assert_eq!(
            filled("a/${claim.site}/b", &many, Effect::Deny).as_deref(),
            Some("a/#")
        );
    }

    #[test]
    fn a_value_that_looks_like_a_place_is_not_one() {
        let user = Principal::named("%c", "${user}", HOME);
        assert_eq!(
            filled("%u/%c", &user, Effect::Allow).as_deref(),
            Some("%c/${user}")
        );
    }

    #[test]
    fn templates_that_are_no_filters_are_refused() {
        for text in [
            "",
            "a/#/b",
            "a#",
            "${user",
            "${nobody}",
            "${claim.}",
            "%u#",
            "+%c",
            "$share/g/a",
        ] {
            assert!(Template::parse(text, Style::Own).is_err(), "{text}");
        }
        assert!(Template::parse("a/${user}", Style::Mosquitto).is_ok_and(|template| !template.has_places()));
        assert!(Template::parse("a/%u", Style::Literal).is_ok_and(|template| !template.has_places()));
    }
}
