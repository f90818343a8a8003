//! `flotilla ctl`: questions and orders to a running node, over HTTP to its admin listener. What is shown is in `show`, how
//! tables look in `table`.

mod backup;
mod cluster;
mod drain;
pub(crate) mod http;
mod leave;
mod list;
mod progress;
mod publish;
mod scale_in;
mod sessions;
mod show;
mod table;
mod trace;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::arguments::{
    ClientsCommand, ClusterCommand, ConfigCommand, CtlAbout, CtlArguments, Output, RetainedCommand,
    SessionsCommand,
};
use http::{Request, escaped};
use progress::Progress;

/// The node has answered, and not everything is well.
pub(crate) const EXIT_NOT_WELL: u8 = 3;
const EXIT_NOT_FOUND: u8 = 4;
const EXIT_NOT_PERMITTED: u8 = 5;

/// The node has answered that it does not do it.
#[derive(Debug)]
pub(crate) struct Refused {
    status: u16,
    reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the node refused ({}): {}", self.status, self.reason)
    }
}

impl std::error::Error for Refused {}

impl Refused {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.status {
            401 | 403 => ExitCode::from(EXIT_NOT_PERMITTED),
            404 => ExitCode::from(EXIT_NOT_FOUND),
            _ => ExitCode::FAILURE,
        }
    }
}

pub(crate) fn run(arguments: &CtlArguments) -> anyhow::Result<ExitCode> {
    let ctl = Ctl::new(arguments)?;
    match &arguments.about {
        CtlAbout::Overview => show::overview(&ctl),
        CtlAbout::Cluster(ClusterCommand::Status) => cluster::status(&ctl),
        CtlAbout::Cluster(ClusterCommand::Leave {
            fewer_copies,
            beside_down,
            stalled_after,
            within,
        }) => {
            let patience = leave::Patience {
                stalled: Duration::from_secs(*stalled_after),
                within: Duration::from_secs(*within),
            };
            leave::run(&ctl, *fewer_copies, *beside_down, &patience)
        }
        CtlAbout::Cluster(ClusterCommand::ScaleIn {
            to,
            dry_run,
            fewer_copies,
            within,
        }) => match dry_run {
            true => scale_in::foretell(&ctl, *to, *fewer_copies),
            false => scale_in::run(&ctl, *to, *fewer_copies, Duration::from_secs(*within)),
        },
        CtlAbout::Cluster(ClusterCommand::Forget { node }) => {
            ctl.change("POST", &format!("/api/v1/cluster/forget/{}", escaped(node)))
        }
        CtlAbout::Node => show::node(&ctl),
        CtlAbout::Drain { rate, wait, within } => {
            drain::run(&ctl, *rate, wait.then(|| Duration::from_secs(*within)))
        }
        CtlAbout::Rebalance { rate, progress } => {
            drain::rebalance(&ctl, *rate, Progress::new(progress.progress))
        }
        CtlAbout::Undrain => ctl.change("POST", "/api/v1/node/undrain"),
        CtlAbout::Clients(command) => clients(&ctl, command),
        CtlAbout::Sessions(SessionsCommand::Backup { progress, file }) => {
            sessions::write(&ctl, file.as_deref(), Progress::new(progress.progress))
        }
        CtlAbout::Sessions(SessionsCommand::Restore { rate, progress, file }) => {
            sessions::restore(&ctl, *rate, file.as_deref(), Progress::new(progress.progress))
        }
        CtlAbout::Refusals {
            client,
            user,
            address,
            limit,
        } => {
            let query = [("client", client), ("user", user), ("address", address)];
            show::refusals(&ctl, &query, *limit)
        }
        CtlAbout::Subscriptions {
            filter,
            client,
            paging,
        } => list::subscriptions(&ctl, filter.as_deref(), client.as_deref(), paging.limit),
        CtlAbout::Routes { filter, paging } => list::routes(&ctl, filter.as_deref(), paging.limit),
        CtlAbout::Explain {
            topic,
            qos,
            client,
            user,
        } => show::explain(&ctl, topic, *qos, &[("client", client), ("user", user)]),
        CtlAbout::Retained(command) => retained(&ctl, command),
        CtlAbout::Publish {
            topic,
            message,
            qos,
            retain,
            expires_in,
        } => publish::run(&ctl, topic, message.as_deref(), (*qos, *retain, *expires_in)),
        CtlAbout::Watch { filter } => publish::watch(&ctl, filter),
        CtlAbout::Trace {
            client,
            topic,
            within,
        } => trace::run(&ctl, client.as_deref(), topic.as_deref(), *within),
        CtlAbout::Log { level } => show::log(&ctl, level.as_deref()),
        CtlAbout::Config { set, command: None } => show::config(&ctl, *set),
        CtlAbout::Config {
            command: Some(ConfigCommand::Reload),
            ..
        } => show::reloaded(&ctl),
        CtlAbout::Certificates => show::certificates(&ctl),
        CtlAbout::Api => ctl.print(&ctl.get("/api/v1/openapi.json")?),
    }
}

