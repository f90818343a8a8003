//! What a broken node makes of the entries it applies: for tests that have to notice.

use cluster_proto::{ShardCommand, ShardEntry, shard_command::Command};
use cluster_state::ShardState;

use super::Shard;

impl Shard {
    /// Changes an entry as the node's configuration says.
    pub(super) fn break_entry(&self, state: &ShardState, entry: &mut ShardEntry) {
        let broken = self.node.broken;
        if broken.own_time {
            entry.now_ms += 1 + self.node.node_id % 1000;
        }
        if broken.no_numbers {
            entry.origin = None;
        }
        for command in &mut entry.commands {
            if broken.no_numbers
                && let Some(Command::Append(append)) = &mut command.command
            {
                append.source_shard = None;
            }
            if broken.no_epochs {
                forge_epoch(state, command);
            }
        }
    }
}

/// Whoever owned the session once is its owner.
fn forge_epoch(state: &ShardState, command: &mut ShardCommand) {
    let (client, epoch) = match &mut command.command {
        Some(Command::Disconnect(command)) => (&command.client, &mut command.epoch),
        Some(Command::Subscribe(command)) => (&command.client, &mut command.epoch),
        Some(Command::Unsubscribe(command)) => (&command.client, &mut command.epoch),
        Some(Command::Acknowledge(command)) => (&command.client, &mut command.epoch),
        Some(Command::Receive(command)) => (&command.client, &mut command.epoch),
        Some(Command::Inbound(command)) => (&command.client, &mut command.epoch),
        Some(Command::Release(command)) => (&command.client, &mut command.epoch),
        _ => return,
    };
    if let Some(session) = state.session(client) {
        *epoch = session.owner.epoch;
    }
}
