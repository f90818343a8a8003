//! What the tests share: sound nodes, and how long things may take.

use std::time::Duration;

use simulation::Options;

/// For a cluster to form, or to come together again.
pub(crate) const START: Duration = Duration::from_secs(60);

/// Sound nodes. Each test draws from seeds of its own.
pub(crate) fn sound(seed: u64, of_test: u64) -> Options {
    let mut options = Options::new(seed);
    options.seed += of_test;
    options
}
