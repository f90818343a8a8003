//! Lanes: every message once and in order, whatever happens to connections.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cluster_proto::ForwardMessage;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use transport::{LANE_BYTES_MAX, MESSAGE_BYTES_MAX, MemoryNet, PeerError, Peers, Received};

use crate::fake::{Fake, Running, message, networks, peers, wait_for};

const LANE: u32 = 3;

#[tokio::test]
async fn messages_arrive_in_order_and_are_acknowledged() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        peers.set_address(2, &server.address);
        let done = Done::default();
        for number in 0..2000 {
            done.forward(&peers, number..number + 1);
        }
        done.forward(&peers, 2000..5000);
        wait_for("all is acknowledged", || done.count() == 2001).await;
        assert_eq!(fake.forwarded(), (0..5000).collect::<Vec<u64>>());
        assert!(done.all_ok());
        let lane = &peers.stats()[0].lanes[LANE as usize];
        assert!(lane.connected && lane.messages == 0 && lane.bytes == 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_and_healed_under_load_loses_nothing_and_repeats_nothing() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let net = MemoryNet::default();
    let fake = Fake::new(2);
    let _server = Running::start(&net.at("two:1"), "two:1", &fake, &Received::new()).await;
    let peers = peers(Arc::new(net.at("one:1")));
    peers.set_address(2, "two:1");
    let done = Done::default();
    let (mut sent, mut batches) = (0, 0);
    for _ in 0..40 {
        for _ in 0..random.random_range(1..200) {
            let next = sent + random.random_range(1..40);
            done.forward(&peers, sent..next);
            (sent, batches) = (next, batches + 1);
            if random.random_bool(0.1) {
                tokio::task::yield_now().await;
            }
        }
        if random.random() {
            let so_far = fake.forwarded().len();
            wait_for("something arrives", || {
                fake.forwarded().len() > so_far || done.count() == batches
            })
            .await;
        }
        net.cut("one:1", "two:1");
        net.heal("one:1", "two:1");
    }
    wait_for("all is acknowledged", || done.count() == batches).await;
    assert!(done.all_ok());
    let forwarded = fake.forwarded();
    assert_eq!(forwarded.len() as u64, sent, "seed {seed}");
    assert!(forwarded.iter().copied().eq(0..sent), "out of order, seed {seed}");
}

