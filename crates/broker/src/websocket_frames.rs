//! WebSocket frames (RFC 6455) as a stream of bytes: MQTT packets lie in them split and joined at will, so neither a frame
//! nor a message has a size here, and nothing of it is gathered. [MQTT-6.0.0-2]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::Stream;

/// One frame sent carries this much at the most.
const SENT_MAX: usize = 64 * 1024;
/// Heads of frames and small frames are read in pieces of this size.
const READ_SIZE: usize = 4 * 1024;
/// Payloads of control frames. [RFC 6455 5.5]
const CONTROL_MAX: u64 = 125;
/// The longest head of a client's frame: two bytes, eight of length, four of mask.
const HEAD_MAX: usize = 14;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const MASKED: u8 = 0x80;

/// The head of a client's frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    is_final: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
    /// How many bytes it takes.
    size: usize,
}

impl Head {
    /// None: there is more to come.
    fn parse(input: &[u8]) -> io::Result<Option<Self>> {
        let Some((&[first, second], rest)) = input.split_first_chunk() else {
            return Ok(None);
        };
        if first & RESERVED != 0 || second & MASKED == 0 {
            return Err(invalid("a reserved bit is set, or the frame is not masked"));
        }
        let (length, rest) = match (second & !MASKED, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, rest) => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            (126, _) => return Ok(None),
            (length, rest) => (u64::from(length), rest),
        };
        if length > i64::MAX as u64 {
            return Err(invalid("a length that cannot be"));
        }
        let Some((mask, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        Ok(Some(Self {
            is_final: first & FINAL != 0,
            opcode: first & 0x0F,
            length,
            mask: *mask,
            size: input.len() - rest.len(),
        }))
    }
}

/// What of the current data frame is still to come.
#[derive(Default, Debug)]
struct Payload {
    left: u64,
    mask: [u8; 4],
}

impl Payload {
    fn unmask(&mut self, bytes: &mut [u8]) {
        for (byte, mask) in bytes.iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(bytes.len() % 4);
        self.left -= bytes.len() as u64;
    }
}

/// A WebSocket after its handshake, as a byte stream.
pub(crate) struct ByteStream<S> {
    stream: S,
    /// Read and not yet understood; nothing while the connection is idle.
    input: BytesMut,
    payload: Payload,
    /// A message goes on in the next data frame.
    is_open: bool,
    ended: bool,
    /// Frames that wait for the socket: one with data at the most, and one answer to a control frame.
    output: BytesMut,
    /// The answer to the last control frame, when frames before it have left.
    answer: Option<(u8, BytesMut)>,
}

impl<S: Stream> ByteStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            payload: Payload::default(),
            is_open: false,
            ended: false,
            output: BytesMut::new(),
            answer: None,
        }
    }

    /// Takes the next frame's head, and all of it if it is a control frame. False: more has to be read.
    fn next_frame(&mut self) -> io::Result<bool> {
        let Some(head) = Head::parse(&self.input)? else {
            return Ok(false);
        };
        if head.opcode & 0x8 != 0 {
            return self.control(head);
        }
        // Only binary frames may carry MQTT. [MQTT-6.0.0-1]
        match (head.opcode, self.is_open) {
            (BINARY, false) | (CONTINUATION, true) => {}
            _ => return Err(invalid("a frame that is neither binary nor its continuation")),
        }
        self.is_open = !head.is_final;
        self.input.advance(head.size);
        self.payload = Payload {
            left: head.length,
            mask: head.mask,
        };
        Ok(true)
    }

    fn control(&mut self, head: Head) -> io::Result<bool> {
        if !head.is_final || head.length > CONTROL_MAX {
            return Err(invalid("a control frame that is too long or in pieces"));
        }
        let size = head.size + head.length as usize;
        if self.input.len() < size {
            return Ok(false);
        }
        let mut content = self.input.split_to(size).split_off(head.size);
        let mut payload = Payload {
            left: head.length,
            mask: head.mask,
        };
        payload.unmask(&mut content);
        match head.opcode {
            // Only the last one has to be answered. [RFC 6455 5.5.3]
            PING => self.answer = Some((PONG, content)),
            PONG => {}
            CLOSE => {
                content.truncate(2);
                self.answer = Some((CLOSE, content));
                self.ended = true;
            }
            _ => return Err(invalid("a control frame of no known kind")),
        }
        Ok(true)
    }

    /// Reads into `input`, which holds less than a frame's head or a control frame. Ok(false): the stream has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [std::mem::MaybeUninit::uninit(); READ_SIZE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.input.extend_from_slice(piece.filled());
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }

    /// Hands out payload: what was read already, or straight from the socket.
    fn poll_payload(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room =
            usize::try_from(self.payload.left).map_or(buf.remaining(), |left| left.min(buf.remaining()));
        let before = buf.filled().len();
        if self.input.is_empty() {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
            // No room is no end.
            self.ended |= read == 0 && room > 0;
        } else {
            let length = room.min(self.input.len());
            buf.put_slice(&self.input[..length]);
            self.input.advance(length);
        }
        self.payload.unmask(&mut buf.filled_mut()[before..]);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.output.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.output.advance(written);
            }
            self.output = BytesMut::new();
            let Some((opcode, content)) = self.answer.take() else {
                return Poll::Ready(Ok(()));
            };
            put_frame(&mut self.output, opcode, &content);
        }
    }
}

fn invalid(detail: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

/// Appends a whole frame; a server's are not masked.
fn put_frame(out: &mut BytesMut, opcode: u8, content: &[u8]) {
    out.reserve(HEAD_MAX + content.len());
    out.extend_from_slice(&[FINAL | opcode]);
    match content.len() {
        length @ 0..126 => out.extend_from_slice(&[length as u8]),
        length @ 126..0x1_0000 => {
            out.extend_from_slice(&[126]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.extend_from_slice(&[127]);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(content);
}

impl<S: Stream> AsyncRead for ByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.answer.is_some()
                && let Poll::Ready(Err(error)) = this.poll_drain(cx)
            {
                return Poll::Ready(Err(error));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.payload.left > 0 {
                return this.poll_payload(cx, buf);
            }
            if !this.next_frame()? && !ready!(this.poll_fill(cx))? {
                this.ended = true;
            }
        }
    }
}

impl<S: Stream> AsyncWrite for ByteStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let part = &buf[..buf.len().min(SENT_MAX)];
        put_frame(&mut self.output, BINARY, part);
        // It is taken; an error shows with the next call.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(part.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            // The normal end of a connection. [RFC 6455 7.4.1]
            self.ended = true;
            self.answer = Some((CLOSE, BytesMut::from(&1000u16.to_be_bytes()[..])));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
