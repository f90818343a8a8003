//! Connections that only stay open: what they cost the broker in memory, and in CPU time for their pings.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::context::Context;
use crate::driver::{Driver, Stage};
use crate::fleet::connect_all;
use crate::process;
use crate::report::{Phase, Report};
use crate::subscriber::Subscriber;

/// Memory settles: buffers of the handshake are given back.
const SETTLE: Duration = Duration::from_secs(2);

/// Opens the connections, waits, closes them.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Report> {
    let count = context.args.connections.unwrap_or(1000);
    let (broker_before, own_before) = (context.sample_broker()?, process::sample(std::process::id())?);
    let opening = Instant::now();
    let filters = (0..count).map(|number| idle_filters(context, number)).collect();
    let clients = connect_all(context, 'i', false, filters).await?;
    let mut report = Report::new(&context.args);
    report.connections = clients.len();
    report
        .phases
        .push(Phase::new("opened", clients.len() as u64, opening.elapsed()));
    context.progress(|| format!("{} connections are open", clients.len()));

    let (stage, _) = watch::channel(Stage::Drain);
    let mut tasks = Vec::with_capacity(clients.len());
    for (number, client) in clients.into_iter().enumerate() {
        let (stats, stage) = (context.stats.clone(), stage.subscribe());
        // Retained messages of others may match an idle filter; they are counted as unexpected.
        let driver = async move {
            Driver::new(client, stats, None, Some(Subscriber::new(0, 0, Vec::new())))
                .run(stage)
                .await
        };
        tasks.push(context.workers.handle(number).spawn(driver));
    }
    tokio::time::sleep(SETTLE).await;
    let settled = context.sample_broker()?;
    let holding = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(context.args.seconds)).await;
    report.seconds = holding.elapsed().as_secs_f64();
    let (broker_after, own_after) = (context.sample_broker()?, process::sample(std::process::id())?);

    // Nobody listens only when every connection has failed, which the outcomes tell.
    let _ = stage.send(Stage::Stop);
    for task in tasks {
        report
            .failures
            .extend(task.await?.error.map(|error| format!("{error:#}")));
    }
    report.failures.truncate(10);
    if let (Some(before), Some(settled), Some(after)) = (broker_before, settled, broker_after) {
        let holding = process::ProcessSample {
            resident_bytes: before.resident_bytes,
            ..settled
        };
        report.broker = Some(Context::process_use(holding, after, 0));
        let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
        report.resident_bytes_per_connection = Some(grown / count as u64);
    }
    report.generator = Some(Context::process_use(own_before, own_after, 0));
    Ok(report)
}

fn idle_filters(context: &Context, number: usize) -> Vec<String> {
    (0..context.args.filters)
        .map(|filter| format!("{}/idle/{number}/{filter}/+", context.root()))
        .collect()
}
