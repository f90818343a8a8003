//! One connection after its CONNACK: one task that reads, asks, delivers and writes, until one side ends it.

mod attachment;
mod connect;
mod deliver;
mod newer;
mod publish;
mod read;
mod retained;
mod subscribe;
#[cfg(test)]
mod testing;
mod throttle;
mod traced;

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cluster::ProposeError;
use cluster::proto::{self, ShardCommand, ShardResponse, shard_command::Command};
use mqtt_codec::{Decoder, Disconnect, PacketCounts, PacketId, ReasonCode, Unsubscribe, WriteQueue};
use mqtt_session::{Action, Delivery, ProtocolError, Session, SubscribeRequest};
use mqtt_topic::TopicName;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep};
use tracing::{debug, info};

use crate::auth::{Exchange, Step};
use crate::debts::Debt;
use crate::handover::{self, Handover};
use crate::mailbox::{Close, Event};
use crate::pass::Pass;
use crate::publisher::Publisher;
use crate::queue_memory::HeldMemory;
use crate::registry::Facts;
use crate::shared::Shared;
use crate::tenants::Tenant;

use attachment::Attachment;
pub(crate) use attachment::is_rejected;
pub(crate) use connect::{Accepted, Origin, accept};
use newer::Newer;
use publish::{Held, Part};
use subscribe::{Entering, Told};
use throttle::{Pace, Throttle};
use traced::Traced;

/// Bytes waiting for the socket beyond which nothing more is encoded for it, and nothing is read.
const OUT_MAX: usize = 256 * 1024;
/// The same while memory is short, for messages.
const OUT_SHORT_MAX: usize = 16 * 1024;
/// Unacknowledged messages of a client that has no Receive Maximum (before MQTT 5.0): then its socket is left alone.
const UNACKNOWLEDGED_MAX: usize = 4096;
/// How long finished deliveries may wait before they are replicated.
const ACKNOWLEDGE_AFTER_MS: u64 = 200;
/// How many of them may wait.
const ACKNOWLEDGE_COUNT: u64 = 1000;
/// Timers cannot be set for ever ahead: one that fires early is set anew.
const LONGEST_SLEEP_MS: u64 = 24 * 3600 * 1000;
/// A connection that is busy for this long lets others have its thread, and goes on behind them.
const TURNS_MAX: Duration = Duration::from_millis(1);
/// The last packets of a connection have this long to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// A byte stream to a client: TCP, TLS or WebSocket.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    Left(Disconnect),
    KeepAlive,
    Lost,
    Protocol(ProtocolError),
    Closed(Close),
    /// The replicated state did not take a command: this node may be cut off or stopping.
    Unavailable,
    /// By new rules or users the client would not be here, or not with what it has.
    Revoked,
    /// What the client was let in with is over.
    Expired,
}

impl End {
    fn metric(&self) -> &'static str {
        match self {
            End::Left(_) => "client_disconnect",
            End::KeepAlive => "keepalive_timeout",
            End::Lost => "io_error",
            // The second where only a quota, which has a counter of its own, is beyond the words of the version.
            End::Protocol(error)
                if error.limit.is_some() || error.reason_code == ReasonCode::QuotaExceeded =>
            {
                "limit_exceeded"
            }
            End::Protocol(_) => "protocol_error",
            End::Closed(Close::TakenOver) => "takeover",
            End::Closed(Close::Administrative) => "administrative",
            End::Closed(Close::ShuttingDown) => "server_shutdown",
            End::Closed(Close::Moving) => "moved",
            End::Closed(Close::Fenced) => "fenced",
            End::Unavailable => "unavailable",
            End::Revoked => "access_revoked",
            End::Expired => "credentials_expired",
        }
    }
}

/// Something asked of the cluster that the packets behind it wait for.
type Operation = Pin<Box<dyn Future<Output = Answer> + Send>>;

