//! The command line of `flotilla`. Each command is a line here and a neighbour that does the work.

mod arguments;
mod build;
mod check_config;
mod cluster_admin;
mod completions;
mod config;
mod ctl;
mod files_limit;
#[cfg(fuzzing)]
pub mod fuzz;
mod health;
mod import;
mod log;
mod metrics;
mod notify;
mod operations;
mod passwd;
mod recover;
mod reload;
mod start;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// What sysexits(3) and clap use for a wrong call.
const EXIT_WRONG_CONFIGURATION: u8 = 2;

/// Does what the arguments of the process ask for. The exit code is 2 for a wrong call or configuration, 3 when `ctl` or
/// `health` found out that not everything is well, 4 when there is no such thing, 5 when it is not permitted, 1 for another failure.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Start(flags) => start::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::CheckConfig(arguments) => check_config::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Passwd(arguments) => passwd::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Recover(arguments) => recover::run(&arguments),
        Command::Ctl(arguments) => ctl::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Completions { shell } => completions::print(shell).map(|()| ExitCode::SUCCESS),
        Command::Import(arguments) => import::run(&arguments),
        Command::Bench(arguments) => flotilla_bench::run(arguments).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if error.is::<config::Mistakes>() => {
            eprintln!("flotilla: {error}");
            ExitCode::from(EXIT_WRONG_CONFIGURATION)
        }
        Err(error) => {
            eprintln!("flotilla: {error:#}");
            let refused = error.downcast_ref::<ctl::Refused>();
            refused.map_or(ExitCode::FAILURE, ctl::Refused::exit_code)
        }
    }
}
