//! At most one connection of a client id is alive and acknowledged: the last one that was let in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{ConnectOptions, Message};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simulation::{Fault, Options, World, connect, connect_at_last, for_seeds, is_caught, run};
use tokio::time::{sleep, timeout};

use crate::common::{START, sound};

const ROUNDS: usize = 12;
/// Telling the former node takes at most a second; the rest is for slow links.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);
/// Long enough for a message that must not come to have come.
const MOMENT: Duration = Duration::from_secs(1);

/// A client id moves from node to node while links are slow or cut. Once it is let in somewhere, what its former connection
/// asks for is not acknowledged any more.
async fn takeovers(world: &World) -> Result<()> {
    world.settled(START).await?;
    let mut random = SmallRng::seed_from_u64(world.options.seed);
    let twin = |round: usize| match round % 2 {
        0 => ConnectOptions::v5("twin").persistent(),
        _ => ConnectOptions::v5("twin"),
    };
    let nodes = world.options.nodes;
    let mut node = random.random_range(1..=nodes);
    let (mut former, _) = connect(node, twin(0)).await?;
    for round in 1..ROUNDS {
        let next = 1 + (node + random.random_range(0..nodes - 1)) % nodes;
        let cut = random.random_bool(0.3);
        match cut {
            true => world.fault(Fault::OneWay(next, node)),
            false => world.fault(Fault::SlowLink(node, next, Duration::from_millis(200))),
        }
        let connected = connect(next, twin(round)).await;
        let Ok((latest, _)) = connected else {
            // The nodes that serve refuse while they do not agree; the former connection may be lost too.
            world.fault(Fault::Heal);
            world.settled(START).await?;
            // What waits behind proposals that got lost is refused with them: it may have to ask again.
            former = connect_at_last(next, twin(round)).await?;
            node = next;
            continue;
        };
        sleep(TAKEN_WITHIN).await;
        let accepted = if cut {
            // The former node may not hear of it before the link is back; its epoch keeps it from changing the session.
            let was_kept = (round - 1) % 2 == 0;
            let still = timeout(TAKEN_WITHIN, former.subscribe("mine", 1)).await;
            was_kept && matches!(still, Ok(Ok(reason)) if (reason as u8) < 0x80)
        } else {
            let message = Message::new("t", "mine").qos(1);
            let still = timeout(TAKEN_WITHIN, former.publish(message)).await;
            matches!(still, Ok(Ok(reason)) if (reason as u8) < 0x80)
        };
        ensure!(
            !accepted,
            "round {round}: node {node} serves a client that node {next} has let in"
        );
        world.fault(Fault::Heal);
        (former, node) = (latest, next);
    }
    Ok(())
}

#[test]
fn only_the_last_connection_of_a_client_is_acknowledged() {
    for_seeds("only_the_last_connection_of_a_client_is_acknowledged", |seed| {
        run(&sound(seed, 9000), async |world| takeovers(&world).await)
    });
}

#[test]
fn a_node_that_does_not_let_go_of_clients_is_caught() {
    is_caught("a node that is deaf to takeovers", |seed| {
        let options = Options {
            deaf: true,
            ..sound(seed, 9000)
        };
        run(&options, async |world| takeovers(&world).await)
    });
}

/// A client moves while nobody tells the node it was at. What the former connection still asks of the session is refused by
/// its epoch, even though that connection lives.
async fn stale(world: &World) -> Result<()> {
    world.settled(START).await?;
    let mut random = SmallRng::seed_from_u64(world.options.seed);
    let nodes = world.options.nodes;
    let twin = || ConnectOptions::v5("twin").persistent();
    let mut node = random.random_range(1..=nodes);
    let (mut former, _) = connect(node, twin()).await?;
    for round in 1..ROUNDS {
        let next = 1 + (node + random.random_range(0..nodes - 1)) % nodes;
        let (latest, _) = connect(next, twin().resume()).await?;
        let still = timeout(TAKEN_WITHIN, former.subscribe("stale", 1)).await;
        ensure!(
            !matches!(still, Ok(Ok(reason)) if (reason as u8) < 0x80),
            "round {round}: a connection at node {node} changes a session that node {next} has"
        );
        (former, node) = (latest, next);
    }
    Ok(())
}

#[test]
fn a_connection_that_lost_its_session_does_not_change_it() {
    for_seeds("a_connection_that_lost_its_session_does_not_change_it", |seed| {
        let options = Options {
            deaf: true,
            ..sound(seed, 9500)
        };
        run(&options, async |world| stale(&world).await)
    });
}

#[test]
fn a_session_that_does_not_look_at_epochs_is_caught() {
    is_caught("no epochs", |seed| {
        let mut options = Options {
            deaf: true,
            ..sound(seed, 9500)
        };
        options.broken.no_epochs = true;
        run(&options, async |world| stale(&world).await)
    });
}

/// A client acknowledges what it gets and goes to another node at once, one that may not have heard yet where it was, or
/// keeps nothing of its session.
async fn acknowledged(world: &World) -> Result<()> {
    world.settled(START).await?;
    let mut random = SmallRng::seed_from_u64(world.options.seed);
    let nodes = world.options.nodes;
    let roamer = || ConnectOptions::v5("roamer").persistent();
    let mut node = random.random_range(1..=nodes);
    let (mut publisher, _) = connect(node, ConnectOptions::v5("publisher")).await?;
    let (mut client, _) = connect(node, roamer()).await?;
    client.subscribe("news", 1).await?;
    for round in 1..ROUNDS {
        let (from, to) = (random.random_range(1..=nodes), random.random_range(1..=nodes));
        world.fault(Fault::Heal);
        world.fault(Fault::SlowLink(from, to, Duration::from_millis(100)));
        publisher.publish(Message::new("news", "x").qos(1)).await?;
        let moves = random.random_range(1..=3);
        for _ in 0..moves {
            client.expect_publish().await?;
            drop(client);
            node = 1 + (node + random.random_range(0..nodes - 1)) % nodes;
            (client, _) = connect(node, roamer().resume()).await?;
        }
        client.receive().await?;
        client.ping().await?;
        drop(client);
        let next = 1 + (node + random.random_range(0..nodes - 1)) % nodes;
        (client, _) = connect(next, roamer().resume()).await?;
        let again = client.expect_no_publish(MOMENT).await;
        again.with_context(|| {
            format!("round {round}: acknowledged at node {node}, sent again by node {next}")
        })?;
        node = next;
    }
    Ok(())
}

#[test]
fn what_a_client_acknowledged_before_it_moved_is_not_sent_again() {
    for_seeds(
        "what_a_client_acknowledged_before_it_moved_is_not_sent_again",
        |seed| run(&sound(seed, 9700), async |world| acknowledged(&world).await),
    );
}

#[test]
fn nodes_that_do_not_ask_each_other_for_last_acknowledgements_are_caught() {
    is_caught("sessions that are taken without asking", |seed| {
        let mut options = sound(seed, 9700);
        options.broken.no_kicks = true;
        run(&options, async |world| acknowledged(&world).await)
    });
}
