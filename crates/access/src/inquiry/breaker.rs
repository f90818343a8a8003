//! A service that fails again and again is left alone for a while: clients are told at once that nobody can judge them, and
//! the service is not asked by all of them when it comes back.

/// Counts failures. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct Breaker {
    failures_max: u32,
    pause_ms: u64,
    failures: u32,
    /// While it is open: when somebody may try again.
    next_try_ms: Option<u64>,
}

impl Breaker {
    /// Opens after so many failures in a row, for so long.
    pub fn new(failures_max: u32, pause_ms: u64) -> Self {
        Self {
            failures_max,
            pause_ms,
            failures: 0,
            next_try_ms: None,
        }
    }

    /// Whether it is left alone now: nobody has to wait to be told so.
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.next_try_ms.is_some_and(|at| now_ms < at)
    }

    /// Whether the service may be asked now. After a pause one may, and the others wait for what comes of it, for another
    /// pause at the most.
    pub fn may_ask(&mut self, now_ms: u64) -> bool {
        match self.next_try_ms {
            None => true,
            Some(at) if now_ms < at => false,
            Some(_) => {
                self.next_try_ms = Some(now_ms.saturating_add(self.pause_ms));
                true
            }
        }
    }

    /// The service has answered. Says whether it was left alone before.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.next_try_ms.take().is_some()
    }

    /// It has not. Says whether it is left alone from now on, and was not before.
    pub fn failed(&mut self, now_ms: u64) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.failures_max {
            return false;
        }
        let at = now_ms.saturating_add(self.pause_ms);
        self.next_try_ms.replace(at).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_a_success() {
        let mut breaker = Breaker::new(3, 10_000);
        assert!(!breaker.failed(0) && !breaker.failed(0));
        assert!(!breaker.succeeded(), "it was never open");
        assert!(!breaker.failed(0) && !breaker.failed(0) && breaker.may_ask(0));
        assert!(breaker.failed(1_000), "the third in a row");
        assert!(breaker.is_open(10_999) && !breaker.may_ask(10_999));
        assert!(!breaker.is_open(11_000), "looking takes no turn");
        assert!(breaker.may_ask(11_000), "one may try");
        assert!(!breaker.may_ask(11_000), "and nobody else meanwhile");
        assert!(!breaker.failed(12_000), "it is open already");
        assert!(!breaker.may_ask(21_999) && breaker.may_ask(22_000));
        assert!(breaker.succeeded());
        assert!(breaker.may_ask(22_000) && breaker.may_ask(22_000));
    }

    #[test]
    fn one_who_tries_and_never_says_what_came_of_it_does_not_keep_it_open_for_ever() {
        let mut breaker = Breaker::new(1, 10_000);
        assert!(breaker.failed(0) && breaker.may_ask(10_000));
        assert!(!breaker.may_ask(19_999) && breaker.may_ask(20_000));
    }
}
