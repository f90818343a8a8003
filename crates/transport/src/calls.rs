//! Calls to one peer over one stream: sent in the order in which they were made, answered in any.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster_proto::{CallRequest, CallResponse, call_request, call_response};
use futures_util::Stream;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::connection::{BackOff, connect};
use crate::error::{PeerError, text_of};
use crate::generated::peer_client::PeerClient;
use crate::limits::{CALL_BYTES_MAX, CALLS_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, OPENING_WITHIN};
use crate::peers::{LinkStats, Peer};

type Answer = Result<call_response::Body, PeerError>;

/// One stream of calls, made when it is needed.
pub(crate) struct Calls {
    state: Mutex<State>,
}

struct State {
    /// Not sent yet, by id.
    queue: VecDeque<CallRequest>,
    /// Sent or not.
    waiting: BTreeMap<u64, Waiting>,
    bytes: usize,
    next_id: u64,
    /// Counts the streams: an older one has nothing to say any more.
    stream: u64,
    opened: bool,
    running: bool,
    gone: bool,
    back_off: BackOff,
    /// After a failed attempt: until then calls fail at once, for this reason.
    failing: Option<(Instant, PeerError)>,
    rtt: Option<Duration>,
    waker: Option<Waker>,
}

struct Waiting {
    answer: oneshot::Sender<Answer>,
    bytes: usize,
    since: Instant,
    sent: bool,
}

