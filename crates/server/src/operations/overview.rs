//! Everything at a glance: members, shards, sums, and what every node has counted.

use std::collections::BTreeSet;

use admin::views::{NodeNumbers, Overview, ShardView, Totals};
use admin::{AdminError, ClusterAdmin, Operations};
use broker::operator::Operator;

use super::{Names, NodeOperations, alarms};
use crate::cluster_admin::shown_id;

impl NodeOperations {
    pub(super) async fn look_over(&self) -> Result<Overview, AdminError> {
        let operator = self.operator()?;
        let names = Names::of(&operator);
        let nodes: Vec<_> = operator
            .cluster()
            .numbers()
            .await
            .into_iter()
            .map(|(node, numbers)| {
                let answered = numbers.is_some();
                let numbers = numbers.unwrap_or_default();
                NodeNumbers {
                    name: names.get(node),
                    node_id: shown_id(node),
                    answered,
                    connections: numbers.connections,
                    messages_received: numbers.messages_received,
                    messages_sent: numbers.messages_sent,
                    bytes_received: numbers.bytes_received,
                    bytes_sent: numbers.bytes_sent,
                    messages_dropped: numbers.messages_dropped,
                    uptime_s: numbers.uptime_s,
                    resident_bytes: numbers.resident_bytes,
                }
            })
            .collect();
        let (totals, counted) = operator.cluster().totals_of_all().await;
        let (node, cluster, shards) = (self.node(), self.cluster.status(), shards(&operator));
        Ok(Overview {
            alarms: alarms::of(&node, &cluster, &shards, &nodes),
            node,
            cluster,
            covers: self.covers(&operator, counted),
            totals: shown(totals),
            nodes,
            shards,
        })
    }
}

fn shown(totals: cluster::Totals) -> Totals {
    Totals {
        sessions: totals.sessions,
        connected: totals.connected,
        subscriptions: totals.subscriptions,
        queued_messages: totals.queued_messages,
        queued_bytes: totals.queued_bytes,
        retained_messages: totals.retained_messages,
        retained_bytes: totals.retained_bytes,
    }
}

fn shards(operator: &Operator) -> Vec<ShardView> {
    let shards = operator.cluster().status().shards.into_iter();
    let shown = shards.map(|shard| {
        let placed: BTreeSet<u64> = shard.placed.iter().copied().collect();
        // Where there is no replica here, nothing is known of who takes part.
        let voting = shard.voters.as_ref();
        ShardView {
            shard: u32::from(shard.shard),
            leader: shard.leader.map(shown_id),
            complete: voting.is_none_or(|voting| placed.iter().eq(voting)),
            replicas: shard.placed.into_iter().map(shown_id).collect(),
        }
    });
    shown.collect()
}
