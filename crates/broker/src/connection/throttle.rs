//! How fast a client may publish, and how fast it is sent messages: what it publishes beyond its limits stays unread, so that its
//! own socket holds it up; what comes for it beyond them waits in its own queue.

use std::sync::Arc;

use crate::meter::Meter;
use crate::overload::Level;
use crate::refusal::Limited;
use crate::tenants::Tenant;

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
    /// What all clients of its tenant publish together is limited, too.
    tenant: Option<Arc<Tenant>>,
    /// When that has room for what this one has published.
    tenant_welcome_ms: u64,
}

impl Throttle {
    /// Limits per second; 0: none.
    pub(super) fn new(messages: u64, bytes: u64, tenant: Option<Arc<Tenant>>) -> Self {
        Self {
            messages: Meter::new(messages, BURST_US),
            bytes: Meter::new(bytes, BURST_US),
            overload: Meter::new(0, OVERLOAD_BURST_US),
            level: Level::Normal,
            tenant_welcome_ms: tenant.as_ref().map_or(0, |tenant| tenant.welcome_ms()),
            tenant,
        }
    }

    /// What messages and bytes have used up ahead.
    pub(super) fn owed(&self) -> [u64; 2] {
        [self.messages.paid_at_us(), self.bytes.paid_at_us()]
    }

    /// An earlier connection of the client has used up so much.
    pub(super) fn owe(&mut self, [messages, bytes]: [u64; 2]) {
        self.messages.owe(messages);
        self.bytes.owe(bytes);
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
        self.charge_memory(bytes, now_us, level);
        if let Some(tenant) = &self.tenant {
            self.tenant_welcome_ms = tenant.charge(bytes, now_ms);
        }
        let latest = [
            (self.messages.welcome_ms(), Limited::Messages),
            (self.bytes.welcome_ms(), Limited::Bytes),
            (self.overload.welcome_ms(), Limited::Overload),
            (self.tenant_welcome_ms, Limited::Tenant),
        ];
        let (welcome_ms, limited) = latest.into_iter().max_by_key(|(welcome_ms, _)| *welcome_ms)?;
        (!waited && welcome_ms > now_ms).then_some(limited)
    }

    /// The message takes so much more memory: where it is stored until others have it.
    pub(super) fn charge_stored(&mut self, bytes: usize, now_ms: u64, level: Level) -> Option<Limited> {
        let waited = self.waits_until(now_ms).is_some();
        self.charge_memory(bytes, now_ms * 1000, level);
        (!waited && self.waits_until(now_ms).is_some()).then_some(Limited::Overload)
    }

    fn charge_memory(&mut self, bytes: usize, now_us: u64, level: Level) {
        if level == Level::Normal && self.level == level {
            return;
        }
        self.level = level;
        let rate = level.bytes_per_second_max();
        self.overload.set(rate, now_us, OVERLOAD_WAIT_US);
        self.overload.charge(bytes as u64, now_us);
        self.overload.set(rate, now_us, OVERLOAD_WAIT_US);
    }

    /// When the next one is welcome, in milliseconds; `None`: now.
    pub(super) fn waits_until(&self, now_ms: u64) -> Option<u64> {
        let meters = [&self.messages, &self.bytes, &self.overload];
        let own_ms = meters.into_iter().map(Meter::welcome_ms).max()?;
        let welcome_ms = own_ms.max(self.tenant_welcome_ms);
        (welcome_ms > now_ms).then_some(welcome_ms)
    }
}

/// Messages and bytes that are sent to one client, where that is limited.
#[derive(Debug)]
pub(super) struct Pace {
    messages: Meter,
    bytes: Meter,
}

impl Pace {
    /// Limits per second; 0: none. `None`: neither is limited.
    pub(super) fn new(messages: u64, bytes: u64) -> Option<Box<Self>> {
        (messages > 0 || bytes > 0).then(|| {
            Box::new(Self {
                messages: Meter::new(messages, BURST_US),
                bytes: Meter::new(bytes, BURST_US),
            })
        })
    }

    /// What messages and bytes have used up ahead.
    pub(super) fn owed(&self) -> [u64; 2] {
        [self.messages.paid_at_us(), self.bytes.paid_at_us()]
    }

    /// An earlier connection of the client has used up so much.
    pub(super) fn owe(&mut self, [messages, bytes]: [u64; 2]) {
        self.messages.owe(messages);
        self.bytes.owe(bytes);
    }

    /// Other limits from now on; what is owed by the old ones is forgiven but for a burst.
    pub(super) fn change(pace: &mut Option<Box<Self>>, messages: u64, bytes: u64, now_ms: u64) {
        match pace {
            Some(pace) if messages > 0 || bytes > 0 => {
                pace.messages.change(messages, now_ms * 1000);
                pace.bytes.change(bytes, now_ms * 1000);
            }
            _ => *pace = Self::new(messages, bytes),
        }
    }

    /// A message was sent. Names the limit that keeps the next one waiting, if none did before.
    pub(super) fn charge(&mut self, bytes: usize, now_ms: u64) -> Option<Limited> {
        let waited = self.waits_until(now_ms).is_some();
        self.messages.charge(1, now_ms * 1000);
        self.bytes.charge(bytes as u64, now_ms * 1000);
        let latest = match self.messages.welcome_ms() > self.bytes.welcome_ms() {
            true => Limited::DeliveredMessages,
            false => Limited::DeliveredBytes,
        };
        (!waited && self.waits_until(now_ms).is_some()).then_some(latest)
    }

