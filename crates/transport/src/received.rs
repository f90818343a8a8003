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
    lanes: Mutex<HashMap<(u64, u32), SharedPosition>>,
}

type SharedPosition = Arc<Mutex<Position>>;

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

    /// Drops what is known of a node that will not come back. Its streams hand over nothing more.
    pub fn forget(&self, node: u64) {
        let mut forgotten = Vec::new();
        self.lanes.lock().retain(|(sender, _), lane| {
            if *sender == node {
                forgotten.push(Arc::clone(lane));
            }
            *sender != node
        });
        for lane in forgotten {
            lane.lock().stream += 1;
        }
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
    lane: SharedPosition,
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

#[cfg(test)]
mod tests {
    use cluster_proto::{AdoptRequest, AdoptResponse, ForwardMessage, HelloRequest, HelloResponse, Opening};
    use cluster_proto::{SnapshotAnswer, SnapshotHeader, call_request};

    use super::*;
    use crate::answers::Reply;
    use crate::net::{BoxFuture, Proof};

    #[test]
    fn what_was_received_is_left_out_and_what_is_missing_ends_the_stream() {
        let (received, sink) = (Received::new(), Sink::default());
        let taking = received.open(1, &opening(7, 1)).unwrap();
        assert_eq!(take(&taking, 1..=3, &sink), Some(4));
        assert_eq!(take(&taking, 2..=5, &sink), Some(6));
        assert_eq!(take(&taking, 1..=2, &sink), Some(6));
        assert_eq!(take(&taking, 7..=8, &sink), None, "the sixth is missing");
        assert_eq!(sink.numbers(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn only_the_latest_stream_of_a_lane_hands_over() {
        let (received, sink) = (Received::new(), Sink::default());
        let old = received.open(1, &opening(7, 1)).unwrap();
        assert_eq!(take(&old, 1..=3, &sink), Some(4));
        let new = received.open(1, &opening(7, 2)).unwrap();
        assert_eq!(new.next, 4, "it goes on where the old one was");
        assert_eq!(take(&old, 4..=5, &sink), None);
        drop(old);
        assert_eq!(take(&new, 4..=4, &sink), Some(5));
        assert_eq!(sink.numbers(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_new_life_begins_where_its_sender_says() {
        let (received, sink) = (Received::new(), Sink::default());
        let old = received.open(1, &opening(7, 1)).unwrap();
        assert_eq!(take(&old, 1..=9, &sink), Some(10));
        assert_eq!(received.open(1, &opening(8, 5)).unwrap().next, 5);
        let last = received.open(1, &opening(8, 5)).unwrap();
        received.forget(1);
        assert!(received.lanes.lock().is_empty());
        assert_eq!(take(&last, 5..=5, &sink), None, "forgotten");
    }

    #[test]
    fn lanes_that_cannot_be_are_refused() {
        let received = Received::new();
        let mut lane = opening(7, 1);
        lane.lane = LANES;
        assert!(received.open(1, &lane).is_err());
        assert!(received.open(1, &opening(7, 0)).is_err());
    }

    #[test]
    fn senders_without_a_stream_are_forgotten_when_there_are_too_many() {
        let received = Received::new();
        let kept = received.open(0, &opening(7, 1)).unwrap();
        for node in 1..2 * RECEIVED_MAX as u64 {
            assert!(received.open(node, &opening(7, 1)).is_ok());
        }
        assert!(received.lanes.lock().len() <= RECEIVED_MAX);
        assert!(received.lanes.lock().contains_key(&(0, 0)), "its stream is open");
        drop(kept);
    }

    fn opening(life: u64, first_sequence: u64) -> LaneOpening {
        LaneOpening {
            opening: None,
            lane: 0,
            life,
            first_sequence,
        }
    }

    /// A batch whose messages carry their own numbers.
    fn take(taking: &Taking, numbers: std::ops::RangeInclusive<u64>, sink: &Sink) -> Option<u64> {
        let batch = ForwardBatch {
            first_sequence: *numbers.start(),
            messages: numbers
                .map(|number| ForwardMessage {
                    source_number: number,
                    ..ForwardMessage::default()
                })
                .collect(),
        };
        taking.take(&Introduction::default(), batch, sink).ok()
    }

    #[derive(Default)]
    struct Sink(Mutex<Vec<u64>>);

    impl Sink {
        fn numbers(&self) -> Vec<u64> {
            self.0.lock().clone()
        }
    }

    impl PeerService for Sink {
        fn hello(&self, _request: HelloRequest, _proof: Proof) -> BoxFuture<'_, HelloResponse> {
            Box::pin(async { HelloResponse::default() })
        }

        fn adopt(&self, _request: AdoptRequest, _proof: Proof) -> BoxFuture<'_, AdoptResponse> {
            Box::pin(async { AdoptResponse::default() })
        }

        fn admit(&self, _opening: &Opening, _proof: &Proof) -> Result<(), Failed> {
            Ok(())
        }

        fn call(&self, _from: &Introduction, _body: call_request::Body, _reply: Reply) {}

        fn forward(&self, _from: &Introduction, messages: Vec<ForwardMessage>) {
            self.0
                .lock()
                .extend(messages.iter().map(|message| message.source_number));
        }

        fn snapshot(
            &self,
            _header: SnapshotHeader,
            _data: bytes::Bytes,
        ) -> BoxFuture<'_, Result<SnapshotAnswer, Failed>> {
            Box::pin(async { Ok(SnapshotAnswer::default()) })
        }
    }
}
