//! Chance, and work that waits for a disk: as the process has them, or, on the thread of a simulation, drawn from its seed
//! and done in place. Simulated time stands still meanwhile, and the same seed is the same run.

use std::cell::RefCell;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::JoinError;

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
