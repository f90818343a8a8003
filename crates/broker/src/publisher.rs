//! From one publisher to all destinations: connections of this node at once, shards by proposal.
//! Used by each connection, by the outboxes and by `$SYS`.

use std::sync::Arc;
use std::task::Waker;

use cluster::ShardId;
use cluster::proto::{self, ShardCommand, shard_command::Command};
use foldhash::{HashMap, HashMapExt};
use mqtt_codec::QoS;
use mqtt_session::Delivery;
use mqtt_topic::TopicName;
use smallvec::SmallVec;

use crate::mailbox::{Batch, LiveMessage};
use crate::message::to_stored;
use crate::router::{Route, Subscriber};
use crate::share::{Choice, Member, ShareGroup};
use crate::shared::Shared;

/// Routes remembered by one publisher; beyond it they are looked up anew.
const ROUTES_MAX: usize = 1024;
/// Messages that leave together at the most.
const BATCH_MAX: usize = 512;

/// A number given to a message in an outbox, by which a shard takes it once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) shard: ShardId,
    pub(crate) number: u64,
}

/// Commands for one shard, in order, each with the message it belongs to.
#[derive(Debug)]
pub(crate) struct Proposal<T> {
    pub(crate) shard: ShardId,
    pub(crate) commands: Vec<ShardCommand>,
    pub(crate) tickets: SmallVec<[T; 4]>,
}

/// What became of a message that was routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Routed {
    /// Shards that have to commit it before it may be acknowledged.
    pub(crate) shards: usize,
    /// Whether anybody subscribes to it.
    pub(crate) matched: bool,
}

/// What a group did with a message.
enum Chosen {
    /// A connected member has it.
    Delivered,
    /// A shard has to put it into the queue of a member.
    Kept(ShardId, Box<proto::Append>),
    Nobody,
}

/// The routes one publisher uses, and the messages it is sending just now.
#[derive(Debug)]
pub(crate) struct Publisher<T> {
    client: Arc<str>,
    connection: u64,
    routes: HashMap<TopicName, Arc<Route>>,
    run: Option<(Arc<Route>, SmallVec<[LiveMessage; 1]>)>,
    proposals: Vec<Proposal<T>>,
    wakers: Vec<Waker>,
}

impl<T: Copy> Publisher<T> {
    pub(crate) fn new(client: Arc<str>, connection: u64) -> Self {
        Self {
            client,
            connection,
            routes: HashMap::new(),
            run: None,
            proposals: Vec::new(),
            wakers: Vec::new(),
        }
    }

