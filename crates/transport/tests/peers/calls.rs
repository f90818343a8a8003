//! Calls: their order, their deadlines, and what becomes of them when connections do not last.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{AdoptRequest, Barrier, HelloRequest, Introduction, Propose, call_request, failed};
use transport::{CALLS_MAX, Channel, MESSAGE_BYTES_MAX, MemoryNet, PeerError, Received};

use crate::fake::{AMPLE, Fake, Running, answer, introduction, networks, peers, question, wait_for};

#[tokio::test]
async fn calls_arrive_in_order_and_are_answered_in_any() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        peers.set_address(2, &server.address);
        fake.hold(true);
        // They are sent though nobody waits for them yet.
        let calls: Vec<_> = (0..100)
            .map(|number| peers.call(2, Channel::Data, question(number), AMPLE))
            .collect();
        wait_for("all calls are there", || fake.held() == 100).await;
        assert_eq!(fake.calls(), (0..100).collect::<Vec<u64>>());
        for (number, reply) in fake.take_held().into_iter().rev() {
            reply.send(answer(number));
        }
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await, Ok(answer(number as u64)));
        }
        let stats = &peers.stats()[0];
        assert!(stats.data.connected && stats.data.rtt.is_some() && stats.data.calls == 0);
        assert!(!stats.raft.connected, "each channel has a connection of its own");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_lost_connection_fails_what_waited_and_the_next_call_connects_again() {
    let net = MemoryNet::default();
    let fake = Fake::new(2);
    let _server = Running::start(&net.at("two:1"), "two:1", &fake, &Received::new()).await;
    let peers = peers(Arc::new(net.at("one:1")));
    peers.set_address(2, "two:1");
    fake.hold(true);
    let call = peers.call(2, Channel::Raft, question(1), AMPLE);
    wait_for("the call is there", || fake.held() == 1).await;
    net.cut("one:1", "two:1");
    let lost = call.await.unwrap_err();
    assert!(matches!(lost, PeerError::Lost(_)), "{lost}");
    net.heal("one:1", "two:1");
    fake.hold(false);
    let again = peers.call(2, Channel::Raft, question(2), AMPLE).await;
    assert_eq!(again, Ok(answer(2)));
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_and_its_successor_is_found() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        let address = server.address.clone();
        peers.set_address(2, &address);
        fake.hold(true);
        let call = peers.call(2, Channel::Data, question(1), AMPLE);
        wait_for("the call is there", || fake.held() == 1).await;
        server.stop().await;
        assert!(matches!(call.await, Err(PeerError::Lost(_))));
        fake.hold(false);
        let _server = Running::start(&*two, &address, &fake, &Received::new()).await;
        let again = peers.call(2, Channel::Data, question(2), AMPLE).await;
        assert_eq!(again, Ok(answer(2)));
    }
}

#[tokio::test]
async fn a_silent_peer_costs_no_more_than_the_deadline() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        peers.set_address(2, &server.address);
        fake.hold(true);
        let call = peers.call(2, Channel::Raft, question(1), Duration::from_millis(50));
        assert_eq!(call.await, Err(PeerError::Late));
        assert_eq!(peers.stats()[0].raft.calls, 0, "its place is free again");
    }
}

