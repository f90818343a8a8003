//! Topic filters: what clients subscribe to (MQTT 5.0 section 4.7).

use std::fmt;

use bytestring::ByteString;

use crate::{TopicError, TopicName};

/// A valid topic filter of 1 to 65,535 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicFilter(ByteString);

impl TopicFilter {
    /// Checks a filter.
    ///
    /// # Errors
    /// It is empty, too long, has U+0000, or a wildcard that is not a level of its own or a `#` that is not the last.
    pub fn parse(filter: ByteString) -> Result<Self, TopicError> {
        if filter.is_empty() {
            return Err(TopicError::Empty);
        }
        if filter.len() > 65_535 {
            return Err(TopicError::TooLong);
        }
        if filter.as_bytes().contains(&0) {
            return Err(TopicError::NulCharacter);
        }
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let misplaced = match level {
                "#" => levels.peek().is_some(),
                "+" => false,
                _ => level.contains(['+', '#']),
            };
            if misplaced {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(Self(filter))
    }

    /// The filter.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many levels it has, empty ones and wildcards included.
    pub fn levels(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'/').count() + 1
    }

    /// Whether `+` or `#` is among its levels.
    pub fn has_wildcards(&self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// Whether it matches a topic, level by level. Leading wildcards do not match `$` topics. [MQTT-4.7.2-1]
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.is_dollar() && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.as_str().split('/');
        for expected in self.0.split('/') {
            match (expected, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (expected, Some(level)) if expected == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Whether every topic that `other` matches is matched by this one too.
    pub fn covers(&self, other: &TopicFilter) -> bool {
        if other.0.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        // Every topic has a first level, so the two mean the same.
        if &*other.0 == "#" && &*self.0 == "+/#" {
            return true;
        }
        let mut narrow = other.0.split('/');
        for wide in self.0.split('/') {
            match (wide, narrow.next()) {
                ("#", _) => return true,
                (_, Some("#")) => return false,
                ("+", Some(_)) => {}
                (wide, Some(level)) if wide == level => {}
                _ => return false,
            }
        }
        // `a/#` also matches `a`, which has nothing left: `a` itself does not cover it.
        narrow.next().is_none()
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text.into()).unwrap()
    }

    #[test]
    fn mqtt_4_7_1_wildcards_have_a_level_of_their_own() {
        for valid in ["#", "+", "a/#", "+/a/+", "/", "//", "a//+", "+/#", "$SYS/#"] {
            assert!(TopicFilter::parse(valid.into()).is_ok(), "{valid}");
        }
        for invalid in ["a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "##", "++"] {
            assert_eq!(
                TopicFilter::parse(invalid.into()),
                Err(TopicError::MisplacedWildcard),
                "{invalid}"
            );
        }
    }

    #[test]
    fn mqtt_4_7_3_filters_have_1_to_65_535_bytes_and_no_nul() {
        assert_eq!(TopicFilter::parse("".into()), Err(TopicError::Empty));
        assert_eq!(TopicFilter::parse("a\0".into()), Err(TopicError::NulCharacter));
        assert!(TopicFilter::parse("x".repeat(65_535).into()).is_ok());
        assert_eq!(
            TopicFilter::parse("x".repeat(65_536).into()),
            Err(TopicError::TooLong)
        );
    }

    #[test]
    fn mqtt_4_7_1_and_4_7_2_1_the_examples_of_the_standard_match() {
        for (text, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/a", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
        ] {
            let topic = TopicName::parse(topic.into()).unwrap();
            assert_eq!(filter(text).matches(&topic), expected, "{text} on {topic}");
        }
    }

    #[test]
    fn covering_is_a_subset_test() {
        for (wide, narrow, expected) in [
            ("#", "a/b", true),
            ("#", "+/#", true),
            ("+/#", "#", true),
            ("+/+/#", "#", false),
            ("+", "$SYS", false),
            ("$SYS/#", "$SYS/+", true),
            ("a/#", "a/#", true),
            ("a/+/#", "a/#", false),
            ("#", "$SYS/#", false),
            ("a/+", "a/b", true),
            ("a/+", "a/#", false),
            ("a/#", "a", true),
            ("a", "a/#", false),
            ("+/b", "a/b", true),
            ("a/b", "+/b", false),
            ("a/+/#", "a/b", true),
        ] {
            assert_eq!(
                filter(wide).covers(&filter(narrow)),
                expected,
                "{wide} covers {narrow}"
            );
        }
    }

    fn filters_of_two_letters() -> Vec<TopicFilter> {
        let mut paths = vec![String::new()];
        let mut filters = vec![filter("#")];
        for depth in 0..3 {
            let separator = if depth == 0 { "" } else { "/" };
            paths = paths
                .iter()
                .flat_map(|path| ["a", "$b", "+"].map(|level| format!("{path}{separator}{level}")))
                .collect();
            for path in &paths {
                filters.extend([filter(path), filter(&format!("{path}/#"))]);
            }
        }
        filters
    }

    // One letter that no filter has and one level more than any has tell every two of them apart.
    fn topics_that_tell_them_apart() -> Vec<TopicName> {
        let mut paths = vec![String::new()];
        let mut topics = Vec::new();
        for depth in 0..4 {
            let separator = if depth == 0 { "" } else { "/" };
            paths = paths
                .iter()
                .flat_map(|path| ["a", "$b", "z"].map(|level| format!("{path}{separator}{level}")))
                .collect();
            topics.extend(
                paths
                    .iter()
                    .map(|path| TopicName::parse(path.as_str().into()).unwrap()),
            );
        }
        topics
    }

    #[test]
    fn covering_agrees_with_matching_for_every_two_small_filters() {
        let topics = topics_that_tell_them_apart();
        let filters = filters_of_two_letters();
        for wide in &filters {
            for narrow in &filters {
                let expected = topics
                    .iter()
                    .all(|topic| wide.matches(topic) || !narrow.matches(topic));
                assert_eq!(wide.covers(narrow), expected, "{wide} covers {narrow}");
            }
        }
    }
}
