//! One broker process for a test: start, kill, restart, stop. What it says over MQTT is `Client`'s business.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use crate::LIMIT;
use crate::certificate::Certificate;
use crate::process::{PAUSE, Process, http_get, program, tail};
use crate::wait::wait_for;

const START_LIMIT: Duration = Duration::from_secs(30);
/// What a broker says that had to be cut off.
pub(crate) const UNFINISHED: &str = "not everything stopped within";
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How a broker is to be started. The default is a broker on loopback with plain and WebSocket listeners.
#[derive(Clone, Debug, Default)]
pub struct BrokerOptions {
    /// Flags added at the end of the command line.
    pub extra_args: Vec<String>,
    /// The text of a configuration file to be passed with `--config`.
    pub config: Option<String>,
    /// Adds TLS and secure WebSocket listeners with a certificate made for `localhost`.
    pub tls: bool,
    /// Where the broker keeps its data; a directory of its own, removed with the broker, when absent.
    pub data_dir: Option<PathBuf>,
    /// Environment of the process, beyond what it inherits.
    pub env: Vec<(String, String)>,
}

/// A running broker. It ends with this value, and also when the test process dies.
#[derive(Debug)]
pub struct Broker {
    options: BrokerOptions,
    program: PathBuf,
    files: TempDir,
    data_dir: PathBuf,
    certificate: Option<Certificate>,
    listening: BTreeMap<String, SocketAddr>,
    process: Option<Process>,
}

impl Broker {
    /// Starts the built `flotilla` and waits until it is ready for clients.
    pub fn start(options: BrokerOptions) -> Result<Broker> {
        let files = TempDir::with_prefix("flotilla-test-").context("making a directory for the broker")?;
        let data_dir = options
            .data_dir
            .clone()
            .unwrap_or_else(|| files.path().join("data"));
        let certificate = match options.tls {
            true => Some(Certificate::create(files.path())?),
            false => None,
        };
        if let Some(config) = &options.config {
            std::fs::write(files.path().join("flotilla.toml"), config)
                .context("writing the configuration")?;
        }
        let program = program()?;
        let mut broker = Broker {
            options,
            program,
            files,
            data_dir,
            certificate,
            listening: BTreeMap::new(),
            process: None,
        };
        broker.launch()?;
        Ok(broker)
    }

