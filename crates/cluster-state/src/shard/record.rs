//! The keys of a shard's records: a letter, the client with its length, a number in big-endian order.
//!
//! `c` the shard, `s` session, `k` queue numbers, `u` subscription, `q` queue chunk, `i` message, `r` retained, `o` outbox,
//! `n` announced filter.

use super::MessageId;
use crate::encoding::{RestoreError, fault};

pub(crate) const SHARD: u8 = b'c';
pub(crate) const SESSION: u8 = b's';
pub(crate) const QUEUE: u8 = b'k';
pub(crate) const SUBSCRIPTION: u8 = b'u';
pub(crate) const CHUNK: u8 = b'q';
pub(crate) const MESSAGE: u8 = b'i';
pub(crate) const RETAINED: u8 = b'r';
pub(crate) const OUTBOX: u8 = b'o';
pub(crate) const ANNOUNCED: u8 = b'n';

/// Names in keys have their length in two bytes, as on the wire. [MQTT-1.5.4]
pub(crate) const NAME_BYTES_MAX: usize = u16::MAX as usize;

pub(crate) fn client_key(letter: u8, client: &str, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + client.len() + rest.len());
    key.push(letter);
    key.extend_from_slice(&(client.len() as u16).to_be_bytes());
    key.extend_from_slice(client.as_bytes());
    key.extend_from_slice(rest);
    key
}

/// The client of a key, and what follows it.
pub(crate) fn split_client(key: &[u8]) -> Result<(&str, &[u8]), RestoreError> {
    let short = || fault(key, "the key is too short");
    let (length, rest) = key
        .get(1..)
        .and_then(|rest| rest.split_first_chunk())
        .ok_or_else(short)?;
    let (client, rest) = rest
        .split_at_checked(u16::from_be_bytes(*length).into())
        .ok_or_else(short)?;
    let client = std::str::from_utf8(client).map_err(|_| fault(key, "the client id is not UTF-8"))?;
    Ok((client, rest))
}

pub(crate) fn chunk_key(client: &str, chunk: u64) -> Vec<u8> {
    client_key(CHUNK, client, &chunk.to_be_bytes())
}

pub(crate) fn message_key(id: MessageId) -> Vec<u8> {
    let mut key = vec![MESSAGE];
    key.extend_from_slice(&id.index.to_be_bytes());
    key.extend_from_slice(&id.command.to_be_bytes());
    key
}

pub(crate) fn split_message(key: &[u8]) -> Result<MessageId, RestoreError> {
    let rest = key.get(1..).unwrap_or_default();
    let Some((index, command)) = rest.split_first_chunk() else {
        return Err(fault(key, "the key is too short"));
    };
    Ok(MessageId {
        index: u64::from_be_bytes(*index),
        command: u32::from_be_bytes(four(key, command)?),
    })
}

pub(crate) fn outbox_key(number: u64) -> Vec<u8> {
    let mut key = vec![OUTBOX];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The number at the end of a key.
pub(crate) fn number(key: &[u8], bytes: &[u8]) -> Result<u64, RestoreError> {
    bytes
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| fault(key, "the key does not end with a number"))
}

fn four(key: &[u8], bytes: &[u8]) -> Result<[u8; 4], RestoreError> {
    bytes
        .try_into()
        .map_err(|_| fault(key, "the key does not end with a position"))
}
