//! Shared subscriptions by name: `$share/{name}/{filter}` (MQTT 5.0 section 4.8.2).

use std::fmt;

use bytestring::ByteString;

use crate::{TopicError, TopicFilter};

const PREFIX: &str = "$share/";

/// The name of a group: at least one character, no `/`, `+` or `#`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShareName(ByteString);

impl ShareName {
    /// Checks a share name. [MQTT-4.8.2-1]
    ///
    /// # Errors
    /// It is empty or has a character it must not have.
    pub fn parse(name: ByteString) -> Result<Self, TopicError> {
        if name.is_empty() || name.contains(['/', '+', '#', '\0']) {
            return Err(TopicError::BadShareName);
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What stands in a SUBSCRIBE: a filter, for this client alone or for a group.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum SubscriptionFilter {
    /// Every matching message.
    Plain(TopicFilter),
    /// Each matching message goes to one member of the group.
    Shared {
        /// The group.
        share: ShareName,
        /// What it subscribes to.
        filter: TopicFilter,
    },
}

impl SubscriptionFilter {
    /// Checks either form.
    ///
    /// # Errors
    /// The filter is not valid, or `$share/` is not followed by a name and a filter. [MQTT-4.8.2-2]
    pub fn parse(text: ByteString) -> Result<Self, TopicError> {
        let Some(rest) = text.strip_prefix(PREFIX) else {
            if *text == *"$share" {
                return Err(TopicError::BadShareName);
            }
            return TopicFilter::parse(text).map(Self::Plain);
        };
        let (share, filter) = rest.split_once('/').ok_or(TopicError::BadShareName)?;
        if filter.is_empty() {
            return Err(TopicError::BadShareName);
        }
        let share = ShareName::parse(text.slice_ref(share))?;
        Ok(Self::Shared {
            share,
            filter: TopicFilter::parse(text.slice_ref(filter))?,
        })
    }

    /// What topics are matched with.
    pub fn filter(&self) -> &TopicFilter {
        match self {
            Self::Plain(filter) | Self::Shared { filter, .. } => filter,
        }
    }

    /// The group, if there is one.
    pub fn share(&self) -> Option<&ShareName> {
        match self {
            Self::Plain(_) => None,
            Self::Shared { share, .. } => Some(share),
        }
    }
}

impl fmt::Display for SubscriptionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(filter) => write!(f, "{filter}"),
            Self::Shared { share, filter } => write!(f, "{PREFIX}{}/{filter}", share.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mqtt_4_8_2_share_names_and_their_filters() {
        let shared = SubscriptionFilter::parse("$share/consumers/sport/+".into()).unwrap();
        assert_eq!(shared.share().unwrap().as_str(), "consumers");
        assert_eq!(shared.filter().as_str(), "sport/+");
        assert_eq!(shared.to_string(), "$share/consumers/sport/+");
        for invalid in [
            "$share",
            "$share/",
            "$share//a",
            "$share/g",
            "$share/g/",
            "$share/+/a",
            "$share/g#/a",
        ] {
            assert_eq!(
                SubscriptionFilter::parse(invalid.into()),
                Err(TopicError::BadShareName),
                "{invalid}"
            );
        }
        assert_eq!(
            SubscriptionFilter::parse("$share/g/a#".into()),
            Err(TopicError::MisplacedWildcard)
        );
        assert!(
            SubscriptionFilter::parse("$shared/g".into())
                .unwrap()
                .share()
                .is_none()
        );
    }
}
