//! The client that has done nothing wrong: it publishes to itself without a pause, and keeps count.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Client, ConnectOptions, Message};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// From a PUBLISH to its own message and its PUBACK, on a machine that may be busy with other things, too.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// Milliseconds instead, for a machine that does nothing else: `cargo xtask hostile`.
const SERVED_WITHIN_MS: &str = "FLOTILLA_SERVED_WITHIN_MS";
const TOPIC: &str = "bystander/own";
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Bystander {
    seen: Arc<Mutex<(u64, Duration)>>,
    task: JoinHandle<Result<()>>,
}

impl Bystander {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let mut client = Client::connect(address, ConnectOptions::v5("bystander").keep_alive(10)).await?;
        client.subscribe(TOPIC, 1).await?;
        let seen = Arc::default();
        let task = tokio::spawn(go_on(client, Arc::clone(&seen)));
        Ok(Self { seen, task })
    }

    /// How often it was served, and the longest that it took.
    pub(crate) fn seen(&self) -> (u64, Duration) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn rounds_more(&mut self, rounds: u64) -> Result<()> {
        let wanted = self.seen().0 + rounds;
        while self.seen().0 < wanted {
            if self.task.is_finished() {
                let ended = (&mut self.task).await.context("the bystander's task")?;
                ended.context("the bystander was not served")?;
                bail!("the bystander has ended");
            }
            // Each round has an end of its own.
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// So long who has done nothing wrong waits at the most.
///
/// # Errors
/// The environment says something that is no number.
pub fn served_within() -> Result<Duration> {
    match std::env::var(SERVED_WITHIN_MS) {
        Ok(given) => Ok(Duration::from_millis(given.parse().context(SERVED_WITHIN_MS)?)),
        Err(_) => Ok(SERVED_WITHIN),
    }
}

async fn go_on(mut client: Client, seen: Arc<Mutex<(u64, Duration)>>) -> Result<()> {
    let within = served_within()?;
    for round in 1_u64.. {
        let started = Instant::now();
        let text = round.to_string();
        let one = async {
            client.publish(Message::new(TOPIC, &text).qos(1)).await?;
            client.receive().await
        };
        let late = || format!("round {round} took longer than {within:?}");
        let publish = timeout(within, one).await.with_context(late)??;
        ensure!(publish.publication.payload() == text.as_bytes(), "{publish:?}");
        note(&seen, round, started.elapsed());
        sleep(PAUSE).await;
    }
    Ok(())
}

fn note(seen: &Mutex<(u64, Duration)>, round: u64, took: Duration) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    *seen = (round, seen.1.max(took));
}
