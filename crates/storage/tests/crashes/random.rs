//! The Raft log on a disk that loses and tears what was not synced: a crash in every operation of a script, random
//! scripts with random crashes, and disks that lie, which the same checks have to notice.

use crate::node::{GROUPS, Node, Step};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Every kind of operation, with files that fill up and go.
fn run_script(node: &mut Node) {
    for round in 0..8 {
        for group in GROUPS {
            node.step(group, Step::Append(3 + group));
        }
        node.write();
        node.step(1, Step::Vote);
        node.step(2, Step::Append(2));
        node.write();
        node.step(2, Step::Truncate(3));
        node.step(2, Step::Append(4));
        node.write();
        node.step(3, Step::Purge(4));
        node.step(1, Step::Purge(2));
        node.write();
        node.collect_garbage();
        if round == 2 {
            node.step(3, Step::PurgeBeyond);
            node.step(3, Step::Append(1));
            node.write();
        }
    }
}

fn crash_at(operation: u64, seed: u64) -> Result<(), String> {
    let mut node = Node::new(seed);
    node.disk.fail_power_at(operation);
    node.open()?;
    run_script(&mut node);
    node.crash();
    node.open()?;
    for group in GROUPS {
        node.step(group, Step::Append(1));
    }
    node.write();
    node.crash();
    node.open()
}

#[test]
fn a_crash_in_any_operation_leaves_what_was_reported() {
    let mut node = Node::new(0);
    node.open().unwrap();
    run_script(&mut node);
    let (flushed, done) = node.progress();
    assert_eq!(flushed, done, "without a crash everything is reported");
    let operations = node.disk.operations();
    assert!(operations > 100, "{operations} operations are few");

    for operation in 1..=operations {
        for seed in 0..3 {
            let survived = crash_at(operation, seed);
            assert_eq!(
                survived,
                Ok(()),
                "crash in operation {operation} of {operations}, seed {seed}"
            );
        }
    }
}

fn random_step(random: &mut SmallRng) -> Step {
    match random.random_range(0..20) {
        0..9 => Step::Append(random.random_range(1..6)),
        9..12 => Step::Truncate(random.random_range(0..8)),
        12..16 => Step::Purge(random.random_range(1..8)),
        16 => Step::PurgeBeyond,
        _ => Step::Vote,
    }
}

/// Some lives of a node, each with an end at a random place.
fn run_lives(node: &mut Node, seed: u64) -> Result<(), String> {
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..4 {
        if random.random() {
            let operation = node.disk.operations() + random.random_range(1..60);
            node.disk.fail_power_at(operation);
        }
        node.open()?;
        for _ in 0..random.random_range(1..40) {
            let group = GROUPS[random.random_range(0..GROUPS.len())];
            node.step(group, random_step(&mut random));
            if random.random_bool(0.4) {
                node.write();
            }
            if random.random_bool(0.1) {
                node.collect_garbage();
            }
        }
        node.crash();
    }
    node.open()
}

#[test]
fn random_lives_and_crashes_lose_nothing_that_was_reported() {
    let seeds = match std::env::var("CRASH_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..1500).collect(),
    };
    for seed in seeds {
        let mut node = Node::new(seed);
        if let Err(error) = run_lives(&mut node, seed) {
            panic!("{error}\nagain: CRASH_SEED={seed} cargo test -p storage --test crashes random_lives");
        }
    }
}

#[test]
fn the_same_seed_leaves_the_same_bytes() {
    let images = [(), ()].map(|()| {
        let mut node = Node::new(5);
        run_lives(&mut node, 5).unwrap();
        let files = node.disk.files("node".as_ref());
        let contents: Vec<_> = files.iter().map(|path| node.disk.read(path).unwrap()).collect();
        (files, contents)
    });

    assert!(!images[0].0.is_empty());
    assert_eq!(images[0], images[1]);
}

#[test]
fn a_disk_whose_syncs_do_nothing_is_noticed() {
    let noticed = (0..100).find(|seed| {
        let mut node = Node::new(*seed);
        node.disk.set_forgetful(true);
        run_lives(&mut node, *seed).is_err()
    });

    assert!(noticed.is_some());
}

#[test]
fn a_writer_that_reports_before_it_syncs_is_noticed() {
    let noticed = (0..100).find(|seed| {
        let mut node = Node::new(*seed);
        node.options.sync = false;
        run_lives(&mut node, *seed).is_err()
    });

    assert!(noticed.is_some());
}
