//! Tells damage from a torn tail in the newest file, where the engine cuts whatever it cannot read. Each write says
//! which earlier one was on the disk when it was issued; a log that ends before such a one has lost it.

use std::path::{Path, PathBuf};

use raft_engine::LogBatch;

use super::{LogEngine, NODE};
use crate::StorageError;
use crate::files::{Mount, failed};

/// Where the last write's words are in the engine.
const WRITTEN: &[u8] = b"w";
/// Clients' messages are in the same files: they cannot know these bytes.
const NONCE_BYTES: usize = 16;
const NONCE_FILE: &str = "NONCE";
/// Written when damage was found, since opening the log has cut it away.
const DAMAGED_FILE: &str = "DAMAGED";

/// What the writes say of themselves.
#[derive(Debug)]
pub(super) struct Watermark {
    nonce: [u8; NONCE_BYTES],
    /// The number of the last write.
    written: u64,
    /// The number of the last one that is on the disk for certain.
    synced: u64,
}

impl Watermark {
    /// Reads what the writes of the newest file say, before the engine opens it.
    pub(super) fn open(mount: &Mount, directory: &Path) -> Result<Self, StorageError> {
        if let Ok(detail) = mount.read(&directory.join(DAMAGED_FILE)) {
            return Err(damaged(directory, String::from_utf8_lossy(&detail).into_owned()));
        }
        let nonce = open_nonce(mount, directory)?;
        let synced = match newest_file(mount, directory)? {
            Some(path) => newest_claim(&nonce, &mount.read(&path).map_err(failed(&path))?),
            None => 0,
        };
        Ok(Self {
            nonce,
            written: 0,
            synced,
        })
    }

    /// Compares it with what the engine found.
    pub(super) fn check(
        &mut self,
        mount: &Mount,
        directory: &Path,
        engine: &LogEngine,
    ) -> Result<(), StorageError> {
        let found = engine.get(NODE, WRITTEN);
        let numbers = found.as_ref().and_then(|words| words.get(NONCE_BYTES..));
        self.written = numbers.and_then(number).unwrap_or(0);
        if self.written >= self.synced {
            return Ok(());
        }
        let detail = format!(
            "write {} is the last that can be read, and write {} was on the disk",
            self.written, self.synced
        );
        mount.replace(&directory.join(DAMAGED_FILE), detail.as_bytes())?;
        Err(damaged(directory, detail))
    }

    /// Adds the words of the next write to its batch.
    pub(super) fn sign(&self, batch: &mut LogBatch) -> raft_engine::Result<()> {
        let mut words = self.nonce.to_vec();
        for number in [self.written + 1, self.synced, !self.synced] {
            words.extend_from_slice(&number.to_be_bytes());
        }
        batch.put(NODE, WRITTEN.to_vec(), words)
    }

    /// The write is in its file, and on the disk if it was synced.
    pub(super) fn wrote(&mut self, sync: bool) {
        self.written += 1;
        if sync {
            self.synced = self.written;
        }
    }
}

fn damaged(directory: &Path, detail: String) -> StorageError {
    StorageError::DataDamaged {
        what: "the Raft log",
        path: directory.to_path_buf(),
        detail,
    }
}

fn open_nonce(mount: &Mount, directory: &Path) -> Result<[u8; NONCE_BYTES], StorageError> {
    let path = directory.join(NONCE_FILE);
    if let Ok(found) = mount.read(&path)
        && let Ok(nonce) = found.try_into()
    {
        return Ok(nonce);
    }
    let nonce = mount.random().to_be_bytes();
    mount.replace(&path, &nonce)?;
    Ok(nonce)
}

fn newest_file(mount: &Mount, directory: &Path) -> Result<Option<PathBuf>, StorageError> {
    let mut files = mount.list(directory).map_err(failed(directory))?;
    files.retain(|path| path.extension().is_some_and(|end| end == "raftlog"));
    Ok(files.into_iter().max())
}

/// The highest number of a write that a later one knew to be on the disk. Files are used again, but what an old
/// claim says is true for ever.
fn newest_claim(nonce: &[u8; NONCE_BYTES], bytes: &[u8]) -> u64 {
    let mut newest = 0;
    let mut rest = bytes;
    while let Some(place) = rest.iter().position(|byte| *byte == nonce[0]) {
        rest = &rest[place..];
        if rest.starts_with(nonce) {
            let claim = rest.get(NONCE_BYTES + 8..).and_then(number);
            let inverse = rest.get(NONCE_BYTES + 16..).and_then(number);
            // The words themselves may be torn.
            if let (Some(claim), Some(inverse)) = (claim, inverse)
                && claim == !inverse
            {
                newest = newest.max(claim);
            }
        }
        rest = &rest[1..];
    }
    newest
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