    /// Starts the broker again on the same data and, where they are still free, the same addresses.
    /// A broker that still runs is killed first.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9();
        if self.launch().is_err() {
            self.listening.clear();
            self.launch()?;
        }
        Ok(())
    }

    /// Kills the process where it stands (SIGKILL) and waits until it is gone.
    pub fn kill9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks the process to stop (SIGTERM) and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let process = self.process.take().context("the broker is not running")?;
        process.signal("TERM")?;
        match process.ended(STOP_LIMIT)? {
            Some(_) if self.log().contains(UNFINISHED) => {
                Err(self.with_log(anyhow!("the broker was cut off in the middle of stopping")))
            }
            Some(status) => Ok(status),
            None => Err(self.with_log(anyhow!(
                "the broker did not stop within {STOP_LIMIT:?} of SIGTERM"
            ))),
        }
    }

    /// Has users, keys and rules read again (SIGHUP). It does not wait for it.
    pub fn reload(&self) -> Result<()> {
        self.process
            .as_ref()
            .context("the broker is not running")?
            .signal("HUP")
    }

    /// Whether the process is alive right now.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// The process id, for reading its memory use.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Where plain MQTT is spoken.
    pub fn mqtt_addr(&self) -> SocketAddr {
        self.address("mqtt")
    }

    /// Where MQTT over WebSocket is spoken.
    pub fn ws_addr(&self) -> SocketAddr {
        self.address("ws")
    }

    /// Where MQTT over TLS is spoken; only with `tls`.
    pub fn mqtts_addr(&self) -> SocketAddr {
        self.address("mqtts")
    }

    /// Where MQTT over secure WebSocket is spoken; only with `tls`.
    pub fn wss_addr(&self) -> SocketAddr {
        self.address("wss")
    }

    /// Where `/metrics`, `/livez` and `/readyz` are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.address("admin")
    }

    /// The address of a listener by its name in the configuration.
    pub fn address(&self, name: &str) -> SocketAddr {
        *self
            .listening
            .get(name)
            .unwrap_or_else(|| panic!("the broker has no listener {name}"))
    }

    /// Where the broker keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The certificate that clients of the TLS listeners have to trust.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// What the broker wrote to stderr since its first start.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Waits until an event with these words is in the audit log.
    pub async fn wait_audited(&self, event: &str, words: &[&str]) -> Result<()> {
        wait_for(async || is_audited(&self.log(), event, words), LIMIT)
            .await
            .with_context(|| format!("no `{event}` with {words:?}:\n{}", self.log()))
    }

    /// The body of an HTTP GET on the admin listener; an error unless the status is 200.
    pub fn admin_get(&self, path: &str) -> Result<String> {
        http_get(self.admin_addr(), path)
    }

    fn launch(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        self.process = Some(Process::guarded(child, self.files.path())?);
        let listening = Arc::new(Mutex::new(BTreeMap::new()));
        let seen = Arc::clone(&listening);
        // Reads on after the addresses are known, so that the broker never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((name, address)) = parse_listening(&line) {
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(name, address);
                }
            }
        });
        match self.wait_until_ready(&listening, deadline) {
            Ok(found) => {
                self.listening = found;
                Ok(())
            }
            Err(error) => {
                self.kill9();
                Err(self.with_log(error))
            }
        }
    }

    fn wait_until_ready(
        &mut self,
        listening: &Mutex<BTreeMap<String, SocketAddr>>,
        deadline: Instant,
    ) -> Result<BTreeMap<String, SocketAddr>> {
        let expected: &[&str] = match self.options.tls {
            true => &["mqtt", "ws", "admin", "mqtts", "wss"],
            false => &["mqtt", "ws", "admin"],
        };
        loop {
            let found = listening.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let missing: Vec<_> = expected
                .iter()
                .filter(|name| !found.contains_key(**name))
                .collect();
            if let Some(admin) = found.get("admin")
                && missing.is_empty()
                && http_get(*admin, "/readyz").is_ok()
            {
                return Ok(found);
            }
            if !self.is_running() {
                bail!("the broker ended before it was ready");
            }
            if Instant::now() > deadline {
                bail!("the broker was not ready within {START_LIMIT:?}; listeners not seen: {missing:?}");
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("start");
        let mut names = vec!["mqtt", "ws", "admin"];
        if let Some(certificate) = &self.certificate {
            names.extend(["mqtts", "wss"]);
            command
                .arg("--cert")
                .arg(&certificate.chain_path)
                .arg("--key")
                .arg(&certificate.key_path);
        }
        for name in names {
            let address = self
                .listening
                .get(name)
                .map_or("127.0.0.1:0".to_owned(), SocketAddr::to_string);
            command.arg(format!("--{name}")).arg(address);
        }
        command.arg("--data-dir").arg(&self.data_dir);
        if self.options.config.is_some() {
            command
                .arg("--config")
                .arg(self.files.path().join("flotilla.toml"));
        }
        command.args(&self.options.extra_args);
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn log_path(&self) -> PathBuf {
        self.files.path().join("stderr.log")
    }

    fn with_log(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!("the end of the broker's log:\n{}", tail(&self.log())))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!(
                "{:?}",
                self.with_log(anyhow!("a test failed while this broker ran"))
            );
        }
    }
}

/// Whether a log has a line of the audit log for this event, with these words in it.
pub fn is_audited(log: &str, event: &str, words: &[&str]) -> bool {
    let event = format!("event=\"{event}\"");
    log.lines().any(|line| {
        let audited = line.contains(" audit: ") && line.contains(&event);
        audited && words.iter().all(|word| line.contains(word))
    })
}

/// `listening <name> <protocol> <addr>`
fn parse_listening(line: &str) -> Option<(String, SocketAddr)> {
    let mut words = line.split_whitespace();
    if words.next()? != "listening" {
        return None;
    }
    let name = words.next()?.to_owned();
    let _protocol = words.next()?;
    Some((name, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_lines_name_a_listener_and_its_address() {
        let (name, address) = parse_listening("listening mqtt tcp 127.0.0.1:1883").unwrap();
        assert_eq!((name.as_str(), address.port()), ("mqtt", 1883));
        assert!(parse_listening("listening mqtt tcp nowhere").is_none());
        assert!(parse_listening("ready").is_none());
    }
}
