//! From one publisher to all destinations: connections of this node at once, shards by proposal, other nodes by forwarding.
//! Used by each connection, by the outboxes and by `$SYS`.

use std::sync::Arc;

use bytestring::ByteString;
use cluster::ShardId;
use cluster::proto::{self, ShardCommand, shard_command::Command};
use foldhash::{HashMap, HashMapExt};
use mqtt_codec::QoS;
use mqtt_topic::TopicName;
use smallvec::SmallVec;

use crate::forward::NodeBatch;
use crate::handover::{self, Handover, delivery_for};
use crate::incoming::outgoing;
use crate::mailbox::LiveMessage;
use crate::message::to_stored;
use crate::proposal::Proposal;
use crate::router::Route;
use crate::run::Run;
use crate::share::{Place, ShareGroup};
use crate::shared::Shared;
use crate::sources::Source;

/// Routes remembered by one publisher; beyond it they are looked up anew.
const ROUTES_MAX: usize = 1024;

/// What has to leave for other places.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    pub(crate) proposals: Vec<Proposal<T>>,
    pub(crate) forwards: Vec<NodeBatch<T>>,
}

impl<T> Outgoing<T> {
    pub(crate) fn new() -> Self {
        Self {
            proposals: Vec::new(),
            forwards: Vec::new(),
        }
    }

    /// Adds what leaves behind it: there is one proposal for a shard, and one batch for a node.
    pub(crate) fn append(&mut self, later: Self) {
        for proposal in later.proposals {
            let mut known = self.proposals.iter_mut();
            match known.find(|known| known.shard == proposal.shard) {
                Some(known) => known.append(proposal),
                None => self.proposals.push(proposal),
            }
        }
        for batch in later.forwards {
            let mut known = self.forwards.iter_mut();
            match known.find(|known| known.node == batch.node) {
                Some(known) => known.append(batch),
                None => self.forwards.push(batch),
            }
        }
    }
}

/// What became of a message that was routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Routed {
    /// Shards and nodes that have to answer before it may be acknowledged.
    pub(crate) destinations: usize,
    /// Whether anybody subscribes to it.
    pub(crate) matched: bool,
}

/// The message in hand, and the places that have to answer for it.
struct Post<T> {
    message: LiveMessage,
    ticket: T,
    source: Option<Source>,
    shards: SmallVec<[ShardId; 4]>,
    nodes: SmallVec<[u64; 4]>,
    /// A member of a group that is connected here has it.
    is_taken: bool,
}

/// The routes one publisher uses, and the messages it is sending just now.
#[derive(Debug)]
pub(crate) struct Publisher<T> {
    client: Arc<str>,
    /// What its lane to each node is chosen by: what goes through one lane stays in order.
    lane: Arc<str>,
    /// Their names are copies: one that was read with many others would keep all of them.
    routes: HashMap<TopicName, Arc<Route>>,
    /// The one used last.
    last: Option<(TopicName, Arc<Route>)>,
    run: Run,
    outgoing: Outgoing<T>,
}

