//! What clients had used up ahead of their rates when their connections ended: who comes back has no other start.

use bytestring::ByteString;
use foldhash::HashMap;
use parking_lot::Mutex;

/// Clients that are remembered; of more that owe something at the same time, those that leave later begin anew.
const CLIENTS_MAX: usize = 65_536;
/// Between two looks for those who owe nothing any more.
const SWEEP_EVERY_US: u64 = 1_000_000;

/// When all of it is paid for, messages and bytes, in microseconds of the node's steady clock.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Debt {
    pub(crate) published: [u64; 2],
    pub(crate) delivered: [u64; 2],
}

impl Debt {
    fn paid_at_us(&self) -> u64 {
        let all = self.published.into_iter().chain(self.delivered);
        all.max().unwrap_or_default()
    }
}

/// The debts of the clients that are not connected to this node.
#[derive(Default, Debug)]
pub(crate) struct Debts(Mutex<Known>);

#[derive(Default, Debug)]
struct Known {
    by_client: HashMap<ByteString, Debt>,
    sweep_at_us: u64,
}

impl Debts {
    /// A connection of the client has ended.
    pub(crate) fn note(&self, client: &ByteString, debt: Debt, now_us: u64) {
        if debt.paid_at_us() <= now_us {
            return;
        }
        let mut known = self.0.lock();
        if now_us >= known.sweep_at_us {
            known.sweep_at_us = now_us + SWEEP_EVERY_US;
            known.by_client.retain(|_, debt| debt.paid_at_us() > now_us);
        }
        if known.by_client.len() < CLIENTS_MAX || known.by_client.contains_key(client) {
            known.by_client.insert(client.clone(), debt);
        }
    }

    /// What the client of a new connection owes.
    pub(crate) fn take(&self, client: &str) -> Debt {
        self.0.lock().by_client.remove(client).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(paid_at_us: u64) -> Debt {
        Debt {
            published: [0, paid_at_us],
            ..Debt::default()
        }
    }

    #[test]
    fn a_debt_is_remembered_until_it_is_paid_or_taken_up_again() {
        let (debts, second) = (Debts::default(), 1_000_000);
        debts.note(&"a".into(), until(5 * second), second);
        debts.note(&"paid".into(), until(second), second);
        assert_eq!(debts.take("a"), until(5 * second));
        assert_eq!([debts.take("a"), debts.take("paid")], [Debt::default(); 2]);
        debts.note(&"a".into(), until(5 * second), second);
        debts.note(&"b".into(), until(9 * second), 6 * second);
        assert_eq!(debts.0.lock().by_client.len(), 1);
    }

    #[test]
    fn no_more_clients_are_remembered_than_there_is_room_for() {
        let debts = Debts::default();
        for number in 0..CLIENTS_MAX + 10 {
            debts.note(&number.to_string().into(), until(2), 1);
        }
        debts.note(&"0".into(), until(3), 1);
        assert_eq!(debts.0.lock().by_client.len(), CLIENTS_MAX);
        assert_eq!(debts.take("0"), until(3));
    }
}
