//! Binding client ids to user names, so that nobody takes over somebody else's session.

/// Which client ids a user may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientIdRule {
    /// Any.
    #[default]
    Any,
    /// The user name itself.
    User,
    /// The user name, or the user name with a `-`, `:` or `.` and more behind it; unless it begins like that with a longer
    /// name of somebody who is known.
    UserPrefix,
}

/// What may follow a user name in a client id.
const SEPARATORS: [char; 3] = ['-', ':', '.'];

impl ClientIdRule {
    /// Whether a user may have this client id; `is_known` says which other users there are. Somebody without a name has no id
    /// to call their own.
    pub fn permits(self, user: Option<&str>, client_id: &str, is_known: impl Fn(&str) -> bool) -> bool {
        match (self, user) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::User, Some(user)) => user == client_id,
            (Self::UserPrefix, Some(user)) => {
                let mut names = names_in(client_id);
                !user.is_empty()
                    && names.any(|name| name == user)
                    // `dev-7` is that user's, though `dev` has all other ids with `dev-`.
                    && !names.any(is_known)
            }
        }
    }
}

/// Whose a client id may be, the shortest name first.
fn names_in(client_id: &str) -> impl Iterator<Item = &str> {
    let ends = client_id.match_indices(SEPARATORS).map(|(at, _)| at);
    ends.chain([client_id.len()]).map(|end| &client_id[..end])
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
            (ClientIdRule::UserPrefix, Some("a.b"), "a.b:1", true),
            (ClientIdRule::UserPrefix, Some(""), "-1", false),
            (ClientIdRule::UserPrefix, Some(""), "", false),
            (ClientIdRule::UserPrefix, None, "", false),
        ] {
            assert_eq!(
                rule.permits(user, client_id, |_| false),
                expected,
                "{rule:?} {user:?} {client_id}"
            );
        }
    }

    #[test]
    fn a_client_id_that_begins_with_two_known_names_belongs_to_the_longer_one() {
        let users = ["dev", "dev-7", "dev-7:x", "device"];
        for (user, client_id, expected) in [
            ("dev", "dev", true),
            ("dev", "dev-1", true),
            ("dev", "dev-70", true),
            ("dev", "dev-7", false),
            ("dev", "dev-7.a", false),
            ("dev-7", "dev-7", true),
            ("dev-7", "dev-7.a", true),
            ("dev-7", "dev-7:x", false),
            ("dev-7", "dev-7:x-y", false),
            ("dev-7:x", "dev-7:x-y", true),
            ("dev", "device", false),
        ] {
            let permits =
                ClientIdRule::UserPrefix.permits(Some(user), client_id, |name| users.contains(&name));
            assert_eq!(permits, expected, "{user} {client_id}");
        }
    }
}
