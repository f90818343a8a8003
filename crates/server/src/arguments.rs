//! The commands and their flags. Values are kept as written: `config` judges them with everything else.

use std::path::PathBuf;

use broker::config::TimeSpan;
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "flotilla",
    version,
    about = "A clustered MQTT broker",
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node. Without flags: MQTT on 127.0.0.1:1883, WebSocket on 127.0.0.1:8083, data in ./flotilla-data.
    Start(ConfigFlags),
    /// Show the configuration a start with the same flags would use, and where each value comes from.
    CheckConfig(CheckConfigArguments),
    /// Add or change a user of a password file; the password is read from standard input.
    Passwd(PasswdArguments),
    /// Make a configuration from another broker's, and name what has no counterpart.
    Import(ImportArguments),
    /// Make a cluster of what one disk has, when those of a majority are gone for good. The node must not run.
    Recover(RecoverArguments),
    /// Ask a running node, or tell it what to do.
    Ctl(CtlArguments),
    /// Ask the node on this machine whether it is ready. Exit code 0: it is; 3: it is not. For probes and health checks.
    Health(HealthArguments),
    /// Load an MQTT broker and measure it.
    Bench(flotilla_bench::Args),
    /// Print a script that completes commands and flags: `source <(flotilla completions bash)`.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// A shell that can be told what to complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Fish.
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArguments {
    /// Address of the node's admin listener. One that is bound to every address is asked on this machine.
    #[arg(
        long,
        value_name = "ADDR",
        env = "FLOTILLA_ADMIN",
        default_value = "127.0.0.1:9100"
    )]
    pub(crate) admin: String,
    /// Ask whether the process is alive, not whether it is ready.
    #[arg(long)]
    pub(crate) live: bool,
    /// Ask whether it has ever been ready.
    #[arg(long, conflicts_with = "live")]
    pub(crate) started: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckConfigArguments {
    #[command(flatten)]
    pub(crate) flags: ConfigFlags,
    /// Print the reference of all keys in Markdown instead.
    #[arg(long)]
    pub(crate) reference: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArguments {
    #[command(flatten)]
    pub(crate) flags: ConfigFlags,
    /// None of the other nodes runs or can be started again with the disk it had. Without it, say what would be done, and exit
    /// with code 3.
    #[arg(long)]
    pub(crate) others_are_gone: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PasswdArguments {
    /// The password file, as `password_file` in [auth] names it; made when missing.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The user's name.
    #[arg(value_name = "USER")]
    pub(crate) user: String,
    /// Also write what the authentication method SCRAM-SHA-256 needs.
    #[arg(long, conflicts_with = "delete")]
    pub(crate) scram: bool,
    /// Remove the user.
    #[arg(long)]
    pub(crate) delete: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    #[command(subcommand)]
    pub(crate) from: ImportFrom,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportFrom {
    /// From a mosquitto.conf. Its files of users, rules and certificates stay where they are. Exit code 2: the new
    /// configuration is written, and a start would not accept it yet.
    Mosquitto {
        /// The mosquitto.conf.
        #[arg(long, value_name = "FILE")]
        conf: PathBuf,
        /// Directory to write `flotilla.toml` to; made when missing. Without it, standard output.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CtlArguments {
    /// Address of the node's admin listener.
    #[arg(
        long,
        value_name = "ADDR",
        env = "FLOTILLA_ADMIN",
        default_value = "127.0.0.1:9100",
        global = true
    )]
    pub(crate) admin: String,
    /// How answers look.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table, global = true)]
    pub(crate) output: Output,
    /// Token of the node's configuration (better: FLOTILLA_TOKEN, or a file).
    #[arg(
        long,
        value_name = "TOKEN",
        env = "FLOTILLA_TOKEN",
        hide_env_values = true,
        global = true
    )]
    pub(crate) token: Option<String>,
    /// File with the token in its first line.
    #[arg(long, value_name = "FILE", env = "FLOTILLA_TOKEN_FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) about: CtlAbout,
}

