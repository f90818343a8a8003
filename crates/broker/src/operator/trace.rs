//! A trace, for the operator who asked for it.

use std::sync::Arc;
use std::time::Duration;

use mqtt_topic::TopicFilter;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Operator;
use crate::shared::Shared;
use crate::trace::{Event, Line, Subject, Tracer};

/// How often the client's place is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The filter is none.
    #[error("{0}")]
    Filter(String),
    /// Others trace already.
    #[error("too many traces are under way")]
    Busy,
}

/// Tells until its time is over or it is dropped. Nobody waits for its reader: what is too much for it is dropped and counted.
pub struct Trace {
    shared: Arc<Shared>,
    tracer: Arc<Tracer>,
    lines: mpsc::Receiver<Line>,
    is_over: CancellationToken,
    looks: Interval,
    place: Option<Option<u64>>,
}

impl Subject {
    /// A topic filter.
    ///
    /// # Errors
    /// It is none.
    pub fn topic(filter: &str) -> Result<Self, TraceError> {
        let filter = TopicFilter::parse(filter.into());
        filter
            .map(Self::Topic)
            .map_err(|error| TraceError::Filter(error.to_string()))
    }
}

impl Operator {
    /// Traces for so long, on this node.
    ///
    /// # Errors
    /// Too many trace already.
    pub fn trace(&self, subject: Subject, within: Duration) -> Result<Trace, TraceError> {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&shared.trace_places).try_acquire_owned();
        let permit = permit.map_err(|_| TraceError::Busy)?;
        let (tracer, lines) = shared.traces.begin(subject);
        let is_over = CancellationToken::new();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let trace = Trace {
            shared: Arc::clone(&shared),
            tracer: Arc::clone(&tracer),
            lines,
            is_over: is_over.clone(),
            looks,
            place: None,
        };
        // Whether anybody reads or not, it ends.
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(within) => {}
                () = tracer.left() => {}
                () = shared.stopping.cancelled() => {}
            }
            shared.traces.end(&tracer);
            is_over.cancel();
            let (lines, lost) = tracer.totals();
            info!(target: "audit", event = "trace ended", subject = ?tracer.subject, lines, lost);
            drop(permit);
        });
        Ok(trace)
    }
}

impl Trace {
    /// The next line; none when it is over.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            tokio::select! {
                biased;
                line = self.lines.recv() => return line,
                // What was told before is still read, and then there is no more.
                () = self.is_over.cancelled(), if !self.lines.is_closed() => self.lines.close(),
                _ = self.looks.tick(), if !self.lines.is_closed() => {
                    if let Some(line) = self.moved() {
                        return Some(line);
                    }
                }
            }
        }
    }

    /// Lines that were dropped behind the last one.
    pub fn lost_last(&self) -> u64 {
        self.tracer.lost_last()
    }

    /// The client's place, if that is news.
    fn moved(&mut self) -> Option<Line> {
        let Subject::Client(client) = &self.tracer.subject else {
            return None;
        };
        let place = place(&self.shared, client);
        if self.place.replace(place) == Some(place) {
            return None;
        }
        Some(Line {
            at_ms: self.shared.clock.now_ms(),
            lost: 0,
            client_id: client.clone(),
            event: Event::Place(place),
        })
    }
}

/// The node a client is connected to, as far as this one knows.
fn place(shared: &Shared, client: &str) -> Option<u64> {
    if shared.registry.get(client).is_some() {
        return Some(shared.cluster.node_id());
    }
    Some(shared.cluster.owner(client)?.node)
}
