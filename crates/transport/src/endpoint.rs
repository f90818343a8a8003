//! The gRPC service: lets the first message of each stream be judged, and connects the rest with a [`PeerService`].

use std::sync::Arc;

use cluster_proto::{
    AdoptRequest, AdoptResponse, CallRequest, ForwardRequest, HelloRequest, HelloResponse, Opening,
    SnapshotAnswer, SnapshotPart, call_request, forward_request,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::answers::Answering;
use crate::generated::peer_server::Peer;
use crate::limits::{OPENING_WITHIN, SNAPSHOTS_MAX};
use crate::net::Proof;
use crate::received::{Acknowledging, Received};
use crate::server::PeerService;
use crate::snapshot;

pub(crate) struct Endpoint {
    service: Arc<dyn PeerService>,
    received: Arc<Received>,
    stop: CancellationToken,
    snapshots: Semaphore,
}

impl Endpoint {
    pub(crate) fn new(
        service: Arc<dyn PeerService>,
        received: Arc<Received>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            service,
            received,
            stop,
            snapshots: Semaphore::new(SNAPSHOTS_MAX),
        }
    }
}

#[tonic::async_trait]
impl Peer for Endpoint {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let proof = proof_of(&request);
        Ok(Response::new(
            self.service.hello(request.into_inner(), proof).await,
        ))
    }

    async fn adopt(&self, request: Request<AdoptRequest>) -> Result<Response<AdoptResponse>, Status> {
        let proof = proof_of(&request);
        Ok(Response::new(
            self.service.adopt(request.into_inner(), proof).await,
        ))
    }

    type CallsStream = Answering;

    async fn calls(&self, request: Request<Streaming<CallRequest>>) -> Result<Response<Answering>, Status> {
        let proof = proof_of(&request);
        let mut requests = request.into_inner();
        let Some(call_request::Body::Opening(opening)) = first(&mut requests).await?.body else {
            return Err(no_opening());
        };
        let from = introduction(&opening)?.clone();
        Ok(Response::new(match self.service.admit(&opening, &proof) {
            Ok(()) => Answering::admitted(requests, from, Arc::clone(&self.service), &self.stop),
            Err(failed) => Answering::refused(failed),
        }))
    }

    type ForwardStream = Acknowledging;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Acknowledging>, Status> {
        let proof = proof_of(&request);
        let mut requests = request.into_inner();
        let Some(forward_request::Body::Opening(lane)) = first(&mut requests).await?.body else {
            return Err(no_opening());
        };
        let opening = lane.opening.as_ref().ok_or_else(no_opening)?;
        introduction(opening)?;
        Ok(Response::new(match self.service.admit(opening, &proof) {
            Ok(()) => {
                let service = Arc::clone(&self.service);
                Acknowledging::admitted(requests, lane, service, &self.received, &self.stop)
            }
            Err(failed) => Acknowledging::refused(failed),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<SnapshotAnswer>, Status> {
        let proof = proof_of(&request);
        let receiving = snapshot::receive(request.into_inner(), &proof, &self.service, &self.snapshots);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Status::unavailable("the node is stopping")),
            received = receiving => received.map(Response::new),
        }
    }
}

/// Of the connection that a request came by.
fn proof_of<T>(request: &Request<T>) -> Proof {
    let proof = request.extensions().get::<Proof>();
    proof
        .cloned()
        .expect("every connection has a guard, which says so")
}

async fn first<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    let first = timeout(OPENING_WITHIN, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no opening in time"))?;
    first?.ok_or_else(no_opening)
}

fn introduction(opening: &Opening) -> Result<&cluster_proto::Introduction, Status> {
    opening.from.as_ref().ok_or_else(no_opening)
}

fn no_opening() -> Status {
    Status::invalid_argument("a stream begins with an opening")
}
