//! From the first byte to the CONNACK: who is it, may it come in, and is the client id its alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use access::Certificate;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use cluster::proto::{self, Connected, ShardCommand, shard_command::Command, shard_response::Response};
use cluster::{Ending, KickedBy};
use mqtt_codec::{
    Auth, ConnAck, Connect, DecodeLimits, Decoder, Limit, Packet, PacketCounts, PacketId, ProtocolVersion,
    ReasonCode, RetainHandling, SubscriptionOptions, WriteQueue, encode, encoded_len,
};
use mqtt_session::{Handshake, ProtocolError, Resumed, Session, Subscription};
use mqtt_topic::{SubscriptionFilter, TopicName};
use smallvec::SmallVec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::auth::{Admission, Login, Secret, Step};
use crate::author;
use crate::config::Protocol;
use crate::handshakes;
use crate::mailbox::{LiveMessage, Mailbox};
use crate::message::{qos_of, to_owned};
use crate::pass::{Denied, Pass};
use crate::places::{Place, PlaceOf};
use crate::refusal::Rejected;
use crate::refusals::Refused;
use crate::registry::{Connected as Registered, Facts};
use crate::shared::{Live, Shared};
use crate::trace::{Event, TracedPacket};

use super::attachment::Attachment;
use super::{FAREWELL, Stream};

/// How long a new connection waits for the one it takes over from.
const TAKEOVER_WAIT: Duration = Duration::from_secs(1);
/// A node that does not answer is told for so long that its connection has lost its session,
const TELL_WITHIN: Duration = Duration::from_secs(30);
/// with this between two tries.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Connections of other nodes that are asked to close before the client id is taken from whoever has it.
const KICKS_MAX: usize = 3;

/// Largest will of a session that is kept, while memory is short.
const WILL_BYTES_WHILE_SHORT: usize = 1024;
const SHORT_OF_MEMORY: &str = "this node is short of memory";

/// What a shard says to a connection that asks for its session.
enum Claimed {
    Taken(Connected),
    /// Nothing has happened: this connection is to be asked to close first.
    OwnedBy(proto::Owner),
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The client's address: the socket's, or what a trusted proxy says.
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<str>,
    pub(crate) transport: Protocol,
    pub(crate) permits_anonymous: bool,
    /// The client's certificate, as verified by TLS here or by a trusted proxy.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

impl Origin {
    /// What a client from here shows, user name and password apart.
    pub(super) fn login(&self, client_id: &str) -> Login {
        Login {
            address: self.peer,
            listener: Arc::clone(&self.listener),
            permits_anonymous: self.permits_anonymous,
            client_id: client_id.to_owned(),
            certificate: self.certificate.clone(),
            username: None,
            password: None,
        }
    }
}

/// A connection that has its client id, and its CONNACK waiting to be written.
pub(crate) struct Accepted<S> {
    pub(super) stream: S,
    pub(super) session: Session,
    pub(super) decoder: Decoder,
    pub(super) input: Bytes,
    pub(super) out: WriteQueue,
    pub(super) attachment: Attachment,
    pub(super) pass: Pass,
    /// Kept to be judged again.
    pub(super) will_topic: Option<TopicName>,
    pub(super) origin: Origin,
    pub(super) facts: Arc<Facts>,
    pub(super) method: Option<ByteString>,
    pub(super) read: Read,
}

/// What was read of a connection so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Read {
    pub(super) packets: PacketCounts,
    pub(super) bytes: u64,
}

/// Reads and answers the CONNECT. `None`: it was refused, or never came.
pub(crate) async fn accept<S: Stream>(
    shared: &Arc<Shared>,
    stream: S,
    origin: Origin,
    within: Duration,
) -> Option<Box<Accepted<S>>> {
    let mut arrival = Arrival::new(shared, stream, origin);
    let judged = match tokio::time::timeout(within, arrival.introduce()).await {
        Err(_) => Err(Refusal::Silent(
            Rejected::Timeout,
            "no CONNECT within the time allowed",
        )),
        Ok(judged) => judged,
    };
    // From here on nothing may be cancelled half-way: the client id is being claimed.
    let result = match judged {
        Ok(introduction) => arrival.claim(*introduction).await,
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok(accepted) => Some(accepted),
        Err(refusal) => {
            arrival.refuse(refusal).await;
            None
        }
    }
}

