//! A lane of published messages to one peer: numbered, kept until they are acknowledged, sent again after a reconnect.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cluster_proto::{ForwardMessage, ForwardRequest, ForwardResponse, LaneOpening, forward_request};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::connection::{BackOff, connect};
use crate::error::{PeerError, text_of};
use crate::frame::{LaneCodec, LaneRequest, Piece, cut};
use crate::limits::{
    FRAME_BYTES_MAX, JOIN_BYTES_MAX, JOIN_MESSAGES_MAX, LANE_BYTES_MAX, LANE_MESSAGES_MAX, OPENING_WITHIN,
};
use crate::peers::{LaneStats, Peer};

/// Told once, when the peer has acknowledged a whole batch, or will never do so. It must not block.
pub type ForwardDone = Box<dyn FnOnce(Result<(), PeerError>) + Send>;

pub(crate) struct Lane {
    number: u32,
    /// Drawn for each lane, not once for the process: a peer that was forgotten and is known again has a new one.
    life: u64,
    state: Mutex<State>,
}

struct State {
    /// What is not acknowledged, in order; the first one begins with `first_sequence`.
    pieces: VecDeque<Piece>,
    first_sequence: u64,
    next_sequence: u64,
    /// How many of the pieces the present stream has sent, and with which number it goes on,
    sent: usize,
    send_next: u64,
    /// and up to where any stream has come.
    sent_until: u64,
    bytes: usize,
    messages: usize,
    /// Batches by their last sequence.
    batches: VecDeque<(u64, ForwardDone)>,
    /// Counts the streams: an older one has nothing to say any more.
    stream: u64,
    opened: bool,
    running: bool,
    gone: bool,
    waker: Option<Waker>,
}

impl Lane {
    pub(crate) fn new(number: u32) -> Arc<Self> {
        Arc::new(Self {
            number,
            life: rand::random(),
            state: Mutex::new(State {
                pieces: VecDeque::new(),
                first_sequence: 1,
                next_sequence: 1,
                sent: 0,
                send_next: 1,
                sent_until: 1,
                bytes: 0,
                messages: 0,
                batches: VecDeque::new(),
                stream: 0,
                opened: false,
                running: false,
                gone: false,
                waker: None,
            }),
        })
    }

    pub(crate) fn forward(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        messages: Vec<ForwardMessage>,
        done: ForwardDone,
    ) -> Result<(), Vec<ForwardMessage>> {
        if self.state.lock().is_full() {
            return Err(messages);
        }
        // Encoded before the lock is taken: numbers are not part of the messages.
        let pieces = match cut(&messages) {
            Ok(pieces) => pieces,
            Err(length) => {
                done(Err(PeerError::TooLarge(length)));
                return Ok(());
            }
        };
        if pieces.is_empty() {
            done(Ok(()));
            return Ok(());
        }
        let mut state = self.state.lock();
        if state.gone {
            drop(state);
            done(Err(PeerError::Gone));
            return Ok(());
        }
        state.push(pieces, done);
        let waker = state.waker.take();
        let start = !std::mem::replace(&mut state.running, true);
        drop(state);
        if start {
            peer.runtime.spawn(Arc::clone(self).run(Arc::clone(peer)));
        } else if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub(crate) fn is_congested(&self) -> bool {
        let state = self.state.lock();
        state.bytes > LANE_BYTES_MAX || state.messages > LANE_MESSAGES_MAX
    }

    pub(crate) fn stats(&self) -> LaneStats {
        let state = self.state.lock();
        LaneStats {
            connected: state.opened,
            messages: state.messages,
            bytes: state.bytes,
        }
    }

    /// Answers everything that waits with `Gone`, and takes nothing more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.gone = true;
        state.end_stream();
        state.pieces.clear();
        state.bytes = 0;
        state.messages = 0;
        let batches = std::mem::take(&mut state.batches);
        drop(state);
        for (_, done) in batches {
            done(Err(PeerError::Gone));
        }
    }

    /// Keeps a stream as long as something is to be acknowledged; then for as long as it lasts.
    async fn run(self: Arc<Self>, peer: Arc<Peer>) {
        let mut back_off = BackOff::default();
        let mut reported = false;
        loop {
            let before = self.state.lock().first_sequence;
            let error = tokio::select! {
                biased;
                () = peer.gone.cancelled() => return,
                error = self.session(&peer) => error,
            };
            let progress = {
                let mut state = self.state.lock();
                state.end_stream();
                if state.pieces.is_empty() || state.gone {
                    state.running = false;
                    return;
                }
                state.first_sequence > before
            };
            if progress {
                back_off.reset();
                reported = false;
            }
            if !std::mem::replace(&mut reported, true) {
                tracing::info!(node = peer.id, lane = self.number, %error, "messages to a peer wait for a connection");
            }
            tokio::select! {
                biased;
                () = peer.gone.cancelled() => return,
                () = tokio::time::sleep(back_off.failed()) => {}
            }
        }
    }

