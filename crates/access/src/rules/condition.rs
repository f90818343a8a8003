//! Whom a rule speaks of.

use crate::{Cidr, Principal};

/// Something about a client that has to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// It is this user.
    User(String),
    /// It is some user.
    AnyUser,
    /// It has no user name.
    Anonymous,
    Client(String),
    Tenant(String),
    /// By the rules file or by its token.
    Group(String),
    Address(Cidr),
    Claim {
        name: String,
        value: String,
    },
    CommonName(String),
    Dns(String),
    Email(String),
    Uri(String),
    Fingerprint(String),
}

impl Condition {
    pub(super) fn holds(&self, principal: &Principal, groups: &[&str]) -> bool {
        let certificate = principal.certificate.as_ref();
        let list =
            |names: Option<&Vec<String>>, name: &String| names.is_some_and(|names| names.contains(name));
        match self {
            Self::User(user) => principal.user.as_ref() == Some(user),
            Self::AnyUser => principal.user.is_some(),
            Self::Anonymous => principal.user.is_none(),
            Self::Client(client_id) => principal.client_id == *client_id,
            Self::Tenant(tenant) => principal.tenant.as_ref() == Some(tenant),
            Self::Group(group) => groups.contains(&group.as_str()),
            Self::Address(block) => block.contains(principal.address),
            Self::Claim { name, value } => list(principal.claims.get(name), value),
            Self::CommonName(name) => list(certificate.map(|found| &found.common_names), name),
            Self::Dns(name) => list(certificate.map(|found| &found.dns_names), name),
            Self::Email(name) => list(certificate.map(|found| &found.emails), name),
            Self::Uri(name) => list(certificate.map(|found| &found.uris), name),
            Self::Fingerprint(name) => {
                certificate.is_some_and(|found| found.fingerprint.as_ref() == Some(name))
            }
        }
    }

    /// As `holds`, of somebody who is gone: only user, tenant and client id are known. `None`: it may or may not have held.
    pub(super) fn held(&self, principal: &Principal, groups: &[&str]) -> Option<bool> {
        match self {
            Self::User(_) | Self::AnyUser | Self::Anonymous | Self::Client(_) | Self::Tenant(_) => {
                Some(self.holds(principal, groups))
            }
            // Whoever has a token has a name.
            Self::Group(_) | Self::Claim { .. } if principal.user.is_none() => Some(false),
            // A token may have named more.
            Self::Group(_) => Some(true).filter(|_| self.holds(principal, groups)),
            _ => None,
        }
    }

    /// Reads `key=value`, or `anonymous`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "anonymous" {
            return Ok(Self::Anonymous);
        }
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is no condition: write `key=value`, or `anonymous`"))?;
        if value.is_empty() {
            return Err(format!("`{key}=` has no value"));
        }
        let value = value.to_owned();
        if let Some(name) = key.strip_prefix("claim.").filter(|name| !name.is_empty()) {
            let name = name.to_owned();
            return Ok(Self::Claim { name, value });
        }
        Ok(match key {
            "user" if value == "*" => Self::AnyUser,
            "user" => Self::User(value),
            "client" => Self::Client(value),
            "tenant" => Self::Tenant(value),
            "group" => Self::Group(value),
            "address" => Self::Address(
                value
                    .parse()
                    .map_err(|error: crate::CidrError| error.to_string())?,
            ),
            "cn" => Self::CommonName(value),
            "dns" => Self::Dns(value),
            "email" => Self::Email(value),
            "uri" => Self::Uri(value),
            "fingerprint" => Self::Fingerprint(value.to_ascii_lowercase().replace(':', "")),
            _ => {
                return Err(format!(
                    "`{key}` is no condition; there are user, client, tenant, group, address, claim.NAME, cn, dns, email, uri, \
                     fingerprint and the word anonymous"
                ));
            }
        })
    }
}