impl Calls {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                waiting: BTreeMap::new(),
                bytes: 0,
                next_id: 1,
                stream: 0,
                opened: false,
                running: false,
                gone: false,
                back_off: BackOff::default(),
                failing: None,
                rtt: None,
                waker: None,
            }),
        })
    }

    /// Enqueues at once; the future only waits.
    pub(crate) fn call(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        body: call_request::Body,
        within: Duration,
    ) -> impl Future<Output = Answer> + Send + 'static + use<> {
        let now = Instant::now();
        let entered = self.enter(peer, body, now);
        async move {
            let (place, answer) = entered?;
            let answer = timeout_at(now + within, answer).await;
            drop(place);
            match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(PeerError::Gone),
                Err(_) => Err(PeerError::Late),
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        body: call_request::Body,
        now: Instant,
    ) -> Result<(Place, oneshot::Receiver<Answer>), PeerError> {
        let mut request = CallRequest {
            id: 0,
            body: Some(body),
        };
        let bytes = request.encoded_len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(PeerError::TooLarge(bytes));
        }
        let (answer, answered) = oneshot::channel();
        let mut state = self.state.lock();
        state.judge(bytes, now)?;
        let id = state.next_id;
        state.next_id += 1;
        request.id = id;
        state.queue.push_back(request);
        state.bytes += bytes;
        state.waiting.insert(
            id,
            Waiting {
                answer,
                bytes,
                since: now,
                sent: false,
            },
        );
        let waker = state.waker.take();
        let start = !std::mem::replace(&mut state.running, true);
        drop(state);
        if start {
            peer.runtime.spawn(Arc::clone(self).run(Arc::clone(peer)));
        } else if let Some(waker) = waker {
            waker.wake();
        }
        let place = Place {
            calls: Arc::clone(self),
            id,
        };
        Ok((place, answered))
    }

    pub(crate) fn stats(&self) -> LinkStats {
        let state = self.state.lock();
        LinkStats {
            connected: state.opened,
            rtt: state.rtt,
            calls: state.waiting.len(),
            bytes: state.bytes,
        }
    }

    /// Answers everything that waits with `Gone`, and takes nothing more.
    pub(crate) fn close(&self) {
        self.state.lock().gone = true;
        self.fail(&PeerError::Gone, false);
    }

    /// One connection, from its beginning to its end. The next call after it makes the next one.
    async fn run(self: Arc<Self>, peer: Arc<Peer>) {
        let ended = tokio::select! {
            biased;
            () = peer.gone.cancelled() => return self.fail(&PeerError::Gone, false),
            ended = self.session(&peer) => ended,
        };
        match ended {
            Ended::Before(error) => {
                // Once, not with each attempt.
                if self.state.lock().failing.is_none() {
                    tracing::info!(node = peer.id, %error, "a peer cannot be reached");
                }
                self.fail(&error, true);
            }
            Ended::After(reason) => {
                tracing::info!(node = peer.id, reason, "the connection to a peer was lost");
                self.fail(&PeerError::Lost(reason), false);
            }
        }
    }

    async fn session(self: &Arc<Self>, peer: &Peer) -> Ended {
        // The channel stays as long as its stream.
        let (_channel, mut responses) = match timeout(OPENING_WITHIN * 2, self.open(peer)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Ended::Before(error),
            Err(_) => return Ended::Before(unreachable("no answer to the opening")),
        };
        loop {
            match responses.message().await {
                Ok(Some(response)) => self.answer(response),
                Ok(None) => return Ended::After("the peer ended the stream".to_owned()),
                Err(status) => return Ended::After(text_of(&status)),
            }
        }
    }

    async fn open(self: &Arc<Self>, peer: &Peer) -> Result<(Channel, Streaming<CallResponse>), PeerError> {
        let channel = connect(&*peer.net, &peer.address()).await?;
        let opening = CallRequest {
            id: 0,
            body: Some(call_request::Body::Opening(peer.opening())),
        };
        let outgoing = Outgoing {
            calls: Arc::clone(self),
            stream: self.state.lock().stream,
            opening: Some(opening),
        };
        let mut client = client(channel.clone());
        let responses = client.calls(outgoing).await;
        let mut responses = responses
            .map_err(|status| unreachable(text_of(&status)))?
            .into_inner();
        let first = responses
            .message()
            .await
            .map_err(|status| unreachable(text_of(&status)))?;
        match first.and_then(|first| first.body) {
            Some(call_response::Body::Done(_)) => {}
            Some(call_response::Body::Failed(failed)) => return Err(PeerError::Failed(failed)),
            _ => return Err(unreachable("no answer to the opening")),
        }
        let mut state = self.state.lock();
        state.opened = true;
        state.back_off.reset();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok((channel, responses))
    }

    fn answer(&self, response: CallResponse) {
        let mut state = self.state.lock();
        // Without an entry, its caller has given up.
        let Some(waiting) = state.waiting.remove(&response.id) else {
            return;
        };
        state.bytes -= waiting.bytes;
        state.rtt = Some(waiting.since.elapsed());
        drop(state);
        let answer = match response.body {
            Some(call_response::Body::Failed(failed)) => Err(PeerError::Failed(failed)),
            Some(body) => Ok(body),
            None => Err(PeerError::Lost("an unknown kind of answer".to_owned())),
        };
        // Its caller may have given up in this moment.
        let _ = waiting.answer.send(answer);
    }

    /// Ends the stream and answers everything that waits. What was not sent did certainly nothing.
    fn fail(&self, error: &PeerError, attempt: bool) {
        let waiting = {
            let mut state = self.state.lock();
            state.stream += 1;
            state.opened = false;
            state.running = false;
            state.waker = None;
            state.queue.clear();
            state.bytes = 0;
            state.failing = attempt.then(|| (Instant::now() + state.back_off.failed(), error.clone()));
            std::mem::take(&mut state.waiting)
        };
        for waiting in waiting.into_values() {
            let error = match error {
                PeerError::Lost(reason) if !waiting.sent => PeerError::Unreachable(reason.clone()),
                error => error.clone(),
            };
            // Its caller may have given up in this moment.
            let _ = waiting.answer.send(Err(error));
        }
    }

    /// A caller waits no longer. What was not sent is not sent any more.
    fn give_up(&self, id: u64) {
        let mut state = self.state.lock();
        let Some(waiting) = state.waiting.remove(&id) else {
            return;
        };
        state.bytes -= waiting.bytes;
        if !waiting.sent
            && let Ok(place) = state.queue.binary_search_by_key(&id, |request| request.id)
        {
            state.queue.remove(place);
        }
    }
}

impl State {
    fn judge(&mut self, bytes: usize, now: Instant) -> Result<(), PeerError> {
        if self.gone {
            return Err(PeerError::Gone);
        }
        if self.waiting.len() >= CALLS_MAX || self.bytes + bytes > CALL_BYTES_MAX {
            return Err(PeerError::Busy);
        }
        match &self.failing {
            Some((until, error)) if now < *until => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// How a connection ended: before it carried anything, or after.
enum Ended {
    Before(PeerError),
    After(String),
}

/// The place of a caller among those that wait.
struct Place {
    calls: Arc<Calls>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.calls.give_up(self.id);
    }
}

/// The requests of one stream.
struct Outgoing {
    calls: Arc<Calls>,
    stream: u64,
    opening: Option<CallRequest>,
}

impl Stream for Outgoing {
    type Item = CallRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<CallRequest>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(opening));
        }
        let mut state = self.calls.state.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        if state.opened
            && let Some(request) = state.queue.pop_front()
        {
            if let Some(waiting) = state.waiting.get_mut(&request.id) {
                waiting.sent = true;
            }
            return Poll::Ready(Some(request));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The generated client, with our limits.
pub(crate) fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX)
}

fn unreachable(reason: impl Into<String>) -> PeerError {
    PeerError::Unreachable(reason.into())
}
