//! Snapshots: as a whole at the other end, or refused.

use bytes::Bytes;
use cluster_proto::{SnapshotHeader, failed};
use transport::{PeerError, Received};

use crate::fake::{AMPLE, Fake, Running, networks, peers};

#[tokio::test]
async fn a_snapshot_arrives_as_it_was() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        peers.set_address(2, &server.address);
        let data: Bytes = (0..(5 << 20) + 3).map(|at: u32| at.to_le_bytes()[1]).collect();
        let (large, empty) = tokio::join!(
            peers.snapshot(2, SnapshotHeader::default(), data.clone(), AMPLE),
            peers.snapshot(2, SnapshotHeader::default(), Bytes::new(), AMPLE),
        );
        assert!(large.is_ok() && empty.is_ok());
        assert!(fake.snapshots() == [data, Bytes::new()], "one after the other");
    }
}

#[tokio::test]
async fn another_node_than_was_meant_refuses_it() {
    for (one, two, address) in networks() {
        let fake = Fake::new(2);
        let server = Running::start(&*two, address, &fake, &Received::new()).await;
        let peers = peers(one);
        peers.set_address(3, &server.address);
        let data = Bytes::from(vec![0; 20 << 20]);
        let refused = peers.snapshot(3, SnapshotHeader::default(), data, AMPLE).await;
        let Err(PeerError::Failed(refused)) = refused else {
            panic!("it was not refused: {refused:?}")
        };
        assert_eq!(refused.reason(), failed::Reason::Refused);
        assert!(fake.snapshots().is_empty());
    }
}
