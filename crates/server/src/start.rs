//! `flotilla start`: configuration, log, admin listener, broker; then wait for a signal and stop in reverse.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use admin::views::ListenerView;
use admin::{Access, Admin, BuildInfo, Health};
use anyhow::Context;
use broker::Broker;
use broker::config::{self as broker_config, Config, Token};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::arguments::ConfigFlags;
use crate::cluster_admin::NodeAdmin;
use crate::log::LogControl;
use crate::notify::Notifier;
use crate::operations::NodeOperations;
use crate::reload::Reloader;
use crate::{build, config, files_limit, log, metrics};

pub(crate) fn run(flags: &ConfigFlags) -> anyhow::Result<()> {
    let loaded = config::load(flags)?;
    let settings = loaded.settings();
    let config = loaded.config;
    let log = log::init(&config.log)?;
    info!(
        version = build::VERSION,
        commit = build::COMMIT,
        "flotilla starts"
    );
    files_limit::raise(config.limits.connections_max);
    warn_of_risks(&config);
    let runtime = runtime(config.node.worker_threads)?;
    let outcome = runtime.block_on(serve(flags.clone(), config, settings, Arc::new(log)));
    // Tasks that are still there belong to connections: nothing they hold has to be kept.
    runtime.shutdown_background();
    outcome
}

fn runtime(worker_threads: u16) -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if worker_threads > 0 {
        builder.worker_threads(usize::from(worker_threads));
    }
    builder
        .thread_name("flotilla")
        .enable_all()
        .build()
        .context("starting the runtime")
}

async fn serve(
    flags: ConfigFlags,
    config: Config,
    settings: Vec<admin::views::Setting>,
    log: Arc<LogControl>,
) -> anyhow::Result<()> {
    let manager = Notifier::from_environment();
    tokio::spawn(manager.clone().run_watchdog());
    let started = Instant::now();
    let mut stop_signals = StopSignals::listen()?;
    let mut reload_signal = signal(SignalKind::hangup())?;
    let stop_timeout = config.node.stop_timeout.get();
    let protocols: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| (listener.name.clone(), listener.protocol))
        .collect();

    // Before the broker: recovery may take a while, and is watched from outside.
    let health = Arc::new(Health::new());
    let build = BuildInfo {
        version: build::VERSION,
        commit: build::COMMIT,
        rustc: build::RUSTC,
    };
    let access = access(&config.admin)?;
    if access.has_tokens() {
        info!(?access, "the API and the dashboard ask for a token");
    }
    let admin = Admin::start(
        config.admin.bind,
        Arc::clone(&health),
        metrics::install()?,
        build,
        access,
    )
    .await
    .with_context(|| format!("listening on admin.bind {}", config.admin.bind))?;
    announce("admin", "http", admin.address());

    let node_config = config.clone();
    let broker = tokio::select! {
        broker = Broker::start(config) => broker.context("starting the broker")?,
        name = stop_signals.next() => {
            info!(signal = name, "stopped before the start was complete");
            return Ok(());
        }
    };
    let mut listeners = Vec::new();
    for (name, address) in broker.addresses() {
        let protocol = protocols.iter().find(|(known, _)| known == name);
        let protocol = protocol.map_or("tcp", |(_, protocol)| protocol.as_str());
        announce(name, protocol, *address);
        listeners.push(ListenerView {
            name: name.clone(),
            protocol: protocol.to_owned(),
            address: address.to_string(),
        });
    }
    // Shared with the probes until the stop takes it away.
    let broker = Arc::new(RwLock::new(Some(broker)));
    let watched = Arc::clone(&broker);
    health.set_ready_check(move || {
        let broker = watched.read().unwrap_or_else(PoisonError::into_inner);
        broker.as_ref().is_some_and(Broker::is_ready)
    });
    let watched = Arc::clone(&broker);
    health.set_overload_check(move || {
        let broker = watched.read().unwrap_or_else(PoisonError::into_inner);
        broker.as_ref().map_or(0, Broker::overload_level)
    });
    let watched = Arc::clone(&broker);
    health.set_drain_check(move || {
        let broker = watched.read().unwrap_or_else(PoisonError::into_inner);
        broker.as_ref().is_some_and(Broker::is_draining)
    });
    let cluster = Arc::new(NodeAdmin::new(&node_config, Arc::clone(&broker)));
    admin.set_cluster(Arc::clone(&cluster) as Arc<dyn admin::ClusterAdmin>);
    let reloader = Arc::new(Reloader::new(
        flags,
        (node_config.clone(), settings),
        Arc::clone(&broker),
        Arc::clone(&log),
        admin.tokens(),
    ));
    tokio::spawn(Arc::clone(&reloader).watch(node_config.node.watch_files.get()));
    admin.set_operations(Arc::new(NodeOperations {
        broker: Arc::clone(&broker),
        cluster,
        config: node_config,
        listeners,
        log,
        reloader: Arc::clone(&reloader),
        started,
    }));
    manager.ready();
    info!("listening for clients; /readyz says when they are served");

    let name = loop {
        tokio::select! {
            name = stop_signals.next() => break name,
            // Whatever comes of it is logged and counted.
            _ = reload_signal.recv() => drop(reloader.reload("SIGHUP").await),
        }
    };
    info!(signal = name, limit = ?stop_timeout, "stopping");
    health.set_stopping();
    manager.stopping();
    let broker_shutdown = async {
        // Until its clients are gone it is there to be asked.
        let drained = {
            let broker = broker.read().unwrap_or_else(PoisonError::into_inner);
            broker.as_ref().map(Broker::drain_to_stop)
        };
        if let Some(drained) = drained {
            drained.await;
        }
        let broker = broker.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(broker) = broker {
            broker.shutdown().await;
        }
    };
    tokio::select! {
        () = broker_shutdown => info!("stopped"),
        () = tokio::time::sleep(stop_timeout) => warn!("not everything stopped within node.stop_timeout"),
        name = stop_signals.next() => warn!(signal = name, "asked twice: stopped at once"),
    }
    admin.shutdown().await;
    Ok(())
}

/// One line a listener on standard output, for people and for programs that started this one on port 0.
fn announce(name: &str, protocol: &str, address: SocketAddr) {
    let mut out = io::stdout().lock();
    // Nobody has to read it: a closed pipe is no reason to stop.
    let _ = writeln!(out, "listening {name} {protocol} {address}").and_then(|()| out.flush());
}

fn warn_of_risks(config: &Config) {
    for listener in &config.listeners {
        for risk in listener.risks(&config.auth) {
            warn!(listener = listener.name, address = %listener.bind, "{risk}");
        }
    }
    let risks = config.auth.risks().into_iter();
    for risk in risks.chain(config.access.risks(&config.auth, &config.listeners)) {
        warn!("{risk}");
    }
    for risk in config.cluster.risks() {
        warn!(address = ?config.cluster.listen, "{risk}");
    }
    for risk in config.admin.risks() {
        warn!(address = %config.admin.bind, "{risk}");
    }
}

/// The tokens of the configuration and of its files. Blocks.
pub(crate) fn access(config: &broker_config::Admin) -> anyhow::Result<Access> {
    let (read, write) = config.tokens().map_err(anyhow::Error::msg)?;
    let secrets = |tokens: Vec<Token>| tokens.iter().map(|token| token.secret().to_owned()).collect();
    let access = Access {
        read: secrets(read),
        write: secrets(write),
    };
    Ok(access)
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
