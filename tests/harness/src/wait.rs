//! Waiting for something to become true, with an end.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it holds; an error when it does not hold `within` the limit.
pub async fn wait_for<F>(mut condition: F, within: Duration) -> Result<()>
where
    F: AsyncFnMut() -> bool,
{
    let deadline = Instant::now() + within;
    while !condition().await {
        if Instant::now() > deadline {
            bail!("the condition did not hold within {within:?}");
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