/// Why a connection is not accepted.
enum Refusal {
    /// Nobody to talk to, or no words for it.
    Silent(Rejected, &'static str),
    /// CONNACK with this reason code, in this version.
    Answer(Rejected, ProtocolVersion, ProtocolError),
}

struct Introduction {
    /// Its will as everybody else sees it.
    connect: Box<Connect>,
    handshake: Handshake,
    /// As everybody else sees it.
    client: ByteString,
    /// As the client wrote it.
    will_topic: Option<TopicName>,
    pass: Pass,
    /// Of users and rules, before they were asked.
    generation: u64,
    places: SmallVec<[Place; 2]>,
    method: Option<ByteString>,
    authentication_data: Option<Bytes>,
}

struct Arrival<'a, S> {
    shared: &'a Arc<Shared>,
    /// As of its arrival.
    live: Arc<Live>,
    stream: Option<S>,
    origin: Origin,
    decoder: Decoder,
    input: Bytes,
    /// The client's Maximum Packet Size, once it has named one.
    packet_size_max: u32,
    read: Read,
    /// Client id and user name, as far as they were said.
    said: (String, String),
}

impl<'a, S: Stream> Arrival<'a, S> {
    fn new(shared: &'a Arc<Shared>, stream: S, origin: Origin) -> Self {
        let live = Arc::clone(&shared.live());
        let limits = &live.limits;
        let decoder = Decoder::server(DecodeLimits {
            packet_size_max: limits.packet_size_before_connect.as_u32(),
            topic_levels_max: limits.topic_levels_max,
            user_properties_max: limits.user_properties_max,
        });
        Self {
            shared,
            live,
            stream: Some(stream),
            origin,
            decoder,
            input: Bytes::new(),
            packet_size_max: u32::MAX,
            read: Read::default(),
            said: Default::default(),
        }
    }

