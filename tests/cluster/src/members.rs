//! What a node says about the members of its cluster.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Cluster, wait_for};
use serde_json::Value;
use tokio::task::block_in_place;

/// A member, as another one sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name in the configuration.
    pub name: String,
    /// Its identity, which changes with its disk.
    pub node_id: String,
    /// `up`, `down` or `leaving`.
    pub state: String,
    /// It votes in the meta group.
    pub voter: bool,
    /// How many shards it has replicas of.
    pub shards_held: u64,
}

/// The members that a node knows; an error while it is not there.
pub fn members(cluster: &Cluster, asked: usize) -> Result<Vec<Member>> {
    let answer = block_in_place(|| cluster.admin_get(asked, "/api/v1/cluster"))?;
    let status: Value = serde_json::from_str(&answer)?;
    let list = status["members"].as_array().context("a list of members")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let member = |member: &Value| Member {
        name: text(&member["name"]),
        node_id: text(&member["node_id"]),
        state: text(&member["state"]),
        voter: member["voter"] == true,
        shards_held: member["shards_held"].as_u64().unwrap_or(0),
    };
    Ok(list.iter().map(member).collect())
}

/// Waits until what a node says about another one is so.
pub async fn wait_member(
    cluster: &Cluster,
    asked: usize,
    about: usize,
    within: Duration,
    is: impl Fn(&Member) -> bool,
) -> Result<()> {
    let name = cluster.name(about);
    let holds = wait_for(
        async || {
            let known = members(cluster, asked).unwrap_or_default();
            known.iter().any(|member| member.name == name && is(member))
        },
        within,
    );
    holds
        .await
        .with_context(|| format!("about {name}: {:?}", members(cluster, asked)))
}

/// Waits until every shard has all the replicas it is to have, each with a vote, as a node sees it.
pub async fn wait_complete(cluster: &Cluster, asked: usize, replicas: usize, within: Duration) -> Result<()> {
    let overview = || -> Result<Value> {
        let answer = block_in_place(|| cluster.admin_get(asked, "/api/v1/overview"))?;
        Ok(serde_json::from_str(&answer)?)
    };
    let is_complete = || {
        let overview = overview().unwrap_or_default();
        let shards = overview["shards"].as_array().cloned().unwrap_or_default();
        let has_all = |shard: &Value| {
            shard["complete"] == true
                && shard["replicas"]
                    .as_array()
                    .is_some_and(|all| all.len() == replicas)
        };
        !shards.is_empty() && shards.iter().all(has_all)
    };
    let complete = wait_for(async || is_complete(), within).await;
    complete.with_context(|| format!("{:?}", overview()))
}
