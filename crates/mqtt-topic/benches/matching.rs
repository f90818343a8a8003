//! One topic among a million filters, a tenth of them with wildcards. The target is 2 µs for a match.
//!
//! The fleet: 1,000 sites with 1,000 devices. Nine devices in ten have their own exact filter, the tenth is watched
//! through `+` or `#`. Topics are drawn from the whole fleet, so that the caches do not hold the paths they take.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mqtt_topic::{FilterTree, TopicFilter};

const SITES: u64 = 1_000;
const DEVICES: u64 = 1_000;

/// The filter of one device.
fn filter(site: u64, device: u64) -> TopicFilter {
    let text = match device % 40 {
        0 => format!("fleet/site-{site}/device-{device}/#"),
        10 => format!("fleet/site-{site}/device-{device}/+"),
        20 => format!("fleet/+/device-{device}/state-{site}"),
        30 => format!("+/site-{site}/+/report-{device}"),
        _ => format!("fleet/site-{site}/device-{device}/state"),
    };
    TopicFilter::parse(text.into()).expect("it is well formed")
}

fn fleet() -> FilterTree<u32> {
    let mut tree = FilterTree::new();
    for site in 0..SITES {
        for device in 0..DEVICES {
            tree.get_or_insert_with(&filter(site, device), || site as u32);
        }
    }
    // Every topic meets a filter for its own kind, for its site, and for all of the fleet.
    for text in ["fleet/+/+/state", "fleet/#"] {
        let filter = TopicFilter::parse(text.into()).expect("it is well formed");
        tree.get_or_insert_with(&filter, || 0);
    }
    tree
}

/// A topic anywhere in the fleet; the numbers follow from one another.
fn topics() -> impl FnMut() -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let drawn = state >> 33;
        format!(
            "fleet/site-{}/device-{}/state",
            drawn % SITES,
            drawn / SITES % DEVICES
        )
    }
}

fn matching(criterion: &mut Criterion) {
    let tree = fleet();
    report_cost(&tree);
    let mut next = topics();
    criterion.bench_function("match one topic among 1,000,000 filters", |bencher| {
        bencher.iter_batched(
            &mut next,
            |topic| {
                let mut found = 0;
                tree.for_each_match(&topic, |value| found += black_box(*value));
                (found, topic)
            },
            BatchSize::SmallInput,
        );
    });
    let exact = filter(500, 501);
    criterion.bench_function("look one filter up", |bencher| {
        bencher.iter(|| tree.get(black_box(&exact)))
    });
    let mut tree = tree;
    let new = TopicFilter::parse("fleet/site-500/new/state".into()).expect("it is well formed");
    criterion.bench_function("insert and remove one filter", |bencher| {
        bencher.iter(|| {
            tree.get_or_insert_with(black_box(&new), || 1);
            tree.remove(black_box(&new))
        });
    });
}

/// How many filters a topic meets, to read the times with.
fn report_cost(tree: &FilterTree<u32>) {
    let mut counts = BTreeMap::new();
    let mut next = topics();
    for _ in 0..10_000 {
        let mut met = 0_u32;
        tree.for_each_match(&next(), |_| met += 1);
        *counts.entry(met).or_insert(0_u32) += 1;
    }
    println!("{} filters; matches per topic, of 10,000: {counts:?}", tree.len());
    if let Some(resident) = resident_kib() {
        println!(
            "resident: {resident} KiB, {} bytes a filter",
            resident * 1024 / tree.len() as u64
        );
    }
}

/// Linux only; elsewhere the line is left out.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = matching
}
criterion_main!(benches);
