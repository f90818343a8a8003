//! What the probes answer: alive, started, ready. Who starts the node tells it; who asks reads it.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

type Check = Box<dyn Fn() -> bool + Send + Sync>;
type LoadCheck = Box<dyn Fn() -> u8 + Send + Sync>;

/// From this level on new connections are refused.
const REFUSING: u8 = 2;

/// The health of this process, from its start to its end.
#[derive(Default)]
pub struct Health {
    ready_check: OnceLock<Check>,
    overload_check: OnceLock<LoadCheck>,
    drain_check: OnceLock<Check>,
    was_ready: AtomicBool,
    stopping: AtomicBool,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ready())
    }
}

/// The answer to a probe: single checks and whether each passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    checks: Vec<(&'static str, bool)>,
    /// What is worth knowing and fails nothing.
    note: Option<String>,
}

impl Health {
    /// A process that has just begun to start.
    pub fn new() -> Self {
        Self::default()
    }

    /// The process has started; from now on `check` says whether clients should come. Only the first call counts.
    pub fn set_ready_check(&self, check: impl Fn() -> bool + Send + Sync + 'static) {
        drop(self.ready_check.set(Box::new(check)));
    }

    /// From now on `level` says how short memory is: 0 not at all, from 2 on new connections are refused. Only the first call
    /// counts.
    pub fn set_overload_check(&self, level: impl Fn() -> u8 + Send + Sync + 'static) {
        drop(self.overload_check.set(Box::new(level)));
    }

    /// From now on `check` says whether the node is out of service, on purpose and for a while. Only the first call counts.
    pub fn set_drain_check(&self, check: impl Fn() -> bool + Send + Sync + 'static) {
        drop(self.drain_check.set(Box::new(check)));
    }

    /// The process is about to end: no longer ready, so that load balancers look elsewhere.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the process should go on living.
    pub fn live(&self) -> Probe {
        Probe {
            checks: vec![("runtime", true)],
            note: None,
        }
    }

    /// Whether the process has been ready once.
    pub fn started(&self) -> Probe {
        self.is_ready();
        Probe {
            checks: vec![("started", self.was_ready.load(Ordering::Acquire))],
            note: None,
        }
    }

    /// Whether clients should come.
    pub fn ready(&self) -> Probe {
        let stopping = self.stopping.load(Ordering::Acquire);
        let draining = self.drain_check.get().is_some_and(|check| check());
        Probe {
            checks: vec![
                ("started", self.ready_check.get().is_some()),
                ("broker", self.is_ready()),
                ("not-draining", !draining),
                ("not-stopping", !stopping),
            ],
            note: self.overload(),
        }
    }

    /// A node that refuses clients for want of memory stays ready: those it has would be sent to the others, which may be short
    /// of it, too.
    fn overload(&self) -> Option<String> {
        let level = self.overload_check.get()?();
        (level >= REFUSING).then(|| format!("overload level {level}: new connections are refused"))
    }

    fn is_ready(&self) -> bool {
        let ready = self.ready_check.get().is_some_and(|check| check());
        if ready {
            self.was_ready.store(true, Ordering::Release);
        }
        ready
    }
}

impl Probe {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|(_, passed)| *passed)
    }
}

impl fmt::Display for Probe {
    /// One line a check and one for the whole, in the form Kubernetes' own probes have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, passed) in &self.checks {
            match passed {
                true => writeln!(f, "[+]{name} ok")?,
                false => writeln!(f, "[-]{name} failed")?,
            }
        }
        if let Some(note) = &self.note {
            writeln!(f, "[!]{note}")?;
        }
        writeln!(f, "check {}", if self.passed() { "passed" } else { "failed" })
    }
}
