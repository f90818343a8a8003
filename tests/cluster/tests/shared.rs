//! The members of a shared subscription are those of all nodes: each message goes to one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::*;
use tokio::time::timeout;

const MESSAGES: usize = 60;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "nodes do not form clusters yet"]
async fn members_on_all_nodes_share_the_messages_of_all_nodes() -> Result<()> {
    let cluster = three()?;
    let mut members = Vec::new();
    for node in cluster.all() {
        let mut member = client(&cluster, node, &format!("member-{node}")).await?;
        subscribe(&mut member, "$share/group/jobs/#", 1).await?;
        members.push(member);
    }
    for node in cluster.all() {
        let mut publisher = client(&cluster, node, "publisher").await?;
        for number in 0..MESSAGES / 3 {
            publish(&mut publisher, "jobs/one", &format!("{node}/{number}"), 1).await?;
        }
    }
    let mut arrivals: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (node, member) in members.iter_mut().enumerate() {
        let mut own = 0;
        while let Ok(received) = timeout(Duration::from_secs(1), member.receive()).await {
            *arrivals
                .entry(received?.publication.payload().to_vec())
                .or_default() += 1;
            own += 1;
        }
        ensure!(own > 0, "the member on node {node} got nothing");
    }
    ensure!(
        arrivals.len() == MESSAGES,
        "{} of {MESSAGES} arrived",
        arrivals.len()
    );
    ensure!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
    Ok(())
}
