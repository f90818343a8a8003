//! Shared subscriptions: one member of a group gets each message (MQTT 5.0 section 4.8.2). The members of the whole
//! cluster are known here; the publisher's node chooses.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use bytestring::ByteString;
use cluster::{ShardId, proto};
use mqtt_codec::QoS;
use parking_lot::Mutex;
use rand::Rng;
use smallvec::SmallVec;

use crate::config::SharedStrategy;
use crate::mailbox::{Grant, Mailbox};
use crate::message::qos_of;

/// A member that is connected to this node.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) grant: Arc<Grant>,
    /// The shard that keeps the member's session; `None`: the session ends with its connection.
    pub(crate) shard: Option<ShardId>,
}

/// A member as the cluster knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(crate) qos: QoS,
    pub(crate) shard: Option<ShardId>,
    /// Where it is connected. 0: nowhere.
    pub(crate) node: u64,
}

impl From<&proto::ShareMember> for Known {
    fn from(member: &proto::ShareMember) -> Self {
        Self {
            qos: qos_of(member.qos),
            shard: member.shard.and_then(|shard| ShardId::try_from(shard).ok()),
            node: member.node,
        }
    }
}

/// A client in a group. Its connection to this node, where there is one, says more than the cluster knows by now.
#[derive(Debug)]
struct Member {
    client: ByteString,
    here: Option<Here>,
    known: Option<Known>,
}

/// How a message gets to the member that was chosen.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Here {
        mailbox: Arc<Mailbox>,
        grant: Arc<Grant>,
    },
    /// Into the queue its session has there.
    Shard(ShardId),
    /// It is connected there.
    Node(u64),
}

/// The member that gets a message.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) client: ByteString,
    pub(crate) place: Place,
}

impl Member {
    /// How a message of this QoS can reach the member now or later.
    fn place(&self, qos: QoS, this_node: u64) -> Option<Place> {
        let (granted, shard) = match (&self.here, &self.known) {
            (Some(here), _) => (here.grant.qos, here.shard),
            (None, Some(known)) => (known.qos, known.shard),
            (None, None) => return None,
        };
        if let (Some(shard), true) = (shard, qos.min(granted) > QoS::AtMostOnce) {
            return Some(Place::Shard(shard));
        }
        if let Some(Here { mailbox, grant, .. }) = &self.here {
            return Some(Place::Here {
                mailbox: Arc::clone(mailbox),
                grant: Arc::clone(grant),
            });
        }
        self.elsewhere(this_node).map(Place::Node)
    }

    /// The other node it is connected to. What the cluster knows of this node comes late: a member without a
    /// connection here is not connected here.
    fn elsewhere(&self, this_node: u64) -> Option<u64> {
        let node = self.known.as_ref()?.node;
        (node != 0 && node != this_node).then_some(node)
    }

    fn takes(&self, qos: QoS, this_node: u64) -> bool {
        let above_0 = |granted: QoS| qos.min(granted) > QoS::AtMostOnce;
        self.here.is_some()
            || self.elsewhere(this_node).is_some()
            || self
                .known
                .as_ref()
                .is_some_and(|known| known.shard.is_some() && above_0(known.qos))
    }

    fn is_connected(&self, this_node: u64) -> bool {
        self.here.is_some() || self.elsewhere(this_node).is_some()
    }
}

#[derive(Default, Debug)]
struct Members {
    /// Sorted by client id, so that a hash means the same to every publisher and on every node.
    list: Vec<Member>,
    next: usize,
    sticky: Option<ByteString>,
}

impl Members {
    fn entry(&mut self, client: &str) -> &mut Member {
        let place = match self.list.binary_search_by(|known| (*known.client).cmp(client)) {
            Ok(found) => found,
            Err(place) => {
                let member = Member {
                    client: client.into(),
                    here: None,
                    known: None,
                };
                self.list.insert(place, member);
                place
            }
        };
        &mut self.list[place]
    }

    fn change(&mut self, client: &str, change: impl FnOnce(&mut Member)) {
        let Ok(place) = self.list.binary_search_by(|known| (*known.client).cmp(client)) else {
            return;
        };
        let member = &mut self.list[place];
        change(member);
        if member.here.is_none() && member.known.is_none() {
            self.list.remove(place);
        }
    }
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
    pub(crate) prefer_local: bool,
    pub(crate) this_node: u64,
    pub(crate) publisher: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) qos: QoS,
    /// Members that have just failed to take it.
    pub(crate) except: &'a [ByteString],
}

