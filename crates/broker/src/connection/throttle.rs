//! How fast a client may publish: what is beyond a second's worth stays unread, so that the client's own socket holds it up.

/// Microseconds that may be used up ahead.
const BURST_US: u64 = 1_000_000;

/// One measure: each unit moves the time at which all of it is paid for.
#[derive(Debug)]
struct Meter {
    /// 0: no limit.
    per_second: u64,
    paid_at_us: u64,
}

impl Meter {
    fn charge(&mut self, count: u64, now_us: u64) {
        if let Some(cost) = count.saturating_mul(1_000_000).checked_div(self.per_second) {
            self.paid_at_us = self.paid_at_us.max(now_us).saturating_add(cost);
        }
    }
}

/// Messages and bytes of one connection.
#[derive(Debug)]
pub(super) struct Throttle {
    messages: Meter,
    bytes: Meter,
}

impl Throttle {
    /// Limits per second; 0: none.
    pub(super) fn new(messages: u64, bytes: u64) -> Self {
        let meter = |per_second| Meter {
            per_second,
            paid_at_us: 0,
        };
        Self {
            messages: meter(messages),
            bytes: meter(bytes),
        }
    }

    /// A message has come.
    pub(super) fn charge(&mut self, bytes: usize, now_ms: u64) {
        self.messages.charge(1, now_ms * 1000);
        self.bytes.charge(bytes as u64, now_ms * 1000);
    }

    /// When the next one is welcome, in milliseconds; `None`: now.
    pub(super) fn waits_until(&self, now_ms: u64) -> Option<u64> {
        let paid_at_us = self.messages.paid_at_us.max(self.bytes.paid_at_us);
        let welcome_ms = paid_at_us.saturating_sub(BURST_US).div_ceil(1000);
        (welcome_ms > now_ms).then_some(welcome_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages of so many bytes are taken within ten seconds by somebody who sends whenever it is welcome.
    fn taken(mut throttle: Throttle, bytes: usize) -> u64 {
        let (mut now, mut count) = (1_000_000, 0);
        while now < 1_010_000 {
            match throttle.waits_until(now) {
                Some(later) => now = later,
                None => {
                    throttle.charge(bytes, now);
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
        let by_messages = taken(Throttle::new(100, 0), 10);
        assert!((1_090..=1_110).contains(&by_messages), "{by_messages}");
        let by_bytes = taken(Throttle::new(0, 1_000), 10);
        assert!((1_090..=1_110).contains(&by_bytes), "{by_bytes}");
        let by_both = taken(Throttle::new(100, 500), 10);
        assert!((540..=560).contains(&by_both), "{by_both}");
    }

    #[test]
    fn without_limits_nobody_waits() {
        assert!(taken(Throttle::new(0, 0), 1_000_000) > 1_000_000);
    }

    #[test]
    fn one_message_larger_than_a_seconds_worth_is_paid_for_afterwards() {
        let mut throttle = Throttle::new(0, 1_000);
        assert_eq!(throttle.waits_until(5), None);
        throttle.charge(5_000, 5);
        assert_eq!(throttle.waits_until(5), Some(4_005));
        assert_eq!(throttle.waits_until(4_005), None);
    }
}
