//! Subscriptions, routes, and where a message would go.

use std::collections::BTreeMap;

use admin::views::{
    AccessView, ExplainedGroup, ExplainedMember, ExplainedNode, ExplainedShard, Explanation, Here, Page,
    Receiver, RouteNode, RouteView, SubscriptionView,
};
use admin::{AdminError, ExplainQuery, TopicQuery, limit_of};
use broker::operator::Who;
use cluster::proto::{ClientSubscription, Subscription, SubscriptionQuery};

use super::{Names, NodeOperations};
use crate::cluster_admin::shown_id;

impl NodeOperations {
    /// Those that shards keep, and those of connections whose sessions no shard keeps, in the order of clients and filters.
    pub(super) async fn list_subscriptions(
        &self,
        query: TopicQuery,
    ) -> Result<Page<SubscriptionView>, AdminError> {
        let operator = self.operator()?;
        let (names, limit) = (Names::of(&operator), limit_of(query.limit));
        let (client, filter) = match query.after.is_empty() {
            true => ("", ""),
            false => parse_cursor(&query.after)
                .ok_or_else(|| AdminError::Invalid("`after` is not what a page said".to_owned()))?,
        };
        let asked = SubscriptionQuery {
            behind_client: client.to_owned(),
            behind_filter: filter.to_owned(),
            // One more tells whether there is another page.
            limit: limit as u64 + 1,
            client_part: query.client.clone(),
            filter_part: query.filter.clone(),
        };
        let cluster = operator.cluster();
        let (kept, (connected, silent)) = tokio::join!(
            cluster.subscriptions(&asked),
            cluster.connected_subscriptions(&asked)
        );
        let shown = |one: ClientSubscription, node: Option<u64>| {
            let node_name = node.map(|node| names.get(node));
            let described = one.subscription.unwrap_or_default();
            subscription(one.client, &described, node.is_none(), node_name)
        };
        let covers = self.covers(&operator, kept.shards);
        let kept = kept.items.into_iter().map(|one| shown(one, None));
        let connected = connected.into_iter().map(|(node, one)| shown(one, Some(node)));
        let mut items: Vec<SubscriptionView> = kept.chain(connected).collect();
        items.sort_by(|a, b| (&a.client_id, &a.filter).cmp(&(&b.client_id, &b.filter)));
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items
            .last()
            .filter(|_| more)
            .map(|last| cursor(&last.client_id, &last.filter));
        let notes = silent.into_iter().map(|node| {
            let name = names.get(node);
            format!("{name} did not answer: subscriptions of its connections whose sessions end with them are not listed.")
        });
        Ok(Page {
            items,
            covers,
            next,
            notes: notes.collect(),
        })
    }

    pub(super) fn list_routes(&self, query: &TopicQuery) -> Result<Page<RouteView>, AdminError> {
        let operator = self.operator()?;
        let (names, limit) = (Names::of(&operator), limit_of(query.limit));
        let wanted = |filter: &str| filter.contains(&query.filter);
        let table = operator.cluster().route_table(&query.after, limit + 1, wanted);
        let here = operator.filters_here(&query.after, limit + 1, wanted);
        let mut routes: BTreeMap<String, RouteView> = BTreeMap::new();
        let route = |filter: &String| RouteView {
            filter: filter.clone(),
            nodes: Vec::new(),
            shards: Vec::new(),
            connections_here: here.get(filter).copied().unwrap_or(0) as u64,
            members: 0,
        };
        for filter in here.keys() {
            routes.insert(filter.clone(), route(filter));
        }
        for (filter, known) in table {
            let shown = routes.entry(filter.clone()).or_insert_with(|| route(&filter));
            shown.nodes = known
                .nodes
                .iter()
                .map(|node| RouteNode {
                    name: names.get(node.node),
                    node_id: shown_id(node.node),
                    qos_0_only: node.qos_0_only,
                })
                .collect();
            shown.shards = known.shards.iter().map(|shard| u32::from(*shard)).collect();
            shown.members = known.members as u64;
        }
        let more = routes.len() > limit;
        let items: Vec<RouteView> = routes.into_values().take(limit).collect();
        let next = items.last().filter(|_| more).map(|last| last.filter.clone());
        let mut notes = Vec::new();
        if operator.cluster().is_alone() {
            notes.push(
                "This node is alone and announces nothing: shards are those of kept sessions.".to_owned(),
            );
        }
        Ok(Page {
            items,
            covers: self.covers_all(&operator),
            next,
            notes,
        })
    }

