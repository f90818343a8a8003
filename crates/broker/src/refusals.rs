//! What was refused lately, for an operator who wonders why: connections, and what the access rules deny. No passwords, no
//! tokens, no payloads.

use std::collections::VecDeque;
use std::sync::Arc;

use cluster::Clock;
use cluster::proto::{Refusal, RefusalQuery};
use mqtt_codec::ReasonCode;
use parking_lot::Mutex;

use crate::connection::Origin;

/// Refusals that are remembered; the oldest gives way.
const KEPT_MAX: usize = 1000;
/// How far back a refusal is looked for that is the same: then it is counted there.
const LIKE_MAX: usize = 16;
/// Characters of a text that a client has chosen.
const TEXT_MAX: usize = 256;

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Milliseconds since 1970; of the last one, if it is more than one.
    pub at_ms: u64,
    /// How many of them, one after the other.
    pub count: u64,
    /// What the client wanted: `connect`, `publish`, `subscribe`, `will`; or what it did not get: `deliver`, `resume`.
    pub action: &'static str,
    /// As far as it was known.
    pub client_id: String,
    /// Who it said it was; for what rules deny, who it is. Empty: nobody.
    pub user: String,
    /// Without the port.
    pub address: String,
    /// Topic or topic filter. Empty for a connection.
    pub topic: String,
    /// The reason code of MQTT 5.0; `None`: the connection ended before there was one to be sent.
    pub reason_code: Option<ReasonCode>,
    /// Why, in words.
    pub reason: String,
    /// The line of the rule that decided, counted from 1. `None`: no rule did.
    pub rule_line: Option<u32>,
}

impl Refused {
    fn is_like(&self, other: &Self) -> bool {
        let what = |one: &Self| (one.action, one.reason_code, one.rule_line);
        what(self) == what(other)
            && self.client_id == other.client_id
            && self.topic == other.topic
            && self.user == other.user
            && self.address == other.address
            && self.reason == other.reason
    }
}

/// The last refusals of a node.
pub(crate) struct Refusals {
    clock: Arc<dyn Clock>,
    kept: Mutex<VecDeque<Refused>>,
}

impl Refusals {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            kept: Mutex::default(),
        }
    }

    /// Remembers one; its time and count are filled in here.
    pub(crate) fn note(&self, mut refused: Refused) {
        refused.at_ms = self.clock.now_ms();
        refused.count = 1;
        for text in [&mut refused.client_id, &mut refused.user, &mut refused.topic] {
            if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
                text.truncate(end);
            }
        }
        let mut kept = self.kept.lock();
        let found = kept.iter().take(LIKE_MAX).position(|one| one.is_like(&refused));
        if let Some(like) = found.and_then(|index| kept.remove(index)) {
            refused.count += like.count;
        }
        kept.truncate(KEPT_MAX - 1);
        kept.push_front(refused);
    }

    /// A client's certificate was refused in the handshake; nothing else is known of it.
    pub(crate) fn certificate(&self, origin: &Origin, reason: String) {
        self.note(Refused {
            address: origin.peer.ip().to_canonical().to_string(),
            reason,
            ..Refused::connect()
        });
    }

    /// A web page may not connect; nothing else is known of who looks at it.
    pub(crate) fn page(&self, origin: &Origin, page: &str) {
        self.note(Refused {
            address: origin.peer.ip().to_canonical().to_string(),
            reason: format!(
                "web pages of {:?} may not connect: allowed_origins of the listener",
                page.chars().take(TEXT_MAX).collect::<String>()
            ),
            ..Refused::connect()
        });
    }

    /// The newest that are asked for.
    pub(crate) fn newest(&self, query: &RefusalQuery) -> Vec<Refusal> {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        let kept = self.kept.lock();
        kept.iter()
            .filter(|refused| {
                is(&query.client, &refused.client_id)
                    && is(&query.user, &refused.user)
                    && is(&query.address, &refused.address)
            })
            .take(usize::try_from(query.limit).unwrap_or(usize::MAX))
            .map(told)
            .collect()
    }
}

/// As nodes tell each other.
fn told(refused: &Refused) -> Refusal {
    Refusal {
        at_ms: refused.at_ms,
        count: refused.count,
        action: refused.action.to_owned(),
        client: refused.client_id.clone(),
        user: refused.user.clone(),
        address: refused.address.clone(),
        topic: refused.topic.clone(),
        reason_code: refused.reason_code.map(|code| code as u32),
        reason: refused.reason.clone(),
        rule_line: refused.rule_line,
    }
}

impl Refused {
    /// A connection of somebody.
    pub(crate) fn connect() -> Self {
        Self {
            at_ms: 0,
            count: 1,
            action: "connect",
            client_id: String::new(),
            user: String::new(),
            address: String::new(),
            topic: String::new(),
            reason_code: None,
            reason: String::new(),
            rule_line: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Ticks(AtomicU64);

    impl Clock for Ticks {
        fn now_ms(&self) -> u64 {
            self.0.fetch_add(1, Ordering::Relaxed)
        }
    }

    fn of(client_id: &str) -> Refused {
        Refused {
            client_id: client_id.to_owned(),
            ..Refused::connect()
        }
    }

    fn query(limit: u64) -> RefusalQuery {
        RefusalQuery {
            limit,
            ..RefusalQuery::default()
        }
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_give_way() {
        let refusals = Refusals::new(Arc::new(Ticks::default()));
        for number in 0..=KEPT_MAX {
            refusals.note(of(&number.to_string()));
        }
        let all = refusals.newest(&query(u64::MAX));
        assert_eq!(all.len(), KEPT_MAX);
        assert_eq!((all[0].client.as_str(), all[0].at_ms), ("1000", 1000));
        assert_eq!(all[KEPT_MAX - 1].client, "1");
        assert_eq!(refusals.newest(&query(3)).len(), 3);
        let wanted = refusals.newest(&RefusalQuery {
            client: Some("7".to_owned()),
            ..query(10)
        });
        assert_eq!(wanted.len(), 1);
    }

    #[test]
    fn the_same_again_is_counted_and_pushes_nobody_out() {
        let refusals = Refusals::new(Arc::new(Ticks::default()));
        refusals.note(of("quiet"));
        for _ in 0..2000 {
            refusals.note(of("loud"));
            refusals.note(of("louder"));
        }
        let all = refusals.newest(&query(u64::MAX));
        let told: Vec<_> = all.iter().map(|one| (one.client.as_str(), one.count)).collect();
        assert_eq!(told, [("louder", 2000), ("loud", 2000), ("quiet", 1)]);
        assert_eq!(all[0].at_ms, 4000);
    }

    #[test]
    fn what_a_client_has_chosen_is_cut() {
        let refusals = Refusals::new(Arc::new(Ticks::default()));
        refusals.note(of(&"ä".repeat(5000)));
        assert_eq!(refusals.newest(&query(1))[0].client, "ä".repeat(TEXT_MAX));
    }
}
