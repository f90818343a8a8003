//! What a node says of itself to Prometheus is what the document says that it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Certificate, Cluster, ClusterOptions, wait_for};
use tokio::task::block_in_place;

const HEAD: &str = "\
# Metrics

Every node serves these at `/metrics` of its admin listener. They are there from the start, at 0; a counter never falls while the
process lives. A histogram appears with its first sample: `flotilla_tls_handshake_duration_seconds`, for one, with the first client
over TLS. No label has a client's name, topic, user or address in it. This page is made from a running cluster: after a
change, `FLOTILLA_UPDATE=1 cargo nextest run --workspace -E 'package(cluster-tests) & test(metric)'` writes it anew.

| metric | type | labels | what it is |
|---|---|---|---|
";

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_a_node_is_in_the_document() -> Result<()> {
    let files = tempfile::tempdir()?;
    let cluster = three_with_a_certificate(files.path())?;
    // A histogram is shown once it has a sample.
    let mut visitor = persistent(&cluster, 0, "visitor").await?;
    subscribe(&mut visitor, "metrics", 1).await?;
    publish(&mut visitor, "metrics", "one", 1).await?;
    expect_text(&mut visitor, "one").await?;
    // Who the peers are is known once the cluster is formed, and looked at every two seconds.
    let links = || {
        cluster
            .admin_get(0, "/metrics")
            .map(|page| page.matches("peer_connected{").count())
    };
    wait_for(
        async || block_in_place(links).is_ok_and(|links| links == 2),
        RECOVERY,
    )
    .await?;
    let page = cluster.admin_get(0, "/metrics")?;
    let table = format!("{HEAD}{}", rows(&page)?);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("FLOTILLA_UPDATE").is_some() {
        std::fs::write(&path, &table)?;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        written == table,
        "docs/metrics.md is stale: see its head for how to write it anew"
    );
    Ok(())
}

/// Whose nodes have a TLS listener besides the others: when its certificate ends is a metric, too.
fn three_with_a_certificate(files: &Path) -> Result<Cluster> {
    let certificate = Certificate::create(files)?;
    let said = [
        ("PROTOCOL", "tls".to_owned()),
        ("BIND", "127.0.0.1:0".to_owned()),
        ("CERT", certificate.chain_path.display().to_string()),
        ("KEY", certificate.key_path.display().to_string()),
    ];
    let env = said.map(|(key, value)| (format!("FLOTILLA__LISTENERS__MQTTS__{key}"), value));
    block_in_place(|| {
        Cluster::start(ClusterOptions {
            env: env.into(),
            ..ClusterOptions::default()
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_what_clients_do() -> Result<()> {
    let cluster = three()?;
    let shown = async |node: usize, metric: &str, is: fn(f64) -> bool| {
        let value = || block_in_place(|| value_of(&cluster.admin_get(node, "/metrics").ok()?, metric));
        wait_for(async || value().is_some_and(is), RECOVERY)
            .await
            .with_context(|| format!("{metric} of node {node}: {:?}", value()))
    };
    let mut worker = persistent(&cluster, 0, "worker").await?;
    subscribe(&mut worker, "$share/workers/jobs", 2).await?;
    // Every node may have to choose a member.
    for node in 0..3 {
        shown(node, "flotilla_shared_subscription_groups", |groups| {
            groups == 1.0
        })
        .await?;
    }
    let mut sender = persistent(&cluster, 1, "sender").await?;
    for qos in [1, 2] {
        publish(&mut sender, "jobs", "one", qos).await?;
        let acknowledged = format!("flotilla_publish_ack_duration_seconds_count{{qos=\"{qos}\"}}");
        shown(1, &acknowledged, |samples| samples >= 1.0).await?;
    }
    shown(1, "flotilla_storage_state_size_bytes", |bytes| bytes > 0.0).await?;
    worker.unsubscribe(&["$share/workers/jobs"]).await?;
    for node in 0..3 {
        shown(node, "flotilla_shared_subscription_groups", |groups| {
            groups == 0.0
        })
        .await?;
    }
    Ok(())
}

/// The value of a metric, with its labels, on a page of them.
fn value_of(page: &str, metric: &str) -> Option<f64> {
    let mut lines = page.lines();
    lines.find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok())
}

/// A metric as its page shows it.
struct Metric {
    kind: String,
    labels: BTreeMap<String, BTreeSet<String>>,
    help: String,
}

fn rows(page: &str) -> Result<String> {
    let mut metrics: BTreeMap<&str, Metric> = BTreeMap::new();
    let mut helps: BTreeMap<&str, &str> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name, help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let help = helps
                .get(name)
                .with_context(|| format!("{name} has no description"))?;
            let metric = Metric {
                kind: kind.to_owned(),
                labels: BTreeMap::new(),
                help: (*help).trim_end_matches('.').to_owned(),
            };
            metrics.insert(name, metric);
        } else if let Some((name, labels)) = line.split_once('{') {
            let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
                let base = name.strip_suffix(suffix)?;
                metrics.contains_key(base).then_some(base)
            });
            let base = of_histogram.unwrap_or(name);
            let labels = labels.rsplit_once('}').context("a label without end")?.0;
            let metric = metrics
                .get_mut(base)
                .with_context(|| format!("{base} has no type"))?;
            for (label, value) in labels.split("\",").filter_map(|pair| pair.split_once("=\"")) {
                let value = value.trim_end_matches('"');
                metric
                    .labels
                    .entry(label.to_owned())
                    .or_default()
                    .insert(value.to_owned());
            }
        }
    }
    let mut text = String::new();
    for (name, metric) in metrics {
        let labels: Vec<_> = metric
            .labels
            .iter()
            .filter(|(label, _)| *label != "le")
            .map(|(label, values)| shown(name, label, values))
            .collect();
        writeln!(
            text,
            "| `{name}` | {} | {} | {} |",
            metric.kind,
            labels.join("; "),
            metric.help
        )?;
    }
    Ok(text)
}

/// What changes from build to build, or from cluster to cluster, has no place in a document.
fn shown(name: &str, label: &str, values: &BTreeSet<String>) -> String {
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    match (name, label) {
        ("flotilla_build_info" | "flotilla_cluster_info", _) | (_, "peer") => label.to_owned(),
        _ => format!("{label}: {}", values.join(", ")),
    }
}
