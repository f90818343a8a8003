//! Topic spaces: whoever lives in one sees its topics without its name, and nobody else's; everybody else sees them with the
//! name in front.

use bytestring::ByteString;

use crate::{SubscriptionFilter, TopicError, TopicFilter, TopicName};

/// Longest name of a space, in bytes.
pub const SPACE_NAME_BYTES_MAX: usize = 64;

/// The topics whose first level is one name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TopicSpace {
    /// The name, and a slash behind it.
    prefix: ByteString,
}

impl TopicSpace {
    /// A space of this name: one level of a topic, without wildcards, control characters or a `$` in front.
    ///
    /// # Errors
    /// The name is not that, or longer than 64 bytes.
    pub fn new(name: &str) -> Result<Self, TopicError> {
        let is_level = !name.is_empty()
            && name.len() <= SPACE_NAME_BYTES_MAX
            && !name.starts_with('$')
            && !name.contains(['/', '+', '#'])
            && !name.contains(char::is_control);
        match is_level {
            true => Ok(Self {
                prefix: format!("{name}/").into(),
            }),
            false => Err(TopicError::BadSpaceName),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.prefix[..self.prefix.len() - 1]
    }

    /// A text of this space as everybody else sees it.
    pub fn enter_text(&self, text: &str) -> String {
        format!("{}{text}", self.prefix)
    }

    /// A text as it is seen in this space; `None`: it is of another one.
    pub fn leave_text<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.strip_prefix(&*self.prefix)
    }

    /// A topic of this space as everybody else sees it.
    ///
    /// # Errors
    /// It is too long with the name of the space in front.
    pub fn enter(&self, topic: &TopicName) -> Result<TopicName, TopicError> {
        TopicName::parse(self.enter_text(topic.as_str()).into())
    }

    /// A topic as it is seen in this space. `None`: it is of another one, or begins with `$` here: those are the server's own,
    /// and the server publishes into no space.
    pub fn leave(&self, topic: &TopicName) -> Option<TopicName> {
        let rest = self.leave_text(topic.as_str())?;
        let is_seen = !rest.is_empty() && !rest.starts_with('$');
        is_seen.then(|| TopicName::part_of(topic, rest))
    }

    /// A filter of this space as everybody else sees it. Of a shared subscription it is the filter behind the share's name, so
    /// that groups of the same name are apart, too.
    ///
    /// # Errors
    /// It is too long with the name of the space in front.
    pub fn enter_filter(&self, filter: &SubscriptionFilter) -> Result<SubscriptionFilter, TopicError> {
        let entered = TopicFilter::parse(self.enter_text(filter.filter().as_str()).into())?;
        Ok(match filter {
            SubscriptionFilter::Plain(_) => SubscriptionFilter::Plain(entered),
            SubscriptionFilter::Shared { share, .. } => SubscriptionFilter::Shared {
                share: share.clone(),
                filter: entered,
            },
        })
    }

    /// A plain filter, or that of a share, as it is seen in this space; `None`: it is of another one.
    pub fn leave_filter(&self, filter: &TopicFilter) -> Option<TopicFilter> {
        let rest = self.leave_text(filter.as_str())?;
        TopicFilter::parse(rest.into()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> TopicName {
        TopicName::parse(text.into()).unwrap()
    }

    #[test]
    fn a_name_is_one_level_that_no_wildcard_and_no_server_topic_is() {
        for good in ["acme", "a", "Ä", "a.b", "a b", "a$", &"x".repeat(64)] {
            assert_eq!(TopicSpace::new(good).unwrap().name(), good);
        }
        let long = "x".repeat(65);
        for bad in [
            "", "/", "a/b", "a/", "+", "a+", "#", "a#b", "\0", "a\0b", "$", "$SYS", "$share", "a\nb", &long,
        ] {
            assert_eq!(TopicSpace::new(bad), Err(TopicError::BadSpaceName), "{bad:?}");
        }
    }

    #[test]
    fn names_get_a_first_level_and_lose_it() {
        let space = TopicSpace::new("acme").unwrap();
        for name in ["a", "/", "/a", "a/", "acme", "acme/b"] {
            let outside = space.enter(&topic(name)).unwrap();
            assert_eq!(outside.as_str(), format!("acme/{name}"));
            assert_eq!(space.leave(&outside), Some(topic(name)));
        }
        for foreign in ["acme", "acme/", "acmex/a", "x/acme/a", "a", "acme/$SYS/x"] {
            assert_eq!(space.leave(&topic(foreign)), None, "{foreign}");
        }
        assert!(space.enter(&topic(&"x".repeat(65_531))).is_err());
    }

    #[test]
    fn a_share_keeps_its_name_in_front() {
        let space = TopicSpace::new("acme").unwrap();
        for (inside, outside) in [
            ("$share/g/a/+", "$share/g/acme/a/+"),
            ("#", "acme/#"),
            ("+/a", "acme/+/a"),
            ("/", "acme//"),
            ("$SYS/#", "acme/$SYS/#"),
        ] {
            let filter = SubscriptionFilter::parse(inside.into()).unwrap();
            let entered = space.enter_filter(&filter).unwrap();
            assert_eq!(entered.to_string(), outside);
            assert_eq!(
                entered,
                SubscriptionFilter::parse(outside.into()).unwrap(),
                "it is stored as text"
            );
            assert_eq!(
                space.leave_filter(entered.filter()).as_ref(),
                Some(filter.filter())
            );
        }
    }
}
