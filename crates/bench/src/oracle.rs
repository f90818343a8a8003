//! The judge of one publisher's messages at one subscriber: what is new, repeated, late, or missing in the end.

use std::collections::BTreeMap;

/// What an arrival turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Seen for the first time.
    New,
    /// Seen before.
    Duplicate,
}

/// Follows the sequence numbers 0, 1, 2, … of one publisher.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    next: u64,
    /// Sequence numbers below `next` that have not come yet: start of each gap to the number after its end.
    gaps: BTreeMap<u64, u64>,
    duplicates: u64,
    out_of_order: u64,
}

impl Tracker {
    /// Takes note of an arrival. One that comes after a later message is out of order, unless it is a repetition.
    pub(crate) fn arrived(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next {
            self.next += 1;
            return Arrival::New;
        }
        if sequence > self.next {
            self.gaps.insert(self.next, sequence);
            self.next = sequence + 1;
            return Arrival::New;
        }
        if self.fill_gap(sequence) {
            self.out_of_order += 1;
            return Arrival::New;
        }
        self.duplicates += 1;
        Arrival::Duplicate
    }

    /// Messages that came more than once, counted once per repetition.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// First arrivals that came after a later message.
    pub(crate) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// How many of the first `published` messages never came.
    pub(crate) fn lost(&self, published: u64) -> u64 {
        let in_gaps: u64 = self.gaps.iter().map(|(start, end)| end - start).sum();
        in_gaps + published.saturating_sub(self.next)
    }

    fn fill_gap(&mut self, sequence: u64) -> bool {
        let Some((&start, &end)) = self.gaps.range(..=sequence).next_back() else {
            return false;
        };
        if sequence >= end {
            return false;
        }
        self.gaps.remove(&start);
        if start < sequence {
            self.gaps.insert(start, sequence);
        }
        if sequence + 1 < end {
            self.gaps.insert(sequence + 1, end);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sequences: &[u64]) -> Tracker {
        let mut tracker = Tracker::default();
        for &sequence in sequences {
            tracker.arrived(sequence);
        }
        tracker
    }

    fn verdict(tracker: &Tracker, published: u64) -> (u64, u64, u64) {
        (
            tracker.lost(published),
            tracker.duplicates(),
            tracker.out_of_order(),
        )
    }

    #[test]
    fn all_in_order_is_no_fault() {
        assert_eq!(verdict(&after(&[0, 1, 2, 3]), 4), (0, 0, 0));
    }

    #[test]
    fn messages_missing_at_start_middle_and_end_are_lost() {
        assert_eq!(verdict(&after(&[1, 2, 5, 6]), 9), (5, 0, 0));
    }

    #[test]
    fn nothing_received_means_everything_is_lost() {
        assert_eq!(verdict(&after(&[]), 7), (7, 0, 0));
    }

    #[test]
    fn a_repetition_is_a_duplicate_and_not_out_of_order() {
        let mut tracker = after(&[0, 1, 2]);
        assert_eq!(tracker.arrived(1), Arrival::Duplicate);
        assert_eq!(tracker.arrived(2), Arrival::Duplicate);
        assert_eq!(tracker.arrived(3), Arrival::New);
        assert_eq!(verdict(&tracker, 4), (0, 2, 0));
    }

    #[test]
    fn a_late_message_is_out_of_order_and_not_lost() {
        let mut tracker = after(&[0, 2, 3]);
        assert_eq!(tracker.arrived(1), Arrival::New);
        assert_eq!(verdict(&tracker, 4), (0, 0, 1));
    }

    #[test]
    fn a_late_message_that_comes_twice_is_out_of_order_once_and_a_duplicate_once() {
        assert_eq!(verdict(&after(&[0, 2, 1, 1]), 3), (0, 1, 1));
    }

    #[test]
    fn a_gap_filled_from_the_middle_keeps_both_sides_missing() {
        assert_eq!(verdict(&after(&[0, 10, 5]), 11), (8, 0, 1));
        assert_eq!(verdict(&after(&[0, 10, 5, 4, 6, 5]), 11), (6, 1, 3));
    }

    #[test]
    fn a_reversed_stream_is_complete_and_all_but_the_first_are_out_of_order() {
        assert_eq!(verdict(&after(&[4, 3, 2, 1, 0]), 5), (0, 0, 4));
    }

    #[test]
    fn random_shuffles_with_losses_and_repeats_agree_with_a_plain_count() {
        use rand::{Rng, SeedableRng, rngs::SmallRng};
        for seed in 0..200 {
            let mut random = SmallRng::seed_from_u64(seed);
            let published = random.random_range(1..60);
            let arrivals: Vec<u64> = (0..random.random_range(0..80))
                .map(|_| random.random_range(0..published))
                .collect();
            let distinct: std::collections::BTreeSet<_> = arrivals.iter().collect();
            let tracker = after(&arrivals);
            assert_eq!(
                tracker.lost(published),
                published - distinct.len() as u64,
                "seed {seed}"
            );
            assert_eq!(
                tracker.duplicates(),
                (arrivals.len() - distinct.len()) as u64,
                "seed {seed}"
            );
        }
    }
}
