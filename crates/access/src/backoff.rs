//! Back-off after failed logins: each failure beyond a few makes the next attempt wait longer. The table is bounded.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};

/// How patient the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Failures without consequence.
    pub free_failures: u32,
    /// The wait after the first failure beyond these; doubled by each further one.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// Without a failure for so long, all are forgotten. Not shorter than the longest wait.
    pub forget_after: Duration,
    /// Most keys remembered; one more makes that with the oldest failure be forgotten.
    pub keys_max: usize,
}

/// What failures are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// An IPv4 address, or the first 64 bits of an IPv6 one: whoever has one address there has them all.
    Address(u128),
    /// A user name, known or not, cut to 64 bytes so that a table entry is small.
    User(String),
}

impl Key {
    /// The key of an address.
    pub fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::Address(u128::from(u32::from(v4))),
            IpAddr::V6(v6) => Self::Address(u128::from(v6) >> 64 << 64),
        }
    }

    /// The key of a user name.
    pub fn user(name: &str) -> Self {
        let mut end = name.len().min(64);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        Self::User(name[..end].to_owned())
    }
}

/// Failures by key. Times are counted from any fixed moment, and do not run backwards.
#[derive(Debug)]
pub struct Backoff {
    patience: Patience,
    failures: HashMap<Key, Failures>,
    /// By last failure, so that the oldest is found.
    by_age: BTreeMap<(Duration, u64), Key>,
    next_number: u64,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Duration,
    number: u64,
}

impl Backoff {
    /// Remembers nothing yet.
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            failures: HashMap::new(),
            by_age: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// How long a key has to wait before it is listened to again; zero: not at all.
    pub fn wait(&self, key: &Key, now: Duration) -> Duration {
        let Some(failures) = self.failures.get(key) else {
            return Duration::ZERO;
        };
        if now.saturating_sub(failures.last) >= self.patience.forget_after {
            return Duration::ZERO;
        }
        let until = failures.last + self.penalty(failures.count);
        until.saturating_sub(now)
    }

    /// How many may try at the same time, so that all of them could fail and no one ought to have waited: one at least.
    pub fn at_once(&self, key: &Key, now: Duration) -> u32 {
        let is_recent = |failures: &&Failures| now.saturating_sub(failures.last) < self.patience.forget_after;
        let failures = self.failures.get(key).filter(is_recent);
        let count = failures.map_or(0, |failures| failures.count);
        let free = self.patience.free_failures.saturating_add(1);
        free.saturating_sub(count).max(1)
    }

    /// Counts a failure.
    pub fn failed(&mut self, key: Key, now: Duration) {
        self.forget_old(now);
        let before = self.remove(&key).map_or(0, |failures| failures.count);
        if self.failures.len() >= self.patience.keys_max {
            self.remove_oldest();
        }
        let number = self.next_number;
        self.next_number += 1;
        self.by_age.insert((now, number), key.clone());
        self.failures.insert(
            key,
            Failures {
                count: before.saturating_add(1),
                last: now,
                number,
            },
        );
    }

    /// Forgets the failures of a key.
    pub fn succeeded(&mut self, key: &Key) {
        self.remove(key);
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.failures.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    fn penalty(&self, count: u32) -> Duration {
        let Some(beyond) = count.checked_sub(self.patience.free_failures + 1) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(beyond).unwrap_or(u32::MAX);
        self.patience
            .first_wait
            .saturating_mul(factor)
            .min(self.patience.longest_wait)
    }

    fn forget_old(&mut self, now: Duration) {
        while let Some((&(last, _), _)) = self.by_age.first_key_value() {
            if now.saturating_sub(last) < self.patience.forget_after {
                return;
            }
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_first() {
            self.failures.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Failures> {
        let failures = self.failures.remove(key)?;
        self.by_age.remove(&(failures.last, failures.number));
        Some(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn backoff() -> Backoff {
        Backoff::new(Patience {
            free_failures: 2,
            first_wait: seconds(1),
            longest_wait: seconds(10),
            forget_after: seconds(60),
            keys_max: 3,
        })
    }

    #[test]
    fn a_few_failures_are_free_then_each_doubles_the_wait_up_to_the_longest() {
        let mut backoff = backoff();
        let key = Key::user("anna");
        let mut waits = Vec::new();
        for _ in 0..8 {
            backoff.failed(key.clone(), seconds(5));
            waits.push(backoff.wait(&key, seconds(5)).as_secs());
        }
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.wait(&key, seconds(14)), seconds(1));
        assert_eq!(backoff.wait(&key, seconds(15)), seconds(0));
        assert_eq!(backoff.wait(&Key::user("bob"), seconds(5)), seconds(0));
    }

    #[test]
    fn as_many_may_try_at_once_as_may_fail_one_after_the_other() {
        let mut backoff = backoff();
        let key = Key::user("anna");
        let mut counts = Vec::new();
        for _ in 0..5 {
            counts.push(backoff.at_once(&key, seconds(5)));
            backoff.failed(key.clone(), seconds(5));
        }
        assert_eq!(counts, [3, 2, 1, 1, 1]);
        assert_eq!(backoff.at_once(&key, seconds(65)), 3, "all is forgotten");
    }

    #[test]
    fn a_success_and_a_long_peace_are_forgiveness() {
        let mut backoff = backoff();
        let key = Key::user("anna");
        for _ in 0..4 {
            backoff.failed(key.clone(), seconds(0));
        }
        backoff.succeeded(&key);
        assert_eq!(backoff.wait(&key, seconds(0)), seconds(0));
        assert!(backoff.is_empty());
        for _ in 0..4 {
            backoff.failed(key.clone(), seconds(0));
        }
        backoff.failed(key.clone(), seconds(60));
        assert_eq!(
            backoff.wait(&key, seconds(60)),
            seconds(0),
            "it counts from one again"
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut backoff = backoff();
        for number in 0..3_u32 {
            for _ in 0..3 {
                backoff.failed(Key::Address(number.into()), seconds(number.into()));
            }
        }
        backoff.failed(Key::Address(9), seconds(3));
        assert_eq!(backoff.len(), 3);
        assert_eq!(backoff.by_age.len(), 3);
        assert_eq!(backoff.wait(&Key::Address(0), seconds(0)), seconds(0));
        assert!(backoff.wait(&Key::Address(2), seconds(2)) > seconds(0));
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_one_is_ipv4() {
        let key = |text: &str| Key::address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let Key::User(name) = Key::user(&"ä".repeat(40)) else {
            panic!("a user's key")
        };
        assert_eq!(name.len(), 64);
        let Key::User(name) = Key::user(&format!("x{}", "ä".repeat(40))) else {
            panic!("a user's key")
        };
        assert_eq!(name.len(), 63);
    }
}
