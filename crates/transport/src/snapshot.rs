//! A group's state in parts: how it is sent, and how it is put together again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cluster_proto::{SnapshotAnswer, SnapshotHeader, SnapshotPart, failed};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::calls::client;
use crate::connection::connect;
use crate::error::{PeerError, error_of, failed, status_of};
use crate::limits::{OPENING_WITHIN, SNAPSHOT_BYTES_MAX, SNAPSHOT_PART_BYTES, SNAPSHOT_PART_WITHIN};
use crate::net::Proof;
use crate::peers::Peer;
use crate::server::PeerService;

/// Sends a snapshot over a connection of its own.
pub(crate) async fn send(
    peer: &Peer,
    header: SnapshotHeader,
    data: Bytes,
) -> Result<SnapshotAnswer, PeerError> {
    if data.len() > SNAPSHOT_BYTES_MAX {
        return Err(PeerError::TooLarge(data.len()));
    }
    let mut client = client(connect(&*peer.net, &peer.address()).await?);
    let header = SnapshotHeader {
        opening: Some(peer.opening()),
        ..header
    };
    let sent = client
        .install_snapshot(futures_util::stream::iter(parts(header, data)))
        .await;
    sent.map(tonic::Response::into_inner)
        .map_err(|status| error_of(&status))
}

/// The header goes ahead, so that a refusal costs nothing.
fn parts(header: SnapshotHeader, mut data: Bytes) -> impl Iterator<Item = SnapshotPart> {
    let first = SnapshotPart {
        header: Some(header),
        data: Bytes::new(),
    };
    let rest = std::iter::from_fn(move || {
        let length = data.len().min(SNAPSHOT_PART_BYTES);
        (length > 0).then(|| SnapshotPart {
            header: None,
            data: data.split_to(length),
        })
    });
    std::iter::once(first).chain(rest)
}

/// Receives one, and lets the service install it.
pub(crate) async fn receive(
    mut parts: Streaming<SnapshotPart>,
    proof: &Proof,
    service: &Arc<dyn PeerService>,
    places: &Semaphore,
) -> Result<SnapshotAnswer, Status> {
    let late = |_| Status::deadline_exceeded("a part of the snapshot did not come in time");
    let first = timeout(OPENING_WITHIN, parts.message()).await.map_err(late)??;
    let header = first.and_then(|first| first.header);
    let header = header.ok_or_else(|| Status::invalid_argument("the first part has no header"))?;
    let opening = header.opening.as_ref();
    let opening = opening.ok_or_else(|| Status::invalid_argument("the header has no opening"))?;
    let admitted = service.admit(opening, proof);
    admitted.map_err(|failed| status_of(&failed))?;
    let _place = timeout(SNAPSHOT_PART_WITHIN, places.acquire())
        .await
        .map_err(|_| status_of(&failed(failed::Reason::Busy, "other snapshots are under way")))?;
    let mut data = BytesMut::new();
    while let Some(part) = timeout(SNAPSHOT_PART_WITHIN, parts.message())
        .await
        .map_err(late)??
    {
        if data.len() + part.data.len() > SNAPSHOT_BYTES_MAX {
            return Err(Status::out_of_range("the snapshot is too long"));
        }
        data.extend_from_slice(&part.data);
    }
    let installed = service.snapshot(header, data.freeze()).await;
    installed.map_err(|failed| status_of(&failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_goes_ahead_and_the_parts_are_the_data() {
        let data = Bytes::from(vec![1; 2 * SNAPSHOT_PART_BYTES + 5]);
        let parts: Vec<SnapshotPart> = parts(SnapshotHeader::default(), data).collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.data.len()).collect();
        assert_eq!(lengths, [0, SNAPSHOT_PART_BYTES, SNAPSHOT_PART_BYTES, 5]);
        assert!(parts[0].header.is_some() && parts[1].header.is_none());
    }
}
