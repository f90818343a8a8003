//! What of the resident memory is in use. The allocator keeps much of what it was given back, and hands it out again before the
//! process grows: a node whose queues were emptied has room, though it is as large as before.

/// What was seen since the start, in bytes.
#[derive(Default, Debug)]
pub(super) struct Usage {
    resident_max: u64,
    /// The most that was known to be held at once; less whatever the process has grown by since, although that was free again.
    held_max: u64,
}

impl Usage {
    /// Resident memory without what was given back and is resident still. `held` is what queues and retained messages take.
    pub(super) fn in_use(&mut self, resident: u64, held: u64) -> u64 {
        let grown = resident.saturating_sub(self.resident_max);
        self.resident_max += grown;
        self.held_max = self.held_max.saturating_sub(grown).max(held);
        let left_the_process = self.resident_max - resident;
        let free = (self.held_max - held).saturating_sub(left_the_process);
        resident.saturating_sub(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_not_in_use_though_it_is_resident() {
        let mut usage = Usage::default();
        assert_eq!(usage.in_use(50, 0), 50);
        assert_eq!(usage.in_use(150, 100), 150);
        assert_eq!(usage.in_use(150, 20), 70);
        assert_eq!(usage.in_use(150, 90), 140, "it is used again");
        assert_eq!(usage.in_use(70, 20), 70, "it has left the process, too");
    }

    #[test]
    fn what_grows_beside_free_memory_is_in_use() {
        let mut usage = Usage::default();
        usage.in_use(150, 100);
        assert_eq!(usage.in_use(151, 0), 52, "a little more does not undo the rest");
        assert_eq!(usage.in_use(250, 0), 250, "what is free is evidently of no use");
        assert_eq!(usage.in_use(250, 0), 250);
    }
}
