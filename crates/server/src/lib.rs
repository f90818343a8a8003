//! The command line of `flotilla`. Each command is a line here and a neighbour that does the work.

mod arguments;
mod build;
mod check_config;
mod config;
mod files_limit;
#[cfg(fuzzing)]
pub mod fuzz;
mod log;
mod metrics;
mod start;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// What sysexits(3) and clap use for a wrong call.
const EXIT_WRONG_CONFIGURATION: u8 = 2;

/// Does what the arguments of the process ask for. The exit code is 2 for a wrong call or configuration, 1 for another
/// failure.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Start(flags) => start::run(&flags),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Bench(arguments) => flotilla_bench::run(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<config::Mistakes>() => {
            eprintln!("flotilla: {error}");
            ExitCode::from(EXIT_WRONG_CONFIGURATION)
        }
        Err(error) => {
            eprintln!("flotilla: {error:#}");
            ExitCode::FAILURE
        }
    }
}
