//! The brokers under comparison: how each is installed, started in an empty directory on a free loopback port, and stopped.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};

use crate::step;

/// A broker answers within this time, and ends within it when told to.
const PATIENCE: Duration = Duration::from_secs(20);

/// The brokers known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Flotilla,
    Mosquitto,
    Rumqttd,
}

impl Kind {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        match name {
            "mosquitto" => Ok(Self::Mosquitto),
            "rumqttd" => Ok(Self::Rumqttd),
            _ => bail!("--peers knows mosquitto and rumqttd, not `{name}`"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flotilla => "Flotilla",
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
        }
    }

    /// Makes sure that it can be started.
    pub(crate) fn install(self) -> Result<()> {
        match self {
            Self::Flotilla => Ok(()),
            Self::Mosquitto => install_mosquitto(),
            Self::Rumqttd => install_rumqttd(),
        }
    }

    /// The version it names itself.
    pub(crate) fn version(self) -> String {
        let output = match self {
            Self::Flotilla => Command::new("git")
                .args(["rev-parse", "--short", "HEAD"])
                .output(),
            Self::Mosquitto => Command::new(mosquitto()).arg("-h").output(),
            Self::Rumqttd => Command::new(rumqttd()).arg("--version").output(),
        };
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        first.rsplit(' ').next().unwrap_or_default().to_owned()
    }
}

/// A started broker with its directory; both are gone when it is dropped.
pub(crate) struct Running {
    child: Child,
    address: String,
    directory: PathBuf,
}

impl Running {
    /// Starts it and waits until it listens.
    pub(crate) fn start(kind: Kind, flotilla: &Path, tls: bool) -> Result<Self> {
        let port = free_port()?;
        let directory = step::target_dir().join(format!("compare/{}-{port}", kind.name().to_lowercase()));
        // Left over from a run that was cut short; usually there is nothing.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let mut command = command(kind, flotilla, &directory, port, tls)?;
        let log = fs::File::create(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("{} was not started", kind.name()))?;
        let mut running = Self {
            child,
            address: format!("127.0.0.1:{port}"),
            directory,
        };
        running
            .wait_until_listening()
            .with_context(|| format!("{} does not listen", kind.name()))?;
        Ok(running)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and insists after a while.
    pub(crate) fn stop(mut self) {
        // Whether the signal arrived shows in whether it ends.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + PATIENCE;
        while self.is_alive() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&self.address).is_err() {
            let log = || fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            ensure!(
                matches!(self.child.try_wait(), Ok(None)),
                "it ended: {}",
                log().trim()
            );
            ensure!(
                Instant::now() < deadline,
                "no answer at {}: {}",
                self.address,
                log().trim()
            );
            thread::sleep(Duration::from_millis(20));
        }
        // What it does right after starting is not part of the load.
        thread::sleep(Duration::from_millis(500));
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn command(kind: Kind, flotilla: &Path, directory: &Path, port: u16, tls: bool) -> Result<Command> {
    let certificate = if tls { Some(certificate(directory)?) } else { None };
    Ok(match kind {
        Kind::Flotilla => flotilla_command(flotilla, directory, port, certificate),
        Kind::Mosquitto => {
            let configuration = directory.join("mosquitto.conf");
            fs::write(&configuration, mosquitto_configuration(port, certificate))?;
            let mut command = Command::new(mosquitto());
            command.arg("-c").arg(configuration);
            command
        }
        Kind::Rumqttd => {
            ensure!(!tls, "not compared over TLS");
            let configuration = directory.join("rumqttd.toml");
            fs::write(&configuration, rumqttd_configuration(port))?;
            let mut command = Command::new(rumqttd());
            command.arg("-c").arg(configuration).arg("-q");
            command
        }
    })
}

fn flotilla_command(
    flotilla: &Path,
    directory: &Path,
    port: u16,
    certificate: Option<(PathBuf, PathBuf)>,
) -> Command {
    let mut command = Command::new(flotilla);
    command.arg("start").arg("--data-dir").arg(directory.join("data"));
    match certificate {
        None => command.arg("--mqtt").arg(format!("127.0.0.1:{port}")),
        Some((certificate, key)) => command
            .arg("--mqtts")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--cert")
            .arg(certificate)
            .arg("--key")
            .arg(key),
    };
    command
}

/// Limits are lifted so that nothing is dropped by policy, and nothing is logged.
fn mosquitto_configuration(port: u16, certificate: Option<(PathBuf, PathBuf)>) -> String {
    let tls = certificate.map_or(String::new(), |(certificate, key)| {
        format!("certfile {}\nkeyfile {}\n", certificate.display(), key.display())
    });
    format!(
        "listener {port} 127.0.0.1\n{tls}allow_anonymous true\npersistence false\nlog_type none\nset_tcp_nodelay true\n\
         max_inflight_messages 65535\nmax_queued_messages 1000000\nmax_queued_bytes 0\n"
    )
}

fn rumqttd_configuration(port: u16) -> String {
    format!(
        "id = 0\n\
         [router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 10000\nmax_segment_size = 104857600\nmax_segment_count = 10\n\
         [v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n\
         [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\nmax_inflight_count = 10000\ndynamic_filters = true\n"
    )
}

/// A certificate for this one start.
fn certificate(directory: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let request =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost";
    let output = Command::new("openssl")
        .args(request.split(' '))
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .context("the program openssl makes the certificate; it is missing")?;
    ensure!(
        output.status.success(),
        "openssl made no certificate: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // mosquitto started by root reads its files as another user.
    Command::new("chmod").arg("644").arg(&key).status()?;
    Ok((certificate, key))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Debian installs it where an ordinary user's PATH does not look.
fn mosquitto() -> PathBuf {
    let sbin = PathBuf::from("/usr/sbin/mosquitto");
    if sbin.exists() {
        sbin
    } else {
        PathBuf::from("mosquitto")
    }
}

fn install_mosquitto() -> Result<()> {
    if Command::new(mosquitto())
        .arg("-h")
        .stdout(Stdio::null())
        .status()
        .is_ok()
    {
        return Ok(());
    }
    let advice = "mosquitto is missing; run as root: apt-get update && apt-get install mosquitto";
    let id = Command::new("id").arg("-u").output()?;
    ensure!(id.stdout.starts_with(b"0\n"), "{advice}");
    let apt = |arguments: &[&str]| {
        step::run(
            "apt-get",
            Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt(&["update", "-qq"]).context(advice)?;
    apt(&["install", "-y", "-qq", "--no-install-recommends", "mosquitto"]).context(advice)
}

fn rumqttd() -> PathBuf {
    step::target_dir().join("tools/rumqttd/bin/rumqttd")
}

fn install_rumqttd() -> Result<()> {
    if rumqttd().exists() {
        return Ok(());
    }
    let root = step::target_dir().join("tools/rumqttd");
    step::run(
        "rumqttd",
        step::cargo().args(["install", "rumqttd", "--root"]).arg(root),
    )
}
