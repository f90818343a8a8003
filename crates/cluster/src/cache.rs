//! What is in memory to spare the disk, and gives way to what is in memory alone.

use crate::Cluster;

/// Of it, the entries of the log may take one part in so many; bodies of messages take the rest.
const LOG_PART: u64 = 4;

impl Cluster {
    /// Bytes of message bodies and of the log's entries in memory.
    pub fn cached_bytes(&self) -> u64 {
        self.0.shard_parts.bodies.bytes() + self.0.log.cached_bytes() as u64
    }

    /// From now on they take so many bytes at the most, if the configuration does not say less. What goes is read from disk when it is
    /// asked for.
    pub fn keep_cached_to(&self, bytes: u64) {
        let log = bytes / LOG_PART;
        self.0
            .log
            .keep_cached_to(usize::try_from(log).unwrap_or(usize::MAX));
        let logged = self.0.log.cached_bytes() as u64;
        self.0.shard_parts.bodies.keep_to(bytes - logged.min(log));
    }
}
