//! A node in the hands of an operator: its API over HTTP, `flotilla ctl`, and its dashboard in a real browser.

mod browser;
mod http;

pub use browser::{Browser, Page};
pub use http::{Answer, Api, Events};

use std::process::Output;

use anyhow::{Context, Result};
use harness::{Broker, Cluster};

/// Something that `flotilla ctl` can be pointed at.
pub trait Node {
    /// A command of the program under test, to be asked of this node.
    fn flotilla(&self) -> Result<std::process::Command>;

    /// Runs `flotilla ctl` and waits for its end.
    fn ctl(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.flotilla()?.arg("ctl").args(arguments).output();
        output.with_context(|| format!("flotilla ctl {}", arguments.join(" ")))
    }
}

impl Node for Broker {
    fn flotilla(&self) -> Result<std::process::Command> {
        harness::flotilla(self.admin_addr())
    }
}

/// A node of a cluster.
pub struct Member<'a>(pub &'a Cluster, pub usize);

impl Node for Member<'_> {
    fn flotilla(&self) -> Result<std::process::Command> {
        harness::flotilla(self.0.admin_addr(self.1))
    }
}

/// What a command printed.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
