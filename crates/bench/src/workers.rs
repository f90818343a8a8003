//! The threads that carry the connections, each a single-threaded runtime.

use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Runs until dropped.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts this many threads.
    pub(crate) fn start(count: usize) -> anyhow::Result<Self> {
        let threads = (0..count).map(Worker::start).collect::<Result<_, _>>()?;
        Ok(Self { threads })
    }

    /// The runtime for everything that belongs to this group of connections.
    pub(crate) fn handle(&self, group: usize) -> &Handle {
        &self.threads[group % self.threads.len()].handle
    }
}

impl Worker {
    fn start(index: usize) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("bench-{index}"))
            .spawn(move || {
                // An error means the sender was dropped, which is the signal as well.
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of a task is contained by the runtime; a panicked thread has nothing left to tell.
            let _ = thread.join();
        }
    }
}