/// What becomes of a member whose connection to this node leaves the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaving {
    /// It unsubscribed.
    Unsubscribed,
    /// Its session ended with its connection.
    Ended,
    /// Its session is kept in a shard.
    Away,
}

impl ShareGroup {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            members: Mutex::default(),
        }
    }

    /// A connection of this node joins, or changes what it is granted.
    pub(crate) fn join(&self, here: Here) {
        let client = here.mailbox.client.clone();
        self.members.lock().entry(&client).here = Some(here);
    }

    /// The connection to this node leaves. True: it was in the group.
    pub(crate) fn leave(&self, mailbox: &Mailbox, leaving: Leaving, this_node: u64) -> bool {
        let mut left = false;
        self.members.lock().change(&mailbox.client, |member| {
            let Some(here) = member.here.take_if(|here| here.mailbox.id == mailbox.id) else {
                return;
            };
            left = true;
            let moved = member.elsewhere(this_node).is_some();
            match leaving {
                Leaving::Unsubscribed => member.known = None,
                // Where it has a connection to another node by now, the cluster knows more than this one.
                _ if moved => {}
                Leaving::Ended => member.known = None,
                Leaving::Away => {
                    member.known = Some(Known {
                        qos: here.grant.qos,
                        shard: here.shard,
                        node: 0,
                    });
                }
            }
        });
        left
    }

    /// The cluster has a member.
    pub(crate) fn learn(&self, client: &str, known: Known) {
        self.members.lock().entry(client).known = Some(known);
    }

    /// The cluster has not got it any more.
    pub(crate) fn forget(&self, client: &str) {
        self.members.lock().change(client, |member| member.known = None);
    }

    /// The member's connection to this node.
    pub(crate) fn here(&self, client: &str) -> Option<Here> {
        let members = self.members.lock();
        let place = members.list.binary_search_by(|known| (*known.client).cmp(client));
        members.list[place.ok()?].here.clone()
    }

    /// Members that are said to be connected and that this shard, which keeps their sessions, knows to have gone, as long as
    /// there is another one that is connected.
    pub(crate) fn gone(
        &self,
        shard: ShardId,
        this_node: u64,
        is_connected: impl Fn(&str) -> bool,
    ) -> SmallVec<[ByteString; 1]> {
        let members = self.members.lock();
        let mut gone = SmallVec::new();
        let mut has_other = false;
        for member in members
            .list
            .iter()
            .filter(|member| member.is_connected(this_node))
        {
            let kept_here = member.known.is_some_and(|known| known.shard == Some(shard));
            match kept_here && member.here.is_none() && !is_connected(&member.client) {
                true => gone.push(member.client.clone()),
                false => has_other = true,
            }
        }
        if !has_other {
            gone.clear();
        }
        gone
    }

    /// Whether a session of this shard may have messages of the group whose member was connected to the node that is down, or to
    /// none, while another member is connected.
    pub(crate) fn is_left_behind(&self, shard: ShardId, down: u64, this_node: u64) -> bool {
        let members = self.members.lock();
        let (mut kept, mut connected) = (false, false);
        for member in &members.list {
            let elsewhere = member.elsewhere(this_node).filter(|node| *node != down);
            match member.here.is_some() || elsewhere.is_some() {
                true => connected = true,
                false => kept |= member.known.is_some_and(|known| known.shard == Some(shard)),
            }
        }
        kept && connected
    }

    /// Whether a member besides this client could have its messages: a connected one, or any.
    pub(crate) fn has_other(&self, client: &str, connected: bool, this_node: u64) -> bool {
        let members = self.members.lock();
        let mut others = members.list.iter().filter(|member| *member.client != *client);
        others.any(|member| !connected || member.is_connected(this_node))
    }

    /// All of them: the client, the node it is connected to, and whether a shard keeps its session.
    pub(crate) fn list(&self, this_node: u64) -> Vec<(ByteString, Option<u64>, bool)> {
        let members = self.members.lock();
        let member = |member: &Member| {
            let node = match member.here.is_some() {
                true => Some(this_node),
                false => member.elsewhere(this_node),
            };
            let shard = member.here.as_ref().and_then(|here| here.shard);
            let kept = shard.or(member.known.and_then(|known| known.shard)).is_some();
            (member.client.clone(), node, kept)
        };
        members.list.iter().map(member).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.lock().list.is_empty()
    }

    /// Picks the member that gets a message; `None`: nobody can take it.
    pub(crate) fn choose(&self, choice: &Choice<'_>) -> Option<Chosen> {
        let mut members = self.members.lock();
        let node = choice.this_node;
        let able =
            |member: &&Member| member.takes(choice.qos, node) && !choice.except.contains(&member.client);
        let mut candidates: SmallVec<[&Member; 16]> = members.list.iter().filter(able).collect();
        if choice.prefer_connected && candidates.iter().any(|member| member.is_connected(node)) {
            candidates.retain(|member| member.is_connected(node));
        }
        if choice.prefer_local && candidates.iter().any(|member| member.here.is_some()) {
            candidates.retain(|member| member.here.is_some());
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
        let member = candidates[index];
        let chosen = Chosen {
            client: member.client.clone(),
            place: member.place(choice.qos, node)?,
        };
        drop(candidates);
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
    // A fixed seed: the choice must not change with a restart, nor from node to node.
    foldhash::fast::FixedState::with_seed(17).hash_one(Once(value)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_memory::QueueMemory;

    const THIS: u64 = 1;
    const OTHER: u64 = 2;

    fn here(client: &str, id: u64, shard: Option<ShardId>) -> Here {
        Here {
            mailbox: Mailbox::new(id, client.into(), 100, 100, &QueueMemory::unlimited()),
            grant: Arc::new(Grant {
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                subscription_ids: SmallVec::new(),
            }),
            shard,
        }
    }

    fn known(node: u64, shard: Option<ShardId>) -> Known {
        Known {
            qos: QoS::AtLeastOnce,
            shard,
            node,
        }
    }

    fn group(clients: &[&str]) -> ShareGroup {
        let group = ShareGroup::new("$share/g/t");
        for (id, client) in (0..).zip(clients) {
            group.join(here(client, id, None));
        }
        group
    }

    #[test]
    fn a_member_that_its_shard_knows_to_have_gone_is_passed_over_while_another_is_connected() {
        let group = group(&[]);
        group.learn("gone", known(OTHER, Some(3)));
        group.learn("elsewhere", known(OTHER, Some(4)));
        let gone = |is_connected: bool| group.gone(3, THIS, |_| is_connected).to_vec();
        assert_eq!(gone(false), ["gone"], "of the other one the shard knows nothing");
        assert!(gone(true).is_empty());
        group.learn("elsewhere", known(0, Some(4)));
        assert!(gone(false).is_empty(), "nobody else is connected");
    }

    fn choice<'a>(strategy: SharedStrategy, publisher: &'a str) -> Choice<'a> {
        Choice {
            strategy,
            prefer_connected: true,
            prefer_local: false,
            this_node: THIS,
            publisher,
            topic: "t",
            qos: QoS::AtLeastOnce,
            except: &[],
        }
    }

    fn choices(group: &ShareGroup, strategy: SharedStrategy, publishers: &[&str]) -> Vec<String> {
        let choose = |publisher: &&str| {
            let chosen = group.choose(&choice(strategy, publisher)).unwrap();
            chosen.client.to_string()
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
        let group = group(&["b"]);
        let leaver = here("a", 7, None);
        group.join(leaver.clone());
        assert_eq!(
            choices(&group, SharedStrategy::Sticky, &["p"; 3]),
            ["a", "a", "a"]
        );
        group.leave(&leaver.mailbox, Leaving::Unsubscribed, THIS);
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
    fn one_topic_always_hashes_to_one_member_and_many_use_all() {
        let group = group(&["a", "b", "c"]);
        let choose = |topic: &str, publisher: &str| {
            let choice = Choice {
                topic,
                ..choice(SharedStrategy::HashTopic, publisher)
            };
            group.choose(&choice).unwrap().client.to_string()
        };
        let first = choose("t", "p");
        for publisher in (0..16).map(|n| format!("publisher-{n}")) {
            assert_eq!(choose("t", &publisher), first);
        }
        let topics = (0..64).map(|n| format!("topic/{n}"));
        let used: std::collections::BTreeSet<_> = topics.map(|topic| choose(&topic, "p")).collect();
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn random_asks_all_members_and_in_no_order() {
        let group = group(&["a", "b", "c"]);
        let chosen = choices(&group, SharedStrategy::Random, &["p"; 300]);
        // A third each on the average: fewer than a tenth is no chance, it is a mistake.
        for member in ["a", "b", "c"] {
            let share = chosen.iter().filter(|client| *client == member).count();
            assert!(share > 30, "{member}: {share} of 300");
        }
        let repeats = (3..300).filter(|n| chosen[*n] == chosen[n - 3]).count();
        assert!(repeats < 200, "one after the other: {repeats}");
    }

    #[test]
    fn two_nodes_hash_to_the_same_member_whoever_it_is_connected_to() {
        let (first, second) = (group(&["a", "c"]), group(&["b"]));
        first.learn("b", known(OTHER, None));
        second.learn("c", known(THIS, None));
        second.learn("a", known(THIS, None));
        for publisher in (0..64).map(|n| format!("publisher-{n}")) {
            let here = choice(SharedStrategy::HashClient, &publisher);
            let there = Choice {
                this_node: OTHER,
                ..choice(SharedStrategy::HashClient, &publisher)
            };
            assert_eq!(
                first.choose(&here).unwrap().client,
                second.choose(&there).unwrap().client
            );
        }
    }

    #[test]
    fn a_connected_member_comes_before_one_that_is_away() {
        let group = ShareGroup::new("$share/g/t");
        let connected = here("b", 1, None);
        group.join(connected.clone());
        group.learn("a", known(0, Some(1)));
        assert_eq!(
            choices(&group, SharedStrategy::RoundRobin, &["p"; 3]),
            ["b", "b", "b"]
        );
        group.leave(&connected.mailbox, Leaving::Ended, THIS);
        assert_eq!(choices(&group, SharedStrategy::RoundRobin, &["p"]), ["a"]);
    }

    #[test]
    fn members_of_this_node_come_first_where_that_is_wished() {
        let group = group(&["b"]);
        group.learn("a", known(OTHER, None));
        let local = Choice {
            prefer_local: true,
            ..choice(SharedStrategy::RoundRobin, "p")
        };
        for _ in 0..3 {
            assert_eq!(group.choose(&local).unwrap().client, "b");
        }
        let chosen = choices(&group, SharedStrategy::RoundRobin, &["p"; 2]);
        assert!(chosen.contains(&"a".to_owned()) && chosen.contains(&"b".to_owned()));
    }

    #[test]
    fn what_the_cluster_knows_does_not_replace_a_connection_of_this_node() {
        let group = group(&["a"]);
        group.learn("a", known(OTHER, None));
        let chosen = group.choose(&choice(SharedStrategy::RoundRobin, "p")).unwrap();
        assert!(matches!(chosen.place, Place::Here { .. }));
    }

    #[test]
    fn a_member_of_another_node_is_reached_there_and_a_kept_one_in_its_shard() {
        let group = ShareGroup::new("$share/g/t");
        group.learn("a", known(OTHER, Some(3)));
        let above_0 = choice(SharedStrategy::RoundRobin, "p");
        assert!(matches!(group.choose(&above_0).unwrap().place, Place::Shard(3)));
        let qos_0 = Choice {
            qos: QoS::AtMostOnce,
            ..choice(SharedStrategy::RoundRobin, "p")
        };
        assert!(matches!(group.choose(&qos_0).unwrap().place, Place::Node(OTHER)));
    }

    #[test]
    fn a_clean_member_that_left_this_node_is_not_chosen_while_the_cluster_still_knows_it() {
        let group = group(&["b"]);
        let gone = here("a", 9, None);
        group.join(gone.clone());
        group.learn("a", known(THIS, None));
        group.leave(&gone.mailbox, Leaving::Ended, THIS);
        // Told late, of the time when it was connected.
        group.learn("a", known(THIS, None));
        assert_eq!(choices(&group, SharedStrategy::RoundRobin, &["p"; 2]), ["b", "b"]);
        group.forget("a");
    }

    #[test]
    fn a_session_that_moved_to_another_node_stays_where_it_is_when_its_old_connection_ends() {
        let group = ShareGroup::new("$share/g/t");
        let old = here("a", 1, Some(3));
        group.join(old.clone());
        group.learn("a", known(OTHER, Some(3)));
        group.leave(&old.mailbox, Leaving::Away, THIS);
        let qos_0 = Choice {
            qos: QoS::AtMostOnce,
            ..choice(SharedStrategy::RoundRobin, "p")
        };
        assert!(matches!(group.choose(&qos_0).unwrap().place, Place::Node(OTHER)));
    }

    #[test]
    fn a_member_that_failed_to_take_a_message_is_not_asked_again() {
        let group = group(&["a", "b"]);
        let except = ["a".into()];
        let again = Choice {
            except: &except,
            ..choice(SharedStrategy::RoundRobin, "p")
        };
        assert_eq!(group.choose(&again).unwrap().client, "b");
    }
}
