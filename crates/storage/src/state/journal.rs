//! Writes that are too many for one batch, written down in pieces before they are done. Batches of the store reach the disk
//! in their order: once the mark behind the pieces is there, all of them are, and while it is, the writes may be
//! unfinished.

use std::ops::ControlFlow;

use super::VALUE_BYTES_MAX;
use crate::kv::Write;
use crate::{Kv, StorageError};

/// Pieces have four bytes of number behind it, and the mark has none.
const JOURNAL: u8 = 0xFE;

/// Writes the pieces, then the mark.
pub(super) fn write(kv: &dyn Kv, tree: u64, writes: &[Write]) -> Result<(), StorageError> {
    let (mut number, mut piece) = (0u32, Vec::new());
    let mut put = |piece: Vec<u8>| {
        let key = [&[JOURNAL][..], &number.to_be_bytes()].concat();
        number += 1;
        kv.apply_batch(tree, vec![(key, Some(piece))])
    };
    for (key, value) in writes {
        encode(key, value.as_deref(), &mut piece);
        while piece.len() > VALUE_BYTES_MAX {
            let rest = piece.split_off(VALUE_BYTES_MAX);
            put(std::mem::replace(&mut piece, rest))?;
        }
    }
    put(piece)?;
    kv.apply_batch(tree, vec![(vec![JOURNAL], Some(Vec::new()))])
}

/// The writes of a journal that has its mark; none otherwise.
pub(super) fn read(kv: &dyn Kv, tree: u64) -> Result<Vec<Write>, StorageError> {
    if kv.get(tree, &[JOURNAL])?.is_none() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    kv.range(tree, &[JOURNAL], &mut |_, piece| {
        all.extend_from_slice(piece);
        ControlFlow::Continue(())
    })?;
    decode(&all).ok_or_else(|| StorageError::Damaged {
        what: "an unfinished checkpoint",
        detail: "its end is missing".into(),
    })
}

/// Removes the mark, then the pieces.
pub(super) fn remove(kv: &dyn Kv, tree: u64) -> Result<(), StorageError> {
    let mut keys = Vec::new();
    kv.range(tree, &[JOURNAL], &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    // The mark is the shortest key, and so the first.
    for key in keys {
        kv.apply_batch(tree, vec![(key, None)])?;
    }
    Ok(())
}

fn encode(key: &[u8], value: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out.push(value.is_some().into());
    if let Some(value) = value {
        out.extend_from_slice(&(value.len() as u32).to_be_bytes());
        out.extend_from_slice(value);
    }
}

fn decode(mut input: &[u8]) -> Option<Vec<Write>> {
    fn bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = input.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *input = rest;
        Some(bytes)
    }
    let mut writes = Vec::new();
    while !input.is_empty() {
        let key = bytes(&mut input)?.to_vec();
        let (has_value, rest) = input.split_first()?;
        input = rest;
        let value = match has_value {
            0 => None,
            _ => Some(bytes(&mut input)?.to_vec()),
        };
        writes.push((key, value));
    }
    Some(writes)
}