    async fn introduce(&mut self) -> Result<Box<Introduction>, Refusal> {
        let mut connect = match self.read_packet().await? {
            Packet::Connect(connect) => connect,
            // [MQTT-3.1.0-1]
            _ => {
                return Err(Refusal::Silent(
                    Rejected::Protocol,
                    "the first packet was not CONNECT",
                ));
            }
        };
        self.packet_size_max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        let name = connect.username.as_ref().map(ToString::to_string);
        self.said = (connect.client_id.to_string(), name.unwrap_or_default());
        let version = connect.version;
        let limits = Arc::clone(&self.live.session);
        let refuse = |why, error| Refusal::Answer(why, version, error);
        if !self.shared.cluster.is_ready() {
            return Err(refuse(
                Rejected::NotReady,
                ProtocolError::new(ReasonCode::ServerUnavailable, "this node is not ready"),
            ));
        }
        if self.shared.overload.refuses() {
            return Err(refuse(
                Rejected::Overload,
                ProtocolError::new(ReasonCode::ServerBusy, SHORT_OF_MEMORY),
            ));
        }
        if self.shared.drain.is_asking() {
            let reason_code = match self.shared.cluster.others_serve() {
                true => ReasonCode::UseAnotherServer,
                false => ReasonCode::ServerUnavailable,
            };
            return Err(refuse(
                Rejected::Draining,
                ProtocolError::new(reason_code, "this node is out of service"),
            ));
        }
        if self.shared.registry.len() >= self.live.limits.connections_max as usize {
            return Err(refuse(
                Rejected::Connections,
                ProtocolError::new(ReasonCode::QuotaExceeded, "connections_max is reached"),
            ));
        }
        let certificate = self.origin.certificate.as_deref();
        let by_certificate = self.shared.config.auth.client_id_by(certificate).flatten();
        // One that is too long is not given, and so refused with every other.
        let by_certificate = by_certificate.filter(|name| name.len() <= limits.client_id_bytes_max);
        let fresh = || match by_certificate {
            Some(name) => name.into(),
            None => format!("flotilla-{:016x}", rand::random::<u64>()).into(),
        };
        let handshake = Handshake::new(&connect, &limits, fresh)
            .map_err(|error| refuse(self.why(&error, Rejected::Protocol), error))?;
        let generation = self.shared.authenticator.generation();
        let method = connect.properties.authentication_method.clone();
        let mut login = self.origin.login(&handshake.client_id);
        let (admission, authentication_data) = match &method {
            Some(method) => self.exchange(&connect, method, login).await?,
            None => {
                login.username = connect.username.as_ref().map(ToString::to_string);
                login.password = connect.password.clone().map(Secret);
                let judgement = self.shared.authenticator.login(login).await;
                let refused = |reason| {
                    let error = ProtocolError::new(reason, why_refused(reason));
                    refuse(Rejected::Credentials, error)
                };
                (judgement.map_err(refused)?, None)
            }
        };
        let shared = self.shared;
        // The users may have been read again since it began to prove itself.
        if !shared.authenticator.still_admits(&admission) {
            let error = ProtocolError::new(ReasonCode::NotAuthorized, "the user has changed meanwhile");
            return Err(refuse(Rejected::Credentials, error));
        }
        let not_of_a_tenant = |detail| {
            refuse(
                Rejected::Tenant,
                ProtocolError::new(ReasonCode::NotAuthorized, detail),
            )
        };
        let tenant = shared.tenants.of(&admission.principal, shared.steady_ms());
        let tenant = tenant.map_err(not_of_a_tenant)?;
        let client_id_bytes_max = limits.client_id_bytes_max;
        let client = shared
            .tenants
            .client_id(tenant.as_deref(), &handshake.client_id, client_id_bytes_max)
            .map_err(|detail| {
                let error = ProtocolError::new(ReasonCode::ClientIdentifierNotValid, detail);
                refuse(Rejected::Tenant, error)
            })?;
        let pass = Pass::new(shared, admission, tenant);
        if let Some(will) = &connect.will
            && !pass.may_publish(will.publication.topic())
        {
            pass.denied(self.shared, Denied::Will, will.publication.topic().as_str());
            return Err(refuse(
                Rejected::Will,
                ProtocolError::new(ReasonCode::NotAuthorized, "the will may not be published"),
            ));
        }
        let will_topic = connect.will.as_ref().map(|will| will.publication.topic().clone());
        if let (Some(tenant), Some(will)) = (&pass.tenant, &mut connect.will) {
            let entered = tenant.enter(will.publication.clone(), shared.topic_bounds(), &mut None);
            will.publication = entered.map_err(|error| refuse(self.why(&error, Rejected::Will), error))?;
        }
        if let Some(will) = &connect.will
            && will.retain
            && let Err(limited) = self
                .shared
                .may_retain(&will.publication, &pass.owner(&self.live.limits))
        {
            self.shared.metrics.limited(limited);
            return Err(refuse(
                Rejected::Will,
                ProtocolError::new(ReasonCode::QuotaExceeded, "too much is retained already"),
            ));
        }
        if let Some(will) = &connect.will
            && handshake.session_expiry_interval > 0
            && shared.overload.keeps_no_more()
            && will.publication.size() > WILL_BYTES_WHILE_SHORT
        {
            let error = ProtocolError::new(ReasonCode::ServerBusy, SHORT_OF_MEMORY);
            return Err(refuse(Rejected::Overload, error));
        }
        let places = self
            .take_places(&pass, &client)
            .map_err(|(why, error)| refuse(why, error))?;
        Ok(Box::new(Introduction {
            connect,
            handshake,
            client,
            will_topic,
            pass,
            generation,
            places,
            method,
            authentication_data,
        }))
    }

    /// One of the node's places, and of its address's, its user's and its tenant's, where they are limited. A client that comes for
    /// its own connection's place has it.
    fn take_places(
        &self,
        pass: &Pass,
        client: &str,
    ) -> Result<SmallVec<[Place; 2]>, (Rejected, ProtocolError)> {
        let limits = &self.live.limits;
        let address = PlaceOf::address(self.origin.peer.ip());
        let tenant = pass.tenant.as_ref();
        let name = tenant.map(|tenant| Arc::from(tenant.name()));
        let user = pass.user().map(|user| PlaceOf::User(name.clone(), user.into()));
        let wanted = [
            // Whoever is judged meanwhile has been counted by nobody.
            (
                Some(PlaceOf::Node),
                limits.connections_max,
                Rejected::Connections,
                "connections_max is reached",
            ),
            (
                Some(address),
                limits.connections_per_address_max,
                Rejected::ConnectionsPerAddress,
                "too many connections of this address",
            ),
            (
                user,
                limits.connections_per_user_max,
                Rejected::ConnectionsPerUser,
                "too many connections of this user",
            ),
            (
                name.map(PlaceOf::Tenant),
                tenant.map_or(0, |tenant| tenant.quotas.connections_max),
                Rejected::ConnectionsPerTenant,
                "too many connections of this tenant",
            ),
        ];
        let takes_over = self.shared.registry.get(client).is_some();
        let mut taken = SmallVec::new();
        for (of, max, why, detail) in wanted {
            let Some(of) = of.filter(|_| max > 0) else {
                continue;
            };
            let place = self.shared.places.take(of, max + u32::from(takes_over));
            taken.push(place.ok_or((why, ProtocolError::new(ReasonCode::QuotaExceeded, detail)))?);
        }
        Ok(taken)
    }

