//! The replicated state of one shard: its sessions with their subscriptions and queues, and its retained messages.
//!
//! Bodies of queued messages are not here: effects tell the caller which ones to keep, and until when.

mod acknowledge;
mod announce;
mod answer;
mod append;
mod backup;
mod check;
mod checkpoint;
mod connect;
mod effect;
mod inbound;
mod messages;
mod origins;
mod outbox;
mod queue;
mod record;
mod retained;
mod session;
mod share;
mod sources;
mod subscribe;
mod tick;
mod timers;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster_proto::{ShardCommand, ShardResponse, Totals, shard_command::Command};
use mqtt_topic::FilterTree;

pub use backup::{MessageCopy, SessionCopy};
pub use effect::{DropReason, Effect, EndReason};
pub use messages::MessageId;
pub use origins::EntryKind;
pub use outbox::{OutboxBody, OutboxItem};
pub use view::{QueueItem, SessionView};

use announce::Announcements;
use append::Match;
use messages::Messages;
use origins::Origins;
use outbox::Outbox;
use retained::Retained;
use session::Sessions;
use sources::Sources;
use subscribe::Subscribers;
use timers::Timers;

/// Where and when a command is applied: the same on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplyContext {
    /// The index of the Raft entry.
    pub index: u64,
    /// The position of the command in the entry.
    pub command: u32,
    /// The leader's time when it proposed the entry.
    pub now_ms: u64,
    /// The shard.
    pub shard: u16,
}

impl ApplyContext {
    /// The name of the message that the command carries.
    pub fn message(&self) -> MessageId {
        MessageId {
            index: self.index,
            command: self.command,
        }
    }
}

/// The state of one shard.
#[derive(Default, Debug)]
pub struct ShardState {
    applied: MessageId,
    last_epoch: u64,
    sessions: Sessions,
    /// All plain subscriptions.
    filters: FilterTree<Subscribers>,
    messages: Messages,
    outbox: Outbox,
    retained: Retained,
    sources: Sources,
    timers: Timers,
    origins: Origins,
    announcements: Announcements,
    /// Who is connected where: node, incarnation, client.
    owners: BTreeSet<(u64, u64, Arc<str>)>,
    totals: Totals,
    /// Room for the matches of one message, kept from one command to the next.
    matches: Vec<Match>,
    dirty: bool,
}

impl ShardState {
    /// An empty shard.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one committed command of the entry that `begin_entry` was called for. Positions grow: a command at or before the last one applied is rejected as
    /// `UNKNOWN` and changes nothing.
    pub fn apply(
        &mut self,
        context: &ApplyContext,
        command: ShardCommand,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        if context.message() <= self.applied || context.command >= queue::COMMANDS_MAX {
            return answer::rejected(cluster_proto::rejected::Reason::Unknown);
        }
        self.applied = context.message();
        self.dirty = true;
        let Some(command) = command.command else {
            return answer::malformed();
        };
        if let Some(response) = self.repeated(context, &command) {
            return response;
        }
        let response = self.apply_new(context, command, effects);
        self.origins.note(context.command, &response);
        response
    }

    fn apply_new(
        &mut self,
        context: &ApplyContext,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        match command {
            Command::Connect(connect) => self.connect(context, connect, effects),
            Command::Disconnect(disconnect) => self.disconnect(context, &disconnect, effects),
            Command::Subscribe(subscribe) => self.subscribe(context, &subscribe, effects),
            Command::Unsubscribe(unsubscribe) => self.unsubscribe(context, &unsubscribe, effects),
            Command::Append(append) => self.append(context, append, effects),
            Command::Acknowledge(acknowledge) => self.acknowledge(&acknowledge, effects),
            Command::Receive(receive) => self.receive(&receive),
            Command::Inbound(inbound) => self.inbound(context, inbound, effects),
            Command::Release(release) => self.release(&release, effects),
            Command::OutboxDone(done) => self.outbox_done(&done, effects),
            Command::Retain(retain) => self.retain(context, retain),
            Command::Tick(_) => self.tick(context, effects),
            Command::EndSession(end) => self.end_session(context, &end, effects),
            Command::NodeDown(down) => self.node_down(context, &down, effects),
            Command::Announce(announce) => self.announce(&announce),
            Command::Unannounce(unannounce) => self.unannounce(context, unannounce),
            Command::RestoreSession(restore) => self.bring_back_session(context, restore, effects),
            Command::RestoreMessage(restore) => self.bring_back_message(context, restore, effects),
        }
    }
}
