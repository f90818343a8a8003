//! Files that change while the node runs: what takes effect, what wants a restart, and what is refused.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Broker, BrokerOptions, wait_for};
use operator::{Api, Node, printed};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

/// A broker and its configuration file.
fn broker(config: &str) -> Result<(Broker, Api, PathBuf)> {
    let broker = Broker::start(BrokerOptions {
        config: Some(config.to_owned()),
        ..BrokerOptions::default()
    })?;
    let file = broker
        .data_dir()
        .parent()
        .context("a folder around the data")?
        .join("flotilla.toml");
    let api = Api::at(broker.admin_addr());
    Ok((broker, api, file))
}

#[test]
fn a_reload_says_what_took_effect_and_what_wants_a_restart() -> Result<()> {
    let (broker, api, file) = broker("[node]\nwatch_files = \"0s\"\n[limits]\nconnections_max = 10\n")?;
    let again = || api.ask("POST", "/api/v1/config/reload", None);
    let unchanged = json!({"changed": [], "needs_restart": []});
    assert_eq!(again()?.good()?, unchanged);

    std::fs::write(
        &file,
        "[node]\nwatch_files = \"0s\"\n[limits]\nconnections_max = 20\n[log]\nlevel = \"info,broker=debug\"\n",
    )?;
    let said = again()?.good()?;
    assert_eq!(
        said,
        json!({"changed": [file.display().to_string(), "log.level"], "needs_restart": ["limits.connections_max"]})
    );
    assert_eq!(api.get("/api/v1/log")?, json!({"level": "info,broker=debug"}));
    // What wants a restart is named until there was one.
    let shown = broker.ctl(&["config", "reload"])?;
    assert!(shown.status.success(), "{shown:?}");
    assert_eq!(printed(&shown), "needs a restart: limits.connections_max\n");

    std::fs::write(&file, "[log]\nlevel = \"inof\"\n")?;
    let refused = again()?;
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("`inof` is not a level"), "{}", refused.body);
    assert_eq!(broker.ctl(&["config", "reload"])?.status.code(), Some(1));
    assert_eq!(api.get("/api/v1/log")?, json!({"level": "info,broker=debug"}));
    let metrics = broker.admin_get("/metrics")?;
    for line in [
        "flotilla_config_reload_total{result=\"done\"} 3\n",
        "flotilla_config_reload_total{result=\"failed\"} 2\n",
        "flotilla_config_last_reload_successful 0\n",
    ] {
        ensure!(metrics.contains(line), "{line}{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_read_again_by_itself() -> Result<()> {
    let (broker, api, file) = broker("[node]\nwatch_files = \"100ms\"\n")?;
    let level = async |wanted: &str| {
        wait_for(
            async || api.get("/api/v1/log").is_ok_and(|log| log["level"] == wanted),
            LIMIT,
        )
        .await
    };
    level("info").await?;
    std::fs::write(
        &file,
        "[node]\nwatch_files = \"100ms\"\n[log]\nlevel = \"debug\"\n",
    )?;
    level("debug").await?;
    // One that is of no use is told once.
    std::fs::write(&file, "[log]\nlevel = \"inof\"\n")?;
    let told = async || broker.log().contains("reload failed");
    wait_for(told, LIMIT).await?;
    // As Kubernetes does it: another file takes the place of this one.
    let other = file.with_extension("new");
    std::fs::write(
        &other,
        "[node]\nwatch_files = \"100ms\"\n[log]\nlevel = \"warn\"\n",
    )?;
    std::fs::rename(&other, &file)?;
    level("warn").await
}
