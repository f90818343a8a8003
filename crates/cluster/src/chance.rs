//! Chance, ticks, and work that waits for a disk: as the process has them, or, on the thread of a simulation, drawn from its seed
//! and done in place. Simulated time stands still meanwhile, and the same seed is the same run.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio::time::Instant;

thread_local! {
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// From now on this thread simulates, with this seed; `None`: it does so no more. For tests.
#[doc(hidden)]
pub fn simulate(seed: Option<u64>) {
    SEEDED.set(seed.map(SmallRng::seed_from_u64));
}

fn is_simulated() -> bool {
    SEEDED.with_borrow(Option::is_some)
}

/// Any number.
pub(crate) fn number() -> u64 {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(seeded) => seeded.next_u64(),
        None => rand::random(),
    })
}

/// One of `count` places, which is not 0.
pub(crate) fn place(count: usize) -> usize {
    (number() % count as u64) as usize
}

/// How long to wait instead, so that all who wait are woken together: until the next multiple of `step`, counted from a
/// moment that the whole process shares. In a simulation, whose nodes have clocks of their own, as long as was asked for.
pub(crate) fn together(wait: Duration, step: Duration) -> Duration {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    if is_simulated() {
        return wait;
    }
    let due = BEGAN.get_or_init(Instant::now).elapsed() + wait;
    let late = (due.as_nanos() % step.as_nanos()) as u64;
    match late {
        0 => wait,
        late => wait + step - Duration::from_nanos(late),
    }
}

/// Does what may wait for a disk without holding up the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match is_simulated() {
        true => Ok(work()),
        false => tokio::task::spawn_blocking(work).await,
    }
}

/// As `blocking`, for work that nobody waits for.
pub(crate) fn blocking_on(runtime: &Handle, work: impl FnOnce() + Send + 'static) {
    match is_simulated() {
        true => work(),
        false => drop(runtime.spawn_blocking(work)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_times_close_to_each_other_is_woken_at_one_that_is_not_before_them() {
        let (step, moment) = (Duration::from_secs(1000), Duration::from_secs(1));
        let wake = |wait| Instant::now() + together(wait, step);
        let first = wake(moment);
        assert!(first >= Instant::now() + moment);
        assert!(wake(2 * moment).duration_since(first) < moment);
        assert!(wake(moment + step).duration_since(first) > step - moment);
    }

    #[test]
    fn a_simulated_thread_draws_the_same_numbers_again() {
        let draw = || {
            simulate(Some(7));
            let numbers: Vec<u64> = (0..4).map(|_| number()).collect();
            simulate(None);
            numbers
        };
        assert_eq!(draw(), draw());
    }
}