/// How answers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CtlAbout {
    /// Everything at a glance. Exit code 3: an alarm is critical.
    Overview,
    /// The nodes of the cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The process that answers.
    Node,
    /// Take the node out of service: not ready, what it leads given to others, clients asked to leave at a bounded rate. It
    /// runs on, and stays a member.
    Drain {
        /// Clients to ask in a second. Default: `drain.connections_per_second` of the node's configuration.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: Option<u32>,
        /// Wait until no client is left, and show how many are. Exit code 3: it was taken back, or there are some.
        #[arg(long)]
        wait: bool,
        /// Wait so many seconds at the most.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600, requires = "wait")]
        within: u64,
    },
    /// Take the node back into service.
    Undrain,
    /// Have every node with more than its share of the connections ask the rest to go elsewhere, at a bounded rate. The load
    /// balancer says where they go: one that knows how many connections a node has evens them out.
    Rebalance {
        /// Clients of each node to ask in a second. Default: `drain.connections_per_second` of the node's configuration.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: Option<u32>,
        #[command(flatten)]
        progress: ProgressFlag,
    },
    /// Sessions, connected or away.
    #[command(subcommand)]
    Clients(ClientsCommand),
    /// Backups of sessions.
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// What the node refused lately, and why: connections, and what access rules deny. The newest first.
    Refusals {
        /// A whole client id.
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// A whole user name.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// An address, without a port.
        #[arg(long, value_name = "ADDRESS")]
        address: Option<String>,
        /// So many at the most.
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
    },
    /// Who subscribes to what.
    Subscriptions {
        /// A part of the topic filter.
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
        /// A part of the client id.
        #[arg(long, value_name = "TEXT")]
        client: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Which filters are routed to which nodes and shards.
    Routes {
        /// A part of the topic filter.
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Where a message published here would go.
    Explain {
        /// Its topic.
        topic: String,
        /// Its quality of service.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
        /// Say whether this client may publish it, and which rule decides.
        #[arg(long, value_name = "ID", conflicts_with = "user")]
        client: Option<String>,
        /// The same of a user.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Retained messages.
    #[command(subcommand)]
    Retained(RetainedCommand),
    /// Publish a message, and wait until every destination has it. Exit code 3: not all have.
    Publish {
        /// Where.
        topic: String,
        /// What; without it, what comes by standard input.
        message: Option<String>,
        /// Its quality of service.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
        /// Keep it for those who subscribe later.
        #[arg(long)]
        retain: bool,
        /// Seconds until it is not delivered any more.
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<u32>,
    },
    /// Show messages as they pass, until interrupted.
    Watch {
        /// A topic filter.
        filter: String,
    },
    /// Show what happens to one client, or to the topics of one filter, on this node: each packet with its time, direction,
    /// type, identifier, topic, flags, reason codes and size, connections and their ends, and what rules deny. Never what a
    /// message says, nor a password.
    #[command(group = clap::ArgGroup::new("subject").required(true))]
    Trace {
        /// A whole client id.
        #[arg(long, value_name = "ID", group = "subject")]
        client: Option<String>,
        /// A topic filter.
        #[arg(long, value_name = "FILTER", group = "subject")]
        topic: Option<String>,
        /// It ends by itself after this time, an hour at the most.
        #[arg(long = "for", value_name = "TIME", default_value = "60s")]
        within: TimeSpan,
    },
    /// Show what the log tells, or change it until the next start.
    Log {
        /// As `debug` or `info,broker=debug`.
        level: Option<String>,
    },
    /// The configuration that the node runs with; secrets are masked.
    #[command(args_conflicts_with_subcommands = true)]
    Config {
        /// Only what was set.
        #[arg(long)]
        set: bool,
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// The certificates of the node. Exit code 3: one has expired or cannot be read.
    Certificates,
    /// The description of the API behind all this (OpenAPI, JSON).
    Api,
}

#[derive(Debug, Args)]
pub(crate) struct Paging {
    /// So many at the most. 0: all.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub(crate) limit: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClientsCommand {
    /// List them, in the order of client ids.
    List {
        /// A part of the client id.
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
        /// A whole user name.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only those with a connection.
        #[arg(long)]
        connected: bool,
        /// Only those without.
        #[arg(long, conflicts_with = "connected")]
        away: bool,
        /// Only those connected to this node, by name or identifier.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one in full: owner, subscriptions, what waits and what is in flight.
    Show {
        /// Its client id.
        client: String,
    },
    /// Close its connection, on whatever node it is.
    Disconnect {
        /// Its client id.
        client: String,
        /// Delete its session, too: subscriptions and waiting messages.
        #[arg(long)]
        end_session: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RetainedCommand {
    /// List them, in the order of topics.
    List {
        /// A topic filter.
        #[arg(long, value_name = "FILTER", default_value = "#")]
        filter: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Print the payload of one.
    Show {
        /// Its topic.
        topic: String,
    },
    /// Delete one.
    Delete {
        /// Its topic.
        topic: String,
    },
    /// Write them down, a line of JSON each.
    Backup {
        /// A topic filter.
        #[arg(long, value_name = "FILTER", default_value = "#")]
        filter: String,
        #[command(flatten)]
        progress: ProgressFlag,
        /// Without it: to standard output.
        file: Option<PathBuf>,
    },
    /// Set what a backup has. Subscribers are not told; what is there under other topics stays.
    Restore {
        #[command(flatten)]
        progress: ProgressFlag,
        /// Without it: from standard input.
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Write down all that outlive their connections, with subscriptions and waiting messages, a line of JSON each.
    Backup {
        #[command(flatten)]
        progress: ProgressFlag,
        /// Without it: to standard output.
        file: Option<PathBuf>,
    },
    /// Bring back what a backup has. A session that is there, or to which a client has connected, stays as it is. It may be
    /// interrupted and given again. Exit code 3: something was not restored, or the backup is not whole.
    Restore {
        /// Lines to restore in a second, at the most.
        #[arg(long, value_name = "COUNT", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: u32,
        #[command(flatten)]
        progress: ProgressFlag,
        /// Without it: from standard input.
        file: Option<PathBuf>,
    },
}

/// What takes long says how far it is.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ProgressFlag {
    /// Say on standard error how far it is, as it does by itself at a terminal.
    #[arg(long)]
    pub(crate) progress: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Have users, keys, rules, tokens, certificates and what may change of the configuration (limits, queues, the level of the log) read again; one
    /// mistake, and all stays as it was.
    Reload,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show the members as the node sees them. Exit code 3: it is not ready, or a member is down.
    Status,
    /// Make the node ask its clients to go, hand over what it holds and leave for good, and show what is left. A mere stop needs no
    /// leave. It may be interrupted and given again. Exit code 3: it has not left yet.
    Leave {
        /// Even where fewer are left than each shard is to have copies (`cluster.replication_factor`).
        #[arg(long)]
        fewer_copies: bool,
        /// Even while another member is down.
        #[arg(long)]
        beside_down: bool,
        /// Look on until nothing has moved for so many seconds. The node goes on leaving.
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        stalled_after: u64,
        /// Look on for so many seconds at the most.
        #[arg(long, value_name = "SECONDS", default_value_t = 86400)]
        within: u64,
    },
    /// Make nodes leave for good, one after the other, until so many are left: those with the highest ordinals in their names
    /// as a StatefulSet takes them, else the last by name. Ask a node that stays. It may be interrupted and given again.
    /// Exit code 3: it was not done in time.
    ScaleIn {
        /// How many nodes are to stay.
        #[arg(long, value_name = "COUNT")]
        to: u32,
        /// Say who would go, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Even where fewer are left than each shard is to have copies (`cluster.replication_factor`).
        #[arg(long)]
        fewer_copies: bool,
        /// Look on for so many seconds at the most. A node that leaves goes on leaving.
        #[arg(
            long,
            value_name = "SECONDS",
            default_value_t = 3600,
            conflicts_with = "dry_run"
        )]
        within: u64,
    },
    /// Remove a node for good that is down and will not come back.
    Forget {
        /// Its name or identifier, as `status` shows them.
        node: String,
    },
}

/// Flags go before the environment (FLOTILLA__SECTION__KEY), the environment before the file, the file before defaults.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigFlags {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE", env = "FLOTILLA_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Name of the node, for people.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Directory of the node's log and checkpoints.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// Listen for MQTT over TCP (repeat for more).
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt: Vec<String>,
    /// Listen for MQTT over TLS (repeat for more).
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtts: Vec<String>,
    /// Listen for MQTT over WebSocket (repeat for more).
    #[arg(long, value_name = "ADDR")]
    pub(crate) ws: Vec<String>,
    /// Listen for MQTT over WebSocket over TLS (repeat for more).
    #[arg(long, value_name = "ADDR")]
    pub(crate) wss: Vec<String>,
    /// Certificate chain in PEM for --mqtts and --wss, and for TLS listeners that have none.
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<String>,
    /// Private key in PEM of the certificate.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<String>,
    /// Serve health, metrics, the API and the dashboard over HTTP here.
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<String>,
    /// Listen for other nodes here, usually on port 7883.
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer: Option<String>,
    /// Address under which other nodes reach this one.
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// Nodes to form a cluster with or to join, separated by commas.
    #[arg(long, value_name = "ADDR,ADDR,...")]
    pub(crate) seeds: Option<String>,
    /// Permit anonymous clients and plain text beyond loopback, also between nodes, for trying things out.
    #[arg(long)]
    pub(crate) insecure: bool,
}