    /// When the next one may be sent, in milliseconds; `None`: now.
    pub(super) fn waits_until(&self, now_ms: u64) -> Option<u64> {
        let welcome_ms = self.messages.welcome_ms().max(self.bytes.welcome_ms());
        (welcome_ms > now_ms).then_some(welcome_ms)
    }

    /// Messages and bytes that may be sent now, if any may: the last of them may be larger.
    pub(super) fn room(&self, now_ms: u64) -> (usize, usize) {
        let units = |meter: &Meter| usize::try_from(meter.room(now_ms * 1000)).unwrap_or(usize::MAX);
        (units(&self.messages).max(1), units(&self.bytes).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_sent_a_seconds_worth_and_then_its_rate() {
        let mut pace = Pace::new(10, 0).expect("limited");
        let limits: Vec<_> = (0..10).filter_map(|_| pace.charge(1_000_000, 7)).collect();
        assert_eq!(limits, [], "a second's worth");
        assert_eq!(pace.charge(1, 7), Some(Limited::DeliveredMessages));
        assert_eq!(pace.charge(1, 7), None, "told once");
        assert_eq!(pace.waits_until(7), Some(207));
        assert_eq!((pace.waits_until(207), pace.room(207).0), (None, 1));
        let mut pace = Pace::new(0, 1_000).expect("limited");
        assert_eq!(pace.room(7), (usize::MAX, 1_000));
        assert_eq!(pace.charge(3_000, 7), Some(Limited::DeliveredBytes));
        assert_eq!(pace.waits_until(7), Some(2_007));
        let mut pace = Some(pace);
        Pace::change(&mut pace, 0, 1_000, 7);
        assert_eq!(
            pace.as_ref().and_then(|pace| pace.waits_until(7)),
            Some(2_007),
            "it stays"
        );
        Pace::change(&mut pace, 0, 100_000, 7);
        assert_eq!(pace.as_ref().and_then(|pace| pace.waits_until(7)), None);
        Pace::change(&mut pace, 0, 0, 7);
        assert!(pace.is_none());
    }

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
        let by_messages = taken(Throttle::new(100, 0, None), 10, Level::Normal);
        assert!((1_090..=1_110).contains(&by_messages), "{by_messages}");
        let by_bytes = taken(Throttle::new(0, 1_000, None), 10, Level::Normal);
        assert!((1_090..=1_110).contains(&by_bytes), "{by_bytes}");
        let by_both = taken(Throttle::new(100, 500, None), 10, Level::Normal);
        assert!((540..=560).contains(&by_both), "{by_both}");
    }

    #[test]
    fn without_limits_nobody_waits() {
        assert!(taken(Throttle::new(0, 0, None), 1_000_000, Level::Normal) > 1_000_000);
    }

    #[test]
    fn limits_that_change_hold_from_then_on_and_those_that_stay_forgive_nothing() {
        let mut throttle = Throttle::new(0, 1_000, None);
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
        let mut throttle = Throttle::new(0, 1_000, None);
        assert_eq!(throttle.waits_until(5), None);
        assert_eq!(throttle.charge(5_000, 5, Level::Normal), Some(Limited::Bytes));
        assert_eq!(throttle.waits_until(5), Some(4_005));
        assert_eq!(throttle.waits_until(4_005), None);
    }

    #[test]
    fn the_shorter_memory_is_the_less_is_taken_of_who_publishes_most() {
        let bytes = |level| taken(Throttle::new(0, 0, None), 1_000, level) * 1_000 / 10;
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
    fn a_message_that_is_stored_counts_for_each_place_that_has_it() {
        let mut throttle = Throttle::new(0, 0, None);
        assert_eq!(throttle.charge_stored(1 << 20, 1_000, Level::Normal), None);
        assert_eq!(throttle.charge(1_000, 1_000, Level::Shed), None);
        assert_eq!(
            throttle.charge_stored(11_000, 1_000, Level::Shed),
            Some(Limited::Overload)
        );
        assert_eq!(
            throttle.charge_stored(11_000, 1_000, Level::Shed),
            None,
            "told once"
        );
        assert_eq!(
            throttle.waits_until(1_000),
            Some(1_251),
            "23,000 bytes, less what may come at once"
        );
    }

    #[test]
    fn who_publishes_little_does_not_notice_that_memory_is_short() {
        let mut throttle = Throttle::new(0, 0, None);
        let noticed = (0..100).filter_map(|second| throttle.charge(1_000, second * 1_000, Level::Shed));
        assert_eq!(noticed.count(), 0);
    }

    #[test]
    fn a_wait_for_memory_is_short_however_large_a_message_was() {
        let mut throttle = Throttle::new(0, 0, None);
        assert_eq!(throttle.charge(1 << 28, 5, Level::Shed), Some(Limited::Overload));
        assert_eq!(throttle.waits_until(5), Some(5_005));
        assert_eq!(throttle.charge(10, 5_005, Level::Normal), None);
        assert_eq!(throttle.waits_until(5_005), None);
    }
}
