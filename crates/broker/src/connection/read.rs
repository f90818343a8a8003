//! From the socket to packets. Idle connections hold no read buffer: all connections of a thread share one.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use mqtt_codec::Packet;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::{Connection, End, OUT_MAX, Stream};

/// One read takes this much at the most.
const READ_MAX: usize = 64 * 1024;
/// When less is left of the shared buffer, it is replaced; slices of the old one keep it alive until they are gone.
const READ_MIN: usize = 16 * 1024;
/// An unfinished packet up to this size moves to the front of the shared buffer; a larger one grows where it is.
const CARRY_MAX: usize = 4 * 1024;

thread_local! {
    static BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

impl<S: Stream> Connection<S> {
    /// Handles what was read before, then reads once. Ok(true): something was done.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>, now: u64) -> Result<bool, End> {
        if !self.may_read() || self.throttle.waits_until(self.steady).is_some() {
            return Ok(false);
        }
        let before = self.input.len();
        if before > 0 {
            self.decode(now)?;
            if self.input.len() < before {
                return Ok(true);
            }
        }
        match poll_read(&mut self.stream, cx, &mut self.input, self.decoder.needed()) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => Err(End::Lost),
            Poll::Ready(Ok(read)) => {
                self.tally.bytes_received += read as u64;
                self.decode(now)?;
                Ok(true)
            }
        }
    }

    /// Handles the complete packets of the input, up to one that the rest has to wait for. What they bring the client
    /// is bounded too: a read holds thousands of SUBSCRIBEs, each of which may ask for all retained messages.
    fn decode(&mut self, now: u64) -> Result<(), End> {
        while self.operation.is_none()
            && !self.input.is_empty()
            && self.out.len() < OUT_MAX
            && self.throttle.waits_until(self.steady).is_none()
        {
            let waiting = self.input.len();
            let packet = match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(()),
                Err(error) => return Err(End::Protocol(error.into())),
            };
            self.tally.packets.add(packet.packet_type());
            if self.traced.is_some() {
                self.trace_received(&packet, waiting - self.input.len(), now);
            }
            if let Packet::Publish(publish) = &packet {
                self.tally.received[publish.qos as usize] += 1;
                self.tally.payload_received += publish.publication.payload_len() as u64;
                let level = self.shared.overload.level();
                if let Some(limited) = self
                    .throttle
                    .charge(publish.publication.size(), self.steady, level)
                {
                    self.shared.metrics.limited(limited);
                }
            }
            let handled = self
                .session
                .handle(packet, self.steady, &mut self.out, &mut self.actions);
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.act(action, now)?;
            }
            self.actions = actions;
            handled.map_err(End::Protocol)?;
        }
        Ok(())
    }
}

/// Reads behind `input`, an unfinished packet that may be empty.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    input: &mut Bytes,
    needed: usize,
) -> Poll<std::io::Result<usize>> {
    if input.len() > CARRY_MAX {
        let unfinished = std::mem::take(input);
        let mut own = unfinished
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        own.reserve(needed.clamp(CARRY_MAX, 1024 * 1024));
        let result = poll_read_buf(Pin::new(stream), cx, &mut own);
        *input = own.freeze();
        return result;
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.capacity() < READ_MIN + input.len() {
            buffer.reserve(READ_MAX);
        }
        buffer.extend_from_slice(input);
        match poll_read_buf(Pin::new(stream), cx, buffer) {
            Poll::Ready(Ok(read)) => {
                *input = buffer.split().freeze();
                Poll::Ready(Ok(read))
            }
            other => {
                // Nothing came: what was carried here stays where it was, unless it pins a buffer.
                if !input.is_empty() {
                    *input = Bytes::copy_from_slice(buffer);
                }
                buffer.clear();
                other
            }
        }
    })
}