enum Answer {
    /// The session's shard has a SUBSCRIBE, or not.
    Subscribe(SubscribeRequest, Result<ShardResponse, ProposeError>),
    /// The other nodes know of a SUBSCRIBE, and the retained messages are read.
    Announced(Entering, Told),
    /// Retained messages are in the session's queue.
    Appended,
    Unsubscribe(Unsubscribe, Result<ShardResponse, ProposeError>),
}

struct Connection<S> {
    shared: Arc<Shared>,
    stream: S,
    session: Session,
    decoder: Decoder,
    /// Read and not decoded yet.
    input: Bytes,
    out: WriteQueue,
    attachment: Attachment,
    facts: Arc<Facts>,
    publisher: Publisher<PacketId>,
    events: Vec<Event>,
    actions: Vec<Action>,
    operation: Option<Operation>,
    /// Publishes that wait for a retained message to be stored, in order.
    held: VecDeque<Held>,
    retains: Vec<(cluster::ShardId, ShardCommand)>,
    retains_under_way: usize,
    retain_failed: bool,
    /// Publishes that more than one destination has to answer for.
    parts: Vec<Part>,
    /// Batches of publishes that shards and other nodes have not answered.
    batches_under_way: usize,
    congested: bool,
    throttle: Throttle,
    /// `None`: what the client is sent in a second is not limited.
    pace: Option<Box<Pace>>,
    /// There may be something in the session's replicated queue.
    pull: bool,
    /// No UNSUBSCRIBE is under way that may take messages out of it.
    may_pull: bool,
    fetch_from: u64,
    /// Retained messages for new subscriptions.
    retained: VecDeque<Delivery>,
    newer: Newer,
    received: SmallVec<[u64; 4]>,
    acknowledge_at: Option<u64>,
    /// The node's time since its start as of this turn, in milliseconds: what clients may do in a second and how long they may be
    /// silent does not depend on a wall clock that is set.
    steady: u64,
    pass: Pass,
    will_topic: Option<TopicName>,
    /// The topic that was entered last into the tenant's space.
    entered: Option<TopicName>,
    origin: Origin,
    method: Option<bytestring::ByteString>,
    exchange: Option<Box<dyn Exchange>>,
    timer: Pin<Box<Sleep>>,
    tally: Tally,
    /// As of the last look at who traces.
    traces_version: u32,
    traced: Option<Box<Traced>>,
    /// What its session and its socket have waiting in memory.
    queued: HeldMemory,
}

/// Counted here, added to the metrics once per turn.
#[derive(Default)]
struct Tally {
    received: [u64; 3],
    sent: [u64; 3],
    packets: PacketCounts,
    bytes_received: u64,
    bytes_sent: u64,
    /// Of payloads.
    payload_received: u64,
    payload_sent: u64,
}

/// Messages and bytes that one client may publish in a second, as of now.
fn publish_rates(shared: &Shared) -> (u64, u64) {
    let limits = &shared.live().limits;
    (
        limits.publish_messages_per_second_max.into(),
        limits.publish_bytes_per_second_max.get(),
    )
}

/// Messages and bytes a second that a client is sent now; 0: no limit.
fn deliver_rates(shared: &Shared) -> (u64, u64) {
    let limits = &shared.live().limits;
    (
        limits.deliver_messages_per_second_max.into(),
        limits.deliver_bytes_per_second_max.get(),
    )
}

/// Serves an accepted connection until it ends.
pub(crate) async fn serve<S: Stream>(shared: Arc<Shared>, accepted: Box<Accepted<S>>) {
    let mut connection = Connection::new(shared, accepted);
    let end = std::future::poll_fn(|cx| connection.poll(cx)).await;
    Box::pin(connection.finish(end)).await;
}

