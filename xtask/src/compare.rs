//! `cargo xtask compare`: the same load on Flotilla and on other brokers, side by side.

/// Runs the comparison.
pub(crate) fn run(_args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("the comparison is not written yet")
}
