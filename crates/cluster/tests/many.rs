//! Three nodes are one cluster: formed once, led by all, cut and healed, grown and shrunk.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster::proto::{
    Append, Barrier, ForwardMessage, HelloRequest, Introduction, Retain, ShardCommand, call_request,
    failed::Reason, shard_command::Command, shard_response::Response,
};
use cluster::{Fetch, LeaveTerms, ProposeError, Unannounced};
use common::{
    Fleet, WITHIN, address, connect, destinations, publication, ready, request, subscribe, wait_for,
};
use transport::{Channel, PeerError, Peers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_one_cluster_in_whatever_order_they_start() {
    let fleet = Fleet::new(3);
    let last = fleet.start(3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!last.cluster.is_ready(), "it waits for the others");
    let second = fleet.start(2).await;
    let first = fleet.start(1).await;
    for node in [&first, &second, &last] {
        ready(&node.cluster).await;
    }

    assert!(!first.cluster.cluster_id().is_empty());
    assert_eq!(first.cluster.cluster_id(), second.cluster.cluster_id());
    assert_eq!(first.cluster.cluster_id(), last.cluster.cluster_id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_from_node_to_node_with_all_it_has() {
    let nodes = Fleet::new(3).form().await;
    for (number, client) in (0..12).map(|number| (number, format!("client-{number}"))) {
        let (here, there) = (&nodes[number % 3].cluster, &nodes[(number + 1) % 3].cluster);
        let (shard, topic) = (here.shard_of_client(&client), format!("to/{client}"));
        let first = connect(here, &client).await;
        let subscribed = subscribe(here, &client, first.epoch, &topic).await;
        assert_eq!(subscribed.unannounced, [topic.as_str()]);
        let unannounced = Unannounced {
            shard,
            filters: subscribed.unannounced,
            version: subscribed.index,
        };
        here.announced(Some(unannounced)).await.unwrap();
        for node in &nodes {
            assert_eq!(
                destinations(&node.cluster, &topic).1,
                [shard],
                "routed everywhere"
            );
        }
        let append = Append {
            publication: Some(publication(&topic, "hello")),
            ..Append::default()
        };
        let appended = request(&nodes[(number + 2) % 3].cluster, &client, Command::Append(append)).await;
        assert!(matches!(appended, Response::Appended(appended) if appended.sessions == 1));

        let second = connect(there, &client).await;

        assert!(second.session_present && second.epoch > first.epoch);
        assert_eq!(second.previous.unwrap().node, here.node_id());
        assert_eq!(second.subscriptions.len(), 1);
        let mut fetched = Vec::new();
        let mut fetch = || match there.fetch(&client, second.epoch, 0, 10, 1 << 20) {
            Fetch::Ready { messages, .. } => {
                fetched = messages;
                !fetched.is_empty()
            }
            _ => false,
        };
        wait_for("the queue is here", &mut fetch).await;
        assert_eq!(&fetched[0].publication.payload[..], b"hello");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_wants_the_others_forward() {
    let nodes = Fleet::new(3).form().await;
    let [one, two, three] = [&nodes[0], &nodes[1], &nodes[2]];
    one.cluster.want("a/+", false);
    one.cluster.want("b", true);
    one.cluster.announced(None).await.unwrap();

    for (topic, qos_0_only) in [("a/x", false), ("b", true)] {
        let (routes, shards) = destinations(&two.cluster, topic);
        assert_eq!((routes.len(), shards.len()), (1, 0), "{topic}");
        assert_eq!(
            (routes[0].node, routes[0].qos_0_only),
            (one.cluster.node_id(), qos_0_only)
        );
    }
    let (done, received) = tokio::sync::oneshot::channel();
    let message = |number: i32| ForwardMessage {
        publication: Some(publication("a/x", &number.to_string())),
        ..ForwardMessage::default()
    };
    let done = Box::new(move |result| done.send(result).unwrap());
    let messages = (0..100).map(message).collect();
    let sent = three
        .cluster
        .forward(one.cluster.node_id(), "publisher", messages, done);
    sent.unwrap();
    received.await.unwrap().unwrap();
    let text = |message: &ForwardMessage| {
        let payload = message.publication.as_ref().unwrap().payload.to_vec();
        String::from_utf8(payload).unwrap()
    };
    let arrived: Vec<String> = one.notes.forwarded.lock().iter().map(text).collect();
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(arrived, expected);

    one.cluster.unwant("a/+", false);
    wait_for("the route is taken back", || {
        destinations(&two.cluster, "a/x").0.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_message_is_the_same_from_every_node() {
    let nodes = Fleet::new(3).form().await;
    for round in 0..20 {
        let topic = format!("state/{round}");
        let writer = &nodes[round % 3].cluster;
        let retain = Retain {
            publication: Some(publication(&topic, &round.to_string())),
            ..Retain::default()
        };
        let command = ShardCommand {
            command: Some(Command::Retain(retain)),
        };
        writer
            .request(writer.shard_of_topic(&topic), command)
            .await
            .unwrap();

        for node in &nodes {
            let found = node.cluster.retained(&topic, 10).await.unwrap();
            assert_eq!(&found[0].payload[..], round.to_string().as_bytes());
            let all = node.cluster.retained("state/#", 1000).await.unwrap();
            assert_eq!(all.len(), round + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_minority_stops_by_itself_and_comes_back_by_itself() {
    let fleet = Fleet::new(3);
    let nodes = fleet.form().await;
    let incarnation = nodes[0].cluster.incarnation();
    let session = connect(&nodes[0].cluster, "cut-off").await;

    fleet.isolate(1, &[2, 3]);
    let cut_off = || !nodes[0].cluster.is_ready() && nodes[0].notes.fenced.load(Ordering::Relaxed) > 0;
    wait_for("the cut-off node fences itself", cut_off).await;
    assert!(!nodes[0].cluster.may_acknowledge());

    // The others go on, and take the session over.
    let taken = connect(&nodes[1].cluster, "cut-off").await;
    assert!(taken.session_present && taken.epoch > session.epoch);
    for number in 0..16 {
        connect(&nodes[2].cluster, &format!("client-{number}")).await;
    }
    // Until the others give it up.
    let declared_down = || destinations_know_it_is_down(&nodes[1].cluster, &nodes[0].cluster);
    wait_for("it is declared down", declared_down).await;

    fleet.heal(1, &[2, 3]);
    ready(&nodes[0].cluster).await;
    assert!(nodes[0].cluster.incarnation() > incarnation, "a new life");
    let back = connect(&nodes[0].cluster, "cut-off").await;
    assert!(back.epoch > taken.epoch);
}

fn destinations_know_it_is_down(one: &cluster::Cluster, other: &cluster::Cluster) -> bool {
    one.status()
        .members
        .iter()
        .any(|member| member.node == other.node_id() && member.down)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_at_a_node_that_is_cut_off_does_not_come_after_what_was_done_since() {
    let fleet = Fleet::new(3);
    let nodes = fleet.form().await;
    let [alone, other] = [&nodes[0], &nodes[1]];
    let command = |command| ShardCommand {
        command: Some(command),
    };
    let retain = |value: &str| {
        let retain = Retain {
            publication: Some(publication("state", value)),
            ..Retain::default()
        };
        command(Command::Retain(retain))
    };
    let shard = other.cluster.shard_of_topic("state");
    fleet.isolate(1, &[2, 3]);
    let lost = alone.cluster.request(shard, retain("old"));
    let (lost, newer) = tokio::join!(lost, async {
        wait_for("it is cut off", || alone.notes.fenced.load(Ordering::Relaxed) > 0).await;
        let newer = other.cluster.request(shard, retain("new")).await;
        fleet.heal(1, &[2, 3]);
        newer
    });
    assert!(lost.is_err() && newer.is_ok());
    ready(&alone.cluster).await;
    // An entry of this node's: what it had before that is applied by then, if ever.
    let tick = command(Command::Tick(cluster::proto::Tick {}));
    alone.cluster.request(shard, tick).await.unwrap();
    let found = other.cluster.retained("state", 10).await.unwrap();
    assert_eq!(&found[0].payload[..], b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_answered_and_afterwards_all_goes_on() {
    let fleet = Fleet::new(3);
    let nodes = fleet.form().await;
    fleet.isolate(1, &[2, 3]);
    fleet.isolate(2, &[1, 3]);
    wait_for("nobody is ready", || {
        nodes.iter().all(|node| !node.cluster.is_ready())
    })
    .await;

    let append = ShardCommand {
        command: Some(Command::Append(Append {
            publication: Some(publication("t", "lost?")),
            ..Append::default()
        })),
    };
    let refused = nodes[0].cluster.request(0, append).await;
    assert_eq!(refused.unwrap_err(), ProposeError::NoQuorum);

    fleet.heal(1, &[2, 3]);
    fleet.heal(2, &[1, 3]);
    for node in &nodes {
        ready(&node.cluster).await;
    }
    connect(&nodes[0].cluster, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_spread_and_a_stopped_node_comes_back_as_itself() {
    let fleet = Fleet::new(3);
    let mut nodes = fleet.form().await;
    let spread = || nodes.iter().all(|node| node.cluster.leads_count() >= 1);
    wait_for("every node leads a shard", spread).await;

    let stopped = nodes.remove(0);
    let id = stopped.cluster.node_id();
    let epoch = connect(&stopped.cluster, "wanderer").await.epoch;
    stopped.cluster.shutdown().await;
    drop(stopped.cluster);
    let moved = connect(&nodes[0].cluster, "wanderer").await;
    assert!(moved.session_present && moved.epoch > epoch);

    let back = fleet.start_in(1, stopped.dir).await;
    ready(&back.cluster).await;
    assert_eq!(back.cluster.node_id(), id);
    let home = connect(&back.cluster, "wanderer").await;
    assert!(home.session_present && home.epoch > moved.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_takes_the_place_of_its_former_self() {
    let fleet = Fleet::new(3);
    let mut nodes = fleet.form().await;
    let lost = nodes.remove(2);
    let former = lost.cluster.node_id();
    lost.cluster.shutdown().await;
    drop(lost);
    let session = connect(&nodes[0].cluster, "keeper").await;

    let fresh = fleet.start(3).await;
    ready(&fresh.cluster).await;

    assert_ne!(fresh.cluster.node_id(), former);
    assert_eq!(fresh.cluster.cluster_id(), nodes[0].cluster.cluster_id());
    let taken = connect(&fresh.cluster, "keeper").await;
    assert!(taken.session_present && taken.epoch > session.epoch);
    // It is a full replica by now: the cluster survives the loss of another node.
    let replaced = || {
        let status = fresh.cluster.status();
        status.is_settled() && status.meta_voters.contains(&status.node)
    };
    wait_for("its former self is replaced everywhere", replaced).await;
    nodes.remove(0).cluster.shutdown().await;
    let after = connect(&fresh.cluster, "keeper").await;
    assert!(after.session_present && after.epoch > taken.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_grows_into_three_and_keeps_what_it_has() {
    let fleet = Fleet::new(0);
    let first = fleet.start(1).await;
    assert!(first.cluster.is_ready() && first.cluster.is_alone());
    let session = connect(&first.cluster, "early-bird").await;
    subscribe(&first.cluster, "early-bird", session.epoch, "news").await;
    first.cluster.want("live/#", false);

    let joining = Fleet {
        seeds: vec![address(1)],
        net: fleet.net.clone(),
    };
    let second = joining.start(2).await;
    let third = joining.start(3).await;
    for node in [&second, &third] {
        ready(&node.cluster).await;
    }

    assert!(!first.cluster.is_alone() && first.cluster.is_ready());
    let (routes, _) = destinations(&third.cluster, "live/1");
    assert_eq!(routes.len(), 1, "what the first node's clients want is known");
    let routed = || !destinations(&second.cluster, "news").1.is_empty();
    wait_for("the durable subscription is routed", routed).await;
    let moved = connect(&third.cluster, "early-bird").await;
    assert!(moved.session_present && moved.epoch > session.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_takes_over_shards_and_leaves_again_without_loss() {
    let fleet = Fleet::new(3);
    let nodes = fleet.form().await;
    let mut epochs = Vec::new();
    for number in 0..20 {
        let client = format!("client-{number}");
        let session = connect(&nodes[number % 3].cluster, &client).await;
        subscribe(&nodes[number % 3].cluster, &client, session.epoch, &client).await;
        epochs.push(session.epoch);
    }

    let fourth = fleet.start(4).await;
    ready(&fourth.cluster).await;
    let taken_over = || {
        let status = fourth.cluster.status();
        let has_some = status
            .shards
            .iter()
            .any(|shard| shard.placed.contains(&status.node));
        has_some && nodes.iter().all(|node| node.cluster.status().is_settled())
    };
    wait_for("it has its part of the shards", taken_over).await;
    // Each client lives on a node that may have no replica of its shard.
    for (number, epoch) in epochs.iter().enumerate() {
        let client = format!("client-{number}");
        let session = connect(&fourth.cluster, &client).await;
        assert!(session.session_present && session.epoch > *epoch);
        let append = Append {
            publication: Some(publication(&client, "far away")),
            ..Append::default()
        };
        request(&nodes[0].cluster, &client, Command::Append(append)).await;
        let waker = std::sync::Arc::new(common::Waker::default());
        fourth.cluster.attach(&client, session.epoch, waker.clone());
        let mut found = Vec::new();
        let mut fetch = || match fourth.cluster.fetch(&client, session.epoch, 0, 10, 1 << 20) {
            Fetch::Ready { messages, .. } => {
                found = messages;
                !found.is_empty()
            }
            _ => false,
        };
        wait_for("the queue is read where it is", &mut fetch).await;
        assert_eq!(&found[0].publication.payload[..], b"far away");
    }

    let id = fourth.cluster.node_id();
    fourth.cluster.leave(id, LeaveTerms::default()).await.unwrap();
    let gone = || {
        let status = nodes[0].cluster.status();
        status.members.iter().all(|member| member.node != id) && status.is_settled()
    };
    wait_for("it has left", gone).await;
    wait_for("it knows so itself", || {
        let members = fourth.cluster.status().members;
        members.iter().all(|member| member.node != id)
    })
    .await;
    for number in 0..20 {
        let session = connect(&nodes[2].cluster, &format!("client-{number}")).await;
        assert!(session.session_present);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_forgotten_but_not_one_that_lives() {
    let fleet = Fleet::new(3);
    let mut nodes = fleet.form().await;
    let dead = nodes.remove(2);
    let id = dead.cluster.node_id();
    let refused = nodes[0].cluster.forget(id).await.unwrap_err();
    assert!(refused.contains("not down"), "{refused}");

    dead.cluster.shutdown().await;
    let down = || destinations_know_it_is_down(&nodes[0].cluster, &dead.cluster);
    wait_for("it is declared down", down).await;
    nodes[0].cluster.forget(id).await.unwrap();

    let settled = || nodes.iter().all(|node| node.cluster.status().is_settled());
    wait_for("the shards have two replicas", settled).await;
    connect(&nodes[1].cluster, "goes-on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_version_or_another_cluster_is_told_so() {
    let fleet = Fleet::new(3);
    let nodes = fleet.form().await;
    let host = nodes[0].cluster.node_id();
    let net = Arc::new(fleet.net.at("stranger:7883"));
    let nobody = Peers::new(net.clone(), Arc::new(Introduction::default));
    let hello = nobody.hello(&address(1), HelloRequest::default(), WITHIN).await;
    let known = Introduction {
        node: 77,
        address: "stranger:7883".to_owned(),
        ..hello.unwrap().introduction.unwrap()
    };
    let newer = Introduction {
        protocol_min: known.protocol_max + 1,
        protocol_max: known.protocol_max + 2,
        ..known.clone()
    };
    let foreign = Introduction {
        cluster_id: "another".to_owned(),
        ..known.clone()
    };
    let ask = async |introduction: Introduction| {
        let peers = Peers::new(net.clone(), Arc::new(move || introduction.clone()));
        peers.set_address(host, &address(1));
        let question = call_request::Body::Barrier(Barrier::default());
        peers.call(host, Channel::Data, question, WITHIN).await
    };

    for (introduction, words) in [(newer, "version"), (foreign, "cluster")] {
        match ask(introduction).await {
            Err(PeerError::Failed(failed)) => {
                assert_eq!(failed.reason(), Reason::Refused);
                assert!(failed.detail.contains(words), "{}", failed.detail);
            }
            other => panic!("it was not refused: {other:?}"),
        }
    }

    let answered = ask(known).await;
    assert!(answered.is_ok(), "one that speaks as the others do: {answered:?}");
}
