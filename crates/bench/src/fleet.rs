//! The connections of a load, from opening them all to adding up what they saw.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use mqtt_codec::QoS;
use mqtt_topic::TopicName;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::context::Context;
use crate::driver::{Driver, Outcome, Stage};
use crate::flow::Flow;
use crate::oracle::Tracker;
use crate::plan::{Plan, SubscriberPlan};
use crate::publisher::{Pace, Publisher, Starvation, Topics};
use crate::stats::Stats;
use crate::subscriber::Subscriber;

/// Connections being opened at the same time.
const OPENING_MAX: usize = 64;
/// Messages with QoS 1 and 2 that a publisher by the clock may have unacknowledged.
const PACED_WINDOW: usize = 1000;

/// The connections of a load and the means to steer them.
pub(crate) struct Fleet {
    pub(crate) stage: watch::Sender<Stage>,
    subscribers: Vec<JoinHandle<Outcome>>,
    publishers: Vec<JoinHandle<Outcome>>,
    flows: Vec<Arc<Flow>>,
    receivers: u16,
}

/// What the subscribers found, added up.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) unexpected: u64,
    pub(crate) given_up: u64,
    pub(crate) failures: Vec<String>,
}

/// What the publishers do besides publishing to their topics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PublishOptions {
    /// Messages count as under way until the subscribers have them, not only until the broker has acknowledged them.
    pub(crate) waits_for_receivers: bool,
    pub(crate) retain: bool,
    pub(crate) numbered_topics: bool,
    pub(crate) limit: Option<u64>,
}

impl Fleet {
    /// A fleet without connections; every message of the plan goes to `plan.receivers` subscribers.
    pub(crate) fn new(context: &Context, plan: &Plan, options: PublishOptions) -> Self {
        let acknowledgements = u16::from(context.args.qos() != QoS::AtMostOnce);
        let receivers = if options.waits_for_receivers {
            plan.receivers
        } else {
            0
        };
        let window = if context.args.rate.is_some() {
            PACED_WINDOW
        } else {
            context.args.window
        };
        let flow = |_| Arc::new(Flow::new(window, receivers + acknowledgements));
        let (stage, _) = watch::channel(Stage::Load);
        Self {
            stage,
            subscribers: Vec::new(),
            publishers: Vec::new(),
            flows: plan.topics.iter().map(flow).collect(),
            receivers: plan.receivers,
        }
    }

    /// Connects the subscribers, all of them before any is driven.
    pub(crate) async fn start_subscribers(
        &mut self,
        context: &Context,
        plan: &Plan,
        options: PublishOptions,
    ) -> anyhow::Result<()> {
        let filters = plan
            .subscribers
            .iter()
            .map(|subscriber| subscriber.filters.clone());
        let clients = connect_all(context, 's', context.args.persistent, filters.collect()).await?;
        self.drive_subscribers(context, clients, &plan.subscribers, options);
        Ok(())
    }

    /// Takes over connected subscribers.
    pub(crate) fn drive_subscribers(
        &mut self,
        context: &Context,
        clients: Vec<Client>,
        plans: &[SubscriberPlan],
        options: PublishOptions,
    ) {
        for (number, (client, plan)) in clients.into_iter().zip(plans).enumerate() {
            let flows = if options.waits_for_receivers {
                self.flows[plan.sources.clone()].to_vec()
            } else {
                Vec::new()
            };
            let subscriber = Subscriber::new(plan.sources.start as u32, plan.sources.len(), flows);
            let handle = context.workers.handle(number);
            let (stats, stage) = (context.stats.clone(), self.stage.subscribe());
            // Timers belong to the runtime of the worker, so the driver is made there.
            self.subscribers.push(handle.spawn(async move {
                Driver::new(client, stats, None, Some(subscriber))
                    .run(stage)
                    .await
            }));
        }
    }

    /// Connects the publishers, and once all are there they begin.
    pub(crate) async fn start_publishers(
        &mut self,
        context: &Context,
        plan: &Plan,
        options: PublishOptions,
    ) -> anyhow::Result<()> {
        let clients = connect_all(context, 'p', false, vec![Vec::new(); plan.topics.len()]).await?;
        let start_ns = context.stats.now_ns();
        for (number, client) in clients.into_iter().enumerate() {
            let template =
                PublisherTemplate::new(context, plan, number, options, self.flows[number].clone())?;
            let (stats, stage) = (context.stats.clone(), self.stage.subscribe());
            let driver = async move {
                Driver::new(client, stats, Some(template.publisher(start_ns)), None)
                    .run(stage)
                    .await
            };
            self.publishers.push(context.workers.handle(number).spawn(driver));
        }
        Ok(())
    }

    /// Whether all that was published has been acknowledged and received.
    pub(crate) fn has_all(&self, stats: &Stats) -> bool {
        stats.delivered() >= self.expected() && self.flows.iter().all(|flow| flow.is_idle())
    }

