//! Topic names: what messages are published to (MQTT 5.0 section 4.7).

use std::fmt;

use bytestring::ByteString;

use crate::TopicError;

/// A valid topic name of 1 to 65,535 bytes, without wildcards.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicName(ByteString);

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// It is empty, too long, or has a wildcard or U+0000.
    pub fn parse(name: ByteString) -> Result<Self, TopicError> {
        if name.is_empty() {
            return Err(TopicError::Empty);
        }
        if name.len() > 65_535 {
            return Err(TopicError::TooLong);
        }
        // Without an early end the compiler looks at many bytes at once.
        let suspicious = name
            .as_bytes()
            .iter()
            .fold(false, |found, byte| found | matches!(byte, b'+' | b'#' | 0));
        if suspicious {
            return Err(first_fault(&name));
        }
        Ok(Self(name))
    }

    /// The zero-length topic of a PUBLISH that has an alias. Not a valid name: the alias is resolved before anything
    /// is matched with it. [MQTT-3.3.2-8]
    #[doc(hidden)]
    pub fn empty() -> Self {
        Self(ByteString::new())
    }

    /// A part of a name that is a name, too: it shares its bytes.
    pub(crate) fn part_of(name: &Self, part: &str) -> Self {
        Self(name.0.slice_ref(part))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, to be shared without a copy.
    pub fn as_bytes_string(&self) -> &ByteString {
        &self.0
    }

    /// The same name in memory of its own: for who keeps it longer than the buffer that it was read into.
    pub fn compact(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }

    /// How many levels it has, empty ones included.
    pub fn levels(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'/').count() + 1
    }

    /// Whether it begins with `$`: such topics are the server's, and leading wildcards do not match them.
    pub fn is_dollar(&self) -> bool {
        self.0.starts_with('$')
    }
}

#[cold]
fn first_fault(name: &str) -> TopicError {
    match name.bytes().find(|byte| matches!(byte, b'+' | b'#' | 0)) {
        Some(0) => TopicError::NulCharacter,
        _ => TopicError::WildcardInName,
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mqtt_4_7_3_and_3_3_2_2_names_are_checked_once_at_the_edge() {
        let long = "x".repeat(65_536);
        for (name, expected) in [
            (&long[1..], None),
            ("a", None),
            ("/", None),
            ("a//b", None),
            ("a b/ü", None),
            ("$SYS/x", None),
            ("", Some(TopicError::Empty)),
            ("a/+/b", Some(TopicError::WildcardInName)),
            ("a/#", Some(TopicError::WildcardInName)),
            ("a+", Some(TopicError::WildcardInName)),
            ("a\0b", Some(TopicError::NulCharacter)),
            (long.as_str(), Some(TopicError::TooLong)),
        ] {
            assert_eq!(TopicName::parse(name.into()).err(), expected, "{name:.20}");
        }
    }

    #[test]
    fn empty_levels_count() {
        assert_eq!(TopicName::parse("/a/".into()).unwrap().levels(), 3);
    }
}