    /// Routes a message. It is on its way when `flush` returns and its proposals are made.
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
                shards: 0,
                matched: false,
            };
        }
        let mut touched: SmallVec<[ShardId; 4]> = SmallVec::new();
        if message.qos > QoS::AtMostOnce {
            for shard in &route.shards {
                let append = self.append(&message, source, 0);
                self.propose(*shard, append, ticket, &mut touched);
            }
        }
        for (index, group) in route.groups.iter().enumerate() {
            match self.share(shared, group, &message, source, index as u64 + 1) {
                Chosen::Kept(shard, append) => self.propose(shard, *append, ticket, &mut touched),
                Chosen::Delivered => {}
                Chosen::Nobody => shared.metrics.dropped_congested.increment(1),
            }
        }
        if !route.subscribers.is_empty() {
            self.run_with(shared, route, message);
        }
        Routed {
            shards: touched.len(),
            matched: true,
        }
    }

    fn route(&mut self, shared: &Shared, topic: &TopicName) -> Arc<Route> {
        if let Some((route, messages)) = &self.run
            && messages
                .first()
                .is_some_and(|message| message.publication.topic() == topic)
            && shared.router.is_current(route, &shared.cluster)
        {
            return Arc::clone(route);
        }
        if let Some(route) = self.routes.get(topic)
            && shared.router.is_current(route, &shared.cluster)
        {
            return Arc::clone(route);
        }
        let route = Arc::new(shared.router.route(topic.as_str(), &shared.cluster));
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(topic.clone(), Arc::clone(&route));
        route
    }

    fn append(&self, message: &LiveMessage, source: Option<Source>, index: u64) -> proto::Append {
        proto::Append {
            publication: Some(to_stored(message, &self.client)),
            source_shard: source.map(|source| u32::from(source.shard)),
            // One message may have several commands for a shard; their numbers must differ and grow.
            source_number: source.map_or(0, |source| (source.number << 16) | index),
            ..proto::Append::default()
        }
    }

    fn propose(
        &mut self,
        shard: ShardId,
        append: proto::Append,
        ticket: T,
        touched: &mut SmallVec<[ShardId; 4]>,
    ) {
        let command = ShardCommand {
            command: Some(Command::Append(append)),
        };
        let proposal = match self
            .proposals
            .iter_mut()
            .position(|proposal| proposal.shard == shard)
        {
            Some(place) => &mut self.proposals[place],
            None => {
                self.proposals.push(Proposal {
                    shard,
                    commands: Vec::new(),
                    tickets: SmallVec::new(),
                });
                self.proposals.last_mut().expect("one was pushed a line above")
            }
        };
        proposal.commands.push(command);
        if !touched.contains(&shard) {
            touched.push(shard);
            proposal.tickets.push(ticket);
        }
    }

    /// Gives a message to one member of a group; a member kept in a shard gets it by a command.
    fn share(
        &mut self,
        shared: &Shared,
        group: &ShareGroup,
        message: &LiveMessage,
        source: Option<Source>,
        index: u64,
    ) -> Chosen {
        let mut except: Option<Member> = None;
        for _ in 0..2 {
            let choice = Choice {
                strategy: shared.config.mqtt.shared_strategy,
                prefer_connected: shared.config.mqtt.shared_prefer_connected,
                publisher: &self.client,
                topic: message.publication.topic().as_str(),
                qos: message.qos,
                except: except.as_ref().map(|member| &*member.client),
            };
            let Some(member) = group.choose(&choice) else {
                break;
            };
            let qos = message.qos.min(member.grant.qos);
            if let (Some(shard), true) = (member.shard, qos > QoS::AtMostOnce) {
                let append = proto::Append {
                    only_client: member.client.to_string(),
                    share_filter: group.name.to_string(),
                    ..self.append(message, source, index)
                };
                return Chosen::Kept(shard, Box::new(append));
            }
            let delivery = Box::new(delivery_for(message, &member, &group.name));
            let Some(mailbox) = &member.mailbox else { break };
            if mailbox.deliver_one(delivery, &mut self.wakers).is_ok() {
                return Chosen::Delivered;
            }
            except = Some(member);
        }
        Chosen::Nobody
    }

    fn run_with(&mut self, shared: &Shared, route: Arc<Route>, message: LiveMessage) {
        if let Some((current, messages)) = &mut self.run
            && Arc::ptr_eq(current, &route)
            && messages.len() < BATCH_MAX
        {
            messages.push(message);
            return;
        }
        self.send_run(shared);
        self.run = Some((route, SmallVec::from_iter([message])));
    }

    fn send_run(&mut self, shared: &Shared) {
        let Some((route, messages)) = self.run.take() else {
            return;
        };
        let batch = Arc::new(Batch::new(messages, self.connection));
        for Subscriber {
            mailbox,
            grant,
            durable,
        } in &route.subscribers
        {
            let by_shard = *durable && batch.qos_min.min(grant.qos) > QoS::AtMostOnce;
            let own = grant.no_local && mailbox.id == batch.publisher;
            if by_shard || own {
                continue;
            }
            if !mailbox.deliver(&batch, grant, &mut self.wakers) {
                shared
                    .metrics
                    .dropped(batch.qos.min(grant.qos), batch.messages.len());
            }
        }
    }

    /// Sends what is left, wakes every receiver once, and hands out the proposals to be made.
    pub(crate) fn flush(&mut self, shared: &Shared) -> Vec<Proposal<T>> {
        self.send_run(shared);
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        std::mem::take(&mut self.proposals)
    }
}

/// Gives a message that a member left unacknowledged to another one. False: there is none that can take it.
pub(crate) fn redeliver(shared: &Shared, group: &ShareGroup, delivery: &Delivery) -> bool {
    let message = LiveMessage {
        publication: delivery.publication.clone(),
        qos: delivery.qos,
        retain: delivery.retain,
        expires_at: delivery.expires_at,
    };
    let mut publisher: Publisher<()> = Publisher::new("".into(), 0);
    let mut touched = SmallVec::new();
    let sent = match publisher.share(shared, group, &message, None, 0) {
        Chosen::Kept(shard, append) => {
            publisher.propose(shard, *append, (), &mut touched);
            true
        }
        Chosen::Delivered => true,
        Chosen::Nobody => false,
    };
    for proposal in publisher.flush(shared) {
        shared
            .cluster
            .propose_batch(proposal.shard, proposal.commands, Box::new(drop));
    }
    sent
}

fn delivery_for(message: &LiveMessage, member: &Member, group: &Arc<str>) -> Delivery {
    Delivery {
        publication: message.publication.clone(),
        qos: message.qos.min(member.grant.qos),
        retain: message.retain && member.grant.retain_as_published,
        subscription_ids: member.grant.subscription_ids.clone(),
        expires_at: message.expires_at,
        share: Some(Arc::clone(group)),
    }
}
