//! The same thing again and again from some clients at a time: a whole visit, a takeover, or a subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::process;
use crate::report::{Latency, Report};
use crate::rounds::{self, Rounds};
use crate::stats::{Stats, new_histogram};

/// Cycles from as many clients at a time as there are connections.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Report> {
    let count = context.args.connections.unwrap_or(10);
    let stopping = Arc::new(AtomicBool::new(false));
    let tasks = (0..count).map(|number| {
        let rounds = Rounds::new(context, number);
        let pace = Pace::new(context.args.rate, number, count);
        let (stats, stopping) = (context.stats.clone(), stopping.clone());
        context
            .workers
            .handle(number)
            .spawn(async move { go_round(rounds, pace, &stats, &stopping).await })
    });
    let tasks: Vec<_> = tasks.collect();
    watch(context, Duration::from_secs_f64(context.args.warm_up), "warm-up").await?;

    let stats = &context.stats;
    let (broker_before, own_before) = (context.sample_broker()?, process::sample(std::process::id())?);
    let (cycles, began) = (stats.delivered(), Instant::now());
    let latencies = watch(context, Duration::from_secs_f64(context.args.seconds), "measured").await?;
    let cycles = stats.delivered() - cycles;
    let (broker_after, own_after) = (context.sample_broker()?, process::sample(std::process::id())?);

    stopping.store(true, Ordering::Relaxed);
    let mut report = Report::new(&context.args);
    report.connections = count;
    report.set_throughput(began.elapsed(), cycles, cycles);
    report.latency_us = Some(Latency::from_histogram(&latencies));
    report.broker = broker_before
        .zip(broker_after)
        .map(|(before, after)| Context::process_use(before, after, cycles));
    report.generator = Some(Context::process_use(own_before, own_after, cycles));
    for task in tasks {
        report
            .failures
            .extend(task.await?.err().map(|error| format!("{error:#}")));
    }
    report.failures.truncate(10);
    if rounds::are_persistent(&context.args) {
        context.forget_sessions(rounds::ROLE, count).await;
    }
    Ok(report)
}

/// Spreads the rounds of all clients evenly over time, where a rate was asked for.
struct Pace {
    next: tokio::time::Instant,
    interval: Option<Duration>,
}

impl Pace {
    fn new(rate: Option<f64>, number: usize, count: usize) -> Self {
        let offset = rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(number as f64 / rate)
        });
        Self {
            next: tokio::time::Instant::now() + offset,
            interval: rate.map(|rate| Duration::from_secs_f64(count as f64 / rate)),
        }
    }

    async fn wait(&mut self) {
        let Some(interval) = self.interval else { return };
        tokio::time::sleep_until(self.next).await;
        self.next += interval;
    }
}

async fn go_round(
    mut rounds: Rounds,
    mut pace: Pace,
    stats: &Stats,
    stopping: &AtomicBool,
) -> anyhow::Result<()> {
    while !stopping.load(Ordering::Relaxed) {
        pace.wait().await;
        let took = rounds.next().await?;
        stats.add_published(1);
        stats.add_delivered(&[took.as_nanos() as u64]);
    }
    rounds.end().await
}

async fn watch(
    context: &Context,
    length: Duration,
    name: &str,
) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    let (mut total, began) = (new_histogram(), Instant::now());
    context.stats.take_latencies();
    while began.elapsed() < length {
        let (cycles, tick_began) = (context.stats.delivered(), Instant::now());
        tokio::time::sleep(Duration::from_secs(1).min(length.saturating_sub(began.elapsed()))).await;
        let latencies = context.stats.take_latencies();
        total.add(&latencies)?;
        let per_second = (context.stats.delivered() - cycles) as f64 / tick_began.elapsed().as_secs_f64();
        context.progress(|| {
            let p99 = latencies.value_at_quantile(0.99) as f64 / 1e6;
            format!(
                "{name} {:5.1} s: {per_second:7.0} cycles/s, p99 {p99:.3} ms",
                began.elapsed().as_secs_f64()
            )
        });
    }
    Ok(total)
}
