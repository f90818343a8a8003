//! Alert rules, runbooks and the dashboard: judged by Prometheus' own tools, and asked of a Prometheus that watches three nodes.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use deploy::{names, object, read, render_case, root, run, tool};
use harness::{Broker, BrokerOptions, Client, Cluster, ClusterOptions, ConnectOptions, Message, wait_for};
use serde_json::Value;

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const DASHBOARD: &str = "deploy/grafana/flotilla.json";
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn promtool_accepts_the_rules_and_every_alert_fires_when_it_should() -> Result<()> {
    let Some(promtool) = tool("promtool") else {
        return Ok(());
    };
    for arguments in [
        ["check", "rules", ALERTS],
        ["test", "rules", "deploy/prometheus/alerts.test.yml"],
    ] {
        let said = run(&promtool, arguments)?;
        ensure!(said.success, "{}{}", said.out, said.err);
    }
    let config = [
        "check",
        "config",
        "--syntax-only",
        "deploy/prometheus/prometheus.yml",
    ];
    let said = run(&promtool, config)?;
    ensure!(said.success, "{}{}", said.out, said.err);
    Ok(())
}

#[test]
fn every_alert_has_a_test_and_a_page_and_every_page_an_alert() -> Result<()> {
    let (rules, tests) = (read(ALERTS)?, read("deploy/prometheus/alerts.test.yml")?);
    let alerts: BTreeSet<String> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect();
    let pages: BTreeSet<String> = names("docs/runbooks", ".md")?.into_iter().collect();
    ensure!(
        alerts == pages,
        "left: {ALERTS}, right: docs/runbooks\n{alerts:?}\n{pages:?}"
    );
    for alert in &alerts {
        ensure!(
            rules.contains(&format!("runbook_url: docs/runbooks/{alert}.md\n")),
            "{alert} names another page"
        );
        ensure!(
            tests.contains(&format!("alertname=\"{alert}\"")),
            "{alert} has no test"
        );
        let page = read(&format!("docs/runbooks/{alert}.md"))?;
        let heading = format!("# {alert}\n");
        let parts = [heading.as_str(), "## What clients see", "## Look", "## Mend"];
        ensure!(
            parts.iter().all(|part| page.contains(part)),
            "docs/runbooks/{alert}.md lacks a part"
        );
    }
    let waits = rules
        .lines()
        .filter(|line| line.trim().starts_with("for: "))
        .count();
    ensure!(waits == alerts.len(), "an alert without `for` fires at a blink");
    Ok(())
}

#[test]
fn the_chart_ships_the_same_rules_and_the_same_dashboard() -> Result<()> {
    ensure!(
        read(ALERTS)? == read("helm/flotilla/files/alerts.yml")?,
        "cp {ALERTS} helm/flotilla/files/alerts.yml"
    );
    ensure!(
        read(DASHBOARD)? == read("helm/flotilla/files/dashboard.json")?,
        "cp {DASHBOARD} helm/flotilla/files/dashboard.json"
    );
    let (Some(helm), Some(promtool)) = (tool("helm"), tool("promtool")) else {
        return Ok(());
    };
    let rendered = render_case(&helm, "watched")?;
    let rule = object(&rendered, "PrometheusRule", "flotilla")?;
    let (_, spec) = rule.split_once("\nspec:\n").context("a spec")?;
    ensure!(
        spec.contains("runbook_url: https://wiki.example.org/runbooks/FlotillaNodeDown.md"),
        "{spec}"
    );
    let files = tempfile::tempdir()?;
    let file = files.path().join("rules.yml");
    let lines = spec.lines().map(|line| line.strip_prefix("  ").unwrap_or(line));
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n"))?;
    let said = run(&promtool, ["check", "rules", &file.display().to_string()])?;
    ensure!(said.success, "{}{}", said.out, said.err);
    let dashboard = object(&rendered, "ConfigMap", "flotilla-dashboard")?;
    let (_, json) = dashboard
        .split_once("flotilla.json: |\n")
        .context("the dashboard")?;
    let shipped: Value = serde_json::from_str(json.split("\n---").next().unwrap_or(json))?;
    ensure!(
        shipped == serde_json::from_str::<Value>(&read(DASHBOARD)?)?,
        "the dashboard changed on its way"
    );
    Ok(())
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_exist() -> Result<()> {
    let mut source = String::new();
    collect(&root().join("crates"), &mut source)?;
    for file in [ALERTS, DASHBOARD] {
        let text = read(file)?;
        let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        let metrics = words.filter(|word| word.starts_with("flotilla_") || word.starts_with("process_"));
        for metric in metrics.collect::<BTreeSet<_>>() {
            // The series of a histogram.
            let parts = ["_bucket", "_count", "_sum"].into_iter();
            let metric = parts.fold(metric, |metric, part| metric.strip_suffix(part).unwrap_or(metric));
            ensure!(
                source.contains(&format!("\"{metric}\"")),
                "{file}: there is no metric {metric}"
            );
        }
    }
    Ok(())
}

/// The text of every Rust file below a folder.
fn collect(folder: &Path, text: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, text)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[test]
fn the_dashboards_panels_have_their_own_ids_places_and_descriptions_of_what_they_ask() -> Result<()> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    ensure!(ids.len() == panels.len(), "two panels with one id");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().context("a place");
        ensure!(at("x")? + at("w")? <= 24, "{} is too wide", panel["title"]);
        for x in at("x")?..at("x")? + at("w")? {
            for y in at("y")?..at("y")? + at("h")? {
                ensure!(taken.insert((x, y)), "{} lies upon another panel", panel["title"]);
            }
        }
    }
    ensure!(
        dashboard["uid"] == "flotilla",
        "dashboards are found by their uid"
    );
    Ok(())
}

