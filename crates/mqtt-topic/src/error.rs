//! Why a string is not a topic name, a topic filter or a share name.

use std::fmt;

/// What is wrong with it (MQTT 5.0 sections 4.7 and 4.8.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TopicError {
    /// It has no characters. [MQTT-4.7.3-1]
    Empty,
    /// It is longer than 65,535 bytes. [MQTT-4.7.3-3]
    TooLong,
    /// A topic name has `+` or `#`. [MQTT-3.3.2-2]
    WildcardInName,
    /// It has U+0000. [MQTT-4.7.3-2]
    NulCharacter,
    /// `#` is not the last level, or a wildcard shares its level. [MQTT-4.7.1-1] [MQTT-4.7.1-2]
    MisplacedWildcard,
    /// The share name is empty or has a wildcard, or no filter follows it. [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    BadShareName,
    /// The name of a topic space is not one level of a topic.
    BadSpaceName,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TopicError::Empty => "it is empty",
            TopicError::TooLong => "it is longer than 65,535 bytes",
            TopicError::WildcardInName => "a topic name must not have wildcards",
            TopicError::NulCharacter => "it has a NUL character",
            TopicError::MisplacedWildcard => {
                "a wildcard is not a level of its own, or # is not the last level"
            }
            TopicError::BadSpaceName => {
                "it is not one level of a topic, without $ in front, wildcards and control characters, of 64 bytes at the most"
            }
            TopicError::BadShareName => "$share/ wants a name without wildcards, a slash and a filter",
        })
    }
}

impl std::error::Error for TopicError {}
