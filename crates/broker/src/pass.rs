//! What a connection was let in with: who its client is, what it may do, and until when.

use std::sync::Arc;

use access::rules::Permissions;
use mqtt_codec::ReasonCode;
use mqtt_topic::{SubscriptionFilter, TopicFilter, TopicName};
use tracing::info;

use crate::auth::Admission;
use crate::config::Limits;
use crate::refusal::Limited;
use crate::refusals::Refused;
use crate::retained_room::Owner;
use crate::shared::Shared;
use crate::tenants::Tenant;

pub(crate) struct Pass {
    pub(crate) admission: Admission,
    /// In whose topic space its client lives. What is asked here is what the client wrote, or is to see.
    pub(crate) tenant: Option<Arc<Tenant>>,
    /// `None`: there are no rules.
    permissions: Option<Permissions>,
}

/// What was denied, in the words of the metric.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Denied {
    Publish,
    Subscribe,
    Will,
    /// A message that waited for a session whose user may not have it any more.
    Deliver,
    /// A subscription that a session brought along.
    Resume,
}

impl Denied {
    pub(crate) const WORDS: [&'static str; 5] = ["publish", "subscribe", "will", "deliver", "resume"];

    pub(crate) fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

impl Pass {
    pub(crate) fn new(shared: &Shared, mut admission: Admission, tenant: Option<Arc<Tenant>>) -> Self {
        admission.principal.tenant = tenant.as_ref().map(|tenant| tenant.name().to_owned());
        let permissions = shared.authenticator.permissions(&admission.principal);
        Self {
            admission,
            tenant,
            permissions,
        }
    }

    /// The user name that was proved.
    pub(crate) fn user(&self) -> Option<&str> {
        self.admission.principal.user.as_deref()
    }

    /// Whom its client's retained messages count for.
    pub(crate) fn owner(&self, limits: &Limits) -> Owner {
        if let Some(tenant) = &self.tenant {
            return Owner {
                name: format!("tenant:{}", tenant.name()),
                messages_max: tenant.quotas.retained_messages_max.into(),
                bytes_max: tenant.quotas.retained_bytes_max.get(),
                limit: Limited::RetainedPerTenant,
            };
        }
        Owner {
            name: format!("user:{}", self.user().unwrap_or_default()),
            messages_max: limits.retained_messages_per_user_max.into(),
            bytes_max: limits.retained_bytes_per_user_max.get(),
            limit: Limited::RetainedPerUser,
        }
    }

    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.admission.expires_at_ms.is_some_and(|end| end <= now_ms)
    }

    pub(crate) fn may_publish(&self, topic: &TopicName) -> bool {
        self.permissions
            .as_ref()
            .is_none_or(|rules| rules.may_publish(topic))
    }

    pub(crate) fn may_receive(&self, topic: &TopicName) -> bool {
        self.permissions
            .as_ref()
            .is_none_or(|rules| rules.may_receive(topic))
    }

    pub(crate) fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.permissions
            .as_ref()
            .is_none_or(|rules| rules.may_subscribe(filter))
    }

    /// Whether a subscription, as everybody else sees it, may stay.
    pub(crate) fn may_keep(&self, filter: &TopicFilter) -> bool {
        match &self.tenant {
            None => self.may_subscribe(filter),
            Some(tenant) => {
                let seen = tenant.space.leave_filter(filter);
                seen.is_some_and(|filter| self.may_subscribe(&filter))
            }
        }
    }

    /// A subscription as its client wrote it, as far as it can have.
    pub(crate) fn seen(&self, filter: &SubscriptionFilter) -> String {
        let seen = self.tenant.as_ref().and_then(|tenant| {
            let seen = tenant.space.leave_filter(filter.filter())?;
            Some(match filter.share() {
                None => seen.to_string(),
                Some(share) => format!("$share/{}/{seen}", share.as_str()),
            })
        });
        seen.unwrap_or_else(|| filter.to_string())
    }

    /// The client id as everybody else sees it.
    fn whole_client_id(&self) -> String {
        let client_id = &self.admission.principal.client_id;
        match &self.tenant {
            None => client_id.clone(),
            Some(tenant) => tenant.space.enter_text(client_id),
        }
    }

    /// A topic or filter as everybody else sees it.
    fn whole(&self, text: &str) -> String {
        let whole = self.tenant.as_ref().and_then(|tenant| {
            let filter = SubscriptionFilter::parse(text.into()).ok()?;
            tenant.space.enter_filter(&filter).ok()
        });
        whole.map_or_else(|| text.to_owned(), |whole| whole.to_string())
    }

    /// The line of the rule that denies something; `None`: no rule allows it.
    fn line_that_denies(&self, what: Denied, topic: &str) -> Option<u32> {
        let rules = self.permissions.as_ref()?;
        let name = || TopicName::parse(topic.into()).ok();
        let verdict = match what {
            Denied::Publish | Denied::Will => rules.publish(&name()?),
            Denied::Deliver => rules.receive(&name()?),
            Denied::Subscribe | Denied::Resume => {
                rules.subscribe(SubscriptionFilter::parse(topic.into()).ok()?.filter())
            }
        };
        verdict.line
    }

    /// Counts a denial, remembers it, and tells of it, unless many were told of just before.
    pub(crate) fn denied(&self, shared: &Shared, what: Denied, topic: &str) {
        shared.metrics.denied(what);
        let rule_line = self.line_that_denies(what, topic);
        let (client_id, topic) = (self.whole_client_id(), self.whole(topic));
        if let Some(left_out) = shared.denials.line() {
            let principal = &self.admission.principal;
            info!(target: "audit", event = "denied", action = what.as_str(), ?topic, ?client_id,
                user = ?self.user().unwrap_or_default(), address = %principal.address, left_out);
        }
        shared.refused(Refused {
            action: what.as_str(),
            client_id,
            user: self.user().unwrap_or_default().to_owned(),
            address: self.admission.principal.address.to_canonical().to_string(),
            topic,
            reason_code: Some(ReasonCode::NotAuthorized),
            reason: match rule_line {
                Some(line) => format!("line {line} of the rules denies it"),
                None => "no rule allows it".to_owned(),
            },
            rule_line,
            ..Refused::connect()
        });
    }
}
