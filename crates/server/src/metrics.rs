//! The recorder behind the `metrics` facade. Has to be there before the first handle is made.

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// From a tenth of a millisecond, as routing takes, to ten seconds, as an overloaded disk does.
const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From a small message to a large one, by eights.
const BYTES: [f64; 9] = [
    64.0,
    512.0,
    4_096.0,
    32_768.0,
    262_144.0,
    2_097_152.0,
    16_777_216.0,
    134_217_728.0,
    1_073_741_824.0,
];
/// Numbers of things done at once.
const COUNTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 2_048.0];

/// Installs the recorder for the whole process.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    // Without buckets a histogram would become a summary, which cannot be added up over nodes.
    PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?
        .install_recorder()
        .context("installing the metrics recorder")
}
