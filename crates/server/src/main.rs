//! The process `flotilla`: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    flotilla_server::main()
}
