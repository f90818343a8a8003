//! How fast a client may publish: what is beyond its limits stays unread, so that the client's own socket holds it up.

use crate::meter::Meter;
use crate::overload::Level;
use crate::refusal::Limited;

/// Microseconds that may be used up ahead, of what the configuration allows.
const BURST_US: u64 = 1_000_000;
/// The same while memory is short.
const OVERLOAD_BURST_US: u64 = 100_000;
/// Nobody waits longer at once because memory is short: it may be over by then.
const OVERLOAD_WAIT_US: u64 = 5_000_000;

/// Messages and bytes of one connection.
#[derive(Debug)]
pub(super) struct Throttle {
    messages: Meter,
    bytes: Meter,
    /// Bytes, while memory is short.
    overload: Meter,
    level: Level,
}

impl Throttle {
    /// Limits per second; 0: none.
    pub(super) fn new(messages: u64, bytes: u64) -> Self {
        Self {
            messages: Meter::new(messages, BURST_US),
            bytes: Meter::new(bytes, BURST_US),
            overload: Meter::new(0, OVERLOAD_BURST_US),
            level: Level::Normal,
        }
    }

    /// Other limits from now on; what is owed by the old ones is forgiven but for a burst.
    pub(super) fn change(&mut self, messages: u64, bytes: u64, now_ms: u64) {
        self.messages.change(messages, now_ms * 1000);
        self.bytes.change(bytes, now_ms * 1000);
    }

    /// A message has come while memory was that short. Names the limit that keeps the next one waiting, if none did before.
    pub(super) fn charge(&mut self, bytes: usize, now_ms: u64, level: Level) -> Option<Limited> {
        let waited = self.waits_until(now_ms).is_some();
        let now_us = now_ms * 1000;
        self.messages.charge(1, now_us);
        self.bytes.charge(bytes as u64, now_us);
        if level != Level::Normal || self.level != level {
            self.level = level;
            self.overload
                .set(level.bytes_per_second_max(), now_us, OVERLOAD_WAIT_US);
            self.overload.charge(bytes as u64, now_us);
            self.overload
                .set(level.bytes_per_second_max(), now_us, OVERLOAD_WAIT_US);
        }
        let meters = [
            (&self.messages, Limited::Messages),
            (&self.bytes, Limited::Bytes),
            (&self.overload, Limited::Overload),
        ];
        let latest = meters.into_iter().max_by_key(|(meter, _)| meter.welcome_ms())?;
        (!waited && latest.0.welcome_ms() > now_ms).then_some(latest.1)
    }

    /// When the next one is welcome, in milliseconds; `None`: now.
    pub(super) fn waits_until(&self, now_ms: u64) -> Option<u64> {
        let meters = [&self.messages, &self.bytes, &self.overload];
        let welcome_ms = meters.into_iter().map(Meter::welcome_ms).max()?;
        (welcome_ms > now_ms).then_some(welcome_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages of so many bytes are taken within ten seconds by somebody who sends whenever it is welcome.
    fn taken(mut throttle: Throttle, bytes: usize, level: Level) -> u64 {
        let (mut now, mut count) = (1_000_000, 0);
        while now < 1_010_000 {
            match throttle.waits_until(now) {
                Some(later) => now = later,
                None => {
                    throttle.charge(bytes, now, level);
                    count += 1;
                }
            }
            if count > 1_000_000 {
                break;
            }
        }
        count
    }

    #[test]
    fn a_client_gets_its_rate_and_one_seconds_worth_ahead() {
        let by_messages = taken(Throttle::new(100, 0), 10, Level::Normal);
        assert!((1_090..=1_110).contains(&by_messages), "{by_messages}");
        let by_bytes = taken(Throttle::new(0, 1_000), 10, Level::Normal);
        assert!((1_090..=1_110).contains(&by_bytes), "{by_bytes}");
        let by_both = taken(Throttle::new(100, 500), 10, Level::Normal);
        assert!((540..=560).contains(&by_both), "{by_both}");
    }

    #[test]
    fn without_limits_nobody_waits() {
        assert!(taken(Throttle::new(0, 0), 1_000_000, Level::Normal) > 1_000_000);
    }

    #[test]
    fn limits_that_change_hold_from_then_on_and_those_that_stay_forgive_nothing() {
        let mut throttle = Throttle::new(0, 1_000);
        throttle.charge(50_000, 5, Level::Normal);
        throttle.change(0, 1_000, 5);
        assert_eq!(throttle.waits_until(5), Some(49_005));
        throttle.change(0, 100_000, 5);
        assert_eq!(throttle.waits_until(5), None);
        throttle.change(100, 0, 5);
        let by_messages = taken(throttle, 10, Level::Normal);
        assert!((1_090..=1_110).contains(&by_messages), "{by_messages}");
    }

    #[test]
    fn one_message_larger_than_a_seconds_worth_is_paid_for_afterwards() {
        let mut throttle = Throttle::new(0, 1_000);
        assert_eq!(throttle.waits_until(5), None);
        assert_eq!(throttle.charge(5_000, 5, Level::Normal), Some(Limited::Bytes));
        assert_eq!(throttle.waits_until(5), Some(4_005));
        assert_eq!(throttle.waits_until(4_005), None);
    }

    #[test]
    fn the_shorter_memory_is_the_less_is_taken_of_who_publishes_most() {
        let bytes = |level| taken(Throttle::new(0, 0), 1_000, level) * 1_000 / 10;
        let rates = [Level::Slow, Level::Refuse, Level::Shed].map(bytes);
        for (rate, level) in rates.into_iter().zip([Level::Slow, Level::Refuse, Level::Shed]) {
            let allowed = level.bytes_per_second_max();
            assert!(
                (allowed..allowed + allowed / 10 + 2_000).contains(&rate),
                "{rate} of {allowed}"
            );
        }
    }

    #[test]
    fn who_publishes_little_does_not_notice_that_memory_is_short() {
        let mut throttle = Throttle::new(0, 0);
        let noticed = (0..100).filter_map(|second| throttle.charge(1_000, second * 1_000, Level::Shed));
        assert_eq!(noticed.count(), 0);
    }

    #[test]
    fn a_wait_for_memory_is_short_however_large_a_message_was() {
        let mut throttle = Throttle::new(0, 0);
        assert_eq!(throttle.charge(1 << 28, 5, Level::Shed), Some(Limited::Overload));
        assert_eq!(throttle.waits_until(5), Some(5_005));
        assert_eq!(throttle.charge(10, 5_005, Level::Normal), None);
        assert_eq!(throttle.waits_until(5_005), None);
    }
}
