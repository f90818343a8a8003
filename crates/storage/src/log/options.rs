//! How the log is kept, and who writes it.

use std::fmt;
use std::sync::Arc;

use super::writer::Turn;

/// Sizes of the log, whether it is synced, and who writes it.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A file of the log is closed at this size.
    pub file_bytes: u64,
    /// Above this size, what is left of old files is written forward so that they can go.
    pub collect_bytes: u64,
    /// Entries of a group kept in memory; those not yet written come on top.
    pub cache_bytes_per_group: usize,
    /// Whether entries are synced before they are reported as flushed. Votes always are.
    pub sync: bool,
    /// Who writes what waits.
    pub writing: Writing,
    /// What happens when a write or a sync fails.
    pub on_fatal: OnFatal,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            collect_bytes: 512 << 20,
            cache_bytes_per_group: 4 << 20,
            sync: true,
            writing: Writing::Thread,
            on_fatal: OnFatal::default(),
        }
    }
}

/// Who writes the log.
#[derive(Clone, Default)]
pub enum Writing {
    /// A thread of the log's own.
    #[default]
    Thread,
    /// Whoever is handed the turn; there is at most one turn at a time. A simulation gives it to a task that waits as
    /// long as its disk takes, and is repeatable.
    Turns(Arc<dyn Fn(Turn) + Send + Sync>),
}

impl Writing {
    /// Each operation writes before it returns.
    pub fn at_once() -> Self {
        Self::Turns(Arc::new(Turn::write))
    }
}

impl fmt::Debug for Writing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Thread => "Thread",
            Self::Turns(_) => "Turns",
        })
    }
}

/// Called once with the reason when a write or a sync failed. After it nobody knows what is on the disk: a second
/// sync may succeed without having written what the first one lost. So the process ends, and a restart reads what
/// is really there. In a simulation only the node stops: whatever waits and comes later is answered with an error.
#[derive(Clone)]
pub struct OnFatal(Arc<dyn Fn(&str) + Send + Sync>);

impl OnFatal {
    /// Calls this instead of ending the process.
    pub fn call(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(super) fn run(&self, reason: &str) {
        (self.0)(reason);
    }
}

impl Default for OnFatal {
    fn default() -> Self {
        Self::call(|reason| {
            tracing::error!(reason, "the disk failed this node: the process ends");
            eprintln!("the disk failed this node, the process ends: {reason}");
            std::process::abort()
        })
    }
}

impl fmt::Debug for OnFatal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OnFatal")
    }
}
