//! What Prometheus sees of the log's writer.

use std::time::Instant;

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};

pub(super) struct Measure {
    bytes: Counter,
    syncs: Histogram,
}

impl Measure {
    pub(super) fn new() -> Self {
        describe_counter!(
            "flotilla_storage_log_bytes_total",
            "Bytes written to the Raft log"
        );
        describe_histogram!(
            "flotilla_storage_sync_duration_seconds",
            "Duration of a write to the Raft log with its sync"
        );
        Self {
            bytes: counter!("flotilla_storage_log_bytes_total"),
            syncs: histogram!("flotilla_storage_sync_duration_seconds"),
        }
    }

    pub(super) fn wrote(&self, bytes: usize, synced_since: Option<Instant>) {
        self.bytes.increment(bytes as u64);
        if let Some(since) = synced_since {
            self.syncs.record(since.elapsed());
        }
    }
}
