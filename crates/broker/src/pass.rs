//! What a connection was let in with: who its client is, what it may do, and until when.

use access::rules::Permissions;
use mqtt_codec::ReasonCode;
use mqtt_topic::{SubscriptionFilter, TopicFilter, TopicName};
use tracing::info;

use crate::auth::Admission;
use crate::refusals::Refused;
use crate::shared::Shared;

pub(crate) struct Pass {
    pub(crate) admission: Admission,
    /// `None`: there are no rules.
    permissions: Option<Permissions>,
    /// Of the rules that the permissions follow from.
    pub(crate) generation: u64,
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
    pub(crate) fn new(shared: &Shared, admission: Admission) -> Self {
        // Asked for first: when it grows meanwhile, the permissions are asked for again.
        let generation = shared.authenticator.generation();
        let permissions = shared.authenticator.permissions(&admission.principal);
        Self {
            admission,
            permissions,
            generation,
        }
    }

    /// The user name that was proved.
    pub(crate) fn user(&self) -> Option<&str> {
        self.admission.principal.user.as_deref()
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
        shared.refused(Refused {
            action: what.as_str(),
            client_id: self.admission.principal.client_id.clone(),
            user: self.user().unwrap_or_default().to_owned(),
            address: self.admission.principal.address.to_canonical().to_string(),
            topic: topic.to_owned(),
            reason_code: Some(ReasonCode::NotAuthorized),
            reason: match rule_line {
                Some(line) => format!("line {line} of the rules denies it"),
                None => "no rule allows it".to_owned(),
            },
            rule_line,
            ..Refused::connect()
        });
        if let Some(left_out) = shared.denials.line() {
            let principal = &self.admission.principal;
            info!(target: "audit", event = "denied", action = what.as_str(), topic = ?topic, client_id = ?principal.client_id,
                user = ?self.user().unwrap_or_default(), address = %principal.address, left_out);
        }
    }
}
