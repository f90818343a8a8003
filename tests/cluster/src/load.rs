//! Publishers and subscribers on all nodes that keep book of what they were promised, and move when their node goes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crash::oracle::Promise;
use crash::{Publisher, RetainedWriter, Run, Subscriber, look};
use harness::{Cluster, wait_for};
use mqtt_codec::ProtocolVersion;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Everything has to be acknowledged and delivered this long after the last trouble.
const TO_REST: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_secs(1);

/// What the publishers write: topic, QoS, version, and the node they begin on.
const STREAMS: [(&str, u8, ProtocolVersion, usize); 4] = [
    ("one/new", 1, ProtocolVersion::V5, 0),
    ("two/new", 2, ProtocolVersion::V5, 1),
    ("one/old", 1, ProtocolVersion::V3_1_1, 2),
    ("two/old", 2, ProtocolVersion::V3_1_1, 0),
];
const RETAINED: [&str; 2] = ["state/0", "state/1"];

/// A load that runs until it is judged.
pub struct Load {
    run: Run,
    /// Where the clients of each node connect now.
    homes: Vec<watch::Sender<SocketAddr>>,
    end: watch::Sender<bool>,
    pause_retained: watch::Sender<bool>,
    release: watch::Sender<bool>,
    writers: JoinSet<()>,
    readers: JoinSet<()>,
}

impl Load {
    /// Begins: subscribers on each of these nodes, publishers on each, and one who writes retained messages.
    pub async fn start(cluster: &Cluster, nodes: &[usize]) -> Result<Load> {
        let homes: Vec<_> = nodes
            .iter()
            .map(|node| watch::channel(cluster.mqtt_addr(*node)).0)
            .collect();
        let (end, over) = watch::channel(false);
        let (pause_retained, retained_over) = watch::channel(false);
        let (release, stop) = watch::channel(false);
        let run = Run::new(homes[0].subscribe(), over);
        let at = |node: usize| Run {
            address: homes[node % homes.len()].subscribe(),
            ..run.clone()
        };
        let mut readers = JoinSet::new();
        for (name, version, qos, sleepy, node) in [
            ("steady", ProtocolVersion::V5, 2, false, 1),
            ("sleepy", ProtocolVersion::V5, 1, true, 2),
            ("sleepy and old", ProtocolVersion::V3_1_1, 2, true, 0),
        ] {
            let mut reader = Subscriber::new(at(node), version, name, &topics(qos), sleepy);
            reader.subscribe().await?;
            readers.spawn(reader.run(stop.clone()));
        }
        let mut writers = JoinSet::new();
        for (topic, qos, version, node) in STREAMS {
            writers.spawn(Publisher::new(at(node), version, topic, qos).run());
        }
        let retained_run = Run {
            over: retained_over,
            ..at(1)
        };
        let retained = RETAINED.map(str::to_owned);
        writers.spawn(RetainedWriter::new(retained_run, &retained).run());
        Ok(Load {
            run,
            homes,
            end,
            pause_retained,
            release,
            writers,
            readers,
        })
    }

    /// The clients that belong to a node connect to another one from now on.
    pub fn move_clients(&self, cluster: &Cluster, of: usize, to: usize) {
        self.homes[of].send_replace(cluster.mqtt_addr(to));
    }

    /// Waits until so many more messages have been acknowledged: the cluster works.
    pub async fn progress(&self, messages: usize, within: Duration) -> Result<()> {
        let enough = self.run.history().totals().0 + messages;
        wait_for(async || self.run.history().totals().0 >= enough, within)
            .await
            .with_context(|| format!("{messages} more messages to be acknowledged"))
    }

    /// Makes sure that no client was disconnected more than once from the same node.
    pub fn at_most_once_per_node(&self) -> Result<()> {
        let again = self.run.history().disconnected_again();
        ensure!(again.is_empty(), "disconnected again: {again:?}");
        Ok(())
    }

    /// Ends the load and compares what arrived with what was promised.
    pub async fn judge(mut self, cluster: &Cluster) -> Result<()> {
        self.pause_retained.send_replace(true);
        self.end.send_replace(true);
        timeout(TO_REST, async {
            while self.writers.join_next().await.is_some() {}
        })
        .await
        .context("the publishers did not get everything acknowledged")?;
        let arrived = wait_for(async || self.run.history().missing() == 0, TO_REST).await;
        // Time for what should not come any more.
        sleep(MOMENT).await;
        self.release.send_replace(true);
        while self.readers.join_next().await.is_some() {}
        for (number, topic) in RETAINED.iter().enumerate() {
            let node = number % cluster.all().len();
            let found = look(cluster.mqtt_addr(node), topic).await?;
            self.run.history().found_retained(topic, found);
        }
        let broken = self.run.history().judge();
        let shown: Vec<String> = broken.iter().take(20).map(ToString::to_string).collect();
        ensure!(
            broken.is_empty(),
            "{} broken promises:\n{}",
            broken.len(),
            shown.join("\n")
        );
        arrived.context("something acknowledged has not arrived")
    }
}

fn topics(subscribed: u8) -> Vec<(String, u8, Promise)> {
    let topic = |(topic, published, _, _): (&str, u8, ProtocolVersion, usize)| {
        let promise = match subscribed.min(published) {
            2 => Promise::ExactlyOnce,
            _ => Promise::AtLeastOnce,
        };
        (topic.to_owned(), subscribed, promise)
    };
    STREAMS.into_iter().map(topic).collect()
}
