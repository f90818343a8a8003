//! Encoded packets on their way to a socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::packet::{PacketCounts, PacketType};

/// Pieces up to this size are copied, larger ones are pushed by reference: below it a copy is cheaper than a further
/// entry in `writev`.
pub(crate) const COPIED_SIZE_MAX: usize = 1024;

/// A buffer larger than this is given back when it has been written completely, so that a burst is not paid for by
/// an idle connection.
const KEPT_CAPACITY_MAX: usize = 8 * 1024;

/// Encoded packets on their way to a socket: small ones gathered in one buffer, large payloads by reference.
///
/// It is a [`Buf`]: write [`chunks_vectored`](Buf::chunks_vectored) and [`advance`](Buf::advance). It has no bound of
/// its own; whoever encodes looks at [`len`](Self::len).
#[derive(Default, Debug)]
pub struct WriteQueue {
    /// Everything that was copied, in order. The first `read` bytes have been written.
    gathered: Vec<u8>,
    read: usize,
    /// What was pushed by reference, each with the number of gathered bytes that come before it.
    pieces: VecDeque<(usize, Bytes)>,
    /// How far `gathered` is covered by the numbers in `pieces`.
    marked: usize,
    len: usize,
    /// Packets that were appended since somebody asked.
    packets: PacketCounts,
}

impl WriteQueue {
    /// An empty queue, which holds no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes wait to be written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many packets were appended since the last call.
    pub fn take_packets(&mut self) -> PacketCounts {
        std::mem::take(&mut self.packets)
    }

    /// One more packet begins.
    #[inline]
    pub(crate) fn count_packet(&mut self, packet_type: PacketType) {
        self.packets.add(packet_type);
    }

    /// A copy of what waits to be written behind so many bytes of it.
    pub fn copy_behind(&self, mut skipped: usize) -> Bytes {
        let mut copy = Vec::with_capacity(self.len.saturating_sub(skipped));
        let mut add = |part: &[u8]| {
            let skips = skipped.min(part.len());
            skipped -= skips;
            copy.extend_from_slice(&part[skips..]);
        };
        let mut read = self.read;
        for (before, piece) in &self.pieces {
            add(&self.gathered[read..read + before]);
            add(piece);
            read += before;
        }
        add(&self.gathered[read..]);
        copy.into()
    }

    /// Forgets what waits to be written.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
        self.start_over();
    }

    /// The buffer to append exactly `len` bytes to, with room for them.
    #[inline]
    pub(crate) fn gather(&mut self, len: usize) -> &mut Vec<u8> {
        if self.gathered.capacity() - self.gathered.len() < len {
            self.drop_written();
            self.gathered.reserve(len);
        }
        self.len += len;
        &mut self.gathered
    }

    /// Appends bytes, by copy or by reference as their size suggests.
    #[inline]
    pub(crate) fn push(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPIED_SIZE_MAX {
            self.gather(bytes.len()).extend_from_slice(bytes);
        } else {
            self.push_shared(bytes.clone());
        }
    }

    fn push_shared(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.pieces.push_back((self.gathered.len() - self.marked, bytes));
        self.marked = self.gathered.len();
    }

    /// Moves unwritten bytes to the front instead of growing, where that pays.
    fn drop_written(&mut self) {
        if self.read > self.gathered.len() / 2 {
            self.gathered.drain(..self.read);
            self.marked = self.marked.saturating_sub(self.read);
            self.read = 0;
        }
    }

    fn start_over(&mut self) {
        self.read = 0;
        self.marked = 0;
        if self.gathered.capacity() > KEPT_CAPACITY_MAX {
            self.gathered = Vec::new();
        } else {
            self.gathered.clear();
        }
    }

    /// The gathered bytes before the first piece.
    fn front(&self) -> &[u8] {
        match self.pieces.front() {
            Some((before, _)) => &self.gathered[self.read..self.read + before],
            None => &self.gathered[self.read..],
        }
    }
}

impl Buf for WriteQueue {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        match (self.front(), self.pieces.front()) {
            ([], Some((_, piece))) => piece,
            (front, _) => front,
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut read = self.read;
        let gathered = |read: usize, before: usize| &self.gathered[read..read + before];
        for (before, piece) in &self.pieces {
            for part in [gathered(read, *before), piece] {
                if filled == slices.len() {
                    return filled;
                }
                if !part.is_empty() {
                    slices[filled] = IoSlice::new(part);
                    filled += 1;
                }
            }
            read += before;
        }
        if filled < slices.len() && read < self.gathered.len() {
            slices[filled] = IoSlice::new(&self.gathered[read..]);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "cannot advance past the end of the queue");
        self.len -= count;
        while let Some((before, piece)) = self.pieces.front_mut() {
            let step = count.min(*before);
            *before -= step;
            self.read += step;
            count -= step;
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
        self.read += count;
        // What is gathered after the last piece is not marked; reading may have passed the mark.
        self.marked = self.marked.max(self.read);
        if self.len == 0 {
            self.start_over();
        }
    }
}