    /// Enhanced authentication: AUTH packets until the exchange has come to an end.
    async fn exchange(
        &mut self,
        connect: &Connect,
        method: &ByteString,
        login: Login,
    ) -> Result<(Admission, Option<Bytes>), Refusal> {
        let refuse =
            |why, reason, detail| Refusal::Answer(why, connect.version, ProtocolError::new(reason, detail));
        let Some(mut exchange) = self.shared.authenticator.exchange(method, &login) else {
            // [MQTT-4.12.0-1]
            return Err(refuse(
                Rejected::Credentials,
                ReasonCode::BadAuthenticationMethod,
                "authentication method is not known",
            ));
        };
        let mut data = connect.properties.authentication_data.clone();
        loop {
            match exchange.step(data.take()) {
                Step::Success(data, admission) => return Ok((*admission, data)),
                Step::Refuse(reason) => {
                    return Err(refuse(Rejected::Credentials, reason, "authentication failed"));
                }
                Step::Continue(challenge) => {
                    let reason_code = ReasonCode::ContinueAuthentication;
                    let auth = Auth {
                        reason_code,
                        method: Some(method.clone()),
                        data: Some(challenge),
                        ..Auth::default()
                    };
                    self.write(&Packet::Auth(auth), connect.version).await;
                }
            }
            match self.read_packet().await? {
                Packet::Auth(auth) if auth.method.as_ref() == Some(method) => data = auth.data,
                Packet::Disconnect(_) => {
                    return Err(Refusal::Silent(
                        Rejected::Closed,
                        "client left during authentication",
                    ));
                }
                _ => {
                    return Err(refuse(
                        Rejected::Protocol,
                        ReasonCode::ProtocolError,
                        "AUTH of the same method was expected",
                    ));
                }
            }
        }
    }

