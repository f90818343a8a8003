//! Why this node still waits: said when the reason changes, and again from time to time.

use std::time::Duration;

use tokio::time::Instant;

/// The same reason is said again after this time.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// What was said last.
#[derive(Default)]
pub(crate) struct Said(Option<(String, Instant)>);

impl Said {
    /// Whether the reason is to be said now; then it counts as said.
    pub(crate) fn is_news(&mut self, reason: &str) -> bool {
        let is_news = self
            .0
            .as_ref()
            .is_none_or(|(known, at)| known != reason || at.elapsed() > SAY_AFTER);
        if is_news {
            self.0 = Some((reason.to_owned(), Instant::now()));
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reason_is_said_when_it_is_new_and_again_after_a_while() {
        let mut said = Said::default();
        assert!(said.is_news("alone"));
        assert!(!said.is_news("alone"));
        assert!(said.is_news("no quorum"));
        tokio::time::advance(SAY_AFTER).await;
        assert!(!said.is_news("no quorum"));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(said.is_news("no quorum"));
    }
}
