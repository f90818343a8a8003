//! Messages for absent subscribers: how fast the broker queues them, and how fast it hands them over afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::context::Context;
use crate::fleet::{Fleet, PublishOptions, connect_all};
use crate::load::wait_until;
use crate::plan::Plan;
use crate::process;
use crate::report::{Phase, Report};

/// Queue, then drain.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Report> {
    let plan = Plan::new(&context.args, &context.root());
    let options = PublishOptions {
        limit: Some(context.args.messages),
        ..PublishOptions::default()
    };
    let (broker_before, own_before) = (context.sample_broker()?, process::sample(std::process::id())?);
    leave_sessions(context, &plan).await?;

    let mut fleet = Fleet::new(context, &plan, options);
    let queueing = Instant::now();
    fleet.start_publishers(context, &plan, options).await?;
    let is_queued = wait_until(context, || fleet.has_published(context.args.messages)).await;
    let queued = Phase::new("queued", fleet.published(), queueing.elapsed());
    ensure!(
        is_queued,
        "the broker stopped acknowledging after {} messages",
        fleet.published()
    );
    context.progress(|| format!("queued {} messages, {:.0}/s", queued.count, queued.per_second));

    let draining = Instant::now();
    let clients = connect_all(context, 's', true, vec![Vec::new(); plan.subscribers.len()]).await?;
    ensure!(
        clients.iter().all(|client| client.session_present()),
        "the broker has forgotten a session"
    );
    fleet.drive_subscribers(context, clients, &plan.subscribers, options);
    let mut last_arrival = (0, draining.elapsed());
    wait_until(context, || {
        let delivered = context.stats.delivered();
        if delivered > last_arrival.0 {
            last_arrival = (delivered, draining.elapsed());
        }
        fleet.has_all(&context.stats)
    })
    .await;
    let (delivered, drain_time) = last_arrival;
    let (broker_after, own_after) = (context.sample_broker()?, process::sample(std::process::id())?);

    let mut report = Report::new(&context.args);
    report.persistent = true;
    report.connections = plan.subscribers.len() * 2;
    report.set_throughput(queueing.elapsed(), fleet.published(), delivered);
    report.phases = vec![queued, Phase::new("drained", delivered, drain_time)];
    report.broker = broker_before
        .zip(broker_after)
        .map(|(before, after)| Context::process_use(before, after, delivered));
    report.generator = Some(Context::process_use(own_before, own_after, delivered));
    let verdict = fleet.stop(&plan).await?;
    context.forget_sessions('s', plan.subscribers.len()).await;
    Ok(report.with_verdict(verdict))
}

async fn leave_sessions(context: &Context, plan: &Plan) -> anyhow::Result<()> {
    let filters = plan
        .subscribers
        .iter()
        .map(|subscriber| subscriber.filters.clone())
        .collect();
    for client in connect_all(context, 's', true, filters).await? {
        client
            .disconnect()
            .await
            .context("a subscriber could not leave")?;
    }
    // A broker may see the end of a connection a moment after the client has closed it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}