    /// Takes the client id: the previous connection is closed, the shard has made this one the owner.
    async fn claim(&mut self, introduction: Introduction) -> Result<Box<Accepted<S>>, Refusal> {
        let Introduction {
            connect,
            handshake,
            client,
            will_topic,
            pass,
            generation,
            places,
            method,
            authentication_data,
        } = introduction;
        let shared = self.shared;
        let previous = shared.registry.get(&client);
        let takes_over = previous.is_some();
        if let Some(previous) = previous {
            self.audit_takeover(&client, &pass, Some(&previous.address.to_string()), None);
            previous.mailbox.take_over(Some(self.origin.peer));
            // Its last acknowledgements are proposed by then.
            let _ = tokio::time::timeout(TAKEOVER_WAIT, previous.ended.wait()).await;
        }
        let claim = shared.registry.claim(client.clone());
        let connected = self
            .take_session(&connect, &handshake, &client, &pass, takes_over)
            .await?;
        let durable = handshake.session_expiry_interval > 0;
        let queues = &self.live.queues;
        let mailbox = Mailbox::new(
            shared.next_connection(),
            client.clone(),
            queues.live_bytes_max.as_usize(),
            queues.bytes_max.as_usize(),
            &shared.memory,
        );
        let (ended, has_ended) = Ending::new();
        let facts = Arc::new(Facts {
            peer: self.origin.peer,
            listener: Arc::clone(&self.origin.listener),
            transport: self.origin.transport,
            version: handshake.version,
            keep_alive: handshake.keep_alive,
            since_ms: shared.clock.now_ms(),
            durable,
            principal: (shared.authenticator.has_rules()).then(|| Box::new(pass.admission.principal.clone())),
            in_flight: AtomicU32::new(0),
        });
        let registered = Registered {
            epoch: connected.epoch,
            address: self.origin.peer,
            mailbox: Arc::clone(&mailbox),
            ended: has_ended,
            facts: Arc::clone(&facts),
        };
        let newest = shared.registry.enter(claim, registered);
        let expiry = handshake.session_expiry_interval;
        let counted = shared.metrics.connections(facts.transport, facts.version);
        counted.increment(1.0);
        let mut attachment = Attachment::new(
            Arc::clone(shared),
            client.clone(),
            connected.epoch,
            durable,
            expiry,
            Arc::clone(&mailbox),
            ended,
        );
        attachment.places = places;
        attachment.tenant = pass.tenant.clone();
        attachment.counted = counted.clone();
        if !newest {
            return Err(Refusal::Silent(
                Rejected::Takeover,
                "another connection took the client id meanwhile",
            ));
        }
        if durable {
            attachment.resume(&connected.subscriptions, connected.sent_before, &pass);
            shared.cluster.attach(&client, connected.epoch, mailbox);
        }
        // A reload that came in between has found nobody to tell.
        if shared.authenticator.generation() != generation || !Arc::ptr_eq(&self.live, &shared.live()) {
            attachment.mailbox.recheck();
        }
        shared.metrics.opened(facts.transport);
        if let Some(user) = pass.user() {
            info!(target: "audit", event = "login", by = pass.admission.by, client_id = ?&*client, ?user,
                address = %self.origin.peer, listener = %self.origin.listener);
        }
        shared.sys.totals.connected(shared.registry.len() as u64);
        debug!(client_id = ?&*client, address = %self.origin.peer, listener = %self.origin.listener,
            session_present = connected.session_present, "connected");
        shared
            .traces
            .tell(&client, shared.clock.now_ms(), || Event::Connected {
                address: self.origin.peer,
                listener: Arc::clone(&self.origin.listener),
            });
        let mut connack = handshake.accept(connected.session_present, &self.live.session);
        connack.properties.authentication_method = method.clone();
        connack.properties.authentication_data = authentication_data;
        let mut out = WriteQueue::new();
        if encode(&Packet::ConnAck(Box::new(connack)), handshake.version, &mut out).is_err() {
            return Err(Refusal::Silent(
                Rejected::Credentials,
                "authentication data is too long",
            ));
        }
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::server(DecodeLimits::default()));
        decoder.set_packet_size_max(self.live.limits.packet_size_max.as_u32());
        let session = Session::new(
            &handshake,
            Arc::clone(&self.live.session),
            durable.then(|| resumed(&connected)),
            shared.steady_ms(),
        );
        let Some(stream) = self.stream.take() else {
            return Err(Refusal::Silent(Rejected::Closed, "the connection is gone"));
        };
        let input = std::mem::take(&mut self.input);
        Ok(Box::new(Accepted {
            stream,
            session,
            decoder,
            input,
            out,
            attachment,
            pass,
            will_topic,
            origin: self.origin.clone(),
            facts,
            method,
            read: self.read,
        }))
    }

    /// Makes this connection the owner of its session. One of another node is asked to close first: what its last
    /// acknowledgements say is committed before this one reads the session. A node that does not answer costs a repeated
    /// message, not the client id.
    async fn take_session(
        &self,
        connect: &Connect,
        handshake: &Handshake,
        client: &ByteString,
        pass: &Pass,
        mut takes_over: bool,
    ) -> Result<Connected, Refusal> {
        let cluster = &self.shared.cluster;
        let (limits, tenant) = (&self.live.limits, pass.tenant.as_deref());
        // Counts until this has an answer.
        let is_kept = handshake.session_expiry_interval > 0;
        let room = &self.shared.session_room;
        let coming = room.ask(self.shared, limits, tenant, is_kept);
        let mut owner = cluster.owner_elsewhere(client);
        // The latest connection whose node has answered.
        let mut answered = 0;
        // This node may keep nothing of the session, or not know the latest of it: the shard does.
        for tried in 0..=KICKS_MAX {
            if let Some(owner) = &owner
                && let Some(previous) = cluster.kick(owner, client, self.kicks()).await
            {
                answered = owner.epoch;
                takes_over = true;
                if !previous.is_empty() {
                    self.audit_takeover(client, pass, Some(&previous), Some(owner.node));
                }
            }
            let asked = owner.as_ref().map_or(0, |owner| owner.epoch);
            let heard_out = (tried < KICKS_MAX).then_some(asked);
            // A session that has ended with the connection that was asked to close has left its place to this one.
            let refused = coming.as_ref().err().filter(|_| !takes_over);
            let claimed = self.request(connect, handshake, client, pass, heard_out, refused.copied());
            match claimed.await? {
                Claimed::Taken(connected) => {
                    let unheard = connected.previous.filter(|previous| previous.epoch > answered);
                    if let Some(previous) = unheard {
                        if previous.node != cluster.node_id() {
                            self.audit_takeover(client, pass, None, Some(previous.node));
                        }
                        let told = tell(Arc::clone(self.shared), previous, client.clone(), self.kicks());
                        tokio::spawn(told);
                    }
                    return Ok(connected);
                }
                Claimed::OwnedBy(later) => owner = Some(later),
            }
        }
        Err(unopened(connect.version))
    }

    /// By whom the connection is closed that has the client id.
    fn kicks(&self) -> KickedBy {
        KickedBy::Connection(Some(self.origin.peer.to_string()))
    }

    /// The client id goes over to this connection: from where, and from which other node, as far as that is known.
    fn audit_takeover(&self, client: &str, pass: &Pass, previous: Option<&str>, previous_node: Option<u64>) {
        info!(target: "audit", event = "takeover", client_id = ?client, user = ?pass.user().unwrap_or_default(),
            address = %self.origin.peer, previous = previous.map(tracing::field::display), previous_node);
    }

    /// Asks the shard for the session; `heard_out` is `None` if it is not to wait for the connection that has it. With `refused`
    /// only one that is there already may be taken.
    async fn request(
        &self,
        connect: &Connect,
        handshake: &Handshake,
        client: &ByteString,
        pass: &Pass,
        heard_out: Option<u64>,
        refused: Option<Rejected>,
    ) -> Result<Claimed, Refusal> {
        let shared = self.shared;
        let queues = &self.live.session;
        let command = Command::Connect(proto::Connect {
            client: client.to_string(),
            node: shared.cluster.node_id(),
            incarnation: shared.cluster.incarnation(),
            clean_start: handshake.clean_start,
            session_expiry_s: handshake.session_expiry_interval,
            will: connect
                .will
                .as_ref()
                .map(|will| to_stored_will(will, client, pass, shared, &self.live)),
            user: pass.user().unwrap_or_default().to_owned(),
            queue_messages_max: queues.queue_messages_max as u64,
            queue_bytes_max: queues.queue_bytes_max as u64,
            drop_oldest: queues.drop_oldest,
            heard_out,
            existing_only: refused.is_some(),
        });
        let shard = shared.cluster.shard_of_client(client);
        let answer = shared
            .cluster
            .request(
                shard,
                ShardCommand {
                    command: Some(command),
                },
            )
            .await;
        match answer.map(|answer| answer.response) {
            Ok(Some(Response::Connected(connected))) => Ok(Claimed::Taken(connected)),
            Ok(Some(Response::Owned(owner))) => Ok(Claimed::OwnedBy(owner)),
            Ok(_) => Err(match refused {
                Some(why) => {
                    let (reason_code, detail) = match why {
                        Rejected::Overload => (ReasonCode::ServerBusy, SHORT_OF_MEMORY),
                        _ => (ReasonCode::QuotaExceeded, "too many sessions are kept"),
                    };
                    Refusal::Answer(why, connect.version, ProtocolError::new(reason_code, detail))
                }
                None => unopened(connect.version),
            }),
            Err(error) => {
                info!(client_id = ?client, %error, "connection refused: the session's shard is not available");
                let error = ProtocolError::new(
                    ReasonCode::ServerUnavailable,
                    "the session's shard is not available",
                );
                Err(Refusal::Answer(Rejected::Unavailable, connect.version, error))
            }
        }
    }

    async fn read_packet(&mut self) -> Result<Packet, Refusal> {
        loop {
            let waiting = self.input.len();
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => {
                    self.read.packets.add(packet.packet_type());
                    self.trace(&packet, waiting - self.input.len(), Event::Received);
                    return Ok(packet);
                }
                Ok(None) => {}
                Err(error) => {
                    let mut error = ProtocolError::from(error);
                    if error.limit == Some(Limit::PacketSize) {
                        error.limit = Some(Limit::PacketSizeBeforeConnect);
                    }
                    let why = self.why(&error, Rejected::Protocol);
                    return Err(match self.decoder.version() {
                        Some(version) => Refusal::Answer(why, version, error),
                        None => Refusal::Silent(why, error.detail),
                    });
                }
            }
            let Some(stream) = &mut self.stream else {
                return Err(Refusal::Silent(Rejected::Closed, "the connection is gone"));
            };
            let unfinished = std::mem::take(&mut self.input);
            let mut buffer = unfinished
                .try_into_mut()
                .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            buffer.reserve(512);
            match stream.read_buf(&mut buffer).await {
                Err(error) if handshakes::gave_way(&error) => {
                    return Err(Refusal::Silent(
                        Rejected::Handshakes,
                        "silent while others waited",
                    ));
                }
                Ok(0) | Err(_) => return Err(Refusal::Silent(Rejected::Closed, "closed before CONNECT")),
                Ok(read) => {
                    self.read.bytes += read as u64;
                    self.input = buffer.freeze();
                }
            }
        }
    }

    /// Why a CONNECT is refused that is not as it has to be; one beyond a limit is counted.
    fn why(&self, error: &ProtocolError, otherwise: Rejected) -> Rejected {
        let Some(limit) = error.limit else {
            return otherwise;
        };
        self.shared.metrics.exceeded(limit);
        Rejected::Limit
    }

    /// Tells those who trace the client of a packet before it has its client id.
    fn trace(&self, packet: &Packet, bytes: usize, event: fn(TracedPacket) -> Event) {
        let client = match packet {
            Packet::Connect(connect) => &connect.client_id,
            _ => self.said.0.as_str(),
        };
        let now = self.shared.clock.now_ms();
        let told = || event(TracedPacket::of(packet, bytes, None));
        self.shared.traces.tell(client, now, told);
    }

    async fn write(&mut self, packet: &Packet, version: ProtocolVersion) {
        let mut out = WriteQueue::new();
        if encode(packet, version, &mut out).is_err() {
            return;
        }
        let packets = self.shared.metrics.packets_sent(&out.take_packets());
        self.shared.sys.totals.packets_sent.fetch_add(packets, Relaxed);
        self.trace(packet, out.len(), Event::Sent);
        let Some(stream) = &mut self.stream else { return };
        while !out.is_empty() {
            if stream.write_buf(&mut out).await.is_err() {
                return;
            }
        }
        let _ = stream.flush().await;
    }

    /// The CONNACK of a refusal; no property makes it larger than the client takes. [MQTT-3.2.2-19]
    fn refusal(&self, version: ProtocolVersion, error: ProtocolError) -> Packet {
        let mut explained = ConnAck::new(false, error.reason_code);
        explained.properties.reason_string = Some(error.detail.into());
        if error.reason_code == ReasonCode::UseAnotherServer {
            explained.properties.server_reference = self.shared.server_reference();
        }
        let explained = Packet::ConnAck(Box::new(explained));
        let fits = encoded_len(&explained, version).is_ok_and(|len| len <= self.packet_size_max as usize);
        match fits {
            true => explained,
            false => Packet::ConnAck(Box::new(ConnAck::new(false, error.reason_code))),
        }
    }

    fn remember(&self, why: Rejected, error: &ProtocolError) {
        let (client_id, user) = self.said.clone();
        // Who was not believed is written down by who judged it.
        if why != Rejected::Credentials
            && let Some(left_out) = self.shared.connect_refusals.line()
        {
            info!(target: "audit", event = "connect refused", reason = why.as_str(), reason_code = ?error.reason_code,
                ?client_id, ?user, address = %self.origin.peer, listener = %self.origin.listener, left_out);
        }
        self.shared.refused(Refused {
            client_id,
            user,
            address: self.origin.peer.ip().to_canonical().to_string(),
            reason_code: Some(error.reason_code),
            reason: error.detail.to_owned(),
            ..Refused::connect()
        });
    }

    async fn refuse(&mut self, refusal: Refusal) {
        let (Refusal::Silent(why, _) | Refusal::Answer(why, ..)) = refusal;
        self.shared.metrics.rejected(why);
        self.shared.metrics.packets_received(&self.read.packets);
        let farewell = async {
            match refusal {
                Refusal::Silent(_, detail) => {
                    debug!(address = %self.origin.peer, detail, "connection refused")
                }
                Refusal::Answer(_, version, error) => {
                    debug!(address = %self.origin.peer, %error, "connection refused");
                    self.remember(why, &error);
                    let connack = self.refusal(version, error);
                    self.write(&connack, version).await;
                }
            }
            if let Some(stream) = &mut self.stream {
                let _ = stream.shutdown().await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// Goes on telling a node that a connection of it has lost its session. Its epoch keeps it from what is another one's now: nothing
/// but good order asks for that, so it ends some time.
async fn tell(shared: Arc<Shared>, previous: proto::Owner, client: ByteString, by: KickedBy) {
    let until = Instant::now() + TELL_WITHIN;
    let told = async || shared.cluster.kick(&previous, &client, by.clone()).await;
    while Instant::now() < until && told().await.is_none() {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            () = tokio::time::sleep(TELL_AGAIN_AFTER) => {}
        }
    }
}

fn unopened(version: ProtocolVersion) -> Refusal {
    let error = ProtocolError::new(ReasonCode::UnspecifiedError, "the session could not be opened");
    Refusal::Answer(Rejected::Unavailable, version, error)
}

/// What the reason code of a refused login says, and no more.
fn why_refused(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::BadUserNameOrPassword => "user name or password is wrong",
        ReasonCode::NotAuthorized => "the client does not say who it is",
        ReasonCode::ClientIdentifierNotValid => "the client id is not one that this client may have",
        ReasonCode::ConnectionRateExceeded => "too many failed logins just before",
        ReasonCode::ServerUnavailable => "nobody can say now who the client is",
        ReasonCode::ServerBusy => "too many logins wait to be judged",
        _ => "login was refused",
    }
}

fn to_stored_will(
    will: &mqtt_codec::Will,
    client: &str,
    pass: &Pass,
    shared: &Shared,
    live: &Live,
) -> proto::Will {
    let message = LiveMessage {
        publication: will.publication.clone(),
        qos: will.qos,
        retain: will.retain,
        expires_at: None,
    };
    proto::Will {
        publication: Some(to_owned(&message, client, &pass.owner(&live.limits))),
        delay_s: will.delay_interval.min(live.session.will_delay_max),
        message_expiry_s: will.publication.message_expiry_interval().unwrap_or(0),
        author: match shared.authenticator.has_rules() {
            true => author::of(&pass.admission.principal).map(Box::new),
            false => None,
        },
    }
}

fn resumed(connected: &Connected) -> Resumed {
    let unreleased = connected.inbound_packet_ids.iter();
    Resumed {
        first_sequence: connected.first_sequence,
        sent_before: connected.sent_before,
        unreleased: unreleased.filter_map(|id| PacketId::new(*id as u16)).collect(),
    }
}

impl Attachment {
    /// Puts the subscriptions a session brings along into this node's router; the session loses those that its user may not
    /// have any more.
    fn resume(&mut self, subscriptions: &[proto::Subscription], sent_before: u64, pass: &Pass) {
        let (mut denied, mut hand_over) = (Vec::new(), Vec::new());
        for stored in subscriptions {
            let Ok(filter) = SubscriptionFilter::parse(stored.filter.as_str().into()) else {
                continue;
            };
            if !pass.may_keep(filter.filter()) {
                pass.denied(&self.shared, Denied::Resume, &pass.seen(&filter));
                denied.push(stored.filter.clone());
                if filter.share().is_some() {
                    hand_over.push(stored.filter.clone());
                }
                continue;
            }
            let retain_handling = match stored.retain_handling {
                0 => RetainHandling::SendAtSubscribe,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::DoNotSend,
            };
            let subscription = Subscription {
                name: stored.filter.as_str().into(),
                filter,
                options: SubscriptionOptions {
                    qos: qos_of(stored.qos),
                    no_local: stored.no_local,
                    retain_as_published: stored.retain_as_published,
                    retain_handling,
                },
                subscription_id: stored.subscription_id,
            };
            self.enter(&subscription);
        }
        if denied.is_empty() {
            return;
        }
        let command = Command::Unsubscribe(proto::Unsubscribe {
            client: self.client.to_string(),
            epoch: self.epoch,
            // What waits for a shared one is for members who may have it.
            hand_over,
            sent_before,
            filters: denied,
        });
        let command = ShardCommand {
            command: Some(command),
        };
        // If it is lost, the next resume finds them again.
        self.shared
            .cluster
            .propose_soon(self.shard, command, Duration::ZERO);
    }
}
