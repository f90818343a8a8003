//! Files that change while the node runs: what takes effect, what wants a restart, and what is refused.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Broker, BrokerOptions, Client, ConnectOptions, is_audited, wait_for};
use mqtt_codec::ReasonCode;
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

/// A value as the API shows it.
fn setting(api: &Api, section: &str, key: &str) -> Result<String> {
    let settings = api.get("/api/v1/config")?;
    let mut settings = settings["items"].as_array().into_iter().flatten();
    let found = settings.find(|one| one["section"] == section && one["key"] == key);
    let value = found.and_then(|found| found["value"].as_str());
    Ok(value.with_context(|| format!("{section}.{key}"))?.to_owned())
}

fn metric(broker: &Broker, line: &str) -> Result<f64> {
    let metrics = broker.admin_get("/metrics")?;
    let value = metrics
        .lines()
        .find_map(|known| known.strip_prefix(line)?.strip_prefix(' '));
    Ok(value.with_context(|| line.to_owned())?.parse()?)
}

#[test]
fn a_reload_says_what_took_effect_and_what_wants_a_restart() -> Result<()> {
    let (broker, api, file) = broker(
        "[node]\nwatch_files = \"0s\"\n[limits]\nconnections_max = 10\n[mqtt]\nsys_interval = \"10s\"\n",
    )?;
    let again = || api.ask("POST", "/api/v1/config/reload", None);
    let unchanged = json!({"changed": [], "needs_restart": []});
    assert_eq!(again()?.good()?, unchanged);

    std::fs::write(
        &file,
        "[node]\nwatch_files = \"0s\"\n[limits]\nconnections_max = 20\n[mqtt]\nsys_interval = \"20s\"\n[log]\nlevel = \"info,broker=debug\"\n",
    )?;
    let said = again()?.good()?;
    assert_eq!(
        said,
        json!({
            "changed": [file.display().to_string(), "limits.connections_max", "log.level"],
            "needs_restart": ["mqtt.sys_interval"],
        })
    );
    // What is shown is what counts.
    ensure!(setting(&api, "limits", "connections_max")? == "20");
    ensure!(setting(&api, "mqtt", "sys_interval")? == "\"10s\"");
    assert_eq!(api.get("/api/v1/log")?, json!({"level": "info,broker=debug"}));
    // What wants a restart is named until there was one.
    let shown = broker.ctl(&["config", "reload"])?;
    assert!(shown.status.success(), "{shown:?}");
    assert_eq!(printed(&shown), "needs a restart: mqtt.sys_interval\n");

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

/// One more client; or what it is told.
async fn arrives(broker: &Broker, client_id: &str) -> Result<Client, ReasonCode> {
    let mut client = Client::open(broker.mqtt_addr())
        .await
        .expect("the listener is there");
    client
        .send_connect(ConnectOptions::v5(client_id))
        .await
        .expect("CONNECT can be sent");
    match client.expect_connack().await.expect("an answer").reason_code {
        ReasonCode::Success => Ok(client),
        refused => Err(refused),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_for_those_who_come_and_rates_for_those_who_are_here() -> Result<()> {
    let unwatched = "[node]\nwatch_files = \"0s\"\n";
    let (broker, api, file) = broker(&format!("{unwatched}[limits]\nconnections_max = 1\n"))?;
    let reload = |limits: &str| -> Result<_> {
        std::fs::write(&file, format!("{unwatched}{limits}"))?;
        api.ask("POST", "/api/v1/config/reload", None)
    };
    let mut first = arrives(&broker, "first").await.expect("there is room");
    ensure!(arrives(&broker, "second").await.err() == Some(ReasonCode::QuotaExceeded));
    first.subscribe("a", 0).await?;

    let more = "[limits]\nconnections_max = 2\nsubscriptions_per_client_max = 1\npublish_messages_per_second_max = 50\n\
        packet_size_max = \"64KiB\"\n";
    ensure!(reload(more)?.good()?["needs_restart"] == json!([]));
    let second = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("second")).await?;
    ensure!(second.connack().properties.maximum_packet_size == Some(64 * 1024));
    ensure!(first.connack().properties.maximum_packet_size == Some(1024 * 1024));
    ensure!(first.subscribe("b", 0).await? == ReasonCode::QuotaExceeded);
    // More than a second's worth, in one piece: it comes at one moment.
    first.send_raw(&[0x30, 5, 0, 1, b'c', 0, b'x'].repeat(60)).await?;
    first.ping().await?;
    ensure!(metric(&broker, "flotilla_rate_limited_total{kind=\"messages\"}")? >= 1.0);

    // One mistake, and all of it is left alone.
    let refused = reload("[limits]\nconnections_max = 3\nreceive_maximum = 0\n")?;
    ensure!(
        refused.status == 409 && refused.body.contains("limits.receive_maximum"),
        "{refused:?}"
    );
    ensure!(setting(&api, "limits", "connections_max")? == "2");
    ensure!(arrives(&broker, "third").await.err() == Some(ReasonCode::QuotaExceeded));
    ensure!(metric(&broker, "flotilla_config_last_reload_successful")? == 0.0);

    // So little memory that nobody is let in; those who are here stay.
    reload("[overload]\nmemory_max = \"1MiB\"\n")?.good()?;
    let short = async || metric(&broker, "flotilla_overload_level").is_ok_and(|level| level == 3.0);
    wait_for(short, LIMIT).await?;
    ensure!(arrives(&broker, "third").await.err() == Some(ReasonCode::ServerBusy));
    first.ping().await?;
    reload("")?.good()?;
    let enough = async || metric(&broker, "flotilla_overload_level").is_ok_and(|level| level == 0.0);
    wait_for(enough, LIMIT).await?;
    ensure!(arrives(&broker, "third").await.is_ok());
    let metrics = broker.admin_get("/metrics")?;
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("flotilla_connections_closed_total"))
    {
        ensure!(line.contains("io_error") || line.ends_with(" 0"), "{line}");
    }
    first.ping().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_away_opens_nothing_any_more() -> Result<()> {
    const OLD: &str = "old-0123456789abcdef0123456789abc";
    const NEW: &str = "new-0123456789abcdef0123456789abc";
    const WRITE: &str = "write-0123456789abcdef0123456789a";
    let files = tempfile::tempdir()?;
    let tokens = files.path().join("tokens");
    std::fs::write(&tokens, OLD)?;
    let write = format!("write_tokens = [\"{WRITE}\"]\n");
    let config = format!(
        "[node]\nwatch_files = \"100ms\"\n[admin]\nread_token_file = \"{}\"\n{write}",
        tokens.display()
    );
    let (broker, api, file) = broker(&config)?;
    let (old, new, writer) = (
        api.clone().token(OLD),
        api.clone().token(NEW),
        api.clone().token(WRITE),
    );
    let looked_on = old.follow("/api/v1/watch?filter=a")?;
    let stays = writer.follow("/api/v1/trace?topic=a&seconds=3600")?;

    std::fs::write(&tokens, NEW)?;
    let status = |api: &Api| api.ask("GET", "/api/v1/node", None).map(|answer| answer.status);
    wait_for(async || status(&new).is_ok_and(|status| status == 200), LIMIT).await?;
    ensure!(status(&old)? == 401 && status(&writer)? == 200);
    ensure!(
        looked_on.map(Result::unwrap).next().is_none(),
        "the stream has ended"
    );
    drop(stays);

    let again = || writer.ask("POST", "/api/v1/config/reload", None);
    std::fs::write(&tokens, "short")?;
    let refused = again()?;
    ensure!(
        refused.status == 409 && !refused.body.contains("short\n"),
        "{refused:?}"
    );
    // Nobody opens the API by removing what closes it.
    std::fs::write(&file, "[node]\nwatch_files = \"100ms\"\n")?;
    let refused = again()?;
    ensure!(
        refused.status == 409 && refused.body.contains("no token is left"),
        "{refused:?}"
    );
    ensure!(status(&new)? == 200 && status(&api)? == 401);
    let log = broker.log();
    ensure!(log.contains("reload failed"));
    ensure!([OLD, NEW, WRITE].iter().all(|token| !log.contains(token)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_changes_and_reloads_are_in_the_audit_log() -> Result<()> {
    let (broker, api, file) = broker("[node]\nwatch_files = \"0s\"\n")?;
    let from = "peer=127.0.0.1";
    api.get("/api/v1/clients")?;
    let refused = api.ask("POST", "/api/v1/clients/nobody/disconnect", None)?;
    let status = format!("status={}", refused.status);
    ensure!(refused.status >= 400, "{refused:?}");
    std::fs::write(
        &file,
        "[node]\nwatch_files = \"0s\"\n[limits]\nconnections_max = 10\n",
    )?;
    api.ask("POST", "/api/v1/config/reload", None)?.good()?;
    std::fs::write(&file, "[limits]\nconnections_max = 'many'\n")?;
    api.ask("POST", "/api/v1/config/reload", None)?;
    api.follow("/api/v1/trace?client=nobody&seconds=60")?;
    let change = [from, "by=\"loopback\"", "method=POST"];
    let disconnect = [&change[..], &["/clients/nobody/disconnect", &status]].concat();
    let reload = [&change[..], &["/config/reload", "status=200"]].concat();
    for (event, words) in [
        ("operator change", &disconnect[..]),
        ("operator change", &reload),
        ("reload", &["limits.connections_max"]),
        ("reload failed", &["limits.connections_max"]),
        ("trace", &[from, "by=\"loopback\"", "nobody"]),
        ("trace ended", &["nobody"]),
    ] {
        broker.wait_audited(event, words).await?;
    }
    ensure!(!is_audited(&broker.log(), "operator change", &["method=GET"]));
    Ok(())
}
