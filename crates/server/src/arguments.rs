//! The commands and their flags. Values are kept as written: `config` judges them with everything else.

use std::path::PathBuf;

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
    /// Ask a running node, or tell it what to do.
    Ctl(CtlArguments),
    /// Load an MQTT broker and measure it.
    Bench(flotilla_bench::Args),
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
    /// The nodes of the cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show the members as the node sees them. Exit code 3: it is not ready, or a member is down.
    Status,
    /// Make the node hand over what it holds and leave for good. A mere stop needs no leave.
    Leave,
    /// Remove a node for good that is down and will not come back.
    Forget {
        /// Its name or identifier, as `status` shows them.
        node: String,
    },
}

/// Flags go before the environment (FLOTILLA__SECTION__KEY), the environment before the file, the file before defaults.
#[derive(Debug, Default, Args)]
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
    /// Serve health and metrics over HTTP here.
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
