//! Messages of a lane as bytes: encoded once when they are handed over, however often they are sent.

use bytes::{BufMut, Bytes, BytesMut};
use cluster_proto::{ForwardBatch, ForwardMessage, ForwardRequest, ForwardResponse};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

use crate::limits::{JOIN_BYTES_MAX, JOIN_MESSAGES_MAX, MESSAGE_BYTES_MAX};

/// The key of `ForwardRequest.batch` and of `ForwardBatch.messages`: field 2, with a length.
const KEY: u8 = 2 << 3 | 2;

/// Some messages of a `ForwardBatch`, encoded as its field `messages`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Piece {
    pub(crate) messages: usize,
    pub(crate) bytes: Bytes,
}

/// Cuts messages into pieces of the size of a frame. `Err`: one is larger than a message may be.
pub(crate) fn cut(messages: &[ForwardMessage]) -> Result<Vec<Piece>, usize> {
    let mut pieces = Vec::with_capacity(1);
    let lengths: Vec<usize> = messages.iter().map(Message::encoded_len).collect();
    // A key and a length for each.
    let room = lengths.iter().map(|length| length + 6).sum::<usize>();
    let mut gathered = BytesMut::with_capacity(room);
    let mut count = 0;
    for (message, length) in messages.iter().zip(lengths) {
        if length > MESSAGE_BYTES_MAX {
            return Err(length);
        }
        if count > 0 && (gathered.len() + length > JOIN_BYTES_MAX || count == JOIN_MESSAGES_MAX) {
            pieces.push(piece(&mut gathered, &mut count));
        }
        gathered.put_u8(KEY);
        message
            .encode_length_delimited(&mut gathered)
            .expect("a growing buffer has room");
        count += 1;
    }
    if count > 0 {
        pieces.push(piece(&mut gathered, &mut count));
    }
    Ok(pieces)
}

fn piece(gathered: &mut BytesMut, count: &mut usize) -> Piece {
    Piece {
        messages: std::mem::take(count),
        bytes: gathered.split().freeze(),
    }
}

/// One request of a lane.
pub(crate) enum LaneRequest {
    Opening(Box<ForwardRequest>),
    /// Pieces that follow each other.
    Batch {
        first_sequence: u64,
        pieces: Vec<Piece>,
    },
}

/// Encodes requests of a lane as `ForwardRequest`.
#[derive(Default)]
pub(crate) struct LaneCodec;

impl Codec for LaneCodec {
    type Encode = LaneRequest;
    type Decode = ForwardResponse;
    type Encoder = LaneEncoder;
    type Decoder = <ProstCodec<ForwardRequest, ForwardResponse> as Codec>::Decoder;

    fn encoder(&mut self) -> LaneEncoder {
        LaneEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<ForwardRequest, ForwardResponse>::default().decoder()
    }
}

pub(crate) struct LaneEncoder;

impl Encoder for LaneEncoder {
    type Item = LaneRequest;
    type Error = Status;

    fn encode(&mut self, request: LaneRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(room(&request));
        write(&request, buffer);
        Ok(())
    }
}

fn room(request: &LaneRequest) -> usize {
    // A key, a length, the first sequence.
    const AROUND: usize = 32;
    match request {
        LaneRequest::Opening(request) => request.encoded_len(),
        LaneRequest::Batch { pieces, .. } => {
            AROUND + pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>()
        }
    }
}

fn write(request: &LaneRequest, buffer: &mut impl BufMut) {
    let full = "room was made for it";
    match request {
        LaneRequest::Opening(request) => request.encode(buffer).expect(full),
        LaneRequest::Batch {
            first_sequence,
            pieces,
        } => {
            let head = ForwardBatch {
                first_sequence: *first_sequence,
                messages: Vec::new(),
            };
            let length = head.encoded_len() + pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>();
            buffer.put_u8(KEY);
            prost::encode_length_delimiter(length, buffer).expect(full);
            head.encode(buffer).expect(full);
            for piece in pieces {
                buffer.put_slice(&piece.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::{Publication, forward_request};

    use super::*;

    #[test]
    fn joined_pieces_are_what_protobuf_makes_of_the_batch() {
        let messages: Vec<_> = (0..700).map(|number| message(number, 40)).collect();
        let pieces = [cut(&messages[..1]).unwrap(), cut(&messages[1..]).unwrap()].concat();
        assert_eq!(pieces.len(), 3, "one, and 699 that are cut at 512");
        let mut written = Vec::new();
        write(
            &LaneRequest::Batch {
                first_sequence: 300,
                pieces,
            },
            &mut written,
        );
        let batch = ForwardBatch {
            first_sequence: 300,
            messages,
        };
        let plain = ForwardRequest {
            body: Some(forward_request::Body::Batch(batch)),
        };
        assert_eq!(written, plain.encode_to_vec());
    }

    #[test]
    fn large_messages_get_frames_of_their_own_and_too_large_ones_none() {
        let large = message(1, JOIN_BYTES_MAX);
        let pieces = cut(&[large.clone(), large, message(2, 1)]).unwrap();
        assert_eq!(pieces.len(), 3);
        assert!(cut(&[message(1, MESSAGE_BYTES_MAX + 1)]).is_err());
    }

    fn message(number: u64, bytes: usize) -> ForwardMessage {
        ForwardMessage {
            publication: Some(Publication {
                topic: format!("topic/{number}"),
                payload: vec![7; bytes].into(),
                ..Publication::default()
            }),
            source_number: number,
            ..ForwardMessage::default()
        }
    }
}
