//! `[tenants]`: who belongs to whom, and what all clients of one tenant may use together.

use std::collections::BTreeMap;

use mqtt_topic::TopicSpace;
use serde::{Deserialize, Serialize};

use super::section::{Problem, Section};
use super::{ByteSize, CertificateName, TenantSource, WithoutTenant};

section! {
    /// Tenants: customers, sites or fleets that share a broker and do not see each other. Each has topics, sessions and client ids of
    /// its own; everybody else sees them with the tenant's name and a `/` in front. `docs/tenants.md` says what that means for
    /// rules and limits. Has to be the same on all nodes. As long as `from` is empty there are none.
    pub struct Tenants {
        /// Where the name of a client's tenant is looked for, in this order: in its certificate, among the claims of its token or
        /// of the answer of `auth.http`, in its user name. The first that is there counts. It is one level of a topic, without
        /// `+`, `#`, control characters or a `$` in front, of 64 bytes at the most: a client with another is refused with
        /// 0x87 (not authorized).
        from: Vec<TenantSource> = Vec::new();
        /// Which name in a certificate is the tenant's.
        certificate_name: CertificateName = CertificateName::Dns;
        /// The claim with the tenant's name.
        claim: String = String::from("tenant");
        /// What stands between the tenant's name and the rest of a user name, as in `acme.anna`.
        user_separator: String = String::from(".");
        /// What becomes of a client that has no tenant: `refuse` it with 0x87 (not authorized), or `allow` it, and then it sees the
        /// topics of all tenants under their full names, as far as `[access]` permits, which has to have rules then. Its client
        /// id must not have a `/`.
        without: WithoutTenant = WithoutTenant::Refuse;
        /// Connections of one tenant on one node. One more is refused with 0x97 (quota exceeded). 0: no limit.
        connections_max: u32 = 0, 0 => 10_000_000;
        /// Sessions of one tenant in the whole cluster, counted and refused as `limits.sessions_max`. 0: no limit.
        sessions_max: u32 = 0, 0 => 100_000_000;
        /// Subscriptions that the connected clients of one tenant have on one node, those that their sessions bring along among
        /// them. One more is refused with 0x97 (quota exceeded) in SUBACK; what is being stored in that moment does not count
        /// yet. 0: no limit.
        subscriptions_max: u32 = 0, 0 => 100_000_000;
        /// Messages that the clients of one tenant may publish in a second on one node. Beyond a second's worth a client is not
        /// read from until what it has sent itself is paid for, one after the other. 0: no limit.
        publish_messages_per_second_max: u32 = 0, 0 => 10_000_000;
        /// Bytes of messages of one tenant in a second on one node, in the same way. 0B: no limit.
        publish_bytes_per_second_max: ByteSize = ByteSize::from_bytes(0), ByteSize::from_bytes(0) => ByteSize::from_gib(64);
        /// Retained messages of one tenant in the whole cluster, counted and refused as `limits.retained_messages_per_user_max`,
        /// which is not for clients of tenants. 0: no limit.
        retained_messages_max: u32 = 0, 0 => 100_000_000;
        /// Bytes of retained messages of one tenant, in the same way. 0B: no limit.
        retained_bytes_max: ByteSize = ByteSize::from_bytes(0), ByteSize::from_bytes(0) => ByteSize::from_gib(1024);
        /// What is different for some tenants, by name, as `{ acme = { connections_max = 500 } }`, or below
        /// `[tenants.quotas.acme]`.
        quotas: BTreeMap<String, TenantQuotas> = BTreeMap::new();
    }
}

/// What one tenant may use, where it is not what all may.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantQuotas {
    /// As `tenants.connections_max`.
    pub connections_max: Option<u32>,
    /// As `tenants.sessions_max`.
    pub sessions_max: Option<u32>,
    /// As `tenants.subscriptions_max`.
    pub subscriptions_max: Option<u32>,
    /// As `tenants.publish_messages_per_second_max`.
    pub publish_messages_per_second_max: Option<u32>,
    /// As `tenants.publish_bytes_per_second_max`.
    pub publish_bytes_per_second_max: Option<ByteSize>,
    /// As `tenants.retained_messages_max`.
    pub retained_messages_max: Option<u32>,
    /// As `tenants.retained_bytes_max`.
    pub retained_bytes_max: Option<ByteSize>,
}

