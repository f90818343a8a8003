//! One simulated file: what a reader sees, what is on the disk, and the changes between the two.

use rand::Rng;
use rand::rngs::SmallRng;

/// Bytes with a length: what is between their end and the length reads as zeros.
#[derive(Default)]
struct Bytes {
    written: Vec<u8>,
    length: usize,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Default)]
pub(super) struct Content {
    seen: Bytes,
    synced: Bytes,
    unsynced: Vec<Change>,
}

impl Content {
    pub(super) fn length(&self) -> usize {
        self.seen.length
    }

    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.seen.length.saturating_sub(offset));
        let written = self.seen.written.get(offset..).unwrap_or_default();
        let copied = written.len().min(count);
        buffer[..copied].copy_from_slice(&written[..copied]);
        buffer[copied..count].fill(0);
        count
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.change(Change::Write {
            offset,
            bytes: bytes.to_vec(),
        });
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.change(Change::Length(length));
    }

    fn change(&mut self, change: Change) {
        self.seen.apply(&change);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            self.synced.apply(&change);
        }
    }

    /// The kernel reports a failed sync once and forgets what it could not write.
    pub(super) fn lose_unsynced(&mut self) {
        self.unsynced.clear();
    }

    pub(super) fn flip(&mut self, offset: usize) {
        for bytes in [&mut self.seen, &mut self.synced] {
            if let Some(byte) = bytes.written.get_mut(offset) {
                *byte ^= 0x10;
            }
        }
    }

    pub(super) fn crash(&mut self, random: &mut SmallRng) {
        let changes = std::mem::take(&mut self.unsynced);
        match random.random_range(0..5) {
            0 => {}
            1 => changes.iter().for_each(|change| self.synced.apply(change)),
            // Pages reach the disk in any order.
            2 => {
                for change in changes.iter().filter(|_| random.random()) {
                    self.synced.apply(change);
                }
            }
            _ => self.tear(changes, random),
        }
        self.seen = Bytes {
            written: self.synced.written.clone(),
            length: self.synced.length,
        };
    }

    /// Keeps the changes up to some place within a write.
    fn tear(&mut self, mut changes: Vec<Change>, random: &mut SmallRng) {
        let kept = random.random_range(0..=changes.len());
        let torn = changes.drain(kept..).next();
        changes.iter().for_each(|change| self.synced.apply(change));
        if let Some(Change::Write { offset, mut bytes }) = torn {
            bytes.truncate(random.random_range(0..=bytes.len()));
            if random.random() && !bytes.is_empty() {
                let place = random.random_range(0..bytes.len());
                bytes[place] ^= 1 << random.random_range(0..8);
            }
            self.synced.apply(&Change::Write { offset, bytes });
        }
    }
}

impl Bytes {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if self.written.len() < end {
                    self.written.resize(end, 0);
                }
                self.written[*offset..end].copy_from_slice(bytes);
                self.length = self.length.max(end);
            }
            Change::Length(length) => {
                self.written.truncate(*length);
                self.length = *length;
            }
        }
    }
}
