//! The end of a connection, for those who wait for it. Every connection has one, so it is small: a tenth of a `watch` channel.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Held by a connection. Dropped, it tells that the connection has ended and its last commands are proposed.
#[derive(Debug)]
pub struct Ending(Arc<Semaphore>);

/// To wait for the end of a connection.
#[derive(Clone, Debug)]
pub struct Ended(Arc<Semaphore>);

impl Ending {
    /// Of a connection that begins.
    pub fn new() -> (Self, Ended) {
        // Nobody ever gets a permit: it has none.
        let semaphore = Arc::new(Semaphore::new(0));
        (Self(Arc::clone(&semaphore)), Ended(semaphore))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Ended {
    /// Returns when the connection has ended.
    pub async fn wait(&self) {
        // An error is that it is closed.
        let _ = self.0.acquire().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_waits_sees_the_end_and_nobody_before() {
        let (ending, ended) = Ending::new();
        let early = tokio::spawn({
            let ended = ended.clone();
            async move { ended.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!early.is_finished());
        drop(ending);
        early.await.unwrap();
        ended.wait().await;
    }
}