impl Tenants {
    /// Whether there are tenants.
    pub fn is_on(&self) -> bool {
        !self.from.is_empty()
    }

    /// What one tenant may use: its own quotas in the place of everybody's. None of the other keys is changed.
    pub(crate) fn of(&self, name: &str) -> Self {
        let own = self.quotas.get(name).cloned().unwrap_or_default();
        self.with(&own)
    }

    fn with(&self, own: &TenantQuotas) -> Self {
        Self {
            connections_max: own.connections_max.unwrap_or(self.connections_max),
            sessions_max: own.sessions_max.unwrap_or(self.sessions_max),
            subscriptions_max: own.subscriptions_max.unwrap_or(self.subscriptions_max),
            publish_messages_per_second_max: own
                .publish_messages_per_second_max
                .unwrap_or(self.publish_messages_per_second_max),
            publish_bytes_per_second_max: own
                .publish_bytes_per_second_max
                .unwrap_or(self.publish_bytes_per_second_max),
            retained_messages_max: own.retained_messages_max.unwrap_or(self.retained_messages_max),
            retained_bytes_max: own.retained_bytes_max.unwrap_or(self.retained_bytes_max),
            quotas: BTreeMap::new(),
            ..self.clone()
        }
    }

    pub(super) fn check(&self, path: &str, has_rules: bool, problems: &mut Vec<Problem>) {
        self.check_bounds(path, problems);
        for (name, quotas) in &self.quotas {
            let place = format!("{path}.quotas");
            if TopicSpace::new(name).is_err() {
                let message = format!("{name:?} cannot be a tenant: a name is one level of a topic");
                problems.push(Problem::new(place.clone(), message));
            }
            let mut bounds = Vec::new();
            self.with(quotas).check_bounds(name, &mut bounds);
            problems.extend(
                bounds
                    .into_iter()
                    .map(|problem| Problem::new(place.clone(), problem.to_string())),
            );
        }
        if self.user_separator.is_empty() {
            problems.push(Problem::new(
                format!("{path}.user_separator"),
                "is empty: say what ends the tenant's name, as \".\"",
            ));
        }
        if self.is_on() && self.without == WithoutTenant::Allow && !has_rules {
            let message = "clients without a tenant see the topics of all of them: say in `access.rules` who may do what";
            problems.push(Problem::new(format!("{path}.without"), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(tenants: &Tenants) -> Vec<String> {
        let mut problems = Vec::new();
        tenants.check("tenants", false, &mut problems);
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_tenants_own_quotas_come_before_those_of_all() {
        let own = TenantQuotas {
            connections_max: Some(0),
            retained_bytes_max: Some(ByteSize::from_kib(1)),
            ..TenantQuotas::default()
        };
        let tenants = Tenants {
            connections_max: 5,
            retained_messages_max: 7,
            quotas: BTreeMap::from([("acme".to_owned(), own)]),
            ..Tenants::default()
        };
        let acme = tenants.of("acme");
        assert_eq!((acme.connections_max, acme.retained_messages_max), (0, 7));
        assert_eq!(acme.retained_bytes_max, ByteSize::from_kib(1));
        assert_eq!(tenants.of("other").connections_max, 5);
    }

    #[test]
    fn what_cannot_be_meant_is_a_mistake() {
        assert_eq!(problems(&Tenants::default()), [""; 0]);
        let unsafe_for_all = Tenants {
            from: vec![TenantSource::User],
            without: WithoutTenant::Allow,
            ..Tenants::default()
        };
        assert_eq!(problems(&unsafe_for_all).len(), 1);
        assert!(problems(&unsafe_for_all)[0].starts_with("tenants.without: "));
        let own = TenantQuotas {
            connections_max: Some(10_000_001),
            ..TenantQuotas::default()
        };
        let odd = Tenants {
            user_separator: String::new(),
            quotas: BTreeMap::from([("a/b".to_owned(), own)]),
            ..Tenants::default()
        };
        let found = problems(&odd);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].contains("cannot be a tenant"), "{found:#?}");
        assert!(found[1].contains("a/b.connections_max"), "{found:#?}");
    }
}
