//! Steady load: subscribers, then publishers, a warm-up, the measured part, and the wait until everything has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::BytesMut;
use bytestring::ByteString;
use mqtt_codec::QoS;
use mqtt_topic::TopicName;
use rand::Rng;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::args::{Args, Scenario};
use crate::client::{Client, Identity};
use crate::driver::{Driver, Outcome, Pace, Publisher, Stage, Starvation, Subscriber, Topics};
use crate::flow::Flow;
use crate::oracle::Tracker;
use crate::plan::{Plan, SubscriberPlan};
use crate::process::{self, ProcessSample};
use crate::report::{Latency, ProcessUse, Report};
use crate::stats::{Stats, new_histogram};
use crate::stream::{Target, tls_config};
use crate::workers::Workers;

/// Connections being opened at the same time.
const OPENING_MAX: usize = 64;
/// Messages with QoS 1 and 2 that a publisher by the clock may have unacknowledged.
const PACED_WINDOW: usize = 1000;
/// One read of a loaded connection.
const READ_SIZE: usize = 64 * 1024;
/// One read of a connection that has little to read.
const READ_SIZE_IDLE: usize = 1024;

/// What every scenario needs.
pub(crate) struct Context {
    pub(crate) args: Args,
    pub(crate) stats: Arc<Stats>,
    pub(crate) workers: Workers,
    /// Distinguishes this run's topics and client identifiers from those of others.
    pub(crate) run: String,
    tls: Option<Arc<ClientConfig>>,
}

impl Context {
    pub(crate) fn new(args: Args, workers: Workers) -> anyhow::Result<Self> {
        let tls = args
            .uses_tls()
            .then(|| tls_config(args.ca.as_deref()))
            .transpose()?;
        let run = format!("{:06x}", rand::rng().random_range(0..0x100_0000));
        Ok(Self {
            args,
            stats: Arc::new(Stats::new()),
            workers,
            run,
            tls,
        })
    }

    /// First levels of this run's topics.
    pub(crate) fn root(&self) -> String {
        format!("{}/{}", self.args.prefix, self.run)
    }

    /// Where the connection with this number goes.
    pub(crate) fn target(&self, number: usize) -> Target {
        let pick = |count: usize| number % count;
        Target {
            address: Arc::from(self.args.address[pick(self.args.address.len())].as_str()),
            bind: (!self.args.bind.is_empty()).then(|| self.args.bind[pick(self.args.bind.len())]),
            tls: self.tls.clone(),
        }
    }

    /// Who connects; `role` and `number` make the client identifier.
    pub(crate) fn identity(&self, role: char, number: usize, persistent: bool) -> Identity {
        Identity {
            client_id: format!("{}-{}-{role}{number}", self.args.prefix, self.run),
            version: self.args.protocol.version(),
            username: self.args.username.clone(),
            password: self.args.password.clone(),
            keep_alive: self.args.keep_alive,
            persistent,
            read_size: if self.args.scenario == Scenario::Idle {
                READ_SIZE_IDLE
            } else {
                READ_SIZE
            },
        }
    }

    /// The broker's process, if it was named.
    pub(crate) fn sample_broker(&self) -> anyhow::Result<Option<ProcessSample>> {
        self.args.pid.map(process::sample).transpose()
    }

    /// Resource use between two samples.
    pub(crate) fn process_use(before: ProcessSample, after: ProcessSample, messages: u64) -> ProcessUse {
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        ProcessUse {
            cpu_seconds,
            cpu_us_per_message: if messages > 0 {
                cpu_seconds * 1e6 / messages as f64
            } else {
                0.0
            },
            resident_bytes_before: before.resident_bytes,
            resident_bytes_after: after.resident_bytes,
        }
    }

    /// A progress line, unless the user wants none.
    pub(crate) fn progress(&self, line: impl FnOnce() -> String) {
        if !self.args.quiet {
            eprintln!("{}", line());
        }
    }

    /// Ends the sessions that would otherwise stay in the broker after the run.
    pub(crate) async fn forget_sessions(&self, role: char, count: usize) {
        for number in 0..count {
            let identity = self.identity(role, number, false);
            // The measurement is done; a session that stays behind is no reason to lose it.
            if let Ok(client) = Client::connect(&self.target(number), &identity).await {
                let _ = client.disconnect().await;
            }
        }
    }
}

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

