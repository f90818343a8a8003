//! Kills the broker at random moments under load and checks what every client was promised.
//!
//! `FLOTILLA_CRASH_ROUNDS` says how often it is killed; `FLOTILLA_CRASH_SEED` repeats the moments of an earlier run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crash::oracle::Promise;
use crash::{Publisher, RetainedWriter, Run, Subscriber, look};
use harness::{Broker, BrokerOptions, wait_for};
use mqtt_codec::ProtocolVersion;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

const ROUNDS: u64 = 20;
const TO_REST: Duration = Duration::from_secs(60);

/// What the publishers write: topic, QoS, version.
const STREAMS: [(&str, u8, ProtocolVersion); 4] = [
    ("one/new", 1, ProtocolVersion::V5),
    ("two/new", 2, ProtocolVersion::V5),
    ("one/old", 1, ProtocolVersion::V3_1_1),
    ("two/old", 2, ProtocolVersion::V3_1_1),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kill_9() -> Result<()> {
    let rounds = from_environment("FLOTILLA_CRASH_ROUNDS")?.unwrap_or(ROUNDS);
    let seed = from_environment("FLOTILLA_CRASH_SEED")?.unwrap_or_else(|| rand::rng().random());
    println!("{rounds} rounds; these moments again: FLOTILLA_CRASH_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);

    let mut broker = block_in_place(|| Broker::start(BrokerOptions::default()))?;
    let (moved, address) = watch::channel(broker.mqtt_addr());
    let (end, over) = watch::channel(false);
    let (release, stop) = watch::channel(false);
    let run = Run::new(address, over);
    let retained: Vec<String> = (0..4).map(|number| format!("state/{number}")).collect();

    let mut readers = subscribers(&run, &stop).await?;
    let mut writers = JoinSet::new();
    for (topic, qos, version) in STREAMS {
        writers.spawn(Publisher::new(run.clone(), version, topic, qos).run());
    }
    let (pause_retained, retained_over) = watch::channel(false);
    let retained_run = Run {
        over: retained_over,
        ..run.clone()
    };
    writers.spawn(RetainedWriter::new(retained_run, &retained).run());

    for round in 0..rounds {
        sleep(Duration::from_millis(random.random_range(20..600))).await;
        block_in_place(|| broker.kill9());
        block_in_place(|| broker.restart()).with_context(|| format!("restart {round} of seed {seed}"))?;
        moved.send_replace(broker.mqtt_addr());
        let (acknowledged, received) = run.history().totals();
        println!("round {round}: {acknowledged} acknowledged, {received} delivered, so far");
    }

    pause_retained.send_replace(true);
    end.send_replace(true);
    tokio::time::timeout(TO_REST, async { while writers.join_next().await.is_some() {} })
        .await
        .context("the publishers did not get everything acknowledged")?;
    let arrived = wait_for(async || run.history().missing() == 0, TO_REST).await;
    // Time for what should not come any more.
    sleep(Duration::from_secs(1)).await;
    release.send_replace(true);
    while readers.join_next().await.is_some() {}
    // One more kill: what is retained must come from the disk.
    block_in_place(|| broker.restart())?;
    for topic in &retained {
        let found = look(broker.mqtt_addr(), topic).await?;
        run.history().found_retained(topic, found);
    }

    let broken = run.history().judge();
    let shown: Vec<String> = broken.iter().take(20).map(ToString::to_string).collect();
    let (acknowledged, received) = run.history().totals();
    ensure!(
        broken.is_empty(),
        "{} broken promises, seed {seed}:\n{}",
        broken.len(),
        shown.join("\n")
    );
    arrived?;
    ensure!(
        acknowledged as u64 > rounds,
        "too little happened: {acknowledged} acknowledged"
    );
    println!("{rounds} rounds: {acknowledged} acknowledged, {received} delivered, every promise kept");
    Ok(())
}

/// One reader for all topics with QoS 2, one for all with QoS 1 that is often away, one of the older version.
async fn subscribers(run: &Run, stop: &watch::Receiver<bool>) -> Result<JoinSet<()>> {
    let at = |wanted: u8| {
        let topics = STREAMS.iter().map(move |(topic, qos, _)| {
            let both = wanted.min(*qos);
            let promise = if both == 2 {
                Promise::ExactlyOnce
            } else {
                Promise::AtLeastOnce
            };
            ((*topic).to_owned(), wanted, promise)
        });
        topics.collect::<Vec<_>>()
    };
    let mut all = [
        Subscriber::new(run.clone(), ProtocolVersion::V5, "steady", &at(2), false),
        Subscriber::new(run.clone(), ProtocolVersion::V5, "sleepy", &at(1), true),
        Subscriber::new(
            run.clone(),
            ProtocolVersion::V3_1_1,
            "sleepy and old",
            &at(2),
            true,
        ),
    ];
    let mut tasks = JoinSet::new();
    for subscriber in &mut all {
        subscriber.subscribe().await?;
    }
    for subscriber in all {
        tasks.spawn(subscriber.run(stop.clone()));
    }
    Ok(tasks)
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(
            text.parse()
                .with_context(|| format!("{name}={text}: not a number"))?,
        )),
        Err(_) => Ok(None),
    }
}
