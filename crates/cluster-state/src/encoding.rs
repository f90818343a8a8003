//! Records of a checkpoint: their keys, and what is wrong with one that cannot be read.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;

/// A record's key and its value; no value means that the record is gone.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);
/// Changes, the last one of a key wins.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A checkpoint that does not hold a state: it was written by something else, or it is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreError {
    /// The key of the record at fault.
    pub key: Vec<u8>,
    /// What is wrong.
    pub detail: &'static str,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "checkpoint record {}: {}",
            self.key.escape_ascii(),
            self.detail
        )
    }
}

impl std::error::Error for RestoreError {}

/// Decodes a record, or names it.
pub(crate) fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, RestoreError> {
    M::decode(value).map_err(|_| fault(key, "not decodable"))
}

/// The error for a record.
pub(crate) fn fault(key: &[u8], detail: &'static str) -> RestoreError {
    RestoreError {
        key: key.to_vec(),
        detail,
    }
}

/// A key of one letter and a name.
pub(crate) fn named(letter: u8, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(letter);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name in a key of one letter and a name.
pub(crate) fn name_of(key: &[u8]) -> Result<&str, RestoreError> {
    let name = key.get(1..).unwrap_or_default();
    std::str::from_utf8(name).map_err(|_| fault(key, "the name is not UTF-8"))
}
