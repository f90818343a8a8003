//! The wall clock that stamps entries. Replicated code never asks it; it reads the stamp.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::ClusterClock;

/// Wall time in milliseconds since the Unix epoch, which never goes back.
pub trait Clock: Send + Sync {
    /// Now, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// The same as the machine has it, which may go back.
    fn wall_ms(&self) -> u64 {
        self.now_ms()
    }

    /// A clock that goes by the other nodes' clocks, too.
    #[doc(hidden)]
    fn of_cluster(self: Arc<Self>) -> Option<Arc<ClusterClock>> {
        None
    }
}

/// The system's wall clock, held where it is when the system sets it back.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    latest_ms: AtomicU64,
}

impl SystemClock {
    /// Starts at the system's present time.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            latest_ms: AtomicU64::new(0),
        }
    }

    /// How long this clock has been running, for uptime.
    pub fn uptime(&self) -> std::time::Duration {
        self.started.elapsed()
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let now = self.wall_ms();
        self.latest_ms.fetch_max(now, Ordering::Relaxed).max(now)
    }

    fn wall_ms(&self) -> u64 {
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the one place that asks the wall clock"
        )]
        let now = SystemTime::now();
        now.duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_was_set_back_does_not_take_time_back() {
        let clock = SystemClock::new();
        let now = clock.now_ms();
        clock.latest_ms.store(now + 60_000, Ordering::Relaxed);

        assert_eq!(clock.now_ms(), now + 60_000);
        assert!(clock.wall_ms() < now + 60_000, "what it is set to can be asked");
    }
}
