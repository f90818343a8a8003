//! What has come from other shards' outboxes, so that a batch sent twice is applied once.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::SourceRecord;

/// One number of a source may lead to several commands in this shard; each is applied once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane<'a> {
    /// To all plain subscriptions.
    Append,
    /// To the retained store.
    Retain,
    /// To the member that a share chose: whichever that is, the share gets the message once.
    Share(&'a str),
}

#[derive(Default, Debug)]
struct Applied {
    number: u64,
    appended: bool,
    retained: bool,
    shares: BTreeSet<String>,
}

#[derive(Default, Debug)]
pub(crate) struct Sources(BTreeMap<u32, Applied>);

impl Sources {
    /// Whether this command of a source was applied before. Sources send in the order of their numbers.
    pub(crate) fn has(&self, source: Option<u32>, number: u64, lane: Lane<'_>) -> bool {
        let Some(applied) = source.and_then(|source| self.0.get(&source)) else {
            return false;
        };
        if number != applied.number {
            return number < applied.number;
        }
        match lane {
            Lane::Append => applied.appended,
            Lane::Retain => applied.retained,
            Lane::Share(filter) => applied.shares.contains(filter),
        }
    }

    /// Notes a command that is applied now.
    pub(crate) fn note(&mut self, source: Option<u32>, number: u64, lane: Lane<'_>) {
        let Some(source) = source else { return };
        let applied = self.0.entry(source).or_default();
        if number > applied.number {
            *applied = Applied {
                number,
                ..Applied::default()
            };
        }
        match lane {
            Lane::Append => applied.appended = true,
            Lane::Retain => applied.retained = true,
            Lane::Share(filter) => drop(applied.shares.insert(filter.to_owned())),
        }
    }

    pub(crate) fn encode(&self) -> Vec<SourceRecord> {
        let record = |(source, applied): (&u32, &Applied)| SourceRecord {
            source_shard: *source,
            number: applied.number,
            appended: applied.appended,
            retained: applied.retained,
            share_filters: applied.shares.iter().cloned().collect(),
        };
        self.0.iter().map(record).collect()
    }

    pub(crate) fn restore(records: Vec<SourceRecord>) -> Self {
        let applied = |record: SourceRecord| Applied {
            number: record.number,
            appended: record.appended,
            retained: record.retained,
            shares: record.share_filters.into_iter().collect(),
        };
        Self(
            records
                .into_iter()
                .map(|record| (record.source_shard, applied(record)))
                .collect(),
        )
    }
}
