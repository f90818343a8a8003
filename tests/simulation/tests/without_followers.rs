//! A leader that loses all its followers at once says neither yes nor no. Who waits for it is told in time, others are served
//! meanwhile, and all goes on when the followers are back.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::ReasonCode;
use simulation::{Fault, Options, World, connect, connect_at_last, for_seeds, is_caught, open, run};
use tokio::time::{Instant, sleep};

use crate::common::{START, sound};

/// A proposal is given up after ten seconds; some more for what comes around it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

fn five(seed: u64) -> Options {
    Options {
        nodes: 5,
        shards: 8,
        ..sound(seed, 13_000)
    }
}

/// A shard with its leader and its followers, none of which leads the meta group: the cluster itself goes on without them.
struct Scene {
    shard: u16,
    leader: usize,
    followers: Vec<usize>,
}

fn scene(world: &World) -> Result<Scene> {
    let cluster = world.cluster(1).context("node 1 runs")?;
    let status = cluster.status();
    let number = |id: u64| world.nodes().find(|node| world.id(*node) == Some(id));
    for shard in status.shards {
        let followers: Vec<u64> = shard
            .placed
            .iter()
            .copied()
            .filter(|node| Some(*node) != shard.leader)
            .collect();
        let meta_goes_on = followers.iter().all(|node| Some(*node) != status.meta_leader);
        let followers: Vec<usize> = followers.into_iter().filter_map(number).collect();
        if let Some(leader) = shard.leader.and_then(number)
            && meta_goes_on
            && followers.len() == 2
        {
            return Ok(Scene {
                shard: shard.shard,
                leader,
                followers,
            });
        }
    }
    bail!("there is no such shard");
}

/// A client whose session is in this shard.
fn client_of(world: &World, shard: u16, from: usize) -> Result<String> {
    let cluster = world.cluster(1).context("node 1 runs")?;
    let mut names = (from..).map(|number| format!("client-{number}"));
    let found = names.find(|name| cluster.shard_of_client(name) == shard);
    found.context("there are enough names")
}

/// The reason code of CONNACK, however long it takes, up to the limit.
async fn answer_to_connect(node: usize, options: ConnectOptions) -> Result<ReasonCode> {
    let begun = Instant::now();
    let mut client: Client = open(node).await?;
    client.send_connect(options).await?;
    loop {
        match client.expect_connack().await {
            Ok(connack) => return Ok(connack.reason_code),
            Err(error) if !format!("{error:#}").contains("no packet came") => return Err(error),
            Err(_) => {}
        }
        ensure!(
            begun.elapsed() < ANSWERED_WITHIN,
            "CONNECT was not answered within {:?}",
            begun.elapsed()
        );
    }
}

async fn abandoned(world: &World) -> Result<()> {
    world.settled(START).await?;
    let scene = scene(world)?;
    world.note(format_args!(
        "node {} leads shard {} with {:?}",
        scene.leader, scene.shard, scene.followers
    ));
    let kept = client_of(world, scene.shard, 0)?;
    let kept = || ConnectOptions::v5(&kept).persistent();
    let (mut subscriber, _) = connect(scene.leader, kept()).await?;
    subscriber.subscribe("news", 1).await?;
    subscriber.disconnect().await?;
    let (mut publisher, _) = connect(scene.leader, ConnectOptions::v5("publisher")).await?;
    publisher.publish(Message::new("news", "before").qos(1)).await?;
    scene
        .followers
        .iter()
        .for_each(|node| world.fault(Fault::Crash(*node)));
    sleep(Duration::from_millis(100)).await;
    // Several wait at the same time, and new ones come when those before them have been answered.
    for round in 0..2 {
        let mut asking = Vec::new();
        for number in 0..3 {
            let name = client_of(world, scene.shard, 100 * (1 + round * 3 + number))?;
            let options = ConnectOptions::v5(&name).persistent();
            asking.push(tokio::spawn(answer_to_connect(scene.leader, options)));
        }
        for asked in asking {
            let reason = asked.await?.with_context(|| format!("round {round}"))?;
            ensure!((reason as u8) >= 0x80, "accepted without a majority: {reason:?}");
        }
        world.note(format_args!("round {round} is answered"));
    }
    ensure!(world.is_ready(scene.leader), "its node does not serve any more");
    // Sessions that are kept elsewhere are served by it all the while.
    let status = world
        .cluster(scene.leader)
        .map(|cluster| cluster.status())
        .unwrap_or_default();
    let lost: Vec<u64> = scene
        .followers
        .iter()
        .filter_map(|node| world.id(*node))
        .collect();
    let whole = status.shards.iter().find(|shard| {
        let left = shard.placed.iter().filter(|node| !lost.contains(node)).count();
        left * 2 > shard.placed.len()
    });
    if let Some(whole) = whole {
        let name = client_of(world, whole.shard, 0)?;
        connect_at_last(scene.leader, ConnectOptions::v5(&name).persistent()).await?;
    }
    scene
        .followers
        .iter()
        .for_each(|node| world.fault(Fault::Restart(*node)));
    world.settled(START).await?;
    let mut publisher = connect_at_last(scene.leader, ConnectOptions::v5("publisher")).await?;
    publisher.publish(Message::new("news", "after").qos(1)).await?;
    let mut subscriber = connect_at_last(scene.leader, kept()).await?;
    ensure!(subscriber.connack().session_present, "the session is gone");
    for expected in ["before", "after"] {
        let received = subscriber.receive().await?;
        ensure!(
            received.publication.payload() == expected.as_bytes(),
            "{:?} instead of {expected}",
            received.publication.payload()
        );
    }
    Ok(())
}

#[test]
fn a_leader_without_followers_keeps_nobody_waiting_and_goes_on_with_them() {
    for_seeds(
        "a_leader_without_followers_keeps_nobody_waiting_and_goes_on_with_them",
        |seed| run(&five(seed), async |world| abandoned(&world).await),
    );
}

#[test]
fn a_node_that_waits_for_such_a_leader_for_ever_is_caught() {
    is_caught("waits for ever", |seed| {
        let mut options = five(seed);
        options.broken.waits_for_ever = true;
        run(&options, async |world| abandoned(&world).await)
    });
}