    /// Whether every publisher has published this many, and the broker has acknowledged them.
    pub(crate) fn has_published(&self, count: u64) -> bool {
        self.flows
            .iter()
            .all(|flow| flow.published() >= count && flow.is_idle())
    }

    /// Deliveries that the publications so far should lead to.
    pub(crate) fn expected(&self) -> u64 {
        self.published() * u64::from(self.receivers)
    }

    /// Messages published so far.
    pub(crate) fn published(&self) -> u64 {
        self.flows.iter().map(|flow| flow.published()).sum()
    }

    /// Whether a connection has ended, which none should before it is told to.
    pub(crate) fn has_failed(&self) -> bool {
        self.subscribers
            .iter()
            .chain(&self.publishers)
            .any(JoinHandle::is_finished)
    }

    /// Disconnects everything and adds up what was seen.
    pub(crate) async fn stop(self, plan: &Plan) -> anyhow::Result<Verdict> {
        // Nobody listens only when all connections have failed, which their outcomes tell.
        let _ = self.stage.send(Stage::Stop);
        let mut verdict = Verdict::default();
        for publisher in self.publishers {
            verdict.add_outcome(publisher.await?);
        }
        for (subscriber, plan) in self.subscribers.into_iter().zip(&plan.subscribers) {
            let trackers = verdict.add_outcome(subscriber.await?);
            for (tracker, flow) in trackers.iter().zip(&self.flows[plan.sources.clone()]) {
                verdict.lost += tracker.lost(flow.published());
                verdict.duplicated += tracker.duplicates();
                verdict.out_of_order += tracker.out_of_order();
            }
        }
        Ok(verdict)
    }
}

impl Verdict {
    fn add_outcome(&mut self, outcome: Outcome) -> Vec<Tracker> {
        self.unexpected += outcome.unexpected;
        self.given_up += outcome.given_up;
        self.failures
            .extend(outcome.error.map(|error| format!("{error:#}")));
        outcome.trackers
    }
}

/// A publisher that can still move to its worker.
struct PublisherTemplate {
    source: u32,
    flow: Arc<Flow>,
    topics: Topics,
    qos: QoS,
    payload_length: usize,
    pace: Option<(Duration, Duration)>,
    loss_timeout: Duration,
    options: PublishOptions,
}

impl PublisherTemplate {
    fn new(
        context: &Context,
        plan: &Plan,
        number: usize,
        options: PublishOptions,
        flow: Arc<Flow>,
    ) -> anyhow::Result<Self> {
        let topic = &plan.topics[number];
        let topics = if options.numbered_topics {
            Topics::Numbered(format!("{topic}/"))
        } else {
            let parsed = TopicName::parse(ByteString::from(topic.as_str()));
            Topics::Fixed(
                parsed
                    .map_err(|error| anyhow::anyhow!("--prefix makes {topic} an invalid topic: {error}"))?,
            )
        };
        let publishers = plan.topics.len() as f64;
        // Publishers take turns, so that the messages of all together are evenly spaced.
        let pace = context.args.rate.map(|rate| {
            (
                Duration::from_secs_f64(number as f64 / rate),
                Duration::from_secs_f64(publishers / rate),
            )
        });
        Ok(Self {
            source: u32::try_from(number)?,
            flow,
            topics,
            qos: context.args.qos(),
            payload_length: context.args.payload,
            pace,
            loss_timeout: context.args.loss_timeout(),
            options,
        })
    }

    fn publisher(self, start_ns: u64) -> Publisher {
        let pace = self
            .pace
            .map(|(offset, interval)| Pace::new(start_ns + offset.as_nanos() as u64, interval));
        Publisher {
            source: self.source,
            window: self.flow.window(),
            flow: self.flow,
            topics: self.topics,
            qos: self.qos,
            retain: self.options.retain,
            payload_length: self.payload_length,
            limit: self.options.limit,
            pace,
            loss_timeout: self.loss_timeout,
            starvation: Starvation::default(),
            given_up: 0,
            arena: BytesMut::new(),
        }
    }
}

/// Opens one connection per list of filters and subscribes it to them, some at a time; publishers and subscribers with the
/// same number go to different brokers of a list.
pub(crate) async fn connect_all(
    context: &Context,
    role: char,
    persistent: bool,
    filters: Vec<Vec<String>>,
) -> anyhow::Result<Vec<Client>> {
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    let qos = context.args.qos();
    let tasks: Vec<_> = filters
        .into_iter()
        .enumerate()
        .map(|(number, filters)| {
            let (target, identity) = (
                context.target(number + usize::from(role == 'p')),
                context.identity(role, number, persistent),
            );
            let opening = opening.clone();
            context.workers.handle(number).spawn(async move {
                let _permit = opening.acquire().await?;
                let mut client = Client::connect(&target, &identity).await?;
                client.subscribe(&filters, qos).await?;
                anyhow::Ok(client)
            })
        })
        .collect();
    let mut clients = Vec::with_capacity(tasks.len());
    for task in tasks {
        clients.push(task.await??);
    }
    Ok(clients)
}
