//! Memory that runs short: how much a node may take before it protects itself.

use super::ByteSize;

section! {
    /// What a node does when its memory runs short, so that the system does not end it. From 80 % of the budget on those who
    /// publish most are read more slowly; from 90 % on new connections are refused with 0x89 (server busy); from 100 % on
    /// QoS 0 messages are dropped, too. Each ends five points below where it began. Nothing acknowledged is lost by it.
    pub struct Overload {
        /// Resident memory that the node keeps to. 0B: nine tenths of what its control group or the machine allows.
        memory_max: ByteSize = ByteSize::from_bytes(0), ByteSize::from_bytes(0) => ByteSize::from_gib(16 * 1024);
    }
}
