//! The wall clock of a simulated machine: simulated time, and jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use cluster::Clock;

/// Some day of 2026, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_790_000_000_000;

/// Goes with the simulation, apart from jumps of its own.
pub(crate) struct SimulatedClock {
    pub(crate) elapsed_ms: Arc<AtomicU64>,
    pub(crate) ahead_ms: AtomicI64,
}

impl Clock for SimulatedClock {
    fn now_ms(&self) -> u64 {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        (EPOCH_MS + self.elapsed_ms.load(Ordering::Relaxed)).saturating_add_signed(ahead_ms)
    }
}
