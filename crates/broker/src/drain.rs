//! Taking this node out of service: load balancers notice, other nodes take over what it leads, and its clients are asked to
//! leave at a bounded rate. It stays a member, and goes on until it is stopped or taken back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::info;

use crate::mailbox::{Close, Mailbox};
use crate::shared::Shared;

/// Between two groups of clients that are asked to leave.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Between two looks for clients while there is none, and for those that were asked and are still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What a stop keeps for what comes behind the drain, or half of its time.
const REST_OF_STOP: Duration = Duration::from_secs(10);

/// How far a node is out of service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum DrainPhase {
    /// It serves.
    #[default]
    Serving,
    /// It is not ready, and waits for load balancers to notice. Clients are let in.
    Waiting,
    /// Other nodes take over what it leads.
    HandingOver,
    /// Its clients are asked to leave.
    Asking,
    /// It has no client.
    Drained,
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Order {
    /// Tells orders apart that are alike.
    number: u64,
    connections_per_second: u32,
    /// Of a stop: all clients are to be asked by then.
    until: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct State {
    order: Option<Order>,
    phase: DrainPhase,
    orders: u64,
}

/// Whether this node is out of service.
pub(crate) struct Drain {
    state: watch::Sender<State>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::default()),
        }
    }
}

impl Drain {
    pub(crate) fn phase(&self) -> DrainPhase {
        self.state.borrow().phase
    }

    /// Whether clients are sent away, and none is let in.
    pub(crate) fn is_asking(&self) -> bool {
        self.phase() >= DrainPhase::HandingOver
    }

    /// A stop is not put off by what is asked for afterwards.
    pub(crate) fn begin(&self, connections_per_second: u32, until: Option<Instant>) {
        self.state.send_if_modified(|state| {
            if state.order.is_some_and(|order| order.until.is_some()) {
                return false;
            }
            state.orders += 1;
            state.order = Some(Order {
                number: state.orders,
                connections_per_second,
                until,
            });
            state.phase = state.phase.max(DrainPhase::Waiting);
            true
        });
    }

    /// Of a node that leaves its cluster, which nobody takes back. Whether its last client has gone.
    pub(crate) fn to_leave(&self, connections_per_second: u32) -> bool {
        if self.phase() == DrainPhase::Serving {
            self.begin(connections_per_second, None);
        }
        self.phase() == DrainPhase::Drained
    }

    /// False: the node stops.
    pub(crate) fn end(&self) -> bool {
        let mut stops = false;
        self.state.send_if_modified(|state| {
            stops = state.order.is_some_and(|order| order.until.is_some());
            if !stops {
                (state.order, state.phase) = (None, DrainPhase::Serving);
            }
            !stops
        });
        !stops
    }

    /// The next step of an order, unless another one has come.
    fn enter(&self, order: Order, phase: DrainPhase) {
        let changed = self.state.send_if_modified(|state| {
            let goes_on = state.order == Some(order) && state.phase != phase;
            if goes_on {
                state.phase = phase;
            }
            goes_on
        });
        if changed {
            info!(?phase, "the node is taken out of service");
        }
    }
}

/// Carries out what is asked for, until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut state = shared.drain.state.subscribe();
    let mut known = None;
    loop {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            changed = state.wait_for(|state| state.order != known) => match changed {
                Ok(state) => known = state.order,
                Err(_) => return,
            },
            () = carry_out(&shared, known) => {}
        }
    }
}

/// Does not end while somebody is to be kept away.
async fn carry_out(shared: &Arc<Shared>, order: Option<Order>) {
    let Some(order) = order else {
        shared.cluster.undrain();
        shared.metrics.draining.set(0.0);
        shared.metrics.drain_remaining.set(0.0);
        return std::future::pending().await;
    };
    shared.metrics.draining.set(1.0);
    shared.metrics.drain_remaining.set(shared.registry.len() as f64);
    if !shared.drain.is_asking() {
        let noticed = Instant::now() + shared.config.drain.load_balancer_wait.get();
        sleep_until(order.until.map_or(noticed, |until| until.min(noticed))).await;
        shared.drain.enter(order, DrainPhase::HandingOver);
    }
    shared.cluster.drain().await;
    let mut asking = Asking::new(order);
    loop {
        let left = shared.registry.len();
        shared.metrics.drain_remaining.set(left as f64);
        if left == 0 {
            shared.drain.enter(order, DrainPhase::Drained);
            sleep(LOOK_EVERY).await;
            continue;
        }
        shared.drain.enter(order, DrainPhase::Asking);
        if asking.waiting.is_empty() {
            asking.waiting = shared.registry.newest_first();
        }
        asking.ask(Instant::now());
        sleep(if asking.waiting.is_empty() {
            LOOK_EVERY
        } else {
            TICK
        })
        .await;
    }
}

/// Who is still to be asked, and how many may be asked now.
pub(crate) struct Asking {
    order: Order,
    /// The last is asked first.
    pub(crate) waiting: Vec<Arc<Mailbox>>,
    may_ask: f64,
    asked_at: Instant,
}

impl Asking {
    /// These, at a rate.
    pub(crate) fn these(waiting: Vec<Arc<Mailbox>>, connections_per_second: u32) -> Self {
        let order = Order {
            number: 0,
            connections_per_second,
            until: None,
        };
        Self {
            waiting,
            ..Self::new(order)
        }
    }

