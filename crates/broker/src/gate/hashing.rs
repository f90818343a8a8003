//! Judging passwords costs tens of milliseconds by design: never on a thread that serves connections, and only so many at
//! a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use access::password::Check;
use tokio::sync::Semaphore;

use crate::auth::Secret;

/// Too many wait already, or the node stops.
pub(super) struct Busy;

pub(super) struct Hashing {
    threads: Arc<Semaphore>,
    waiting: AtomicU32,
    waiting_max: u32,
}

/// A place in the queue, given back however the wait ends.
struct Place<'a>(&'a AtomicU32);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hashing {
    pub(super) fn new(threads: u16, waiting_max: u32) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(usize::from(threads))),
            waiting: AtomicU32::new(0),
            waiting_max,
        }
    }

    /// Keeps every thread busy until the permit is dropped.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = self.threads.available_permits() as u32;
        Arc::clone(&self.threads)
            .acquire_many_owned(all)
            .await
            .expect("it is never closed")
    }

    /// Judges a password. The wait ends with the time that a CONNECT has; what was begun by then is finished.
    pub(super) async fn run(&self, check: Check, password: Secret) -> Result<bool, Busy> {
        let place = Place(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            return Err(Busy);
        }
        let permit = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .map_err(|_| Busy)?;
        drop(place);
        let judged = tokio::task::spawn_blocking(move || {
            let is_right = check.run(&password.0);
            drop(permit);
            is_right
        });
        judged.await.map_err(|_| Busy)
    }
}
