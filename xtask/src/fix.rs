//! `cargo xtask fix`: rewrites what format and clippy can mend by themselves.

use anyhow::Result;

use crate::step::{self, cargo};

/// Lints first, since what they rewrite needs formatting.
pub(crate) fn run() -> Result<()> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ];
    step::run("clippy --fix", cargo().args(clippy))?;
    step::run("format", cargo().args(["fmt", "--all"]))
}
