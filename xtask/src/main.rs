//! `cargo xtask`: the one helper of the project, for checking, testing, fuzzing, comparing and trying out.

mod cluster;
mod compare;
mod crash;
mod fix;
mod flags;
mod fuzz;
mod hostile;
mod http;
mod judges;
mod release;
mod simulate;
mod step;
mod storm;
mod test;
mod tools;
mod verify;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  verify                 read-only: format, clippy with warnings denied, tests of single crates, docs
  fix                    rewrites what format and clippy can mend by themselves
  test                   installs what the tests need, then runs them all: standard, real clients, kill -9, fuzz
  tools                  only the installing part of `test`
  crash [--rounds N]     kills a broker under load N times (default 100) and checks every promise
  hostile [--within MS]  every hostile client on its own, beside one who is served within MS milliseconds (default 250)
  storm [--clients N]    has N clients (default 20000) come back at once after a restart, beside one who is served
  simulate [--seeds N] [--first N] [--only NAME]
                         runs N seeds (default 100) of every simulation of a cluster, and shows a table
  fuzz [--seconds N] [--target NAME]
                         fuzzes all targets for N seconds in total (default 60), or one of them
  cluster [--nodes N]    starts N nodes (default 3) and HAProxy on this machine, until Ctrl-C
  compare [..]           the same load on Flotilla and on other brokers, side by side
  compare --cluster [..] three nodes beside one, and what three nodes should reach
  release                the last commit as a static binary, with a list of its parts, an archive and checksums
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match fuzz::is_compiling() {
        true => fuzz::compile(&args),
        false => dispatch(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> anyhow::Result<()> {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    std::env::set_current_dir(step::root())?;
    match command {
        "verify" => verify::run(),
        "fix" => fix::run(),
        "test" => test::run(),
        "tools" => tools::install().and_then(|()| judges::install()),
        "crash" => crash::run(rest),
        "hostile" => hostile::run(rest),
        "storm" => storm::run(rest),
        "simulate" => simulate::run(rest),
        "fuzz" => fuzz::run(rest),
        "cluster" => cluster::run(rest),
        "compare" => compare::run(rest),
        "release" => release::run(rest),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(())
        }
        unknown => anyhow::bail!("there is no `{unknown}`\n\n{HELP}"),
    }
}
