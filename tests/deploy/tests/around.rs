//! What stands around the broker: image, compose, systemd and nginx, judged by their own programs; nginx with real clients.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use deploy::{flotilla, read, run, run_with, tool};
use harness::{Broker, BrokerOptions, Certificate, free_address, known_behind, wait_for};

const LIMIT: Duration = Duration::from_secs(20);
/// The node's side of both ways of nginx.
const LISTENER: &str = "[[listeners]]\nname = \"mqtt\"\nbind = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\nallow_anonymous = true\n";
/// Debian's module for nginx, which the shipped files load by Debian's own folder of links.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

#[test]
fn hadolint_has_nothing_to_say_against_the_images() -> Result<()> {
    let Some(hadolint) = tool("hadolint") else {
        return Ok(());
    };
    let said = run(&hadolint, ["deploy/Dockerfile", "deploy/Dockerfile.binary"])?;
    ensure!(said.success, "{}{}", said.out, said.err);
    Ok(())
}

#[test]
fn the_description_of_the_api_is_openapi() -> Result<()> {
    let Some(validator) = tool("openapi-spec-validator") else {
        return Ok(());
    };
    const DOCUMENT: &str = "crates/admin/src/openapi.json";
    let said = run(&validator, [DOCUMENT])?;
    ensure!(said.success, "{}{}", said.out, said.err);
    let files = tempfile::tempdir()?;
    let wrong = files.path().join("wrong.json");
    std::fs::write(
        &wrong,
        read(DOCUMENT)?.replacen("\"responses\"", "\"response\"", 1),
    )?;
    let said = run(&validator, [&wrong])?;
    ensure!(!said.success, "an operation without responses was not noticed");
    Ok(())
}

#[test]
fn the_images_run_as_nobody_and_hold_the_binary_alone() -> Result<()> {
    for file in ["deploy/Dockerfile", "deploy/Dockerfile.binary"] {
        let text = read(file)?;
        let (_, image) = text
            .split_once("FROM scratch\n")
            .with_context(|| file.to_owned())?;
        for line in [
            "USER 65532:65532\n",
            "ENTRYPOINT [\"/usr/bin/flotilla\"]\n",
            "CMD [\"start\"]\n",
            "CMD [\"/usr/bin/flotilla\", \"health\"]\n",
            "VOLUME /var/lib/flotilla\n",
        ] {
            ensure!(image.contains(line), "{file} lacks {line}");
        }
        ensure!(!image.contains("RUN "), "{file} runs something in an empty image");
    }
    Ok(())
}

#[test]
fn compose_accepts_its_file_and_the_broker_what_it_says() -> Result<()> {
    let text = read("deploy/compose/docker-compose.yml")?;
    let shared = text
        .lines()
        .map(str::trim)
        .filter_map(|line| line.split_once(": "));
    let shared = shared.filter(|(key, _)| key.starts_with("FLOTILLA__"));
    let environment: Vec<(&str, &str)> = shared
        .map(|(key, value)| (key, value.trim_matches('"')))
        .collect();
    ensure!(environment.len() > 10, "{environment:?}");
    // As compose fills it in: with a token of the one who starts it, or without any.
    for token in ["", "0123456789abcdef0123456789abcdef"] {
        let filled = environment.iter().map(|(key, value)| match *value {
            "${FLOTILLA_TOKEN:-}" => (*key, token),
            value => (*key, value),
        });
        let environment: Vec<(&str, &str)> = filled.collect();
        let said = run_with(&flotilla()?, ["check-config"], &environment)?;
        ensure!(said.success, "{}", said.err);
    }
    for node in 1..=3 {
        let port = format!("\"127.0.0.1:910{node}:9100\"");
        ensure!(text.contains(&port), "node {node} has no {port}");
        ensure!(read("deploy/compose/README.md")?.contains(&format!("http://127.0.0.1:910{node}/")));
    }
    let Some(compose) = tool("docker-compose") else {
        return Ok(());
    };
    let said = run(
        &compose,
        ["--file", "deploy/compose/docker-compose.yml", "config", "--quiet"],
    )?;
    ensure!(said.success, "{}{}", said.out, said.err);
    Ok(())
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_hardened() -> Result<()> {
    let Some(analyze) = tool("systemd-analyze") else {
        return Ok(());
    };
    let files = tempfile::tempdir()?;
    let unit = files.path().join("flotilla.service");
    let text = read("deploy/systemd/flotilla.service")?;
    std::fs::write(
        &unit,
        text.replace("/usr/bin/flotilla", &flotilla()?.display().to_string()),
    )?;
    let unit = unit.display().to_string();
    let said = run(&analyze, ["verify", &unit])?;
    ensure!(said.success && said.err.is_empty(), "{}{}", said.out, said.err);
    // 0 is a service that can do nothing, 10 one that can do everything; the scale is in tenths here.
    let said = run(&analyze, ["security", "--offline=true", "--threshold=20", &unit])?;
    ensure!(said.success, "{}{}", said.out, said.err);
    Ok(())
}

#[test]
fn the_broker_accepts_the_configuration_for_systemd() -> Result<()> {
    let files = tempfile::tempdir()?;
    let folder = files.path().display().to_string();
    let text = read("deploy/systemd/flotilla.toml")?.replace("/etc/flotilla", &folder);
    for path in text.split('"').filter(|text| text.starts_with(&folder)) {
        std::fs::write(path, "")?;
    }
    let file = files.path().join("flotilla.toml");
    std::fs::write(&file, &text)?;
    let said = run(
        &flotilla()?,
        ["check-config", "--config", &file.display().to_string()],
    )?;
    ensure!(said.success, "{}", said.err);
    Ok(())
}

/// nginx, until the test ends.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // It passes the signal on to its workers, which SIGKILL would leave behind.
        Command::new("kill")
            .args(["-TERM", &self.0.id().to_string()])
            .status()
            .ok();
        self.0.wait().ok();
    }
}

