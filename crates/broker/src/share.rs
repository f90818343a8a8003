//! Shared subscriptions: one member of a group gets each message (MQTT 5.0 section 4.8.2).

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use bytestring::ByteString;
use cluster::ShardId;
use mqtt_codec::QoS;
use parking_lot::Mutex;
use rand::Rng;

use crate::config::SharedStrategy;
use crate::mailbox::{Grant, Mailbox};

/// A client in a group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) client: ByteString,
    pub(crate) grant: Arc<Grant>,
    /// The shard that keeps the member's session; `None`: the session ends with its connection.
    pub(crate) shard: Option<ShardId>,
    /// Present while the member is connected to this node.
    pub(crate) mailbox: Option<Arc<Mailbox>>,
}

impl Member {
    /// Whether a message of this QoS can reach the member now or later.
    fn takes(&self, qos: QoS) -> bool {
        self.mailbox.is_some() || (self.shard.is_some() && qos.min(self.grant.qos) > QoS::AtMostOnce)
    }
}

#[derive(Default, Debug)]
struct Members {
    /// Sorted by client id, so that a hash means the same to every publisher.
    list: Vec<Member>,
    next: usize,
    sticky: Option<ByteString>,
}

/// The members of one `$share/name/filter`.
#[derive(Debug)]
pub(crate) struct ShareGroup {
    /// In wire form.
    pub(crate) name: Arc<str>,
    members: Mutex<Members>,
}

/// What a choice may depend on.
pub(crate) struct Choice<'a> {
    pub(crate) strategy: SharedStrategy,
    pub(crate) prefer_connected: bool,
    pub(crate) publisher: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) qos: QoS,
    /// A member that has just failed to take it.
    pub(crate) except: Option<&'a str>,
}

impl ShareGroup {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            members: Mutex::default(),
        }
    }

    pub(crate) fn join(&self, member: Member) -> bool {
        let mut members = self.members.lock();
        match members
            .list
            .binary_search_by(|known| known.client.cmp(&member.client))
        {
            Ok(found) => {
                members.list[found] = member;
                false
            }
            Err(place) => {
                members.list.insert(place, member);
                true
            }
        }
    }

    pub(crate) fn leave(&self, client: &str) -> bool {
        let mut members = self.members.lock();
        let before = members.list.len();
        members.list.retain(|member| &*member.client != client);
        members.list.len() < before
    }

    pub(crate) fn member(&self, client: &str) -> Option<Member> {
        self.members
            .lock()
            .list
            .iter()
            .find(|member| &*member.client == client)
            .cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.lock().list.is_empty()
    }

    /// Picks the member that gets a message; `None`: nobody can take it.
    pub(crate) fn choose(&self, choice: &Choice<'_>) -> Option<Member> {
        let mut members = self.members.lock();
        let able = |member: &&Member| member.takes(choice.qos) && choice.except != Some(&*member.client);
        let mut candidates: Vec<&Member> = members.list.iter().filter(able).collect();
        if choice.prefer_connected && candidates.iter().any(|member| member.mailbox.is_some()) {
            candidates.retain(|member| member.mailbox.is_some());
        }
        if candidates.is_empty() {
            return None;
        }
        let count = candidates.len();
        let index = match choice.strategy {
            SharedStrategy::RoundRobin => members.next % count,
            SharedStrategy::Random => rand::rng().random_range(0..count),
            SharedStrategy::Sticky => {
                let known = members.sticky.as_ref();
                known
                    .and_then(|sticky| candidates.iter().position(|m| m.client == *sticky))
                    .unwrap_or(0)
            }
            SharedStrategy::HashClient => hash(choice.publisher) % count,
            SharedStrategy::HashTopic => hash(choice.topic) % count,
        };
        let chosen = candidates[index].clone();
        members.next = members.next.wrapping_add(1);
        if choice.strategy == SharedStrategy::Sticky {
            members.sticky = Some(chosen.client.clone());
        }
        Some(chosen)
    }
}

fn hash(value: &str) -> usize {
    struct Once<'a>(&'a str);
    impl Hash for Once<'_> {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            state.write(self.0.as_bytes());
        }
    }
    // A fixed seed: the choice must not change with a restart.
    foldhash::fast::FixedState::with_seed(17).hash_one(Once(value)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::SmallVec;

    fn group(clients: &[&str]) -> ShareGroup {
        let group = ShareGroup::new("$share/g/t");
        for (index, client) in clients.iter().enumerate() {
            let subscription_ids = SmallVec::new();
            group.join(Member {
                client: (*client).into(),
                grant: Arc::new(Grant {
                    qos: QoS::AtLeastOnce,
                    no_local: false,
                    retain_as_published: false,
                    subscription_ids,
                }),
                shard: None,
                mailbox: Some(Mailbox::new(index as u64, 100, 100)),
            });
        }
        group
    }

    fn choices(group: &ShareGroup, strategy: SharedStrategy, publishers: &[&str]) -> Vec<String> {
        let choose = |publisher: &&str| {
            let choice = Choice {
                strategy,
                prefer_connected: true,
                publisher,
                topic: "t",
                qos: QoS::AtLeastOnce,
                except: None,
            };
            group.choose(&choice).unwrap().client.to_string()
        };
        publishers.iter().map(choose).collect()
    }

    #[test]
    fn round_robin_goes_through_all_members() {
        let group = group(&["a", "b", "c"]);
        let chosen = choices(&group, SharedStrategy::RoundRobin, &["p"; 6]);
        assert_eq!(chosen, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn sticky_stays_until_the_member_leaves() {
        let group = group(&["a", "b"]);
        assert_eq!(
            choices(&group, SharedStrategy::Sticky, &["p"; 3]),
            ["a", "a", "a"]
        );
        group.leave("a");
        assert_eq!(choices(&group, SharedStrategy::Sticky, &["p"; 2]), ["b", "b"]);
    }

    #[test]
    fn one_publisher_always_hashes_to_one_member_and_many_use_all() {
        let group = group(&["a", "b", "c"]);
        let same = choices(&group, SharedStrategy::HashClient, &["p"; 5]);
        assert!(same.iter().all(|client| *client == same[0]));
        let names: Vec<String> = (0..64).map(|n| format!("publisher-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let used: std::collections::BTreeSet<_> = choices(&group, SharedStrategy::HashClient, &names)
            .into_iter()
            .collect();
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn a_connected_member_comes_before_one_that_is_away() {
        let group = group(&["b"]);
        let away = Member {
            client: "a".into(),
            shard: Some(1),
            mailbox: None,
            ..group.members.lock().list[0].clone()
        };
        group.join(away);
        assert_eq!(
            choices(&group, SharedStrategy::RoundRobin, &["p"; 3]),
            ["b", "b", "b"]
        );
        group.leave("b");
        assert_eq!(choices(&group, SharedStrategy::RoundRobin, &["p"]), ["a"]);
    }
}