impl<S: Stream> Connection<S> {
    #[expect(
        clippy::boxed_local,
        reason = "a box lives until the end of whoever has it, empty or not: not as long as the connection"
    )]
    fn new(shared: Arc<Shared>, accepted: Box<Accepted<S>>) -> Box<Self> {
        let Accepted {
            stream,
            session,
            decoder,
            input,
            out,
            attachment,
            pass,
            will_topic,
            origin,
            facts,
            method,
            read,
        } = *accepted;
        let publisher = Publisher::new((&*attachment.client).into());
        let (messages, bytes) = publish_rates(&shared);
        let tenant = pass.tenant.clone().filter(|tenant| tenant.is_rate_limited());
        let mut throttle = Throttle::new(messages, bytes, tenant);
        let (messages, bytes) = deliver_rates(&shared);
        let mut pace = Pace::new(messages, bytes);
        let debt = shared.debts.take(&attachment.client);
        throttle.owe(debt.published);
        if let Some(pace) = &mut pace {
            pace.owe(debt.delivered);
        }
        let mut connection = Box::new(Self {
            fetch_from: session.next_sequence(),
            queued: HeldMemory::new(&shared.memory),
            pull: session.is_durable(),
            may_pull: true,
            shared,
            stream,
            session,
            decoder,
            input,
            out,
            attachment,
            facts,
            publisher,
            events: Vec::new(),
            actions: Vec::new(),
            operation: None,
            held: VecDeque::new(),
            retains: Vec::new(),
            retains_under_way: 0,
            retain_failed: false,
            parts: Vec::new(),
            batches_under_way: 0,
            congested: false,
            throttle,
            pace,
            retained: VecDeque::new(),
            newer: Newer::default(),
            received: SmallVec::new(),
            acknowledge_at: None,
            steady: 0,
            pass,
            will_topic,
            entered: None,
            origin,
            method,
            exchange: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            tally: Tally {
                packets: read.packets,
                bytes_received: read.bytes,
                ..Tally::default()
            },
            traces_version: 0,
            traced: None,
        });
        if connection.shared.traces.version() > 0 {
            connection.trace_anew(0);
        }
        connection
    }

    /// One turn: answers, messages, packets, then what has to leave; again while there was anything.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let now = self.shared.clock.now_ms();
        self.steady = self.shared.steady_ms();
        if self.traces_version != self.shared.traces.version() {
            self.trace_anew(self.out.len());
        }
        let result = self.turns(cx, now);
        self.count();
        let in_flight = u32::try_from(self.session.in_flight()).unwrap_or(u32::MAX);
        self.facts.in_flight.store(in_flight, Relaxed);
        result
    }

    fn turns(&mut self, cx: &mut Context<'_>, now: u64) -> Poll<End> {
        if self.pass.is_over(now) {
            return Poll::Ready(End::Expired);
        }
        let began = Instant::now();
        loop {
            let mut progress = match self.poll_operation(cx, now) {
                Ok(any) => any,
                Err(end) => return Poll::Ready(end),
            };
            match self.poll_mailbox(cx, now) {
                Ok(any) => progress |= any,
                Err(End::Closed(Close::TakenOver)) => return Poll::Ready(self.hear_out(cx, now)),
                Err(end) => return Poll::Ready(end),
            }
            if let Err(end) = self.pull(now) {
                return Poll::Ready(end);
            }
            self.send_waiting(now);
            let read = match self.poll_input(cx, now) {
                Ok(any) => any,
                Err(end) => {
                    self.settle();
                    return Poll::Ready(end);
                }
            };
            progress |= read;
            self.settle();
            // What waits here may be acknowledgements. A node that is cut off cannot know that they are true.
            if !self.out.is_empty() && !self.shared.cluster.may_acknowledge() {
                return Poll::Ready(End::Closed(Close::Fenced));
            }
            if self.traced.is_some() {
                self.trace_sent(now);
            }
            match self.poll_write(cx) {
                Ok(any) => progress |= any,
                Err(end) => return Poll::Ready(end),
            }
            if !progress {
                return self.poll_timer(cx, now);
            }
            // One read may be a thousand messages for a thousand receivers, and there may always be another one.
            if began.elapsed() > TURNS_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// The client has connected again. What it had sent before that still counts: acknowledgements, or its goodbye.
    fn hear_out(&mut self, cx: &mut Context<'_>, now: u64) -> End {
        let last = self.poll_input(cx, now);
        self.settle();
        match last {
            Err(End::Left(packet)) => End::Left(packet),
            _ => End::Closed(Close::TakenOver),
        }
    }

    fn poll_operation(&mut self, cx: &mut Context<'_>, now: u64) -> Result<bool, End> {
        let Some(operation) = &mut self.operation else {
            return Ok(false);
        };
        let Poll::Ready(answer) = operation.as_mut().poll(cx) else {
            return Ok(false);
        };
        self.operation = None;
        match answer {
            Answer::Subscribe(request, result) => self.subscribe_stored(request, result, now),
            Answer::Announced(entering, told) => self.finish_subscribe(entering, told, now),
            Answer::Appended => self.pull = true,
            Answer::Unsubscribe(packet, result) => self.finish_unsubscribe(packet, result)?,
        }
        Ok(true)
    }

    fn poll_mailbox(&mut self, cx: &mut Context<'_>, now: u64) -> Result<bool, End> {
        let out_max = self.out_max();
        if self.out.len() >= out_max {
            let flags = self.attachment.mailbox.peek(cx.waker());
            if let Some(close) = flags.close {
                return Err(End::Closed(close));
            }
            if flags.recheck {
                self.recheck()?;
            }
            return Ok(false);
        }
        let mut events = std::mem::take(&mut self.events);
        let flags = self.attachment.mailbox.take(&mut events, cx.waker());
        let any = !events.is_empty();
        let mut failed = false;
        let mut waiting = events.drain(..);
        while self.out.len() < out_max
            && let Some(event) = waiting.next()
        {
            failed |= self.event(event, now).is_err();
        }
        if waiting.len() > 0 {
            self.attachment.mailbox.put_back(waiting);
        } else {
            drop(waiting);
        }
        self.events = events;
        if let Some(close) = flags.close {
            return Err(End::Closed(close));
        }
        if failed {
            return Err(End::Unavailable);
        }
        if flags.recheck {
            self.recheck()?;
        }
        self.pull |= flags.queue_grew;
        Ok(any)
    }

    /// Bytes that may wait for the socket before messages wait elsewhere.
    fn out_max(&self) -> usize {
        match self.shared.memory.is_short() {
            true => OUT_SHORT_MAX,
            false => OUT_MAX,
        }
    }

    fn event(&mut self, event: Event, now: u64) -> Result<(), ()> {
        match event {
            Event::Deliver { batch, grant } => {
                self.deliver_batch(&batch, &grant, now);
                if let Some(from) = batch.measured_from {
                    self.shared.metrics.delivery_duration.record(from.elapsed());
                }
            }
            Event::DeliverOne(delivery) => {
                self.deliver(*delivery, now);
            }
            Event::Committed {
                packet_ids,
                reason_code,
                without_room,
                began,
            } => {
                self.batches_under_way -= 1;
                // One sample for what went together: the first of them speaks for all.
                let exactly_once = packet_ids
                    .first()
                    .is_some_and(|id| self.session.is_exactly_once(*id));
                self.shared.metrics.ack_duration[usize::from(exactly_once)].record(began.elapsed());
                for packet_id in packet_ids {
                    let has_room = !without_room.contains(&packet_id);
                    self.committed(packet_id, reason_code, has_room)?;
                }
            }
            Event::Retained { count, reason_code } => self.retains_stored(count, reason_code, now)?,
            Event::ReceivedStored(sequences) => {
                for sequence in sequences {
                    self.session.received_stored(sequence, &mut self.out);
                }
            }
            Event::Released(packet_id) => self.session.released(packet_id, &mut self.out),
            Event::Failed => return Err(()),
        }
        Ok(())
    }

    /// Users, rules or limits have changed: what the client has and may not have any more ends the connection. What its session
    /// keeps of that is sorted out when it comes back.
    fn recheck(&mut self) -> Result<(), End> {
        let (messages, bytes) = publish_rates(&self.shared);
        self.throttle.change(messages, bytes, self.steady);
        let (messages, bytes) = deliver_rates(&self.shared);
        Pace::change(&mut self.pace, messages, bytes, self.steady);
        if !self.shared.authenticator.still_admits(&self.pass.admission) {
            return Err(End::Revoked);
        }
        let (admission, tenant) = (self.pass.admission.clone(), self.pass.tenant.clone());
        self.pass = Pass::new(&self.shared, admission, tenant);
        let has_will = self.will_topic.as_ref();
        if has_will.is_some_and(|topic| !self.pass.may_publish(topic)) {
            self.attachment.void_will();
            return Err(End::Revoked);
        }
        let mut subscriptions = self.attachment.subscriptions.values();
        match subscriptions.all(|entered| self.pass.may_keep(entered.filter.filter())) {
            true => Ok(()),
            false => Err(End::Revoked),
        }
    }

    fn may_read(&self) -> bool {
        self.operation.is_none()
            && self.held.is_empty()
            && self.out.len() < OUT_MAX
            && self.session.unacknowledged() < UNACKNOWLEDGED_MAX
            && !self.is_held_up()
    }

    /// Destinations are behind: what they have to answer first is waited for.
    fn is_held_up(&self) -> bool {
        self.congested && self.batches_under_way > 0
    }

    fn act(&mut self, action: Action, now: u64) -> Result<(), End> {
        match action {
            Action::Publish {
                publication,
                qos,
                retain,
                packet_id,
            } => self.publish(publication, qos, retain, packet_id, now)?,
            Action::Release(packet_id) => self.release(packet_id),
            Action::Receive(sequence) => self.receive(sequence),
            Action::Subscribe(request) => self.subscribe(request, now)?,
            Action::Unsubscribe(packet) => self.unsubscribe(packet)?,
            Action::Authenticate(packet) => self.authenticate(packet)?,
            Action::Disconnect(packet) => return Err(self.leave(packet)),
        }
        Ok(())
    }

    fn leave(&mut self, packet: Disconnect) -> End {
        let zero_before = self.attachment.session_expiry_interval == 0;
        if packet
            .session_expiry_interval
            .is_some_and(|interval| interval > 0)
            && zero_before
        {
            // [MQTT-3.14.2-2]
            return End::Protocol(ProtocolError::violation(
                "session expiry was zero and cannot be set at the end",
            ));
        }
        End::Left(packet)
    }

    /// A re-authentication with the method of the CONNECT. [MQTT-4.12.1-1]
    fn authenticate(&mut self, packet: mqtt_codec::Auth) -> Result<(), End> {
        let Some(method) = self.method.clone() else {
            return Err(End::Protocol(ProtocolError::violation(
                "AUTH without an authentication method in CONNECT",
            )));
        };
        if packet.method.as_ref().is_some_and(|named| *named != method) {
            return Err(End::Protocol(ProtocolError::violation(
                "AUTH with another method than CONNECT",
            )));
        }
        let exchange = match self.exchange.take() {
            Some(exchange) => Some(exchange),
            None => {
                let login = self.origin.login(&self.pass.admission.principal.client_id);
                self.shared.authenticator.exchange(&method, &login)
            }
        };
        let step = exchange.map(|mut exchange| (exchange.step(packet.data), exchange));
        let (reason_code, data) = match step {
            Some((Step::Continue(data), exchange)) => {
                self.exchange = Some(exchange);
                (ReasonCode::ContinueAuthentication, Some(data))
            }
            Some((Step::Success(data, admission), _)) => {
                // The session is the user's who opened it.
                let tenant = self
                    .shared
                    .tenants
                    .of(&admission.principal, self.shared.steady_ms());
                let name =
                    |tenant: &Option<Arc<Tenant>>| tenant.as_ref().map(|tenant| tenant.name().to_owned());
                let is_same = admission.principal.user == self.pass.admission.principal.user
                    && tenant.is_ok_and(|tenant| name(&tenant) == name(&self.pass.tenant));
                if !is_same {
                    return Err(End::Protocol(ProtocolError::new(
                        ReasonCode::NotAuthorized,
                        "re-authentication as somebody else",
                    )));
                }
                if !self.shared.authenticator.still_admits(&admission) {
                    return Err(End::Revoked);
                }
                self.pass = Pass::new(&self.shared, *admission, self.pass.tenant.clone());
                (ReasonCode::Success, data)
            }
            Some((Step::Refuse(reason), _)) => {
                return Err(End::Protocol(ProtocolError::new(
                    reason,
                    "re-authentication failed",
                )));
            }
            None => {
                return Err(End::Protocol(ProtocolError::new(
                    ReasonCode::BadAuthenticationMethod,
                    "unknown method",
                )));
            }
        };
        let answer = mqtt_codec::Auth {
            reason_code,
            method: Some(method),
            data,
            ..mqtt_codec::Auth::default()
        };
        let version = self.session.version();
        if mqtt_codec::encode(&mqtt_codec::Packet::Auth(answer), version, &mut self.out).is_err() {
            return Err(End::Protocol(ProtocolError::new(
                ReasonCode::UnspecifiedError,
                "authentication data is too long",
            )));
        }
        Ok(())
    }

    /// After every read: messages leave for their receivers, commands for their shards.
    fn settle(&mut self) {
        self.flush_publishes();
        self.flush_retains();
        self.flush_received();
        if !self.session.has_finished() {
            return;
        }
        let at = *self
            .acknowledge_at
            .get_or_insert(self.steady + ACKNOWLEDGE_AFTER_MS);
        if self.steady >= at || self.session.finished_count() >= ACKNOWLEDGE_COUNT {
            self.acknowledge_at = None;
            self.attachment.acknowledge(self.session.take_finished());
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut any = false;
        while !self.out.is_empty() {
            match tokio_util::io::poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.out) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(End::Lost),
                Poll::Ready(Ok(written)) => {
                    self.tally.bytes_sent += written as u64;
                    any = true;
                }
                Poll::Pending => {
                    self.trace_written();
                    return Ok(any);
                }
            }
        }
        self.trace_written();
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(End::Lost),
            _ => Ok(any),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, now: u64) -> Poll<End> {
        // Of a client that is kept waiting nothing is read: its PINGREQ may lie in the kernel. If it is gone, the TCP user
        // timeout or the answer it waits for tells.
        let steady = self.steady;
        let throttled = self.throttle.waits_until(steady);
        let is_read = throttled.is_none() && self.may_read();
        let keep_alive = self.session.keep_alive_deadline().filter(|_| is_read);
        if keep_alive.is_some_and(|deadline| deadline <= steady) {
            return Poll::Ready(End::KeepAlive);
        }
        let expiry = self.pass.admission.expires_at_ms;
        let expiry = expiry.map(|at| steady + at.saturating_sub(now).min(LONGEST_SLEEP_MS));
        let paced = self.paced_until().filter(|_| self.has_waiting());
        let deadlines = [keep_alive, self.acknowledge_at, expiry, throttled, paced];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            return Poll::Pending;
        };
        // A timer that fires early finds nothing to do and is set anew: cheaper than moving it with every packet.
        let due =
            Instant::now() + Duration::from_millis(deadline.saturating_sub(steady).min(LONGEST_SLEEP_MS) + 1);
        if self.timer.is_elapsed() || self.timer.deadline() > due {
            self.timer.as_mut().reset(due);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn count(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        self.count_sent();
        self.queued.set(self.session.queued().1 + self.out.len());
        let (metrics, totals) = (&self.shared.metrics, &self.shared.sys.totals);
        // A large packet comes with many reads; only the last of them completes it.
        if !tally.packets.is_empty() || tally.bytes_received > 0 {
            let packets = metrics.packets_received(&tally.packets);
            metrics
                .bytes_received(self.facts.transport)
                .increment(tally.bytes_received);
            totals.bytes_received.fetch_add(tally.bytes_received, Relaxed);
            totals.packets_received.fetch_add(packets, Relaxed);
            totals
                .payload_bytes_received
                .fetch_add(tally.payload_received, Relaxed);
            for (counter, count) in metrics.received.iter().zip(tally.received) {
                counter.increment(count);
            }
            totals
                .publishes_received
                .fetch_add(tally.received.iter().sum(), Relaxed);
        }
        if tally.bytes_sent > 0 {
            metrics
                .bytes_sent(self.facts.transport)
                .increment(tally.bytes_sent);
            totals.bytes_sent.fetch_add(tally.bytes_sent, Relaxed);
        }
        for (counter, count) in metrics
            .sent
            .iter()
            .zip(tally.sent)
            .filter(|(_, count)| *count > 0)
        {
            counter.increment(count);
        }
        let sent: u64 = tally.sent.iter().sum();
        if sent > 0 {
            totals.publishes_sent.fetch_add(sent, Relaxed);
            totals.payload_bytes_sent.fetch_add(tally.payload_sent, Relaxed);
        }
    }

    fn count_sent(&mut self) {
        let packets = self.shared.metrics.packets_sent(&self.out.take_packets());
        if packets > 0 {
            self.shared.sys.totals.packets_sent.fetch_add(packets, Relaxed);
        }
    }

    /// Says goodbye where the version has words for it, and gives back what the connection held.
    async fn finish(mut self: Box<Self>, end: End) {
        self.shared.metrics.closed(end.metric());
        let client = self.attachment.client.clone();
        let debt = Debt {
            published: self.throttle.owed(),
            delivered: self.pace.as_ref().map(|pace| pace.owed()).unwrap_or_default(),
        };
        self.shared
            .debts
            .note(&client, debt, self.shared.steady_ms() * 1000);
        // Acknowledgements that must not be given, perhaps cut off in the middle: nothing can be said behind them.
        let withheld = !self.out.is_empty() && !self.shared.cluster.may_acknowledge();
        let has_left = matches!(&end, End::Left(_) | End::Closed(Close::Moving));
        match &end {
            End::Left(packet) => self.attachment.left(packet),
            End::Protocol(error) => {
                match error.limit {
                    Some(limit) => {
                        self.shared.metrics.exceeded(limit);
                        info!(client_id = ?&*client, %error, limit = limit.as_str(), "client went beyond a limit");
                    }
                    None => info!(client_id = ?&*client, %error, "client broke the protocol"),
                }
                self.session
                    .refuse(error.reason_code, Some(error.detail), &mut self.out);
            }
            End::KeepAlive => {
                debug!(client_id = ?&*client, "client was silent for too long");
                self.session
                    .refuse(ReasonCode::KeepAliveTimeout, None, &mut self.out);
            }
            End::Closed(Close::TakenOver) => {
                self.shared.metrics.takeovers.increment(1);
                self.audit_with("taken over", self.attachment.mailbox.taken_by());
                self.session
                    .refuse(ReasonCode::SessionTakenOver, None, &mut self.out);
            }
            End::Closed(Close::Administrative) => {
                self.session
                    .refuse(ReasonCode::AdministrativeAction, None, &mut self.out);
            }
            End::Closed(Close::ShuttingDown) => {
                self.session
                    .refuse(ReasonCode::ServerShuttingDown, None, &mut self.out);
            }
            End::Closed(Close::Moving) if self.shared.cluster.others_serve() => {
                self.session
                    .redirect(self.shared.server_reference(), &mut self.out);
            }
            End::Closed(Close::Moving) => {
                self.session
                    .refuse(ReasonCode::ServerShuttingDown, None, &mut self.out);
            }
            End::Closed(Close::Fenced) => match self.shared.server_reference() {
                Some(reference) => self.session.redirect(Some(reference), &mut self.out),
                None => self.session.refuse(ReasonCode::ServerBusy, None, &mut self.out),
            },
            End::Unavailable => self
                .session
                .refuse(ReasonCode::ServerUnavailable, None, &mut self.out),
            End::Revoked => {
                self.audit("access revoked");
                self.session
                    .refuse(ReasonCode::NotAuthorized, None, &mut self.out);
            }
            End::Expired => {
                self.audit("credentials expired");
                self.session
                    .refuse(ReasonCode::MaximumConnectTime, None, &mut self.out);
            }
            End::Lost => {}
        }
        if withheld {
            self.out.clear();
        }
        self.count_sent();
        self.trace_sent(self.shared.clock.now_ms());
        self.trace_end(&end);
        let finished = self.session.take_finished();
        if !finished.is_empty() {
            self.attachment.acknowledge(finished);
        }
        self.attachment.sent_before = Some(self.session.next_sequence());
        let shared_messages = self.undelivered_shared();
        // Who takes leave, or is sent elsewhere, may be back at once, and on another node: by the farewell nothing of this connection is to be
        // under way any more, neither the word that its will is void nor its acknowledgements.
        let left = has_left && !self.shared.cluster.is_alone();
        let committed = left.then(|| self.attachment.end_committed());
        let Self {
            attachment,
            mut stream,
            mut out,
            shared,
            ..
        } = *self;
        shared.farewells.fetch_add(1, Relaxed);
        // The client id is free, and the session's last commands are under way, before the farewell is.
        drop(attachment);
        if !shared_messages.is_empty() {
            let shared = Arc::clone(&shared);
            // As many as the client could hold.
            tokio::spawn(async move { handover::all(&shared, shared_messages).await });
        }
        let farewell = async {
            if let Some(committed) = committed {
                // Both an answer and its absence end the wait.
                let _ = committed.await;
            }
            while !out.is_empty() {
                if stream.write_buf(&mut out).await.is_err() {
                    return;
                }
            }
            let _ = stream.shutdown().await;
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        shared.farewells.fetch_sub(1, Relaxed);
    }

    /// Why the server ends the connection of somebody with a name.
    fn audit(&self, event: &'static str) {
        self.audit_with(event, None);
    }

    /// The same, with where the next one comes from.
    fn audit_with(&self, event: &'static str, next: Option<SocketAddr>) {
        let client_id = &*self.attachment.client;
        info!(target: "audit", event, ?client_id, user = ?self.pass.user().unwrap_or_default(), address = %self.origin.peer,
            next = next.map(tracing::field::display));
    }

    /// Shared messages of a member that leaves go to another one. [MQTT-4.8.2-5]
    fn undelivered_shared(&mut self) -> Vec<Handover> {
        let waiting = self.session.in_flight() + self.session.queued().0 + self.retained.len();
        let mut messages: Vec<Delivery> = self.session.take_shared();
        // The session has them as its client sees them.
        if self.pass.tenant.is_some() {
            messages = messages
                .into_iter()
                .filter_map(|delivery| {
                    let publication = self.enter(delivery.publication).ok()?;
                    Some(Delivery {
                        publication,
                        ..delivery
                    })
                })
                .collect();
        }
        let mut lost = waiting.saturating_sub(messages.len());
        for event in self.attachment.mailbox.drain() {
            match event {
                Event::DeliverOne(delivery) => messages.push(*delivery),
                Event::Deliver { batch, .. } => lost += batch.messages.len(),
                _ => {}
            }
        }
        // Those of a durable session wait in its shard.
        if !self.session.is_durable() {
            self.shared.metrics.dropped_session_ended.increment(lost as u64);
        }
        messages.into_iter().filter_map(Handover::left_behind).collect()
    }

    fn receive(&mut self, sequence: u64) {
        if self.session.is_durable() {
            self.received.push(sequence);
        } else {
            self.session.received_stored(sequence, &mut self.out);
        }
    }

    fn flush_received(&mut self) {
        if self.received.is_empty() {
            return;
        }
        let sequences = std::mem::take(&mut self.received);
        let command = Command::Receive(proto::Receive {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            sequences: sequences.to_vec(),
        });
        self.attachment.propose(command, move |stored| match stored {
            true => Event::ReceivedStored(sequences),
            false => Event::Failed,
        });
    }

    fn release(&mut self, packet_id: PacketId) {
        if !self.session.is_durable() {
            self.session.released(packet_id, &mut self.out);
            return;
        }
        // What was received before it is proposed before it.
        self.flush_publishes();
        let command = Command::Release(proto::Release {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            packet_id: u32::from(packet_id.get()),
        });
        self.attachment.propose(command, move |stored| match stored {
            true => Event::Released(packet_id),
            false => Event::Failed,
        });
    }
}
