//! Commands with messages for one shard, and what its answers mean for each message.

use std::sync::Arc;

use cluster::proto::{ShardCommand, ShardResponse, shard_response::Response};
use cluster::{ProposeError, ShardId};
use mqtt_codec::ReasonCode;
use smallvec::SmallVec;

use crate::connection::is_rejected;
use crate::handover::{self, Handover};
use crate::shared::Shared;

/// Commands for one shard, in order, each with the message it belongs to.
#[derive(Debug)]
pub(crate) struct Proposal<T> {
    pub(crate) shard: ShardId,
    pub(crate) commands: Vec<ShardCommand>,
    pub(crate) fate: Fate<T>,
}

/// What is to be known when the shard has answered.
#[derive(Debug)]
pub(crate) struct Fate<T> {
    pub(crate) tickets: SmallVec<[T; 4]>,
    /// For each ticket: its first command, and whether somebody has the message whatever the shard answers.
    parts: SmallVec<[(u32, bool); 4]>,
    /// For members of shared subscriptions, with the places of their commands: others get them if those have left.
    kept: Vec<(usize, Handover)>,
}

/// What the shard has made of the messages.
#[derive(Debug)]
struct Verdict {
    /// A command was refused that has no reason to be.
    failed: bool,
    /// The members they were for are none: others have to get them.
    left: Vec<Handover>,
}

/// What has become of the messages of a proposal.
#[derive(Debug)]
pub(crate) struct Settled {
    /// A command was refused that has no reason to be.
    pub(crate) failed: bool,
    /// The worst answer of those who got what members that have left did not.
    pub(crate) handed_over: ReasonCode,
}

impl<T> Proposal<T> {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            commands: Vec::new(),
            fate: Fate {
                tickets: SmallVec::new(),
                parts: SmallVec::new(),
                kept: Vec::new(),
            },
        }
    }

    /// The commands from here on are of this message.
    pub(crate) fn begin(&mut self, ticket: T) {
        self.fate.tickets.push(ticket);
        self.fate.parts.push((self.commands.len() as u32, false));
    }

    pub(crate) fn push(&mut self, command: ShardCommand) {
        self.commands.push(command);
    }

    /// The last command is for one member of a group.
    pub(crate) fn keep(&mut self, handover: Handover) {
        self.fate.kept.push((self.commands.len() - 1, handover));
    }

    /// Another proposal for the same shard follows this one.
    pub(crate) fn append(&mut self, later: Self) {
        let before = self.commands.len();
        self.commands.extend(later.commands);
        let Fate { tickets, parts, kept } = later.fate;
        self.fate.tickets.extend(tickets);
        let parts = parts.into_iter();
        self.fate
            .parts
            .extend(parts.map(|(first, taken)| (first + before as u32, taken)));
        let kept = kept.into_iter();
        self.fate
            .kept
            .extend(kept.map(|(place, handover)| (place + before, handover)));
    }

    /// The last message has other receivers.
    pub(crate) fn taken_elsewhere(&mut self) {
        if let Some((_, taken)) = self.fate.parts.last_mut() {
            *taken = true;
        }
    }
}

impl<T: Copy> Fate<T> {
    /// The shard has answered, or not: what was for members of shared subscriptions that have left is given to others
    /// first, as many messages as the proposal has.
    pub(crate) fn settle(
        &mut self,
        shared: &Arc<Shared>,
        result: Result<Vec<ShardResponse>, ProposeError>,
        then: impl FnOnce(Result<Settled, ProposeError>) + Send + 'static,
    ) {
        let Verdict { failed, left } = match result {
            Ok(responses) => self.judge(&responses),
            Err(error) => return then(Err(error)),
        };
        let settled = move |handed_over| Ok(Settled { failed, handed_over });
        if left.is_empty() {
            return then(settled(ReasonCode::Success));
        }
        let shared = Arc::clone(shared);
        tokio::spawn(async move { then(settled(handover::all(&shared, left).await)) });
    }

    /// Judges the answers, one for each command.
    fn judge(&mut self, responses: &[ShardResponse]) -> Verdict {
        let kept = std::mem::take(&mut self.kept);
        let refused = responses.iter().filter(|response| is_rejected(response)).count();
        let left: Vec<Handover> = kept
            .into_iter()
            .filter(|(place, _)| responses.get(*place).is_none_or(is_rejected))
            .map(|(_, handover)| handover)
            .collect();
        Verdict {
            failed: refused > left.len(),
            left,
        }
    }

    /// The messages that found no room in any queue of the shard, and have no other receiver that is known here.
    pub(crate) fn without_room(&self, responses: &[ShardResponse]) -> SmallVec<[T; 4]> {
        let found_none = |response: &ShardResponse| match &response.response {
            Some(Response::Appended(appended)) => appended.sessions == 0 && appended.dropped > 0,
            _ => false,
        };
        let mut full = SmallVec::new();
        for (place, (ticket, (first, taken))) in self.tickets.iter().zip(&self.parts).enumerate() {
            let next = self.parts.get(place + 1).map(|(first, _)| *first as usize);
            let of_ticket = *first as usize..next.unwrap_or(responses.len());
            let answers = responses.get(of_ticket).unwrap_or_default();
            if !taken && !answers.is_empty() && answers.iter().all(found_none) {
                full.push(*ticket);
            }
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use cluster::proto::Appended;

    use super::*;

    fn appended(sessions: u32, dropped: u32) -> ShardResponse {
        ShardResponse {
            response: Some(Response::Appended(Appended { sessions, dropped })),
        }
    }

    #[test]
    fn proposals_that_follow_each_other_are_judged_as_one() {
        let mut first = Proposal::new(0);
        first.begin('a');
        first.push(ShardCommand::default());
        first.push(ShardCommand::default());
        let mut second = Proposal::new(0);
        second.begin('b');
        second.push(ShardCommand::default());
        first.append(second);
        let responses = [appended(1, 0), appended(0, 0), appended(0, 1)];
        assert_eq!(first.commands.len(), 3);
        assert_eq!(first.fate.without_room(&responses).to_vec(), ['b']);
    }

    #[test]
    fn only_a_message_that_no_queue_has_room_for_is_refused() {
        let mut proposal = Proposal::new(0);
        for ticket in 0..5 {
            proposal.begin(ticket);
            proposal.push(ShardCommand::default());
            match ticket {
                1 => proposal.taken_elsewhere(),
                3 => proposal.push(ShardCommand::default()),
                _ => {}
            }
        }
        let responses = [
            appended(0, 2),
            appended(0, 1),
            appended(1, 3),
            appended(0, 1),
            appended(1, 0),
            appended(0, 0),
        ];
        assert_eq!(proposal.fate.without_room(&responses).to_vec(), [0]);
        assert!(!proposal.fate.judge(&responses).failed);
    }
}