/// Runs one of the steady scenarios.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Report> {
    let plan = Plan::new(&context.args, &context.root());
    let options = PublishOptions {
        waits_for_receivers: context.args.rate.is_none(),
        ..PublishOptions::default()
    };
    let mut fleet = Fleet::new(context, &plan, options);
    fleet.start_subscribers(context, &plan, options).await?;
    fleet.start_publishers(context, &plan, options).await?;
    watch_load(
        context,
        &fleet,
        Duration::from_secs_f64(context.args.warm_up),
        "warm-up",
    )
    .await?;
    let measured = measure(context, &fleet).await?;
    // Nobody listens only when all connections have failed, which their outcomes tell.
    let _ = fleet.stage.send(Stage::Drain);
    wait_until(context, || fleet.has_all(&context.stats)).await;
    let connections = plan.topics.len() + plan.subscribers.len();
    let verdict = fleet.stop(&plan).await?;
    if context.args.persistent {
        context.forget_sessions('s', plan.subscribers.len()).await;
    }
    let mut report = measured;
    report.connections = connections;
    report.behind_schedule_ms = context
        .args
        .rate
        .map(|_| context.stats.behind_schedule().as_secs_f64() * 1e3);
    Ok(report.with_verdict(verdict))
}

async fn measure(context: &Context, fleet: &Fleet) -> anyhow::Result<Report> {
    let stats = &context.stats;
    let (broker_before, own_before) = (context.sample_broker()?, process::sample(std::process::id())?);
    let (published, delivered, began) = (stats.published(), stats.delivered(), Instant::now());
    let latencies = watch_load(
        context,
        fleet,
        Duration::from_secs_f64(context.args.seconds),
        "measured",
    )
    .await?;
    let (published, delivered) = (stats.published() - published, stats.delivered() - delivered);
    let (broker_after, own_after) = (context.sample_broker()?, process::sample(std::process::id())?);
    let mut report = Report::new(&context.args);
    report.set_throughput(began.elapsed(), published, delivered);
    report.latency_us = Some(Latency::from_histogram(&latencies));
    report.broker = broker_before
        .zip(broker_after)
        .map(|(before, after)| Context::process_use(before, after, delivered));
    report.generator = Some(Context::process_use(own_before, own_after, delivered));
    Ok(report)
}

/// Lets the load go on, with a line per second; returns the latencies of that time.
async fn watch_load(
    context: &Context,
    fleet: &Fleet,
    length: Duration,
    name: &str,
) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    let (mut total, began) = (new_histogram(), Instant::now());
    context.stats.take_latencies();
    let (mut published, mut delivered) = (context.stats.published(), context.stats.delivered());
    while began.elapsed() < length {
        let tick = Duration::from_secs(1).min(length.saturating_sub(began.elapsed()));
        let tick_began = Instant::now();
        tokio::time::sleep(tick).await;
        let latencies = context.stats.take_latencies();
        total.add(&latencies)?;
        let (published_now, delivered_now) = (context.stats.published(), context.stats.delivered());
        let seconds = tick_began.elapsed().as_secs_f64();
        context.progress(|| {
            let per_second = |count: u64| count as f64 / seconds;
            let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
            format!(
                "{name} {:5.1} s: {:9.0} published/s, {:9.0} delivered/s, p50 {:.3} ms, p99 {:.3} ms",
                began.elapsed().as_secs_f64(),
                per_second(published_now - published),
                per_second(delivered_now - delivered),
                millis(0.5),
                millis(0.99),
            )
        });
        (published, delivered) = (published_now, delivered_now);
        if fleet.has_failed() {
            // The outcome says more than a run to the end would.
            break;
        }
    }
    if fleet.has_failed() && context.stats.delivered() == 0 {
        bail!("a connection failed before anything was delivered");
    }
    Ok(total)
}

/// Waits as long as deliveries or publications go on, and a little longer; whether the condition came true.
pub(crate) async fn wait_until(context: &Context, mut condition: impl FnMut() -> bool) -> bool {
    let progress = || context.stats.delivered() + context.stats.published();
    let (mut last, mut since) = (progress(), Instant::now());
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = progress();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > context.args.loss_timeout() {
            return false;
        }
    }
    true
}
