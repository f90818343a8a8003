//! A group's log as openraft sees it: appends complete when they are synced, and nothing waits for another group.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use cluster_proto::raft::Entry as Encoded;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use prost::Message;
use storage::{Flushed, GroupLog};

use super::convert;
use super::types::{Entry, LogId, TypeConfig, VoteOf};

/// At most this much is read for one round of applying, and sent to a replica at once.
const READ_ENTRIES_MAX: u64 = 64;
/// The same in bytes, unless the first entry alone has more.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log of one group.
#[derive(Clone)]
pub(crate) struct LogStore(GroupLog);

impl LogStore {
    pub(crate) fn new(log: GroupLog) -> Self {
        Self(log)
    }

    /// Returns when everything that was appended before is on the disk.
    pub(crate) async fn synced(&self) -> io::Result<()> {
        self.flushed(|log, flushed| log.sync(flushed)).await
    }

    async fn flushed(&self, operation: impl FnOnce(&GroupLog, Flushed)) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        operation(&self.0, Box::new(move |result| drop(sender.send(result))));
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    fn read(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.0
            .entries(start..end)?
            .into_iter()
            .map(convert::entry)
            .collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let end = end.min(start.saturating_add(READ_ENTRIES_MAX));
        let entries = self.0.entries(start..end)?;
        let mut bytes = 0;
        let fits = |entry: &Encoded| {
            let first = bytes == 0;
            bytes += entry.encoded_len();
            first || bytes <= READ_BYTES_MAX
        };
        entries.into_iter().take_while(fits).map(convert::entry).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf>> {
        Ok(self.0.vote().as_ref().map(convert::vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.0.state();
        Ok(LogState {
            last_purged_log_id: state.purged.as_ref().map(convert::log_id),
            last_log_id: state.last.as_ref().map(convert::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf) -> io::Result<()> {
        let vote = convert::vote_to_proto(vote);
        self.flushed(|log, flushed| log.save_vote(vote, flushed)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(convert::entry_to_proto).collect();
        self.0
            .append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.as_ref().map(convert::log_id_to_proto);
        self.flushed(|log, flushed| log.truncate_after(last, flushed))
            .await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let upto = convert::log_id_to_proto(&upto);
        self.flushed(|log, flushed| log.purge(upto, flushed)).await
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

#[cfg(test)]
mod tests {
    use cluster_proto::raft as proto;
    use storage::{LogOptions, RaftLog};

    use super::*;

    fn entry(index: u64, bytes: usize) -> Encoded {
        Encoded {
            log_id: Some(proto::LogId {
                leader: Some(proto::LeaderId { term: 1, node: 1 }),
                index,
            }),
            payload: Some(proto::entry::Payload::Normal(vec![0; bytes].into())),
        }
    }

    #[tokio::test]
    async fn a_replica_is_sent_as_many_entries_as_one_message_holds() {
        let files = tempfile::tempdir().unwrap();
        let log = RaftLog::open(files.path(), LogOptions::default()).unwrap();
        let mut store = LogStore::new(log.group(1).unwrap());
        let sizes = [6, 1, 1, 1, 1, 1].map(|mebibytes| mebibytes << 20);
        let entries = (0..).zip(sizes).map(|(index, bytes)| entry(index, bytes));
        let entries: Vec<_> = entries.collect();
        store
            .flushed(|log, flushed| log.append(entries, flushed))
            .await
            .unwrap();
        let mut read = async |start| store.limited_get_log_entries(start, 6).await.unwrap().len();
        assert_eq!(read(0).await, 1, "one that is larger goes alone");
        assert_eq!(read(1).await, 3);
        assert_eq!(read(4).await, 2);
        store.synced().await.unwrap();
    }
}