#[test]
fn promtool_accepts_the_names_of_all_metrics() -> Result<()> {
    let Some(promtool) = tool("promtool") else {
        return Ok(());
    };
    let broker = Broker::start(BrokerOptions::default())?;
    let files = tempfile::tempdir()?;
    let file = files.path().join("metrics");
    std::fs::write(&file, broker.admin_get("/metrics")?)?;
    let output = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file)?)
        .output()?;
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}");
    Ok(())
}

/// Prometheus, until the test ends.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_has_an_answer_while_three_nodes_work() -> Result<()> {
    let (Some(prometheus), Some(promtool)) = (tool("prometheus"), tool("promtool")) else {
        return Ok(());
    };
    let cluster = Cluster::start(ClusterOptions::default())?;
    let files = tempfile::tempdir()?;
    let targets: Vec<String> = cluster
        .all()
        .into_iter()
        .map(|node| cluster.admin_addr(node).to_string())
        .collect();
    let config = read("deploy/prometheus/prometheus.yml")?
        .replace("node-1:9100, node-2:9100, node-3:9100", &targets.join(", "))
        .replace("15s", "1s");
    std::fs::write(files.path().join("prometheus.yml"), config)?;
    std::fs::copy(root().join(ALERTS), files.path().join("alerts.yml"))?;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let child = Command::new(prometheus)
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address={address}"))
        .current_dir(files.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _prometheus = Prometheus(child);
    let ask = |query: &str| -> Result<String> {
        let said = run(
            &promtool,
            ["query", "instant", &format!("http://{address}"), query],
        )?;
        ensure!(said.success, "{query}: {}", said.err);
        Ok(said.out.trim().to_owned())
    };

    let mut subscriber = Client::connect(cluster.mqtt_addr(0), ConnectOptions::v5("subscriber")).await?;
    let mut publisher = Client::connect(cluster.mqtt_addr(1), ConnectOptions::v5("publisher")).await?;
    subscriber.subscribe("load/#", 2).await?;
    for round in 0..30 {
        publisher
            .publish(Message::new("load/a", "x").qos(round % 3))
            .await?;
        subscriber.receive().await?;
    }
    // What a rate is made from: two samples of each node.
    let enough = "sum(count_over_time(flotilla_uptime_seconds{job=\"flotilla\"}[1m]) >= bool 3) == 3";
    wait_for(async || ask(enough).is_ok_and(|answer| !answer.is_empty()), LIMIT).await?;

    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let mut asked = 0;
    for target in targets {
        let query = target["expr"].as_str().context("an expression")?;
        let query = query.replace("$__rate_interval", "1m");
        let query = ["$namespace", "$release", "$instance"]
            .iter()
            .fold(query, |query, name| query.replace(name, ".*"));
        ensure!(!ask(&query)?.is_empty(), "no answer: {query}");
        asked += 1;
    }
    ensure!(asked > 30, "only {asked} queries");
    let firing = ask("ALERTS{alertstate=\"firing\"}")?;
    ensure!(firing.is_empty(), "a healthy cluster wakes somebody: {firing}");
    Ok(())
}