impl<T: Copy + Send + 'static> Publisher<T> {
    pub(crate) fn new(client: Arc<str>) -> Self {
        Self::in_lane(Arc::clone(&client), client)
    }

    /// For messages that have to stay in order with those of other publishers.
    pub(crate) fn in_lane(client: Arc<str>, lane: Arc<str>) -> Self {
        Self {
            client,
            lane,
            routes: HashMap::new(),
            last: None,
            run: Run::default(),
            outgoing: Outgoing::new(),
        }
    }

    pub(crate) fn lane(&self) -> &Arc<str> {
        &self.lane
    }

    /// Routes a message. It is on its way when `flush` returns and what that hands out is sent.
    pub(crate) fn publish(
        &mut self,
        shared: &Shared,
        message: LiveMessage,
        ticket: T,
        source: Option<Source>,
    ) -> Routed {
        let route = self.route(shared, message.publication.topic());
        if route.is_empty() {
            return Routed {
                destinations: 0,
                matched: false,
            };
        }
        let mut post = Post {
            message,
            ticket,
            source,
            shards: SmallVec::new(),
            nodes: SmallVec::new(),
            is_taken: false,
        };
        let above_0 = post.message.qos > QoS::AtMostOnce;
        if above_0 {
            for shard in &route.shards {
                let append = self.append(&post);
                self.propose(&mut post, *shard, append);
            }
        }
        for node in route.nodes.iter().filter(|node| !(above_0 && node.qos_0_only)) {
            self.forward(shared, &mut post, node.node, &route);
        }
        for group in &route.groups {
            self.share(shared, &mut post, group, SmallVec::new());
        }
        let destinations = post.shards.len() + post.nodes.len();
        if route.is_live || !post.nodes.is_empty() || post.is_taken {
            for proposal in &mut self.outgoing.proposals {
                if post.shards.contains(&proposal.shard) {
                    proposal.taken_elsewhere();
                }
            }
        }
        let is_new = || source.is_none_or(|source| shared.sources.is_new(source));
        if !route.subscribers.is_empty() && is_new() {
            self.run.push(shared, &self.client, route, post.message);
        }
        Routed {
            destinations,
            matched: true,
        }
    }

    fn route(&mut self, shared: &Shared, topic: &TopicName) -> Arc<Route> {
        if let Some((known, route)) = &self.last
            && known == topic
            && shared.router.is_current(route, &shared.cluster)
        {
            return Arc::clone(route);
        }
        if let Some((known, route)) = self.routes.get_key_value(topic)
            && shared.router.is_current(route, &shared.cluster)
        {
            self.last = Some((known.clone(), Arc::clone(route)));
            return Arc::clone(route);
        }
        let route = Arc::new(shared.router.route(topic.as_str(), &shared.cluster));
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        let topic = topic.compact();
        self.routes.insert(topic.clone(), Arc::clone(&route));
        self.last = Some((topic, Arc::clone(&route)));
        route
    }

    fn append(&self, post: &Post<T>) -> proto::Append {
        proto::Append {
            publication: Some(to_stored(&post.message, &self.client)),
            source_shard: post.source.map(|source| u32::from(source.shard)),
            // A message may have several commands for a shard, to plain subscriptions and to each share: the shard tells them apart.
            source_number: post.source.map_or(0, |source| source.number << 16),
            ..proto::Append::default()
        }
    }

    fn propose(&mut self, post: &mut Post<T>, shard: ShardId, append: proto::Append) {
        let command = ShardCommand {
            command: Some(Command::Append(append)),
        };
        let proposals = &mut self.outgoing.proposals;
        let proposal = match proposals.iter().position(|proposal| proposal.shard == shard) {
            Some(place) => &mut proposals[place],
            None => {
                proposals.push(Proposal::new(shard));
                proposals.last_mut().expect("one was pushed a line above")
            }
        };
        if !post.shards.contains(&shard) {
            post.shards.push(shard);
            proposal.begin(post.ticket);
        }
        proposal.push(command);
    }

    /// What a member of a shared subscription has left behind: for another one. That a member has gone is known to the shard that
    /// keeps its session before the cluster hears of it.
    pub(crate) fn publish_shared(
        &mut self,
        shared: &Shared,
        message: LiveMessage,
        ticket: T,
        source: Source,
        group: &ShareGroup,
    ) {
        let mut post = Post {
            message,
            ticket,
            source: Some(source),
            shards: SmallVec::new(),
            nodes: SmallVec::new(),
            is_taken: false,
        };
        let is_connected = |client: &str| {
            let session = shared.cluster.session_info(client);
            session.is_some_and(|session| session.connected)
        };
        let gone = match shared.config.mqtt.shared_prefer_connected {
            true => group.gone(source.shard, shared.cluster.node_id(), is_connected),
            false => SmallVec::new(),
        };
        self.share(shared, &mut post, group, gone);
    }

    /// For all subscribers that are connected to another node.
    fn forward(&mut self, shared: &Shared, post: &mut Post<T>, node: u64, route: &Arc<Route>) {
        let publisher = Arc::clone(&self.client);
        if let Some(batch) = self.batch_for(shared, post, node) {
            batch.push(&post.message, &publisher, post.source, route);
        }
    }

    /// The batch for a node, which the message is going to be part of. `None`: it is QoS 0, there is no room for it.
    fn batch_for(&mut self, shared: &Shared, post: &mut Post<T>, node: u64) -> Option<&mut NodeBatch<T>> {
        let forwards = &mut self.outgoing.forwards;
        let batch = match forwards.iter().position(|batch| batch.node == node) {
            Some(place) => &mut forwards[place],
            None => {
                let congested = shared.cluster.is_forward_congested(node, &self.lane);
                forwards.push(NodeBatch::new(node, congested));
                forwards.last_mut().expect("one was pushed a line above")
            }
        };
        if post.message.qos == QoS::AtMostOnce {
            if batch.congested {
                shared.metrics.dropped_peer_congested.increment(1);
                return None;
            }
        } else if !post.nodes.contains(&node) {
            post.nodes.push(node);
            batch.tickets.push(post.ticket);
        }
        Some(batch)
    }

    /// Gives a message to one member of a group: here, on another node, or into the queue it has in a shard.
    /// One of `gone` is to have it only if nobody else can.
    fn share(
        &mut self,
        shared: &Shared,
        post: &mut Post<T>,
        group: &ShareGroup,
        mut gone: SmallVec<[ByteString; 1]>,
    ) {
        if post
            .source
            .is_some_and(|source| shared.sources.is_share_taken(source, &group.name))
        {
            return;
        }
        if post.message.qos == QoS::AtMostOnce && shared.overload.sheds() {
            return shared.metrics.dropped_overload.increment(1);
        }
        let mut except = gone.clone();
        for _ in 0..2 + usize::from(!gone.is_empty()) {
            let Some(chosen) = handover::choose(shared, group, &self.client, &post.message, &except) else {
                if gone.is_empty() {
                    break;
                }
                except.retain(|client| !gone.contains(client));
                gone.clear();
                continue;
            };
            match chosen.place {
                Place::Shard(shard) => {
                    let append = proto::Append {
                        only_client: chosen.client.to_string(),
                        share_filter: group.name.to_string(),
                        ..self.append(post)
                    };
                    self.propose(post, shard, append);
                    let kept = Handover {
                        group: Arc::clone(&group.name),
                        message: post.message.clone(),
                        publisher: Arc::clone(&self.client),
                        source: None,
                        except: SmallVec::from_iter([chosen.client]),
                        hops: 0,
                    };
                    let proposals = &mut self.outgoing.proposals;
                    let proposal = proposals.iter_mut().find(|proposal| proposal.shard == shard);
                    return proposal
                        .into_iter()
                        .for_each(|proposal| proposal.keep(kept.clone()));
                }
                Place::Here { mailbox, grant } => {
                    let delivery = Box::new(delivery_for(&post.message, &grant, &group.name));
                    if mailbox.deliver_one(delivery, &mut self.run.wakers).is_ok() {
                        if let Some(source) = post.source {
                            shared.sources.share_taken(source, &group.name);
                        }
                        post.is_taken = true;
                        return;
                    }
                    except.push(chosen.client);
                }
                Place::Node(node) => return self.forward_to(shared, post, node, chosen.client, group),
            }
        }
        match except.is_empty() {
            true => shared.metrics.no_subscribers.increment(1),
            false => shared.metrics.dropped(post.message.qos, 1),
        }
    }

    /// For one member of a group that is connected to another node.
    fn forward_to(
        &mut self,
        shared: &Shared,
        post: &mut Post<T>,
        node: u64,
        client: ByteString,
        group: &ShareGroup,
    ) {
        let publisher = Arc::clone(&self.client);
        let Some(batch) = self.batch_for(shared, post, node) else {
            return;
        };
        batch.messages.push(proto::ForwardMessage {
            only_client: client.to_string(),
            share_filter: group.name.to_string(),
            ..outgoing(to_stored(&post.message, &publisher), post.source)
        });
        if post.message.qos > QoS::AtMostOnce {
            batch.kept.push(Handover {
                group: Arc::clone(&group.name),
                message: post.message.clone(),
                publisher,
                source: post.source,
                except: SmallVec::from_iter([client]),
                hops: 0,
            });
        }
    }

    /// Leaves what is left in the mailboxes, wakes every receiver once, and hands out what is to be sent.
    pub(crate) fn flush(&mut self, shared: &Shared) -> Outgoing<T> {
        self.run.flush(shared, &self.client);
        std::mem::replace(&mut self.outgoing, Outgoing::new())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mqtt_codec::Publication;

    use super::*;
    use crate::testing::{grant, node, received, subscribe};

    /// A read buffer holds packets of many connections. Devices that publish now and then would keep one each.
    #[tokio::test]
    async fn a_topic_that_is_remembered_does_not_keep_the_buffer_it_was_read_into() {
        let (_files, shared) = node().await;
        let mailbox = subscribe(&shared, "all", "#", grant(QoS::AtMostOnce), false);
        let buffer = Bytes::from(vec![b'x'; 64 * 1024]);
        let name = ByteString::try_from(buffer.slice(..5)).unwrap();
        let publication = Publication::with_properties(
            TopicName::parse(name).unwrap(),
            Bytes::new(),
            None,
            buffer.slice(5..10),
        );
        let message = LiveMessage {
            publication,
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: None,
        };
        let mut publisher = Publisher::<()>::new("p".into());
        for _ in 0..2 {
            publisher.publish(&shared, message.clone(), (), None);
        }
        publisher.flush(&shared);
        drop(message);
        assert_eq!(received(&mailbox).len(), 2);
        assert_eq!(publisher.routes.len(), 1);
        assert!(buffer.is_unique());
    }
}