    pub(super) async fn explain_topic(&self, query: ExplainQuery) -> Result<Explanation, AdminError> {
        let operator = self.operator()?;
        let ExplainQuery {
            topic,
            qos,
            client,
            user,
        } = query;
        let client = client.as_deref().map(Who::Client);
        let who = client.or_else(|| user.as_deref().map(Who::User));
        let names = Names::of(&operator);
        let node = self.name();
        let explained = match operator.explain(&topic, qos).await {
            Ok(explained) => explained,
            Err(problem) => {
                return Ok(Explanation {
                    topic,
                    qos,
                    node,
                    problem: Some(problem),
                    ..Explanation::default()
                });
            }
        };
        let ruling = match who {
            Some(who) => operator.ruling(&topic, who).await.map(Some),
            None => Ok(None),
        };
        let access = match ruling {
            Ok(ruling) => ruling.map(|ruling| AccessView {
                allowed: ruling.is_allowed,
                rule_line: ruling.line,
                exact: ruling.is_exact,
                reason: ruling.reason,
            }),
            Err(problem) => return Err(AdminError::NotFound(problem)),
        };
        let leaders = operator.cluster().status().shards;
        let leader = |shard: u16| leaders.get(usize::from(shard))?.leader.map(shown_id);
        let here = explained.here.into_iter().map(|one| Receiver {
            client_id: one.client,
            qos: one.qos,
            persistent: one.persistent,
        });
        let nodes = explained.nodes.into_iter().map(|node| ExplainedNode {
            name: names.get(node.node),
            node_id: shown_id(node.node),
            qos_0_only: node.qos_0_only,
            skipped: qos > 0 && node.qos_0_only,
        });
        let shards = explained.shards.into_iter().map(|keeper| ExplainedShard {
            shard: u32::from(keeper.shard),
            leader: leader(keeper.shard),
            sessions: keeper.sessions.as_ref().map(|sessions| sessions.count),
            items: keeper.sessions.map(|sessions| sessions.first).unwrap_or_default(),
            skipped: !keeper.takes,
        });
        let strategy = explained.strategy.as_str().to_owned();
        let groups = explained.groups.into_iter().map(|group| ExplainedGroup {
            filter: group.filter,
            strategy: strategy.clone(),
            members: group
                .members
                .into_iter()
                .map(|member| ExplainedMember {
                    client_id: member.client,
                    node: member.node.map(|node| names.get(node)),
                    kept: member.kept,
                })
                .collect(),
        });
        Ok(Explanation {
            topic,
            qos,
            problem: None,
            node,
            matched: explained.matched,
            here: Here {
                count: explained.here_count,
                items: here.collect(),
            },
            nodes: nodes.collect(),
            shards: shards.collect(),
            groups: groups.collect(),
            retained_shard: u32::from(explained.retained_shard),
            access,
        })
    }
}

pub(super) fn subscription(
    client_id: String,
    subscription: &Subscription,
    kept: bool,
    node: Option<String>,
) -> SubscriptionView {
    SubscriptionView {
        client_id,
        filter: subscription.filter.clone(),
        qos: subscription.qos as u8,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        subscription_id: subscription.subscription_id,
        kept,
        node,
    }
}

/// Where a page ended: the length of the client id tells where the filter begins.
fn cursor(client: &str, filter: &str) -> String {
    format!("{}:{client}{filter}", client.len())
}

fn parse_cursor(cursor: &str) -> Option<(&str, &str)> {
    let (length, rest) = cursor.split_once(':')?;
    rest.split_at_checked(length.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_continues_where_the_one_before_ended() {
        for (client, filter) in [("a:b", "c/#"), ("", "x"), ("häfen", "+")] {
            assert_eq!(parse_cursor(&cursor(client, filter)), Some((client, filter)));
        }
        for broken in ["", "x:y", "9:ab", "1:ä"] {
            assert_eq!(parse_cursor(broken), None, "{broken}");
        }
    }
}
