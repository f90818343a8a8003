//! What the service manager is told, on a socket as systemd gives one.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Broker, BrokerOptions};

const LIMIT: Duration = Duration::from_secs(20);

/// The next message that begins with this line; others are passed over.
fn heard(manager: &UnixDatagram, line: &str) -> Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let length = manager
            .recv(&mut buffer)
            .with_context(|| format!("waiting for {line}"))?;
        let text = std::str::from_utf8(&buffer[..length])?;
        if text.lines().next() == Some(line) {
            return Ok(());
        }
        ensure!(
            text.starts_with("WATCHDOG=1"),
            "{line} was to come, and {text} came"
        );
    }
}

#[test]
fn the_manager_hears_of_the_start_of_life_and_of_the_stop() -> Result<()> {
    let files = tempfile::tempdir()?;
    let path = files.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(LIMIT))?;
    let mut broker = Broker::start(BrokerOptions {
        env: vec![
            ("NOTIFY_SOCKET".to_owned(), path.display().to_string()),
            ("WATCHDOG_USEC".to_owned(), "1000000".to_owned()),
        ],
        ..BrokerOptions::default()
    })?;
    heard(&manager, "READY=1")?;
    heard(&manager, "WATCHDOG=1")?;
    let status = broker.stop()?;
    ensure!(status.success(), "{status:?}");
    heard(&manager, "STOPPING=1")
}
