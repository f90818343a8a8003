//! Publishers and subscribers that keep book, behind a balancer, and the judgement when all has come to rest.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crash::oracle::Promise;
use crash::{Publisher, RetainedWriter, Run, Subscriber};
use mqtt_codec::ProtocolVersion::{self, V3_1_1, V5};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::dial::{dial_any, look, nowhere};
use crate::{World, wait_until};

/// Everything has to be acknowledged and delivered this long after the last trouble.
const TO_REST: Duration = Duration::from_secs(60);
/// For what should not come any more.
const MOMENT: Duration = Duration::from_secs(1);
/// Of a publisher, between two messages.
const PAUSE: Duration = Duration::from_millis(40);
const RETAINED: [&str; 2] = ["state/0", "state/1"];

/// A topic, and the QoS at which one publisher writes it.
pub type Stream = (&'static str, u8, ProtocolVersion);

/// A load that runs until it is judged.
pub struct Load {
    world: Arc<World>,
    run: Run,
    end: watch::Sender<bool>,
    pause_retained: watch::Sender<bool>,
    release: watch::Sender<bool>,
    writers: JoinSet<()>,
    readers: JoinSet<()>,
    /// Keeps the address that nobody dials.
    _address: watch::Sender<std::net::SocketAddr>,
}

impl Load {
    /// Begins: three subscribers to everything, one publisher for each stream, one who writes retained messages.
    pub async fn start(world: &Arc<World>, streams: &[Stream]) -> Result<Self> {
        let (end, over) = watch::channel(false);
        let (pause_retained, retained_over) = watch::channel(false);
        let (release, stop) = watch::channel(false);
        let (kept, address) = watch::channel(nowhere());
        let run = Run {
            dial: dial_any(world),
            pause: PAUSE,
            ..Run::new(address, over)
        };
        let mut readers = JoinSet::new();
        for (name, version, qos, sleepy) in [
            ("steady", V5, 2, false),
            ("sleepy", V5, 1, true),
            ("sleepy and old", V3_1_1, 2, true),
        ] {
            let topics: Vec<_> = streams.iter().map(|stream| topic(stream, qos)).collect();
            let mut reader = Subscriber::new(run.clone(), version, name, &topics, sleepy);
            reader
                .subscribe()
                .await
                .with_context(|| format!("{name} subscribes"))?;
            readers.spawn(reader.run(stop.clone()));
        }
        let mut writers = JoinSet::new();
        for (topic, qos, version) in streams {
            writers.spawn(Publisher::new(run.clone(), *version, topic, *qos).run());
        }
        let retained_run = Run {
            over: retained_over,
            ..run.clone()
        };
        let retained = RETAINED.map(str::to_owned);
        writers.spawn(RetainedWriter::new(retained_run, &retained).run());
        Ok(Self {
            world: world.clone(),
            run,
            end,
            pause_retained,
            release,
            writers,
            readers,
            _address: kept,
        })
    }

    /// Ends the load and compares what arrived with what was promised.
    pub async fn judge(mut self) -> Result<()> {
        self.pause_retained.send_replace(true);
        self.end.send_replace(true);
        let (acknowledged, _) = self.run.history().totals();
        self.world
            .note(format_args!("the load ends with {acknowledged} acknowledged"));
        timeout(TO_REST, async {
            while self.writers.join_next().await.is_some() {}
        })
        .await
        .context("the publishers did not get everything acknowledged")?;
        let arrived = wait_until("everything acknowledged arrives", TO_REST, || {
            self.run.history().missing() == 0
        });
        let arrived = arrived.await;
        sleep(MOMENT).await;
        self.release.send_replace(true);
        while self.readers.join_next().await.is_some() {}
        for topic in RETAINED {
            for node in self.world.nodes() {
                let found = look(node, topic).await?;
                self.run.history().found_retained(topic, found);
            }
        }
        let broken = self.run.history().judge();
        let shown: Vec<String> = broken.iter().take(20).map(ToString::to_string).collect();
        ensure!(
            broken.is_empty(),
            "{} broken promises:\n{}",
            broken.len(),
            shown.join("\n")
        );
        let (acknowledged, received) = self.run.history().totals();
        ensure!(acknowledged > 0, "nothing happened");
        self.world
            .note(format_args!("{acknowledged} acknowledged, {received} delivered"));
        arrived
    }
}

fn topic((topic, published, _): &Stream, subscribed: u8) -> (String, u8, Promise) {
    let promise = match subscribed.min(*published) {
        2 => Promise::ExactlyOnce,
        _ => Promise::AtLeastOnce,
    };
    ((*topic).to_owned(), subscribed, promise)
}
