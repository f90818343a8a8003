//! Binding client ids to user names, so that nobody takes over somebody else's session.

/// Which client ids a user may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientIdRule {
    /// Any.
    #[default]
    Any,
    /// The user name itself.
    User,
    /// The user name, or the user name with a `-`, `:` or `.` and more behind it.
    UserPrefix,
}

impl ClientIdRule {
    /// Whether a user may have this client id. Somebody without a name has no id to call their own.
    pub fn permits(self, user: Option<&str>, client_id: &str) -> bool {
        match (self, user) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::User, Some(user)) => user == client_id,
            (Self::UserPrefix, Some(user)) => client_id.strip_prefix(user).is_some_and(|rest| {
                rest.is_empty() || (!user.is_empty() && rest.starts_with(['-', ':', '.']))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_belongs_to_the_user_whose_name_it_begins_with() {
        for (rule, user, client_id, expected) in [
            (ClientIdRule::Any, None, "x", true),
            (ClientIdRule::User, Some("anna"), "anna", true),
            (ClientIdRule::User, Some("anna"), "anna-1", false),
            (ClientIdRule::User, None, "anna", false),
            (ClientIdRule::UserPrefix, Some("anna"), "anna", true),
            (ClientIdRule::UserPrefix, Some("anna"), "anna-1", true),
            (ClientIdRule::UserPrefix, Some("anna"), "annabel", false),
            (ClientIdRule::UserPrefix, Some("anna"), "bob-1", false),
            (ClientIdRule::UserPrefix, Some(""), "-1", false),
            (ClientIdRule::UserPrefix, None, "", false),
        ] {
            assert_eq!(
                rule.permits(user, client_id),
                expected,
                "{rule:?} {user:?} {client_id}"
            );
        }
    }
}
