//! mosquitto_pub and mosquitto_sub against a running broker: all three protocol versions, over TCP and TLS.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clients::{Reach, broker, mosquitto, output_within};
use harness::Broker;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn mosquitto_clients_speak_mqtt_3_1_over_tcp() -> Result<()> {
    all_stories("mqttv31", Reach::Tcp)
}

#[test]
fn mosquitto_clients_speak_mqtt_3_1_1_over_tcp() -> Result<()> {
    all_stories("mqttv311", Reach::Tcp)
}

#[test]
fn mosquitto_clients_speak_mqtt_3_1_1_over_tls() -> Result<()> {
    all_stories("mqttv311", Reach::Tls)
}

#[test]
fn mosquitto_clients_speak_mqtt_5_over_tcp() -> Result<()> {
    all_stories("mqttv5", Reach::Tcp)
}

#[test]
fn mosquitto_clients_speak_mqtt_5_over_tls() -> Result<()> {
    all_stories("mqttv5", Reach::Tls)
}

fn all_stories(version: &'static str, reach: Reach) -> Result<()> {
    let broker = broker()?;
    let peers = Peers {
        broker: &broker,
        version,
        reach,
    };
    peers.every_qos_arrives().context("every QoS arrives")?;
    peers
        .retained_messages_meet_who_comes_later()
        .context("retained")?;
    peers.a_will_follows_a_lost_connection().context("will")?;
    peers.a_session_keeps_what_was_missed().context("session")
}

/// Makes the programs of one version and transport.
struct Peers<'a> {
    broker: &'a Broker,
    version: &'static str,
    reach: Reach,
}

impl Peers<'_> {
    fn every_qos_arrives(&self) -> Result<()> {
        for qos in ["0", "1", "2"] {
            let mut subscriber = self.subscriber(&["-t", "news/+", "-q", qos, "-C", "1"])?;
            self.publish(&["-t", "news/today", "-m", &format!("at {qos}"), "-q", qos])?;
            ensure!(subscriber.message()? == format!("{qos} 0 news/today at {qos}"));
        }
        Ok(())
    }

    fn retained_messages_meet_who_comes_later(&self) -> Result<()> {
        self.publish(&["-t", "state", "-m", "old", "-q", "1", "-r"])?;
        self.publish(&["-t", "state", "-m", "new", "-q", "1", "-r"])?;
        let mut subscriber = self.subscriber(&["-t", "state", "-q", "1", "-C", "1"])?;
        ensure!(subscriber.message()? == "1 1 state new");
        Ok(())
    }

    fn a_will_follows_a_lost_connection(&self) -> Result<()> {
        let mut watcher = self.subscriber(&["-t", "wills/#", "-q", "2", "-C", "1"])?;
        let will = [
            "--will-topic",
            "wills/one",
            "--will-payload",
            "gone",
            "--will-qos",
            "2",
        ];
        let doomed = self.subscriber(&[&["-t", "nothing"], &will[..]].concat())?;
        // Ending the process with SIGKILL leaves no time for a DISCONNECT.
        drop(doomed);
        ensure!(watcher.message()? == "2 0 wills/one gone");
        Ok(())
    }

    fn a_session_keeps_what_was_missed(&self) -> Result<()> {
        let mut session = vec!["-t", "queue", "-q", "2", "-c", "-i", "sleeper"];
        if self.version == "mqttv5" {
            session.extend(["-x", "3600"]);
        }
        let output = output_within(self.program("mosquitto_sub")?.args(&session).arg("-E"), LIMIT)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for number in 0..10 {
            let qos = if number < 5 { "1" } else { "2" };
            self.publish(&["-t", "queue", "-m", &number.to_string(), "-q", qos])?;
        }
        session.extend(["-C", "10"]);
        let mut subscriber = self.subscriber(&session)?;
        for number in 0..10 {
            let qos = if number < 5 { 1 } else { 2 };
            let message = subscriber.message()?;
            ensure!(
                message == format!("{qos} 0 queue {number}"),
                "number {number}: {message}"
            );
        }
        Ok(())
    }

    fn publish(&self, arguments: &[&str]) -> Result<()> {
        let output = output_within(self.program("mosquitto_pub")?.args(arguments), LIMIT)?;
        ensure!(
            output.status.success(),
            "mosquitto_pub: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Starts mosquitto_sub and waits until its subscription is acknowledged.
    fn subscriber(&self, arguments: &[&str]) -> Result<Subscriber> {
        let mut command = self.program("mosquitto_sub")?;
        command.args(["-d", "-F", "message %q %r %t %p"]).args(arguments);
        let mut subscriber = Subscriber::start(&mut command)?;
        subscriber.line("Subscribed")?;
        Ok(subscriber)
    }

    fn program(&self, name: &str) -> Result<Command> {
        let mut command = mosquitto(name)?;
        command.args(["-h", "localhost", "-V", self.version]);
        command.args(["-p", &self.reach.port(self.broker).to_string()]);
        if let Some(certificate) = self.reach.trusted(self.broker) {
            command.arg("--cafile").arg(certificate);
        }
        Ok(command)
    }
}

/// A running mosquitto_sub; dropping it kills it.
struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    /// Messages that came while another line was awaited: queued ones come before the SUBACK.
    early: Vec<String>,
}

impl Subscriber {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        let (sender, lines) = sync_channel(1000);
        std::thread::spawn(move || {
            let all = BufReader::new(stdout).lines().map_while(Result::ok);
            all.take_while(|line| sender.send(line.clone()).is_ok()).count();
        });
        Ok(Subscriber {
            child,
            lines,
            early: Vec::new(),
        })
    }

    /// Waits for a line with this opening and gives what follows it.
    fn line(&mut self, opening: &str) -> Result<String> {
        loop {
            let line = self
                .lines
                .recv_timeout(LIMIT)
                .with_context(|| format!("no line {opening:?}"))?;
            if let Some(rest) = line.strip_prefix(opening) {
                return Ok(rest.trim().to_owned());
            }
            self.early
                .extend(line.strip_prefix("message").map(|rest| rest.trim().to_owned()));
        }
    }

    fn message(&mut self) -> Result<String> {
        if self.early.is_empty() {
            self.line("message")
        } else {
            Ok(self.early.remove(0))
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
