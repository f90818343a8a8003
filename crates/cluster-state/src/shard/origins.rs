//! Which entries of which node were applied last, so that one that is proposed again, because its fate was unknown, changes
//! nothing and is answered as the first time.

use std::collections::BTreeMap;

use cluster_proto::{
    AnswerRecord, Appended, Connected, Origin, OriginRecord, ShardResponse, rejected::Reason,
    shard_command::Command, shard_response::Response,
};

use super::connect::connected;
use super::{ApplyContext, ShardState, answer};

/// So many nodes are remembered: far more than a cluster has.
const NODES_MAX: usize = 64;
/// A node waits for the answers of no more entries than these.
const ANSWERED_MAX: u64 = 4;

/// What was applied last of one node's process.
#[derive(Debug)]
struct Applied {
    node: u64,
    life: u64,
    sequence: u64,
    /// By sequence and position, those that are not plain success.
    answers: BTreeMap<(u64, u32), ShardResponse>,
}

/// What an entry is among those of its origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// It follows the last one, or has no origin.
    New,
    /// It was applied before.
    Repeated,
    /// One before it is missing, or a later life of its node was heard of: its commands must not be applied.
    Gap,
}

/// What is known of the entry that is being applied.
#[derive(Clone, Copy, Default, Debug)]
enum Entry {
    /// It has no origin, or there was no call for it.
    #[default]
    Nobodys,
    /// Applied for the first time: its answers are to be kept with the node heard of last.
    New,
    /// It has this sequence, and comes from the node heard of last.
    Repeated(u64),
}

#[derive(Default, Debug)]
pub(crate) struct Origins {
    /// The one that was heard of last is the last one.
    nodes: Vec<Applied>,
    entry: Entry,
}

impl Origins {
    /// Notes that an entry begins; says what it is.
    fn begin(&mut self, origin: Option<&Origin>) -> EntryKind {
        self.entry = Entry::Nobodys;
        let Some(origin) = origin else {
            return EntryKind::New;
        };
        let place = self.nodes.iter().position(|applied| applied.node == origin.node);
        if self.is_gap(place, origin) {
            return EntryKind::Gap;
        }
        let known = place.map(|place| self.nodes.remove(place));
        let same_life = known.filter(|applied| applied.life == origin.life);
        let repeated = same_life
            .as_ref()
            .is_some_and(|applied| origin.sequence <= applied.sequence);
        let mut applied = same_life.unwrap_or_else(|| Applied::new(origin));
        if repeated {
            self.entry = Entry::Repeated(origin.sequence);
        } else {
            self.entry = Entry::New;
            applied.sequence = origin.sequence;
            let oldest = (origin.sequence.saturating_sub(ANSWERED_MAX - 1), 0);
            applied.answers = applied.answers.split_off(&oldest);
        }
        self.nodes.push(applied);
        if self.nodes.len() > NODES_MAX {
            self.nodes.remove(0);
        }
        match repeated {
            true => EntryKind::Repeated,
            false => EntryKind::New,
        }
    }

    fn is_gap(&self, place: Option<usize>, origin: &Origin) -> bool {
        let known = place.and_then(|place| self.nodes.get(place));
        match known {
            Some(known) if known.life > origin.life => true,
            Some(known) if known.life == origin.life => origin.sequence > known.sequence + 1,
            _ => origin.sequence != 1,
        }
    }

    /// The sequence of the entry, if it is a repeated one.
    fn repeated(&self) -> Option<u64> {
        match self.entry {
            Entry::Repeated(sequence) => Some(sequence),
            _ => None,
        }
    }

    fn answer(&self, sequence: u64, command: u32) -> Option<&ShardResponse> {
        self.nodes.last()?.answers.get(&(sequence, command))
    }

    /// Whether answers are forgotten by now: nobody waits for them.
    fn is_old(&self, sequence: u64) -> bool {
        self.nodes
            .last()
            .is_none_or(|applied| sequence.saturating_add(ANSWERED_MAX) <= applied.sequence)
    }

    pub(super) fn note(&mut self, command: u32, response: &ShardResponse) {
        let (Entry::New, Some(applied)) = (self.entry, self.nodes.last_mut()) else {
            return;
        };
        if let Some(kept) = to_keep(response) {
            applied.answers.insert((applied.sequence, command), kept);
        }
    }

    pub(super) fn encode(&self) -> Vec<OriginRecord> {
        self.nodes.iter().map(Applied::encode).collect()
    }

