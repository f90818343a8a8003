//! Answers that are remembered for a while, under a hash of the question: the question itself, with its password, is not kept.

use std::fmt;

use aws_lc_rs::hmac;
use foldhash::HashMap;

use super::Answer;

/// A question's hash, keyed with a secret of the process, and when it was asked: before the answers were forgotten or after.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    hash: [u8; 32],
    epoch: u64,
}

struct Kept {
    answer: Answer,
    /// Milliseconds since 1970.
    until_ms: u64,
}

/// Up to a number of answers; the older half makes room.
pub struct Cache {
    secret: hmac::Key,
    allow_ms: u64,
    other_ms: u64,
    half: usize,
    /// Grows when everything is forgotten.
    epoch: u64,
    young: HashMap<[u8; 32], Kept>,
    old: HashMap<[u8; 32], Kept>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers", self.young.len() + self.old.len())
    }
}

impl Cache {
    /// Holds `entries_max` answers at the most (0: none); those that allow for `allow_ms`, others for `other_ms`.
    pub fn new(secret: [u8; 32], entries_max: usize, allow_ms: u64, other_ms: u64) -> Self {
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            allow_ms,
            other_ms,
            half: entries_max.div_ceil(2),
            epoch: 0,
            young: HashMap::default(),
            old: HashMap::default(),
        }
    }

    /// What an answer is kept under.
    pub fn key(&self, question: &[u8]) -> Key {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.secret, question).as_ref());
        Key {
            hash,
            epoch: self.epoch,
        }
    }

    /// The answer to a question, if there is one that still holds.
    pub fn get(&self, key: &Key, now_ms: u64) -> Option<Answer> {
        let kept = self.young.get(&key.hash).or_else(|| self.old.get(&key.hash))?;
        (now_ms < kept.until_ms).then(|| kept.answer.clone())
    }

    /// Keeps an answer; one that allows for no longer than it says itself, and none to a question of before `clear`.
    pub fn put(&mut self, key: Key, answer: Answer, now_ms: u64) {
        let (keep_ms, end_ms) = match &answer {
            Answer::Allow(allowed) => (self.allow_ms, allowed.expires_at_ms.unwrap_or(u64::MAX)),
            Answer::Deny | Answer::Ignore => (self.other_ms, u64::MAX),
        };
        let until_ms = now_ms.saturating_add(keep_ms).min(end_ms);
        if until_ms <= now_ms || self.half == 0 || key.epoch != self.epoch {
            return;
        }
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.hash, Kept { answer, until_ms });
    }

    /// Forgets everything, and the answers to questions that are under way before they come.
    pub fn clear(&mut self) {
        self.epoch += 1;
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Allowed;
    use super::*;

    fn cache(entries_max: usize) -> Cache {
        Cache::new([7; 32], entries_max, 60_000, 5_000)
    }

    #[test]
    fn answers_hold_for_their_time_and_no_longer_than_they_say() {
        let mut cache = cache(10);
        let short = Allowed {
            expires_at_ms: Some(2_000),
            ..Allowed::default()
        };
        let answers = [
            (Answer::Allow(Box::default()), 61_000),
            (Answer::Deny, 6_000),
            (Answer::Ignore, 6_000),
            (Answer::Allow(Box::new(short)), 2_000),
        ];
        for (number, (answer, end)) in answers.into_iter().enumerate() {
            let key = cache.key(&[number as u8]);
            cache.put(key, answer.clone(), 1_000);
            assert_eq!(cache.get(&key, end - 1), Some(answer));
            assert_eq!(cache.get(&key, end), None);
        }
        let key = cache.key(&[0]);
        cache.clear();
        assert_eq!(cache.get(&key, 1_000), None);
    }

    #[test]
    fn an_answer_that_was_under_way_when_all_was_forgotten_is_not_kept() {
        let mut cache = cache(10);
        let asked_before = cache.key(b"who");
        cache.clear();
        cache.put(asked_before, Answer::Deny, 0);
        let asked_after = cache.key(b"who");
        assert_eq!(cache.get(&asked_after, 0), None);
        cache.put(asked_after, Answer::Deny, 0);
        assert_eq!(cache.get(&asked_after, 0), Some(Answer::Deny));
    }

    #[test]
    fn the_newest_stay_and_there_are_never_more_than_permitted() {
        let mut cache = cache(10);
        for number in 0..1000_u32 {
            let key = cache.key(&number.to_be_bytes());
            cache.put(key, Answer::Deny, 0);
            assert!(cache.young.len() + cache.old.len() <= 10);
            assert!(cache.get(&key, 0).is_some());
        }
        let mut none = Cache::new([7; 32], 0, 1, 1);
        let key = none.key(b"a");
        none.put(key, Answer::Deny, 0);
        assert_eq!(none.get(&key, 0), None);
    }

    #[test]
    fn the_hash_depends_on_the_secret_and_on_every_byte() {
        let (one, other) = (cache(1), Cache::new([8; 32], 1, 1, 1));
        assert!(one.key(b"a") == one.key(b"a"));
        assert!(one.key(b"a") != one.key(b"b"));
        assert!(one.key(b"a") != other.key(b"a"));
    }
}
