//! Who has to wait after failed logins, also when many come at once: of an address, and for a user name, only so many are judged
//! at the same time as may fail without consequence. The others stand in line behind them, so that guesses made at once count as
//! guesses made one after the other, and nobody is refused for what may turn out to be right: each success lets one more be
//! judged beside the others, and a fleet behind one address comes in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use access::backoff::{Backoff, Key, Patience};
use cluster::Clock;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Not yet: there were too many failures just before.
pub(super) struct TooSoon;

pub(super) struct Turns {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
}

struct Inner {
    failures: Backoff,
    lines: HashMap<Key, Line>,
}

/// Those of one key who are judged, and who wait for that. It is there as long as somebody is in it: there are never more
/// than connections that have not finished CONNECT, and each waits no longer than these may take.
struct Line {
    count: usize,
    places: Arc<Semaphore>,
    /// Places, free ones and others.
    places_total: u32,
    /// Successes since the last failure.
    proven: u32,
}

/// Somebody's place in a line; the next one's when it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: Key,
    /// `None`: still waiting.
    place: Option<OwnedSemaphorePermit>,
}

/// The failures while nobody else looks at them: for what is judged at once.
pub(super) struct Held<'a> {
    inner: MutexGuard<'a, Inner>,
    now: Duration,
}

impl Turns {
    pub(super) fn new(patience: Patience, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                failures: Backoff::new(patience),
                lines: HashMap::new(),
            }),
            clock,
        }
    }

    /// To be held for what is judged without a wait.
    pub(super) fn hold(&self) -> Held<'_> {
        Held {
            inner: self.inner.lock(),
            now: Duration::from_millis(self.clock.now_ms()),
        }
    }

    /// Waits for a place in the line of each key, in their order. What comes of it is to be said before they are dropped.
    pub(super) async fn take(&self, keys: &[Key]) -> Result<Vec<Turn<'_>>, TooSoon> {
        let mut turns = Vec::with_capacity(keys.len());
        for key in keys {
            turns.push(self.line_up(key).await?);
        }
        // Who was judged meanwhile may have failed.
        let checked = self.hold().check(keys);
        checked.map(|()| turns)
    }

    /// Whether nobody is judged or waits.
    #[cfg(test)]
    pub(super) fn are_idle(&self) -> bool {
        self.inner.lock().lines.is_empty()
    }

    async fn line_up(&self, key: &Key) -> Result<Turn<'_>, TooSoon> {
        let (mut turn, places) = {
            let mut held = self.hold();
            held.check(std::slice::from_ref(key))?;
            let at_once = held.inner.failures.at_once(key, held.now);
            let line = held
                .inner
                .lines
                .entry(key.clone())
                .or_insert_with(|| Line::new(at_once));
            line.count += 1;
            let places = Arc::clone(&line.places);
            let turn = Turn {
                turns: self,
                key: key.clone(),
                place: None,
            };
            (turn, places)
        };
        turn.place = places.acquire_owned().await.ok();
        Ok(turn)
    }
}

impl Held<'_> {
    /// Whether all may try now.
    pub(super) fn check(&self, keys: &[Key]) -> Result<(), TooSoon> {
        let may_try = |key: &Key| self.inner.failures.wait(key, self.now).is_zero();
        match keys.iter().all(may_try) {
            true => Ok(()),
            false => Err(TooSoon),
        }
    }

    /// Somebody showed something, and it was wrong.
    pub(super) fn failed(&mut self, keys: Vec<Key>) {
        for key in keys {
            if let Some(line) = self.inner.lines.get_mut(&key) {
                line.proven = 0;
            }
            self.inner.failures.failed(key, self.now);
        }
    }

    /// It was right: what went before is forgotten.
    pub(super) fn succeeded(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(line) = self.inner.lines.get_mut(key) {
                line.proven = line.proven.saturating_add(1);
            }
            self.inner.failures.succeeded(key);
        }
    }
}

impl Line {
    fn new(places: u32) -> Self {
        Self {
            count: 0,
            places: Arc::new(Semaphore::new(places as usize)),
            places_total: places,
            proven: 0,
        }
    }

    /// Gives a place back, and makes them as many as there may be now.
    fn give_back(&mut self, place: Option<OwnedSemaphorePermit>, at_once: u32) {
        let wanted = at_once.saturating_add(self.proven);
        if let Some(place) = place
            && self.places_total > wanted
        {
            place.forget();
            self.places_total -= 1;
        }
        let more = wanted.saturating_sub(self.places_total);
        self.places.add_permits(more as usize);
        self.places_total += more;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Held { mut inner, now } = self.turns.hold();
        let at_once = inner.failures.at_once(&self.key, now);
        let Some(line) = inner.lines.get_mut(&self.key) else {
            return;
        };
        line.count -= 1;
        line.give_back(self.place.take(), at_once);
        if line.count == 0 {
            inner.lines.remove(&self.key);
        }
    }
}
