//! Memory that runs short: how much a node may take before it protects itself.

use super::ByteSize;

section! {
    /// What a node does when its memory runs short, so that the system does not end it. From 70 % of the budget on what is on disk,
    /// too, leaves memory, and sessions that end with their connection, and do not take the 1 MiB that they have waiting, get
    /// nothing more; from 80 % on those who publish most are read more slowly, and nothing more is
    /// kept for clients that are away: new sessions, subscriptions and retained messages; from 90 % on new connections are refused with
    /// 0x89 (server busy), and no session that ends with its connection has more than 64 KiB waiting; from 95 % on QoS 0
    /// messages are dropped, too. Each level ends five points below where it began. Nothing that was acknowledged for a session that
    /// is kept is lost by it.
    pub struct Overload {
        /// Resident memory that the node keeps to. 0B: nine tenths of what its control group or the machine allows.
        memory_max: ByteSize = ByteSize::from_bytes(0), ByteSize::from_bytes(0) => ByteSize::from_gib(16 * 1024);
    }
}
