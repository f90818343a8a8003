//! What every scenario needs: the arguments, the clock and counters, the threads, and who connects where.

use std::sync::Arc;

use rand::Rng;
use rustls::ClientConfig;

use crate::args::{Args, Scenario};
use crate::client::{Client, Identity};
use crate::process::{self, ProcessSample};
use crate::report::ProcessUse;
use crate::stats::Stats;
use crate::stream::{Target, tls_config};
use crate::workers::Workers;

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

    /// The broker's processes together, if any was named.
    pub(crate) fn sample_broker(&self) -> anyhow::Result<Option<ProcessSample>> {
        let mut together = None;
        for pid in &self.args.pid {
            let sample = process::sample(*pid)?;
            let sum: &mut ProcessSample = together.get_or_insert_default();
            sum.cpu_seconds += sample.cpu_seconds;
            sum.resident_bytes += sample.resident_bytes;
        }
        Ok(together)
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