/// One of the shipped configurations, with this test's one node, ports and certificate.
fn nginx(
    name: &str,
    node: SocketAddr,
    front: SocketAddr,
    pair: &Certificate,
    files: &Path,
) -> Result<Option<Nginx>> {
    let Some(nginx) = tool("nginx").filter(|_| Path::new(STREAM).exists()) else {
        return Ok(None);
    };
    let log = files.join("nginx.log");
    let own = format!(
        "daemon off; pid {}; error_log {}; load_module {STREAM};",
        files.join("nginx.pid").display(),
        log.display()
    );
    let text = read(&format!("deploy/nginx/{name}"))?
        .replace("include /etc/nginx/modules-enabled/*.conf;", &own)
        .replace("worker_processes auto;", "worker_processes 1;")
        .replace("worker_rlimit_nofile 200000;", "")
        .replace("worker_connections 65536;", "worker_connections 256;")
        .replace("listen 8883", &format!("listen {front}"))
        .replace("node-1:8883", &node.to_string())
        .replace("node-1:1883", &node.to_string())
        .replace(
            "/etc/nginx/server.cert.pem",
            &pair.chain_path.display().to_string(),
        )
        .replace("/etc/nginx/server.key.pem", &pair.key_path.display().to_string())
        .replace(
            "/etc/nginx/clients.ca.pem",
            &pair.chain_path.display().to_string(),
        )
        // Harness clients show no certificate.
        .replace("ssl_verify_client on;", "ssl_verify_client off;");
    let is_here = |line: &&str| !line.contains("server node-");
    let text = text.lines().filter(is_here).collect::<Vec<_>>().join("\n") + "\n";
    let file = files.join("nginx.conf");
    std::fs::write(&file, text)?;
    let path = file.display().to_string();
    let said = run(&nginx, ["-t", "-c", &path])?;
    ensure!(
        said.success && !said.err.contains("[warn]"),
        "{name}: {}",
        said.err
    );
    let child = Command::new(nginx)
        .args(["-c", &path])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Some(Nginx(child)))
}

#[tokio::test]
async fn clients_are_known_by_their_own_address_behind_nginx() -> Result<()> {
    let broker = Broker::start(BrokerOptions {
        config: Some(LISTENER.to_owned()),
        env: vec![("FLOTILLA__LOG__LEVEL".into(), "info,broker=debug".into())],
        ..BrokerOptions::default()
    })?;
    let files = tempfile::tempdir()?;
    let pair = Certificate::create(files.path())?;
    let front = free_address()?;
    // The node's side of `passthrough.conf` is the same whatever lies behind the header.
    let Some(_nginx) = nginx("passthrough.conf", broker.mqtt_addr(), front, &pair, files.path())? else {
        return Ok(());
    };
    known_behind(front, &broker).await
}

#[tokio::test]
async fn nginx_ends_tls_and_passes_the_message_on() -> Result<()> {
    let broker = Broker::start(BrokerOptions {
        config: Some(LISTENER.to_owned()),
        ..BrokerOptions::default()
    })?;
    let files = tempfile::tempdir()?;
    let pair = Certificate::create(files.path())?;
    let front = free_address()?;
    let Some(_nginx) = nginx("terminating.conf", broker.mqtt_addr(), front, &pair, files.path())? else {
        return Ok(());
    };
    let Some(publish) = tool("mosquitto_pub") else {
        return Ok(());
    };
    let port = front.port().to_string();
    let ca = pair.chain_path.display().to_string();
    let sent = async || {
        let arguments = [
            "-h",
            "localhost",
            "-p",
            &port,
            "--cafile",
            &ca,
            "-V",
            "5",
            "-q",
            "1",
            "-t",
            "t",
            "-m",
            "x",
        ];
        run(&publish, arguments).is_ok_and(|said| said.success)
    };
    wait_for(sent, LIMIT).await?;
    // Messages are counted at the end of a turn, after their acknowledgements.
    let counted = async || {
        broker
            .admin_get("/metrics")
            .is_ok_and(|page| !page.contains("flotilla_messages_received_total{qos=\"1\"} 0"))
    };
    wait_for(counted, LIMIT).await
}