    fn new(order: Order) -> Self {
        Self {
            order,
            waiting: Vec::new(),
            may_ask: 1.0,
            asked_at: Instant::now(),
        }
    }

    pub(crate) fn ask(&mut self, now: Instant) {
        let per_second = self.per_second(now);
        let since = now.saturating_duration_since(self.asked_at).min(2 * TICK);
        self.asked_at = now;
        self.may_ask = (self.may_ask + per_second * since.as_secs_f64()).min(per_second.max(1.0));
        while self.may_ask >= 1.0
            && let Some(mailbox) = self.waiting.pop()
        {
            mailbox.close(Close::Moving);
            self.may_ask -= 1.0;
        }
    }

    /// At the order's rate, or as fast as its end wants it.
    fn per_second(&self, now: Instant) -> f64 {
        let ordered = f64::from(self.order.connections_per_second);
        let Some(until) = self.order.until else {
            return ordered;
        };
        let left = until.saturating_duration_since(now).max(TICK);
        ordered.max(self.waiting.len() as f64 / left.as_secs_f64())
    }
}

/// Drains for good, within what `node.stop_timeout` leaves for it.
pub(crate) async fn to_stop(shared: &Shared) {
    let whole = shared.config.node.stop_timeout.get();
    let until = Instant::now() + whole.saturating_sub(REST_OF_STOP.min(whole / 2));
    let configured = shared.live().connections_per_second;
    shared.drain.begin(configured, Some(until));
    let mut state = shared.drain.state.subscribe();
    let until = state
        .borrow()
        .order
        .and_then(|order| order.until)
        .unwrap_or(until);
    let drained = state.wait_for(|state| state.phase == DrainPhase::Drained);
    if timeout_at(until, drained).await.is_err() {
        info!(
            left = shared.registry.len(),
            "some connections are there at the end of the drain"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_memory::QueueMemory;

    const SECOND: Duration = Duration::from_secs(1);

    fn asking(clients: u64, connections_per_second: u32, within: Option<Duration>) -> Asking {
        let memory = QueueMemory::unlimited();
        let mailbox = |id| Mailbox::new(id, "c".into(), 100, 100, &memory);
        let order = Order {
            number: 1,
            connections_per_second,
            until: within.map(|within| Instant::now() + within),
        };
        Asking {
            waiting: (0..clients).map(mailbox).collect(),
            ..Asking::new(order)
        }
    }

    /// How many are left after so many ticks.
    fn left_after(asking: &mut Asking, ticks: u32) -> usize {
        let begun = asking.asked_at;
        for tick in 1..=ticks {
            asking.ask(begun + tick * TICK);
        }
        asking.waiting.len()
    }

    #[test]
    fn clients_are_asked_at_the_rate_and_not_faster() {
        let left = left_after(&mut asking(1000, 100, None), 100);
        assert!((495..=500).contains(&left), "{left} after five seconds");
        let left = left_after(&mut asking(10, 1, None), 60);
        assert!((6..=7).contains(&left), "{left} after three seconds");
    }

    #[test]
    fn what_was_not_used_is_not_made_up_for_at_once() {
        let mut asking = asking(1000, 100, None);
        asking.ask(asking.asked_at + 60 * SECOND);
        assert!(asking.waiting.len() >= 980, "{}", asking.waiting.len());
    }

    #[test]
    fn a_stop_asks_everybody_in_time() {
        let mut asking = asking(1000, 1, Some(5 * SECOND));
        assert_eq!(left_after(&mut asking, 101), 0);
    }

    #[test]
    fn a_drain_is_taken_back_and_a_stop_is_not() {
        let drain = Drain::default();
        drain.begin(1, None);
        assert_eq!((drain.phase(), drain.is_asking()), (DrainPhase::Waiting, false));
        assert!(drain.end());
        assert_eq!(drain.phase(), DrainPhase::Serving);
        drain.begin(1, Some(Instant::now()));
        assert!(!drain.end());
        drain.begin(2, None);
        assert!(!drain.end(), "nor put off by what is asked for afterwards");
    }

    #[test]
    fn a_node_that_leaves_waits_for_its_last_client_and_is_not_taken_back() {
        let drain = Drain::default();
        assert!(!drain.to_leave(5));
        let order = drain.state.borrow().order.unwrap();
        assert!(!drain.to_leave(5));
        assert_eq!(
            drain.state.borrow().order,
            Some(order),
            "one order, however often"
        );
        drain.enter(order, DrainPhase::Drained);
        assert!(drain.to_leave(5));
        assert!(drain.end());
        assert!(!drain.to_leave(5));
        assert_eq!(drain.phase(), DrainPhase::Waiting);
    }

    #[test]
    fn a_step_of_an_order_that_was_taken_back_changes_nothing() {
        let drain = Drain::default();
        drain.begin(1, None);
        let order = drain.state.borrow().order.unwrap();
        assert!(drain.end());
        drain.enter(order, DrainPhase::Drained);
        assert_eq!(drain.phase(), DrainPhase::Serving);
        drain.begin(1, None);
        drain.enter(order, DrainPhase::Drained);
        assert_eq!(drain.phase(), DrainPhase::Waiting);
    }
}