    pub(super) fn restore(records: Vec<OriginRecord>) -> Self {
        let nodes = records.into_iter().map(Applied::restore).collect();
        Self {
            nodes,
            entry: Entry::Nobodys,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let mut nodes: Vec<u64> = self.nodes.iter().map(|applied| applied.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() != self.nodes.len() || nodes.len() > NODES_MAX {
            return Err(format!("origins of {} nodes", self.nodes.len()));
        }
        for applied in &self.nodes {
            let mut sequences = applied.answers.keys().map(|(sequence, _)| *sequence);
            let kept = |sequence: u64| {
                sequence <= applied.sequence && sequence.saturating_add(ANSWERED_MAX) > applied.sequence
            };
            if !sequences.all(kept) {
                return Err(format!("node {}: answers that nobody waits for", applied.node));
            }
        }
        Ok(())
    }
}

impl Applied {
    fn new(origin: &Origin) -> Self {
        Self {
            node: origin.node,
            life: origin.life,
            sequence: 0,
            answers: BTreeMap::new(),
        }
    }

    fn encode(&self) -> OriginRecord {
        let answer = |((sequence, command), response): (&(u64, u32), &ShardResponse)| AnswerRecord {
            sequence: *sequence,
            command: *command,
            answer: Some(response.clone()),
        };
        OriginRecord {
            node: self.node,
            life: self.life,
            sequence: self.sequence,
            answers: self.answers.iter().map(answer).collect(),
        }
    }

    fn restore(record: OriginRecord) -> Self {
        let answer = |record: AnswerRecord| {
            (
                (record.sequence, record.command),
                record.answer.unwrap_or_default(),
            )
        };
        Self {
            node: record.node,
            life: record.life,
            sequence: record.sequence,
            answers: record.answers.into_iter().map(answer).collect(),
        }
    }
}

/// What has to be known of an answer to give it again; nothing of plain success.
fn to_keep(response: &ShardResponse) -> Option<ShardResponse> {
    match response.response.as_ref()? {
        Response::Appended(_) => None,
        Response::Done(done) if done.existed.is_empty() => None,
        Response::Connected(connected) => Some(answer::of(Response::Connected(Connected {
            epoch: connected.epoch,
            session_present: connected.session_present,
            previous: connected.previous,
            ..Connected::default()
        }))),
        _ => Some(response.clone()),
    }
}

impl ShardState {
    /// Has to be called once per entry, before its commands. `apply` will answer those of a repeated one as it did then, and
    /// they change nothing and ask for nothing. Those of one that does not follow the last one must not be applied.
    pub fn begin_entry(&mut self, origin: Option<&Origin>) -> EntryKind {
        self.dirty |= origin.is_some();
        self.origins.begin(origin)
    }

    /// The answer to a command of an entry that was applied before.
    pub(super) fn repeated(&self, context: &ApplyContext, command: &Command) -> Option<ShardResponse> {
        let sequence = self.origins.repeated()?;
        Some(match self.origins.answer(sequence, context.command) {
            Some(ShardResponse {
                response: Some(Response::Connected(first)),
            }) => self.connected_before(command, first),
            Some(response) => response.clone(),
            None if matches!(command, Command::Append(_)) => {
                answer::of(Response::Appended(Appended::default()))
            }
            // Where success says more than that, nothing can be said any more.
            None if self.origins.is_old(sequence) && !is_plain(command) => answer::rejected(Reason::Unknown),
            None => answer::done(),
        })
    }

    /// The connection that an earlier application made, unless it has lost the session since.
    fn connected_before(&self, command: &Command, first: &Connected) -> ShardResponse {
        let Command::Connect(connect) = command else {
            return answer::malformed();
        };
        let session = self
            .owned(&connect.client, first.epoch)
            .map(|id| self.sessions.get(id));
        match session {
            Ok(Some(session)) => answer::of(Response::Connected(connected(
                session,
                first.session_present,
                first.previous,
            ))),
            Ok(None) => answer::rejected(Reason::NoSession),
            Err(reason) => answer::rejected(reason),
        }
    }
}

/// Whether the command is answered with nothing but success.
fn is_plain(command: &Command) -> bool {
    !matches!(
        command,
        Command::Connect(_)
            | Command::Subscribe(_)
            | Command::Unsubscribe(_)
            | Command::Release(_)
            | Command::Unannounce(_)
    )
}
