//! A rate: each unit moves the time at which all of it is paid for, and what is paid for too far ahead has to wait.

/// One measure.
#[derive(Debug)]
pub(crate) struct Meter {
    /// 0: no limit.
    per_second: u64,
    /// Microseconds that may be used up ahead.
    burst_us: u64,
    paid_at_us: u64,
}

impl Meter {
    /// So many units a second, and so many microseconds' worth at once. 0 a second: no limit.
    pub(crate) fn new(per_second: u64, burst_us: u64) -> Self {
        Self {
            per_second,
            burst_us,
            paid_at_us: 0,
        }
    }

    /// So many units have come.
    pub(crate) fn charge(&mut self, count: u64, now_us: u64) {
        if let Some(cost) = count.saturating_mul(1_000_000).checked_div(self.per_second) {
            self.paid_at_us = self.paid_at_us.max(now_us).saturating_add(cost);
        }
    }

    /// When all that has come is paid for.
    pub(crate) fn paid_at_us(&self) -> u64 {
        self.paid_at_us
    }

    /// So much has come before this was there.
    pub(crate) fn owe(&mut self, paid_at_us: u64) {
        if self.per_second > 0 {
            self.paid_at_us = self.paid_at_us.max(paid_at_us);
        }
    }

    /// From here on another rate; what came before is owed all the same, for `ahead_us` more at the most.
    pub(crate) fn set(&mut self, per_second: u64, now_us: u64, ahead_us: u64) {
        self.per_second = per_second;
        let longest = now_us.saturating_add(self.burst_us).saturating_add(ahead_us);
        self.paid_at_us = match per_second {
            0 => 0,
            _ => self.paid_at_us.min(longest),
        };
    }

    /// How many units may come now; one that is larger is welcome as long as there is any room.
    pub(crate) fn room(&self, now_us: u64) -> u64 {
        if self.per_second == 0 {
            return u64::MAX;
        }
        let ahead_us = now_us
            .saturating_add(self.burst_us)
            .saturating_sub(self.paid_at_us);
        let units = u128::from(ahead_us.min(self.burst_us)) * u128::from(self.per_second) / 1_000_000;
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// As `set`, if it is another rate at all.
    pub(crate) fn change(&mut self, per_second: u64, now_us: u64) {
        if self.per_second != per_second {
            self.set(per_second, now_us, 0);
        }
    }

    /// When the next unit is welcome, in milliseconds.
    pub(crate) fn welcome_ms(&self) -> u64 {
        self.paid_at_us.saturating_sub(self.burst_us).div_ceil(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_what_is_not_used_up_ahead() {
        let mut meter = Meter::new(1_000, 1_000_000);
        assert_eq!(meter.room(5_000_000), 1_000);
        meter.charge(400, 5_000_000);
        assert_eq!(meter.room(5_000_000), 600);
        meter.charge(2_000, 5_000_000);
        assert_eq!((meter.room(5_000_000), meter.room(6_500_000)), (0, 100));
        assert_eq!(Meter::new(0, 1_000_000).room(0), u64::MAX);
    }

    #[test]
    fn what_is_owed_is_cut_when_the_rate_changes_and_forgiven_when_it_ends() {
        let mut meter = Meter::new(1_000, 100_000);
        meter.charge(60_000, 1_000_000);
        assert_eq!(meter.welcome_ms(), 60_900);
        meter.set(10, 1_000_000, 500_000);
        assert_eq!(meter.welcome_ms(), 1_500);
        meter.set(0, 1_000_000, 500_000);
        assert_eq!(meter.welcome_ms(), 0);
    }
}
