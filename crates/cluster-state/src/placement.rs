//! Which shard a client id or a topic belongs to. The answer is the same on every node and in every version.

/// A cluster's shards divide this many slots, so that a later version can move slots between them.
pub const SLOTS: u16 = 4096;

/// The slot of a client id or a topic.
pub fn slot_of(key: &str) -> u16 {
    let mut hash = Fnv::default();
    hash.update(key.as_bytes());
    // FNV mixes its low bits poorly for keys that differ at the end only: spread them before cutting.
    let mut bits = hash.finish();
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    (bits % u64::from(SLOTS)) as u16
}

/// The shard of a client id or a topic. A cluster without shards has only the answer 0.
pub fn shard_of(key: &str, shards: u16) -> u16 {
    slot_of(key).checked_rem(shards).unwrap_or(0)
}

/// Fowler-Noll-Vo 1a with 64 bits: short, and never changing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u64::from(*byte);
            self.0 = self.0.wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{SLOTS, shard_of, slot_of};

    #[test]
    fn the_place_of_a_key_never_changes() {
        // These numbers are on the disks of users: a change here loses their sessions.
        let slots: Vec<u16> = ["", "a", "client-1", "sensors/1/temperature"]
            .map(slot_of)
            .to_vec();
        assert_eq!(slots, [3154, 589, 2015, 799]);
    }

    #[test]
    fn keys_spread_evenly_over_the_shards() {
        let mut counts = [0u32; 16];
        for number in 0..16_000 {
            counts[usize::from(shard_of(&format!("client-{number}"), 16))] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn every_number_of_shards_is_answered() {
        for shards in [0, 1, 3, 16, SLOTS, u16::MAX] {
            assert!(shard_of("client", shards) < shards.max(1));
        }
    }
}
