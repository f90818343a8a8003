//! How far each lane of each sender has come, so that every message is taken once and in order, whatever connections do.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cluster_proto::{Failed, ForwardBatch, ForwardRequest, ForwardResponse, Introduction, LaneOpening};
use cluster_proto::{failed, forward_request};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

use crate::error::failed;
use crate::limits::{LANES, RECEIVED_MAX};
use crate::server::PeerService;

/// What this process has received. It has to outlive the connections, and a server that is started again.
#[derive(Default)]
pub struct Received {
    lanes: Mutex<HashMap<(u64, u32), Arc<Mutex<Position>>>>,
}

/// The position of one lane. It is locked while messages are handed over: only the latest stream does that.
#[derive(Default)]
pub(crate) struct Position {
    life: u64,
    next: u64,
    /// Counts the streams of this lane; an older one has nothing to say any more.
    stream: u64,
    open: bool,
}

impl Received {
    /// Nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Drops what is known of a node that will not come back.
    pub fn forget(&self, node: u64) {
        self.lanes.lock().retain(|(sender, _), _| *sender != node);
    }

    /// A new stream of a lane.
    fn open(&self, node: u64, opening: &LaneOpening) -> Result<Taking, Failed> {
        if opening.lane >= LANES || opening.first_sequence == 0 {
            return Err(failed(failed::Reason::Refused, "there is no such lane"));
        }
        let lane = {
            let mut lanes = self.lanes.lock();
            if lanes.len() >= RECEIVED_MAX {
                lanes.retain(|_, position| position.try_lock().is_none_or(|position| position.open));
            }
            if lanes.len() >= RECEIVED_MAX {
                return Err(failed(failed::Reason::Busy, "too many lanes"));
            }
            Arc::clone(lanes.entry((node, opening.lane)).or_default())
        };
        let mut position = lane.lock();
        if position.life != opening.life {
            position.life = opening.life;
            position.next = opening.first_sequence;
        }
        // What the sender no longer has was acknowledged to it.
        position.next = position.next.max(opening.first_sequence);
        position.stream += 1;
        position.open = true;
        let (stream, next) = (position.stream, position.next);
        drop(position);
        Ok(Taking { lane, stream, next })
    }
}

/// The right of a stream to hand over messages, until a newer one has it.
struct Taking {
    lane: Arc<Mutex<Position>>,
    stream: u64,
    next: u64,
}

impl Taking {
    /// Hands over what is new in a batch. Returns what is expected next.
    fn take(
        &self,
        from: &Introduction,
        mut batch: ForwardBatch,
        service: &dyn PeerService,
    ) -> Result<u64, Status> {
        let mut position = self.lane.lock();
        if position.stream != self.stream {
            return Err(Status::aborted("the lane has a newer stream"));
        }
        let known = position.next.checked_sub(batch.first_sequence);
        let Some(known) = known else {
            return Err(Status::out_of_range("messages are missing"));
        };
        let known = usize::try_from(known)
            .unwrap_or(usize::MAX)
            .min(batch.messages.len());
        batch.messages.drain(..known);
        if !batch.messages.is_empty() {
            position.next += batch.messages.len() as u64;
            service.forward(from, batch.messages);
        }
        Ok(position.next)
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut position = self.lane.lock();
        if position.stream == self.stream {
            position.open = false;
        }
    }
}

/// The responses of a stream. Polling them reads the requests: who does not take acknowledgements is not read.
pub(crate) struct Acknowledging {
    first: Option<ForwardResponse>,
    lane: Option<Lane>,
}

struct Lane {
    requests: Streaming<ForwardRequest>,
    from: Introduction,
    service: Arc<dyn PeerService>,
    taking: Taking,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Acknowledging {
    /// A stream of a peer that was admitted.
    pub(crate) fn admitted(
        requests: Streaming<ForwardRequest>,
        opening: LaneOpening,
        service: Arc<dyn PeerService>,
        received: &Received,
        stop: &CancellationToken,
    ) -> Self {
        let from = opening
            .opening
            .clone()
            .and_then(|opening| opening.from)
            .unwrap_or_default();
        let taking = match received.open(from.node, &opening) {
            Ok(taking) => taking,
            Err(failed) => return Self::refused(failed),
        };
        Self {
            first: Some(acknowledgement(taking.next)),
            lane: Some(Lane {
                requests,
                from,
                service,
                taking,
                stopped: Box::pin(stop.clone().cancelled_owned()),
            }),
        }
    }

    /// A stream of one that was not.
    pub(crate) fn refused(failed: Failed) -> Self {
        Self {
            first: Some(ForwardResponse {
                next_sequence: 0,
                refused: Some(failed),
            }),
            lane: None,
        }
    }
}

fn acknowledgement(next_sequence: u64) -> ForwardResponse {
    ForwardResponse {
        next_sequence,
        refused: None,
    }
}

impl Stream for Acknowledging {
    type Item = Result<ForwardResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(lane) = &mut self.lane else {
            return Poll::Ready(None);
        };
        if lane.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = Pin::new(&mut lane.requests).poll_next(cx) else {
            return Poll::Pending;
        };
        Poll::Ready(next.map(|request| match request?.body {
            Some(forward_request::Body::Batch(batch)) => {
                let next = lane.taking.take(&lane.from, batch, &*lane.service)?;
                Ok(acknowledgement(next))
            }
            _ => Err(Status::invalid_argument("only the first request is an opening")),
        }))
    }
}