fn clients(ctl: &Ctl<'_>, command: &ClientsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClientsCommand::List {
            filter,
            user,
            connected,
            away,
            node,
            paging,
        } => {
            let state = match (connected, away) {
                (true, _) => Some("true"),
                (false, true) => Some("false"),
                (false, false) => None,
            };
            let query = [
                ("filter", filter.as_deref()),
                ("user", user.as_deref()),
                ("connected", state),
                ("node", node.as_deref()),
            ];
            list::clients(ctl, &query, paging.limit)
        }
        ClientsCommand::Show { client } => show::client(ctl, client),
        ClientsCommand::Disconnect { client, end_session } => {
            let session = if *end_session { "end" } else { "keep" };
            let path = format!("/api/v1/clients/{}/disconnect?session={session}", escaped(client));
            ctl.change("POST", &path)
        }
    }
}

fn retained(ctl: &Ctl<'_>, command: &RetainedCommand) -> anyhow::Result<ExitCode> {
    match command {
        RetainedCommand::List { filter, paging } => list::retained(ctl, filter, paging.limit),
        RetainedCommand::Show { topic } => show::retained(ctl, topic),
        RetainedCommand::Delete { topic } => ctl.change(
            "DELETE",
            &format!("/api/v1/retained/message?topic={}", escaped(topic)),
        ),
        RetainedCommand::Backup {
            filter,
            progress,
            file,
        } => backup::write(ctl, filter, file.as_deref(), Progress::new(progress.progress)),
        RetainedCommand::Restore { progress, file } => {
            backup::restore(ctl, file.as_deref(), Progress::new(progress.progress))
        }
    }
}

/// The node that is asked, and how its answers are to look.
pub(crate) struct Ctl<'a> {
    arguments: &'a CtlArguments,
    token: Option<String>,
}

impl<'a> Ctl<'a> {
    fn new(arguments: &'a CtlArguments) -> anyhow::Result<Self> {
        let file = arguments
            .token_file
            .as_deref()
            .filter(|file| !file.as_os_str().is_empty());
        let token = match (&arguments.token, file) {
            (Some(token), _) if !token.is_empty() => Some(token.clone()),
            (_, Some(file)) => {
                let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
                let mut lines = text.lines().map(str::trim);
                let token = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
                Some(
                    token
                        .with_context(|| format!("{}: there is no token in it", file.display()))?
                        .to_owned(),
                )
            }
            _ => None,
        };
        Ok(Self { arguments, token })
    }

    fn is_json(&self) -> bool {
        self.arguments.output == Output::Json
    }

    fn request<'r>(&'r self, method: &'r str, path: &'r str) -> Request<'r> {
        Request {
            address: &self.arguments.admin,
            method,
            path,
            token: self.token.as_deref(),
            body: None,
        }
    }

    /// The answer, whatever its status.
    fn answer(&self, request: &Request<'_>) -> anyhow::Result<http::Answer> {
        http::ask(request).with_context(|| format!("asking the node at {} (--admin)", self.arguments.admin))
    }

    /// The body of a good answer; another one becomes an error with the node's words.
    fn ask(&self, method: &str, path: &str) -> anyhow::Result<String> {
        good(self.answer(&self.request(method, path))?)
    }

    /// A good answer in JSON.
    fn get(&self, path: &str) -> anyhow::Result<Value> {
        serde_json::from_str(&self.ask("GET", path)?).context("the answer of the node")
    }

    /// An order without an answer.
    fn change(&self, method: &str, path: &str) -> anyhow::Result<ExitCode> {
        self.ask(method, path)?;
        self.done()
    }

    fn done(&self) -> anyhow::Result<ExitCode> {
        self.say(if self.is_json() {
            "{\"done\": true}\n"
        } else {
            "done\n"
        })
    }

    fn print(&self, value: &Value) -> anyhow::Result<ExitCode> {
        self.say(&(serde_json::to_string_pretty(value)? + "\n"))
    }

    fn say(&self, text: &str) -> anyhow::Result<ExitCode> {
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn good(answer: http::Answer) -> anyhow::Result<String> {
    match answer.status {
        200..300 => Ok(answer.body),
        status => Err(Refused {
            status,
            reason: answer.body.trim().to_owned(),
        }
        .into()),
    }
}

/// Success, or that not everything is well.
fn well(is_well: bool) -> ExitCode {
    match is_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_NOT_WELL),
    }
}
