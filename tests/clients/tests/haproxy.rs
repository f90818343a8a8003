//! HAProxy as people put it in front: its configurations in `deploy` are valid, and clients keep their addresses behind it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clients::output_within;
use harness::{
    Broker, BrokerOptions, Certificate, free_address, known_behind, wait_for, write_client_certificate,
};

const LIMIT: Duration = Duration::from_secs(20);

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(name)
}

/// Whether HAProxy accepts a configuration without a warning.
fn check(text: &str, directory: &Path) -> Result<()> {
    let file = directory.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    let output = output_within(Command::new("haproxy").arg("-c").arg("-f").arg(&file), LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && !said.contains("WARN"),
        "{said}\n{text}"
    );
    Ok(())
}

#[test]
fn the_configurations_in_deploy_are_valid() -> Result<()> {
    let files = tempfile::tempdir()?;
    let certificate = Certificate::create(files.path())?;
    let chain = std::fs::read_to_string(&certificate.chain_path)?;
    let pair = files.path().join("pair.pem");
    std::fs::write(&pair, chain + &std::fs::read_to_string(&certificate.key_path)?)?;
    for name in [
        "local/haproxy.cfg",
        "compose/haproxy.cfg",
        "haproxy/passthrough.cfg",
        "haproxy/terminating.cfg",
    ] {
        let text = std::fs::read_to_string(deploy(name)).with_context(|| name.to_owned())?;
        // Names of nodes that this machine does not know are worth a warning to HAProxy.
        let text = (1..=3).fold(text, |text, node| {
            text.replace(&format!(" node-{node}:"), " 127.0.0.1:")
        });
        let text = text
            .replace("/etc/haproxy/server.pem", &pair.display().to_string())
            .replace(
                "/etc/haproxy/clients.ca.pem",
                &certificate.chain_path.display().to_string(),
            );
        check(&text, files.path()).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// HAProxy, until the test ends.
struct Proxy(Child);

impl Proxy {
    /// With the first node alone: the other two are not there.
    fn start(text: &str, directory: &Path) -> Result<Self> {
        let is_there = |line: &&str| !line.contains("server node-2") && !line.contains("server node-3");
        let text = text.lines().filter(is_there).collect::<Vec<_>>().join("\n") + "\n";
        check(&text, directory)?;
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(directory.join("haproxy.cfg"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn clients_are_known_by_their_own_address_behind_haproxy() -> Result<()> {
    let listener = "[[listeners]]\nname = \"mqtt\"\nbind = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
                    allow_anonymous = true\n";
    let broker = Broker::start(BrokerOptions {
        config: Some(listener.to_owned()),
        env: vec![("FLOTILLA__LOG__LEVEL".into(), "info,broker=debug".into())],
        ..BrokerOptions::default()
    })?;
    let files = tempfile::tempdir()?;
    let front = free_address()?;
    // The addresses are this test's; everything else is as in `deploy/local`.
    let text = std::fs::read_to_string(deploy("local/haproxy.cfg"))?
        .replace("bind 127.0.0.1:1883", &format!("bind {front}"))
        .replace("bind 127.0.0.1:8083", &format!("bind {}", free_address()?))
        .replace("bind 127.0.0.1:8404", &format!("bind {}", free_address()?))
        .replace(
            "127.0.0.1:11881 check port 9101",
            &format!("{} check port {}", broker.mqtt_addr(), broker.admin_addr().port()),
        );
    let _proxy = Proxy::start(&text, files.path())?;

    // HAProxy takes a moment to listen, and to find the node ready.
    known_behind(front, &broker).await?;
    ensure!(
        !broker.log().contains("the PROXY protocol header"),
        "health checks are worth no line: {}",
        broker.log()
    );
    Ok(())
}

#[tokio::test]
async fn haproxy_ends_tls_and_a_clients_certificate_says_who_it_is() -> Result<()> {
    let files = tempfile::tempdir()?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let server = Certificate::create(files.path())?;
    let pair = std::fs::read_to_string(&server.chain_path)? + &std::fs::read_to_string(&server.key_path)?;
    std::fs::write(path("server.pem"), pair)?;
    write_client_certificate(files.path(), "device-7")?;
    std::fs::write(path("rules"), "allow all devices/${cn}/#\n")?;
    let config = format!(
        "[[listeners]]\nname = \"mqtt\"\nbind = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
         allow_anonymous = false\n[access]\nrules = {:?}\n",
        path("rules")
    );
    let broker = Broker::start(BrokerOptions {
        config: Some(config),
        ..BrokerOptions::default()
    })?;
    let front = free_address()?;
    // The addresses and files are this test's; everything else is as in `deploy/haproxy`.
    let text = std::fs::read_to_string(deploy("haproxy/terminating.cfg"))?
        .replace("maxconn 100000", "maxconn 100")
        .replace("bind :8883", &format!("bind {front}"))
        .replace("/etc/haproxy/server.pem", &path("server.pem"))
        .replace("/etc/haproxy/clients.ca.pem", &path("clients.ca.pem"))
        .replace(
            "node-1:1883 check port 9100",
            &format!("{} check port {}", broker.mqtt_addr(), broker.admin_addr().port()),
        );
    let _proxy = Proxy::start(&text, files.path())?;

    let publish = |topic: &str, with_certificate: bool| {
        let mut command = Command::new("mosquitto_pub");
        command.args([
            "-V",
            "5",
            "-q",
            "1",
            "-m",
            "x",
            "-h",
            &front.ip().to_string(),
            "-t",
            topic,
        ]);
        command.args(["-p", &front.port().to_string()]);
        // The certificate is for another name of this machine.
        command.arg("--cafile").arg(&server.chain_path).arg("--insecure");
        if with_certificate {
            command.args(["--cert", &path("client.pem"), "--key", &path("client.key")]);
        }
        let output = output_within(&mut command, LIMIT);
        output.map(|output| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success() && !said.contains("failed"), said)
        })
    };
    // HAProxy takes a moment to listen, and to find the node ready.
    let allowed = async || publish("devices/device-7/x", true).is_ok_and(|(accepted, _)| accepted);
    let published = wait_for(allowed, LIMIT).await;
    published.with_context(|| format!("{:?}\n{}", publish("devices/device-7/x", true), broker.log()))?;
    let (accepted, said) = publish("devices/device-8/x", true)?;
    ensure!(
        !accepted && said.to_lowercase().contains("not authorized"),
        "{said}"
    );
    let (accepted, said) = publish("devices/device-7/x", false)?;
    ensure!(!accepted, "nobody showed a certificate: {said}");
    Ok(())
}