#[tokio::test]
async fn nobody_there_is_known_at_once_and_the_connection_comes_when_somebody_is() {
    let net = MemoryNet::default();
    let peers = peers(Arc::new(net.at("one:1")));
    peers.set_address(2, "two:1");
    let failed = peers
        .call(2, Channel::Raft, question(1), AMPLE)
        .await
        .unwrap_err();
    assert!(matches!(failed, PeerError::Unreachable(_)), "{failed}");
    assert!(failed.is_harmless());
    let fake = Fake::new(2);
    let _server = Running::start(&net.at("two:1"), "two:1", &fake, &Received::new()).await;
    let answered = tokio::time::timeout(AMPLE, async {
        loop {
            if let Ok(answered) = peers.call(2, Channel::Raft, question(2), AMPLE).await {
                return answered;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(answered.await.unwrap(), answer(2));
}

#[tokio::test]
async fn another_node_than_was_meant_refuses_and_is_asked_nothing() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        peers.set_address(3, &server.address);
        let refused = peers.call(3, Channel::Data, question(1), AMPLE).await;
        let Err(PeerError::Failed(refused)) = refused else {
            panic!("it was not refused: {refused:?}")
        };
        assert_eq!(refused.reason(), failed::Reason::Refused);
        assert!(fake.calls().is_empty());
    }
}

#[tokio::test]
async fn a_forgotten_node_answers_gone() {
    let (one, two, address) = networks()[0].clone();
    let fake = Fake::new(2);
    let _server = Running::start(&*two, address, &fake, &Received::new()).await;
    let peers = peers(one);
    peers.set_address(2, address);
    fake.hold(true);
    let call = peers.call(2, Channel::Data, question(1), AMPLE);
    wait_for("the call is there", || fake.held() == 1).await;
    peers.forget(2);
    assert_eq!(call.await, Err(PeerError::Gone));
    let later = peers.call(2, Channel::Data, question(2), AMPLE).await;
    assert_eq!(later, Err(PeerError::Gone));
}

#[tokio::test]
async fn large_messages_pass_and_too_large_ones_are_refused_without_harm_to_others() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        peers.set_address(2, &server.address);
        fake.hold(true);
        let other = peers.call(2, Channel::Data, question(1), AMPLE);
        let (large, too_large) = (6 << 20, MESSAGE_BYTES_MAX + 1);
        let call = |request, answer| peers.call(2, Channel::Data, propose(request, answer), AMPLE);

        assert!(call(large, large).await.is_ok());
        let refused = call(too_large, 0).await;
        assert!(matches!(refused, Err(PeerError::TooLarge(_))), "{refused:?}");
        let refused = call(0, too_large).await;
        assert!(matches!(refused, Err(PeerError::Failed(_))), "{refused:?}");

        for (number, reply) in fake.take_held() {
            reply.send(answer(number));
        }
        assert_eq!(other.await, Ok(answer(1)), "the stream is the one it was");
    }
}

#[tokio::test]
async fn a_dropped_reply_says_that_the_node_is_stopping() {
    let (one, two, address) = networks()[0].clone();
    let fake = Fake::new(2);
    let _server = Running::start(&*two, address, &fake, &Received::new()).await;
    let peers = peers(one);
    peers.set_address(2, address);
    let dropped = call_request::Body::Barrier(Barrier::default());
    let stopping = peers.call(2, Channel::Data, dropped, AMPLE).await;
    let Err(PeerError::Failed(stopping)) = stopping else {
        panic!("there was an answer: {stopping:?}")
    };
    assert_eq!(stopping.reason(), failed::Reason::Stopping);
}

#[tokio::test]
async fn more_calls_than_may_be_under_way_are_told_busy() {
    let (one, two, address) = networks()[0].clone();
    let fake = Fake::new(2);
    let _server = Running::start(&*two, address, &fake, &Received::new()).await;
    let peers = peers(one);
    peers.set_address(2, address);
    fake.hold(true);
    let calls: Vec<_> = (0..CALLS_MAX as u64)
        .map(|number| peers.call(2, Channel::Data, question(number), AMPLE))
        .collect();
    let busy = peers.call(2, Channel::Data, question(0), AMPLE).await;
    assert_eq!(busy, Err(PeerError::Busy));
    wait_for("all others are there", || fake.held() == CALLS_MAX).await;
    drop(calls);
    fake.hold(false);
    let other = peers.call(2, Channel::Raft, question(7), AMPLE).await;
    assert_eq!(other, Ok(answer(7)), "the other channel never noticed");
    drop(fake.take_held());
    let free = peers.call(2, Channel::Data, question(8), AMPLE).await;
    assert_eq!(free, Ok(answer(8)));
}

#[tokio::test]
async fn hello_and_adopt_need_an_address_only() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        let hello = HelloRequest {
            introduction: Some(Introduction {
                seeds: "a,b".to_owned(),
                ..introduction(1)
            }),
        };
        let hello = peers.hello(&server.address, hello, AMPLE).await.unwrap();
        let who = hello.introduction.unwrap();
        assert_eq!((who.node, who.seeds.as_str()), (2, "a,b"));
        let adopt = AdoptRequest {
            cluster_id: "c".to_owned(),
            ..AdoptRequest::default()
        };
        assert!(peers.adopt(&server.address, adopt, AMPLE).await.unwrap().accepted);
        server.stop().await;
        let nobody = peers.hello("nowhere:1", HelloRequest::default(), AMPLE).await;
        assert!(nobody.is_err());
    }
}

fn propose(request: usize, answer: usize) -> call_request::Body {
    call_request::Body::Propose(Propose {
        group: answer as u64,
        entry: Bytes::from(vec![1; request]),
    })
}
