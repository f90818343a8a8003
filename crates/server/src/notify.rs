//! What systemd is told, if it asks for it: started, stopping, alive. (sd_notify(3)) Elsewhere nobody listens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

/// A way to the service manager; none where there is none.
#[derive(Clone, Debug)]
pub(crate) struct Notifier(Option<Arc<UnixDatagram>>);

impl Notifier {
    /// By `NOTIFY_SOCKET`. A socket that cannot be reached is told once and does not keep the node from starting.
    pub(crate) fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        match connect(&name) {
            Ok(socket) => Self(Some(Arc::new(socket))),
            Err(error) => {
                warn!(?name, %error, "the service manager's NOTIFY_SOCKET cannot be reached");
                Self(None)
            }
        }
    }

    /// Listeners are bound. Whether clients are served is said by `/readyz`.
    pub(crate) fn ready(&self) {
        self.say("READY=1\nSTATUS=listening; /readyz says whether clients are served");
    }

    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    /// Says twice in the time allowed that the runtime turns, until the process ends; returns at once where nobody asks.
    pub(crate) async fn run_watchdog(self) {
        let Some(limit) = watchdog_limit(|name| std::env::var(name).ok(), std::process::id()) else {
            return;
        };
        let mut ticks = tokio::time::interval(limit / 2);
        loop {
            ticks.tick().await;
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(state.as_bytes())
        {
            warn!(%error, state, "the service manager was not told");
        }
    }
}

/// A path, or with `@` in front a name of Linux' own.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold up the node.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What the manager waits for at the most, if it waits for this process.
fn watchdog_limit(variable: impl Fn(&str) -> Option<String>, process: u32) -> Option<Duration> {
    let is_meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == process.to_string());
    let limit: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (is_meant && limit > 1).then(|| Duration::from_micros(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_or_of_linux_own() {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        Notifier(Some(Arc::new(connect(path.as_os_str()).unwrap()))).stopping();
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"STOPPING=1\n"));

        let own = format!("flotilla-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&own).unwrap()).unwrap();
        Notifier(Some(Arc::new(connect(OsStr::new(&format!("@{own}"))).unwrap()))).ready();
        let length = manager.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"READY=1\n"));
        assert!(connect(OsStr::new("/nothing/there")).is_err());
    }

    #[test]
    fn a_watchdog_of_another_process_is_none_of_ours() {
        let given = |pid: &'static str, limit: &'static str| {
            let variable = move |name: &str| match name {
                "WATCHDOG_PID" => Some(pid.to_owned()).filter(|pid| !pid.is_empty()),
                _ => Some(limit.to_owned()),
            };
            watchdog_limit(variable, 7)
        };
        let seconds = Some(Duration::from_secs(30));
        assert_eq!(
            [given("7", "30000000"), given("", "30000000")],
            [seconds, seconds]
        );
        assert_eq!(
            [given("8", "30000000"), given("7", "0"), given("7", "x")],
            [None; 3]
        );
    }
}
