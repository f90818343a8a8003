//! The window of one publisher: which of its messages are under way until the last subscriber has them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;

/// Shared by a publisher, which begins messages, and by everyone who finishes a part of one: each subscriber that has
/// received it and, with QoS 1 and 2, the publisher itself when the broker has acknowledged it.
#[derive(Debug)]
pub(crate) struct Flow {
    /// One slot per place in the window: the sequence number shifted by 16 bits, and the parts still open.
    slots: Box<[AtomicU64]>,
    parts: u64,
    published: AtomicU64,
    starved: AtomicBool,
    publisher: AtomicWaker,
}

const PARTS_BITS: u32 = 16;
const PARTS_MASK: u64 = (1 << PARTS_BITS) - 1;

impl Flow {
    /// A message is finished after `parts` calls of [`Flow::finish_part`].
    pub(crate) fn new(window: usize, parts: u16) -> Self {
        Self {
            slots: (0..window).map(|_| AtomicU64::new(0)).collect(),
            parts: u64::from(parts),
            published: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            publisher: AtomicWaker::new(),
        }
    }

    /// Places in the window.
    pub(crate) fn window(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Messages begun so far, which is also the next sequence number.
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Whether the next message may begin when `window` of them (at most the flow's own) may be under way.
    pub(crate) fn has_room(&self, window: u64) -> bool {
        let next = self.published();
        next < window || self.is_finished(next - window)
    }

    /// Like [`Flow::has_room`], and wakes this task when room comes.
    pub(crate) fn poll_room(&self, window: u64, context: &Context<'_>) -> bool {
        if self.has_room(window) {
            return true;
        }
        self.publisher.register(context.waker());
        self.starved.store(true, Ordering::SeqCst);
        self.has_room(window)
    }

    /// Begins the next message and returns its sequence number; only the publisher calls this, after `has_room`.
    pub(crate) fn begin(&self) -> u64 {
        let sequence = self.published();
        self.slot(sequence)
            .store(sequence << PARTS_BITS | self.parts, Ordering::SeqCst);
        self.published.store(sequence + 1, Ordering::Release);
        sequence
    }

    /// One of the message's parts is done; a message that was given up stays so.
    pub(crate) fn finish_part(&self, sequence: u64) {
        let finished = self
            .slot(sequence)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |slot| {
                (slot >> PARTS_BITS == sequence && slot & PARTS_MASK > 0).then(|| slot - 1)
            });
        let is_last = finished.is_ok_and(|before| before & PARTS_MASK == 1);
        if is_last && self.starved.load(Ordering::SeqCst) && self.starved.swap(false, Ordering::SeqCst) {
            self.publisher.wake();
        }
    }

    /// Whether every message begun is finished.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| slot.load(Ordering::SeqCst) & PARTS_MASK == 0)
    }

    /// Stops waiting for what is under way; the subscribers' trackers know what has not come.
    pub(crate) fn give_up(&self) {
        for slot in &self.slots {
            slot.fetch_and(!PARTS_MASK, Ordering::SeqCst);
        }
    }

    fn is_finished(&self, sequence: u64) -> bool {
        let slot = self.slot(sequence).load(Ordering::SeqCst);
        slot >> PARTS_BITS != sequence || slot & PARTS_MASK == 0
    }

    fn slot(&self, sequence: u64) -> &AtomicU64 {
        &self.slots[(sequence % self.window()) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_its_place_until_every_subscriber_has_it() {
        let flow = Flow::new(2, 3);
        let (first, second) = (flow.begin(), flow.begin());
        assert!(!flow.has_room(2));
        for _ in 0..3 {
            flow.finish_part(second);
        }
        assert!(!flow.has_room(2), "the oldest message is still under way");
        for _ in 0..3 {
            flow.finish_part(first);
        }
        assert!(flow.has_room(2));
        assert!(flow.is_idle());
    }

    #[test]
    fn a_smaller_window_than_the_flow_s_own_is_kept() {
        let flow = Flow::new(8, 1);
        let first = flow.begin();
        assert!(!flow.has_room(1));
        flow.finish_part(first);
        assert!(flow.has_room(1));
    }

    #[test]
    fn what_was_given_up_does_not_disturb_the_message_in_its_place() {
        let flow = Flow::new(1, 1);
        let lost = flow.begin();
        flow.give_up();
        assert!(flow.has_room(1));
        let next = flow.begin();
        flow.finish_part(lost);
        assert!(!flow.has_room(1));
        flow.finish_part(next);
        assert!(flow.has_room(1));
    }

    #[test]
    fn a_flow_without_parts_always_has_room() {
        let flow = Flow::new(1, 0);
        flow.begin();
        flow.begin();
        assert!(flow.has_room(1));
        assert_eq!(flow.published(), 2);
    }
}