#[tokio::test]
async fn a_receiver_that_starts_anew_gets_everything_without_acknowledgement() {
    let net = MemoryNet::default();
    let before = Fake::new(2);
    let server = Running::start(&net.at("two:1"), "two:1", &before, &Received::new()).await;
    let peers = peers(Arc::new(net.at("one:1")));
    peers.set_address(2, "two:1");
    let done = Done::default();
    done.forward(&peers, 0..50);
    wait_for("the first are acknowledged", || done.count() == 1).await;
    net.cut("one:1", "two:1");
    server.stop().await;
    done.forward(&peers, 50..80);
    done.forward(&peers, 80..90);
    let after = Fake::new(2);
    let _server = Running::start(&net.at("two:1"), "two:1", &after, &Received::new()).await;
    net.heal("one:1", "two:1");
    wait_for("the rest is acknowledged", || done.count() == 3).await;
    assert_eq!(before.forwarded(), (0..50).collect::<Vec<u64>>());
    assert_eq!(after.forwarded(), (50..90).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_node_that_is_forgotten_and_known_again_begins_a_new_life() {
    let (one, two, address) = networks()[0].clone();
    let fake = Fake::new(2);
    let _server = Running::start(&*two, address, &fake, &Received::new()).await;
    let peers = peers(one);
    let done = Done::default();
    for round in 1..=3 {
        peers.set_address(2, address);
        done.forward(&peers, 0..10);
        wait_for("they are acknowledged", || done.count() == round).await;
        peers.forget(2);
    }
    assert_eq!(
        fake.forwarded().len(),
        30,
        "the numbers of an older life mean nothing"
    );
    assert!(done.all_ok());
}

#[tokio::test]
async fn a_full_lane_gives_messages_back_and_forgetting_its_node_answers_gone() {
    let net = MemoryNet::default();
    let peers = peers(Arc::new(net.at("one:1")));
    peers.set_address(2, "two:1");
    let done = Done::default();
    let mut taken = 0;
    let back = loop {
        let sent = peers.forward(2, LANE, vec![message(taken, 1 << 20)], done.next());
        if let Err(back) = sent {
            break back;
        }
        taken += 1;
        let expected = taken * (1 << 20) >= LANE_BYTES_MAX as u64;
        assert_eq!(peers.is_congested(2, LANE), expected, "after {taken} MiB");
    };
    assert_eq!(back.len(), 1);
    assert_eq!(taken * (1 << 20), 2 * LANE_BYTES_MAX as u64);
    assert!(!peers.is_congested(2, LANE - 1), "the other lanes are free");
    peers.forget(2);
    assert_eq!(done.count() as u64, taken);
    assert!(
        done.outcomes()
            .iter()
            .all(|outcome| *outcome == Err(PeerError::Gone))
    );
    done.forward(&peers, 0..1);
    assert_eq!(done.outcomes().last(), Some(&Err(PeerError::Gone)));
}

#[tokio::test]
async fn dropping_the_peers_answers_everything_that_waits() {
    let net = MemoryNet::default();
    let peers = peers(Arc::new(net.at("one:1")));
    peers.set_address(2, "two:1");
    let done = Done::default();
    done.forward(&peers, 0..1);
    drop(peers);
    assert_eq!(done.outcomes(), [Err(PeerError::Gone)]);
}

#[tokio::test]
async fn a_refused_lane_waits_until_it_is_accepted() {
    let net = MemoryNet::default();
    let (other, meant) = (Fake::new(9), Fake::new(2));
    let server = Running::start(&net.at("two:1"), "two:1", &other, &Received::new()).await;
    let _server = Running::start(&net.at("three:1"), "three:1", &meant, &Received::new()).await;
    let peers = peers(Arc::new(net.at("one:1")));
    peers.set_address(2, "two:1");
    let done = Done::default();
    done.forward(&peers, 0..5);
    peers.set_address(2, "three:1");
    wait_for("it found the node that is meant", || done.count() == 1).await;
    assert!(other.forwarded().is_empty());
    assert_eq!(meant.forwarded(), [0, 1, 2, 3, 4]);
    server.stop().await;
}

#[tokio::test]
async fn too_large_a_message_is_told_and_the_lane_goes_on() {
    let (one, two, address) = networks()[0].clone();
    let fake = Fake::new(2);
    let _server = Running::start(&*two, address, &fake, &Received::new()).await;
    let peers = peers(one);
    peers.set_address(2, address);
    let done = Done::default();
    let sent = peers.forward(2, LANE, vec![message(0, MESSAGE_BYTES_MAX + 1)], done.next());
    assert!(sent.is_ok());
    assert!(matches!(done.outcomes()[..], [Err(PeerError::TooLarge(_))]));
    let sent = peers.forward(2, LANE, vec![message(1, 6 << 20)], done.next());
    assert!(sent.is_ok());
    wait_for("the other is acknowledged", || done.count() == 2).await;
    assert_eq!(fake.forwarded(), [1]);
}

/// What became of batches.
#[derive(Clone, Default)]
struct Done {
    count: Arc<AtomicUsize>,
    outcomes: Arc<Mutex<Vec<Result<(), PeerError>>>>,
}

impl Done {
    fn next(&self) -> transport::ForwardDone {
        let done = self.clone();
        Box::new(move |outcome| {
            done.outcomes.lock().push(outcome);
            done.count.fetch_add(1, Ordering::SeqCst);
        })
    }

    fn forward(&self, peers: &Peers, numbers: Range<u64>) {
        let messages: Vec<ForwardMessage> = numbers.map(|number| message(number, 100)).collect();
        let sent = peers.forward(2, LANE, messages, self.next());
        assert!(sent.is_ok(), "the lane is full");
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn outcomes(&self) -> Vec<Result<(), PeerError>> {
        self.outcomes.lock().clone()
    }

    fn all_ok(&self) -> bool {
        self.outcomes.lock().iter().all(Result::is_ok)
    }
}
