//! Who does not belong to the cluster cannot disturb it, and a cluster whose nodes were told different things does not begin.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Cluster, ClusterOptions, peer_keys, wait_for, write_peer_certificate};
use tempfile::TempDir;
use tokio::task::block_in_place;

const NOISE: [&[u8]; 5] = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a greeting of TLS that does not end",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x03abc",
    b"\x00",
];

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_port_for_peers_disturbs_nobody() -> Result<()> {
    let cluster = three()?;
    let mut reader = client(&cluster, 1, "reader").await?;
    subscribe(&mut reader, "quiet", 1).await?;
    let mut open = Vec::new();
    block_in_place(|| -> Result<()> {
        for node in cluster.all() {
            for noise in NOISE {
                let mut stream = TcpStream::connect(cluster.peer_addr(node))?;
                stream.write_all(noise)?;
                open.push(stream);
            }
            let mut stream = TcpStream::connect(cluster.peer_addr(node))?;
            // The node may hang up in the middle of it.
            stream.write_all(&vec![0xa5; 1 << 20]).ok();
            open.push(stream);
        }
        Ok(())
    })?;
    let mut publisher = client(&cluster, 0, "publisher").await?;
    for round in 0..20 {
        publish(&mut publisher, "quiet", &round.to_string(), 1).await?;
        expect_text(&mut reader, &round.to_string()).await?;
    }
    let ready = |node: &usize| block_in_place(|| cluster.is_ready(*node));
    ensure!(cluster.all().iter().all(ready), "a node is not ready any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_seeds_differ_say_so_and_do_not_begin() -> Result<()> {
    let mut cluster = Cluster::prepare(ClusterOptions {
        seeds: vec![vec![0, 1, 2], vec![0, 1, 2], vec![0, 1]],
        ..ClusterOptions::default()
    })?;
    block_in_place(|| {
        cluster
            .all()
            .into_iter()
            .try_for_each(|node| cluster.launch(node))
    })?;
    let says_so = |node: usize| cluster.log(node).contains("was configured with other seeds");
    wait_for(async || says_so(0) && says_so(2), Duration::from_secs(10))
        .await
        .with_context(|| cluster.log(0))?;
    let ready = |node: &usize| block_in_place(|| cluster.is_ready(*node));
    ensure!(!cluster.all().iter().any(ready), "a node is ready");
    Ok(())
}

/// Two nodes share a certificate that names both; a third one has it, too, and is not among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_certificate_is_for_others_is_not_let_in() -> Result<()> {
    let files = TempDir::new()?;
    let mut cluster = Cluster::prepare(ClusterOptions {
        seeds: vec![vec![0, 1]; 3],
        cluster_keys: peer_keys(files.path()),
        ..ClusterOptions::default()
    })?;
    let hosts = [0, 1].map(|node| cluster.peer_addr(node).ip().to_string());
    write_peer_certificate(files.path(), &hosts)?;
    block_in_place(|| -> Result<()> {
        cluster.launch(0)?;
        cluster.launch(1)?;
        cluster.wait_ready(&[0, 1], RECOVERY)?;
        cluster.launch(2)
    })?;
    let refused = |node: usize| {
        let metrics = block_in_place(|| cluster.admin_get(node, "/metrics")).unwrap_or_default();
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix("flotilla_cluster_peers_refused_total "));
        count.is_some_and(|count| count != "0")
    };
    wait_for(async || refused(0) || refused(1), RECOVERY)
        .await
        .context("nobody was refused")?;
    let address = cluster.peer_addr(2).to_string();
    let told = cluster.log(0) + &cluster.log(1);
    ensure!(
        told.contains("a peer is refused") && told.contains(&address),
        "{told}"
    );
    ensure!(members(&cluster, 0)?.len() == 2, "{:?}", members(&cluster, 0)?);
    ensure!(!block_in_place(|| cluster.is_ready(2)), "it is ready");
    // The others go on.
    let mut reader = client(&cluster, 1, "reader").await?;
    subscribe(&mut reader, "quiet", 1).await?;
    let mut publisher = client(&cluster, 0, "publisher").await?;
    publish(&mut publisher, "quiet", "still here", 1).await?;
    expect_text(&mut reader, "still here").await
}
