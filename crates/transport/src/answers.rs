//! A stream of calls on the side that answers: requests in order, answers in any order, so many under way and no more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cluster_proto::{CallRequest, CallResponse, Failed, Introduction, call_request, call_response, failed};
use futures_util::Stream;
use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

use crate::error::failed;
use crate::limits::{CALLS_MAX, MESSAGE_BYTES_MAX};
use crate::server::PeerService;

/// The place of an answer. Dropped without one, it says that the node is stopping.
pub struct Reply {
    id: u64,
    answers: Option<Arc<Answers>>,
}

impl Reply {
    /// Answers.
    pub fn send(mut self, body: call_response::Body) {
        self.answer(body);
    }

    /// Answers with a failure.
    pub fn fail(self, failed: Failed) {
        self.send(call_response::Body::Failed(failed));
    }

    fn answer(&mut self, body: call_response::Body) {
        let Some(answers) = self.answers.take() else {
            return;
        };
        let mut response = CallResponse {
            id: self.id,
            body: Some(body),
        };
        // The stream would end with it, and all the other calls with the stream.
        if response.encoded_len() > MESSAGE_BYTES_MAX {
            let body = failed(
                failed::Reason::Unknown,
                "the answer is larger than a message may be",
            );
            response.body = Some(call_response::Body::Failed(body));
        }
        answers.push(response);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(call_response::Body::Failed(failed(
            failed::Reason::Stopping,
            "the node is stopping",
        )));
    }
}

/// Answers that wait for their stream; there are never more than calls under way.
#[derive(Default)]
struct Answers {
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<CallResponse>,
    under_way: usize,
    waker: Option<Waker>,
    ended: bool,
}

impl Answers {
    fn push(&self, response: CallResponse) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        state.queue.push_back(response);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The responses of a stream. Polling them reads the requests: who does not take answers is not read.
pub(crate) struct Answering {
    first: Option<CallResponse>,
    calls: Option<Calls>,
}

struct Calls {
    requests: Streaming<CallRequest>,
    from: Introduction,
    service: Arc<dyn PeerService>,
    answers: Arc<Answers>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Answering {
    /// A stream that was admitted.
    pub(crate) fn admitted(
        requests: Streaming<CallRequest>,
        from: Introduction,
        service: Arc<dyn PeerService>,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            first: Some(CallResponse {
                id: 0,
                body: Some(call_response::Body::Done(cluster_proto::Empty {})),
            }),
            calls: Some(Calls {
                requests,
                from,
                service,
                answers: Arc::new(Answers::default()),
                stopped: Box::pin(stop.clone().cancelled_owned()),
            }),
        }
    }

    /// A stream that was not.
    pub(crate) fn refused(failed: Failed) -> Self {
        Self {
            first: Some(CallResponse {
                id: 0,
                body: Some(call_response::Body::Failed(failed)),
            }),
            calls: None,
        }
    }
}

impl Stream for Answering {
    type Item = Result<CallResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        match &mut self.calls {
            Some(calls) => calls.poll_next(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Calls {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<CallResponse, Status>>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            let may_read = {
                let mut state = self.answers.state.lock();
                if let Some(response) = state.queue.pop_front() {
                    state.under_way -= 1;
                    return Poll::Ready(Some(Ok(response)));
                }
                state.waker = Some(cx.waker().clone());
                state.under_way < CALLS_MAX
            };
            if !may_read {
                return Poll::Pending;
            }
            match Pin::new(&mut self.requests).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => self.take(request),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take(&self, request: CallRequest) {
        self.answers.state.lock().under_way += 1;
        let reply = Reply {
            id: request.id,
            answers: Some(Arc::clone(&self.answers)),
        };
        match request.body {
            None | Some(call_request::Body::Opening(_)) => {
                // A body that a newer peer knows, and this node does not.
                reply.fail(failed(failed::Reason::Unknown, "an unknown kind of request"));
            }
            Some(body) => self.service.call(&self.from, body, reply),
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let mut state = self.answers.state.lock();
        state.ended = true;
        state.queue.clear();
    }
}
