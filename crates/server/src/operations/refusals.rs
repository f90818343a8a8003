//! What nodes refused lately: who, what, and why.

use admin::views::{RefusalView, Refusals};
use admin::{AdminError, RefusalQuery, limit_of};
use cluster::proto::{self, Refusal};

use super::{Names, NodeOperations};

impl NodeOperations {
    pub(super) async fn list_refusals(&self, query: RefusalQuery) -> Result<Refusals, AdminError> {
        let operator = self.operator()?;
        let names = Names::of(&operator);
        let asked = proto::RefusalQuery {
            client: query.client,
            user: query.user,
            address: query.address,
            limit: limit_of(query.limit) as u64,
        };
        let (found, silent) = operator.cluster().refusals(&asked).await;
        let now_ms = operator.now_ms();
        let found = found.into_iter();
        Ok(Refusals {
            node: self.name(),
            items: found
                .map(|(node, refused)| view(refused, names.get(node), now_ms))
                .collect(),
            notes: silent
                .into_iter()
                .map(|node| {
                    format!(
                        "{} did not answer: what it refused is not listed.",
                        names.get(node)
                    )
                })
                .collect(),
        })
    }
}

fn view(refused: Refusal, node: String, now_ms: u64) -> RefusalView {
    RefusalView {
        node,
        ago_s: now_ms.saturating_sub(refused.at_ms) / 1000,
        count: refused.count,
        action: refused.action,
        client_id: refused.client,
        user: refused.user,
        address: refused.address,
        topic: (!refused.topic.is_empty()).then_some(refused.topic),
        reason_code: refused.reason_code.map(|code| code as u8),
        reason: refused.reason,
        rule_line: refused.rule_line,
    }
}
