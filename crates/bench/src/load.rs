//! Steady load: subscribers, then publishers, a warm-up, the measured part, and the wait until everything has come.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::context::Context;
use crate::driver::Stage;
use crate::fleet::{Fleet, PublishOptions};
use crate::plan::Plan;
use crate::process;
use crate::report::{Latency, Report};
use crate::stats::new_histogram;

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
    report.delivered_in_all = context.stats.delivered();
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
