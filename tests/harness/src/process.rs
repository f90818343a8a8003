//! A `flotilla` process of a test: signals, its end, and a guard that ends it when the test is gone without a word.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Between two looks at something that is waited for.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);
const LOG_TAIL_BYTES: usize = 4096;

/// The child and the guard that ends it should the test process go away without saying so.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    guard: Child,
    guard_input: Option<ChildStdin>,
}

impl Process {
    /// A test binary's shared broker lives in a static, which is never dropped: the guard sees the pipe to this
    /// process end, whatever ended it, and then kills the broker and removes its files.
    pub(crate) fn guarded(mut child: Child, files: &Path) -> Result<Process> {
        let guard = Command::new("sh")
            .args([
                "-c",
                "cat >/dev/null; kill -9 \"$1\" 2>/dev/null; sleep 0.3; rm -rf \"$2\"",
                "sh",
            ])
            .arg(child.id().to_string())
            .arg(files)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(mut guard) => {
                let guard_input = guard.stdin.take();
                Ok(Process {
                    child,
                    guard,
                    guard_input,
                })
            }
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                Err(error).context("starting the guard of the broker")
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by its name: `TERM`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let sent = Command::new("sh")
            .args(["-c", "kill -\"$1\" \"$2\"", "sh", name, &self.pid().to_string()])
            .status()?;
        ensure!(sent.success(), "could not send SIG{name} to the broker");
        Ok(())
    }

    /// Waits until the process has ended by itself; `None`: it has not within the limit, and is killed.
    pub(crate) fn ended(mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        let mut status = self.child.try_wait()?;
        while status.is_none() && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
            status = self.child.try_wait()?;
        }
        self.kill();
        Ok(status)
    }

    /// SIGKILL, which a stopped process does not survive either.
    pub(crate) fn kill(mut self) {
        self.guard.kill().ok();
        self.guard.wait().ok();
        drop(self.guard_input.take());
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The broker's binary lies where cargo puts binaries of this profile: one above the test executables.
pub(crate) fn program() -> Result<PathBuf> {
    let test = std::env::current_exe().context("finding the test executable")?;
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("flotilla"))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no flotilla binary next to {}: build it first with `cargo build`",
            test.display()
        )
    })
}

/// The program under test, for commands that ask a node at this address.
pub fn flotilla(admin: SocketAddr) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.env("FLOTILLA_ADMIN", admin.to_string());
    Ok(command)
}

/// The body of an HTTP GET; an error unless the status is 200.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(status == "200", "GET {path} answered {status}: {body}");
    Ok(body.to_owned())
}

/// The end of a log, for a failure's message.
pub(crate) fn tail(log: &str) -> &str {
    let mut start = log.len().saturating_sub(LOG_TAIL_BYTES);
    while !log.is_char_boundary(start) {
        start += 1;
    }
    &log[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeping(files: &Path) -> Process {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        Process::guarded(child, files).unwrap()
    }

    #[test]
    fn a_process_ends_when_it_is_asked_to_and_when_it_is_not_allowed_to_answer() {
        let files = tempfile::tempdir().unwrap();
        let mut process = sleeping(files.path());
        assert!(process.is_running());
        process.signal("TERM").unwrap();
        let status = process.ended(Duration::from_secs(20)).unwrap().unwrap();
        assert!(!status.success());

        let stopped = sleeping(files.path());
        stopped.signal("STOP").unwrap();
        assert!(stopped.ended(Duration::ZERO).unwrap().is_none());
    }
}
