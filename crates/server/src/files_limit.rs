//! Open files: each connection needs one, so the soft limit is raised to the hard one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Files beside client connections: the log, checkpoints, listeners, the admin listener.
const RESERVE: u64 = 512;

/// Raises the limit and says so when it is too low for the connections that the configuration permits.
pub(crate) fn raise(connections_max: u32) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, "the limit of open files could not be raised");
        }
    }
    // No current limit means no limit.
    let Some(open_files_max) = getrlimit(Resource::Nofile).current else {
        return;
    };
    let wanted = u64::from(connections_max) + RESERVE;
    if open_files_max < wanted {
        warn!(
            open_files_max,
            connections_max,
            "the limit of open files (ulimit -n, LimitNOFILE) is reached before limits.connections_max"
        );
    }
}
