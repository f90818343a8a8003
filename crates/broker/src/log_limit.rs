//! Log lines that strangers can cause: one in an interval, with the number of those left out.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Permits one line in an interval.
pub(crate) struct LogLimit {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: Option<Instant>,
    unsaid: u64,
}

impl LogLimit {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            state: Mutex::default(),
        }
    }

    /// Whether a line may be written now; if so, how many were left out since the last one.
    pub(crate) fn line(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.next.is_some_and(|next| now < next) {
            state.unsaid += 1;
            return None;
        }
        state.next = Some(now + self.interval);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let limit = LogLimit::new(Duration::from_secs(3600));
        assert_eq!((limit.line(), limit.line(), limit.line()), (Some(0), None, None));
        assert_eq!(limit.state.lock().unsaid, 2);
        let unlimited = LogLimit::new(Duration::ZERO);
        assert_eq!((unlimited.line(), unlimited.line()), (Some(0), Some(0)));
    }
}
