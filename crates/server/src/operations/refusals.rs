//! What this node refused lately: who, what, and why.

use admin::views::{RefusalView, Refusals};
use admin::{AdminError, RefusalQuery, limit_of};
use broker::operator::Refused;

use super::NodeOperations;

impl NodeOperations {
    pub(super) fn list_refusals(&self, query: &RefusalQuery) -> Result<Refusals, AdminError> {
        let operator = self.operator()?;
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        let found = operator.refusals(limit_of(query.limit), |refused| {
            is(&query.client, &refused.client_id)
                && is(&query.user, &refused.user)
                && is(&query.address, &refused.address)
        });
        let now_ms = operator.now_ms();
        Ok(Refusals {
            node: self.name(),
            items: found.into_iter().map(|refused| view(refused, now_ms)).collect(),
        })
    }
}

fn view(refused: Refused, now_ms: u64) -> RefusalView {
    RefusalView {
        ago_s: now_ms.saturating_sub(refused.at_ms) / 1000,
        count: refused.count,
        action: refused.action.to_owned(),
        client_id: refused.client_id,
        user: refused.user,
        address: refused.address,
        topic: (!refused.topic.is_empty()).then_some(refused.topic),
        reason_code: refused.reason_code.map(|code| code as u8),
        reason: refused.reason,
        rule_line: refused.rule_line,
    }
}
