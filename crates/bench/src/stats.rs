//! What all connections of a run count together: messages and their latency.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Shared by all connections; they report once per batch, not per message.
#[derive(Debug)]
pub(crate) struct Stats {
    began: Instant,
    published: AtomicU64,
    delivered: AtomicU64,
    behind_schedule_ns: AtomicU64,
    latencies: Mutex<Histogram<u64>>,
}

impl Stats {
    /// The run's clock starts now.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            behind_schedule_ns: AtomicU64::new(0),
            latencies: Mutex::new(new_histogram()),
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Messages handed to the broker.
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// First arrivals at subscribers.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Longest time by which a message of a fixed rate left later than planned.
    pub(crate) fn behind_schedule(&self) -> Duration {
        Duration::from_nanos(self.behind_schedule_ns.load(Ordering::Relaxed))
    }

    /// Adds a batch of publications.
    pub(crate) fn add_published(&self, count: u64) {
        self.published.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds a batch of first arrivals with their latencies in nanoseconds.
    pub(crate) fn add_delivered(&self, latencies_ns: &[u64]) {
        self.delivered
            .fetch_add(latencies_ns.len() as u64, Ordering::Relaxed);
        let mut histogram = self.histogram();
        for &latency in latencies_ns {
            histogram.saturating_record(latency);
        }
    }

    /// Notes that a message left this much later than planned.
    pub(crate) fn note_behind_schedule(&self, late_ns: u64) {
        self.behind_schedule_ns.fetch_max(late_ns, Ordering::Relaxed);
    }

    /// The latencies since the last call.
    pub(crate) fn take_latencies(&self) -> Histogram<u64> {
        std::mem::replace(&mut *self.histogram(), new_histogram())
    }

    fn histogram(&self) -> MutexGuard<'_, Histogram<u64>> {
        // Recording cannot leave it half changed, so a panic elsewhere does not spoil it.
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds from a tenth of a microsecond to ten minutes, three digits kept.
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 600_000_000_000, 3)
        .expect("the bounds are constants that the histogram accepts")
}