    /// One connection, from its beginning to its end. Returns why it ended.
    async fn session(self: &Arc<Self>, peer: &Peer) -> PeerError {
        // The channel stays as long as its stream.
        let (_channel, mut responses) = match timeout(OPENING_WITHIN * 2, self.open(peer)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return error,
            Err(_) => return PeerError::Unreachable("no answer to the opening".to_owned()),
        };
        loop {
            match responses.message().await {
                Ok(Some(response)) if self.acknowledge(response.next_sequence) => {}
                Ok(Some(_)) => return PeerError::Lost("it acknowledged what was not sent".to_owned()),
                Ok(None) => return PeerError::Lost("the peer ended the stream".to_owned()),
                Err(status) => return PeerError::Lost(text_of(&status)),
            }
        }
    }

    async fn open(self: &Arc<Self>, peer: &Peer) -> Result<(Channel, Streaming<ForwardResponse>), PeerError> {
        let channel = connect(&*peer.net, &peer.address()).await?;
        let mut grpc = Grpc::new(channel.clone())
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let unreachable = |text: String| PeerError::Unreachable(text);
        grpc.ready()
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let (stream, first_sequence) = {
            let state = self.state.lock();
            (state.stream, state.first_sequence)
        };
        let opening = ForwardRequest {
            body: Some(forward_request::Body::Opening(LaneOpening {
                opening: Some(peer.opening()),
                lane: self.number,
                life: self.life,
                first_sequence,
            })),
        };
        let outgoing = Outgoing {
            lane: Arc::clone(self),
            stream,
            opening: Some(Box::new(opening)),
        };
        let path = PathAndQuery::from_static("/flotilla.v1.Peer/Forward");
        let responses = grpc.streaming(Request::new(outgoing), path, LaneCodec).await;
        let mut responses = responses
            .map_err(|status| unreachable(text_of(&status)))?
            .into_inner();
        let first = responses
            .message()
            .await
            .map_err(|status| unreachable(text_of(&status)))?;
        let first = first.ok_or_else(|| unreachable("the peer ended the stream".to_owned()))?;
        if let Some(failed) = first.refused {
            return Err(PeerError::Failed(failed));
        }
        if !self.acknowledge(first.next_sequence) {
            return Err(unreachable("it acknowledged what was not sent".to_owned()));
        }
        let mut state = self.state.lock();
        state.opened = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok((channel, responses))
    }

    /// Everything below was received. False: that cannot be.
    fn acknowledge(&self, next: u64) -> bool {
        let mut finished = Vec::new();
        {
            let mut state = self.state.lock();
            if next < state.first_sequence || next > state.sent_until {
                return state.gone;
            }
            state.drop_below(next);
            while state.batches.front().is_some_and(|(last, _)| *last < next) {
                finished.extend(state.batches.pop_front());
            }
        }
        for (_, done) in finished {
            done(Ok(()));
        }
        true
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.bytes >= 2 * LANE_BYTES_MAX || self.messages >= 2 * LANE_MESSAGES_MAX
    }

    fn push(&mut self, pieces: Vec<Piece>, done: ForwardDone) {
        for piece in pieces {
            self.bytes += piece.bytes.len();
            self.messages += piece.messages;
            self.next_sequence += piece.messages as u64;
            self.pieces.push_back(piece);
        }
        self.batches.push_back((self.next_sequence - 1, done));
    }

    /// A receiver takes whole frames, so acknowledgements end with a piece. If one did not, the piece would be sent again as a
    /// whole, and the receiver would leave out what it has had.
    fn drop_below(&mut self, next: u64) {
        while let Some(piece) = self.pieces.front() {
            let after = self.first_sequence + piece.messages as u64;
            if after > next {
                break;
            }
            self.bytes -= piece.bytes.len();
            self.messages -= piece.messages;
            self.first_sequence = after;
            self.sent = self.sent.saturating_sub(1);
            self.pieces.pop_front();
        }
        self.send_next = self.send_next.max(self.first_sequence);
    }

    /// The next frame: pieces that were not sent yet, joined.
    fn next_frame(&mut self) -> Option<LaneRequest> {
        let waiting = self.pieces.range(self.sent..);
        let (mut pieces, mut bytes, mut messages) = (Vec::new(), 0, 0);
        for piece in waiting {
            bytes += piece.bytes.len();
            messages += piece.messages;
            if !pieces.is_empty() && (bytes > JOIN_BYTES_MAX || messages > JOIN_MESSAGES_MAX) {
                messages -= piece.messages;
                break;
            }
            pieces.push(piece.clone());
        }
        if pieces.is_empty() {
            return None;
        }
        let first_sequence = self.send_next;
        self.sent += pieces.len();
        self.send_next += messages as u64;
        self.sent_until = self.sent_until.max(self.send_next);
        Some(LaneRequest::Batch {
            first_sequence,
            pieces,
        })
    }

    fn end_stream(&mut self) {
        self.stream += 1;
        self.sent = 0;
        self.send_next = self.first_sequence;
        self.opened = false;
        self.waker = None;
    }
}

/// The requests of one stream.
struct Outgoing {
    lane: Arc<Lane>,
    stream: u64,
    opening: Option<Box<ForwardRequest>>,
}

impl Stream for Outgoing {
    type Item = LaneRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LaneRequest>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(LaneRequest::Opening(opening)));
        }
        let mut state = self.lane.state.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        if state.opened
            && let Some(frame) = state.next_frame()
        {
            return Poll::Ready(Some(frame));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
