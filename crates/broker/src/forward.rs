//! Messages for other nodes: gathered while a publisher's packets are read, sent as one batch, answered when the node has
//! them or is gone.

use std::sync::Arc;

use cluster::ProposeError;
use cluster::proto::ForwardMessage;
use mqtt_codec::ReasonCode;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::handover::{self, Handover};
use crate::incoming::outgoing;
use crate::mailbox::LiveMessage;
use crate::message::to_stored;
use crate::router::Route;
use crate::shared::Shared;
use crate::sources::Source;

/// Messages of a run, which differ in their payloads only, at the most.
const RUN_MESSAGES_MAX: usize = 64;
/// Bytes of their payloads.
const RUN_BYTES_MAX: usize = 32 << 10;

/// Messages of one publisher for one node, in order.
#[derive(Debug)]
pub(crate) struct NodeBatch<T> {
    pub(crate) node: u64,
    /// The way there has no room for QoS 0.
    pub(crate) congested: bool,
    pub(crate) messages: Vec<ForwardMessage>,
    /// Of the payloads of the last one.
    run_bytes: usize,
    /// Of the last one, which is for all subscribers: the same route is the same topic.
    route: Option<Arc<Route>>,
    /// Of the publishes that wait for the node.
    pub(crate) tickets: SmallVec<[T; 4]>,
    /// Messages for one member of a group: if the node dies before it has them, others get them.
    pub(crate) kept: Vec<Handover>,
}

/// What has to happen when a batch is answered; taken by whoever knows first.
struct Waiting<T, A> {
    kept: Vec<Handover>,
    tickets: SmallVec<[T; 4]>,
    answer: A,
}

impl<T> NodeBatch<T> {
    /// Another batch for the same node follows this one.
    pub(crate) fn append(&mut self, later: Self) {
        self.congested = later.congested;
        self.messages.extend(later.messages);
        (self.run_bytes, self.route) = (later.run_bytes, later.route);
        self.tickets.extend(later.tickets);
        self.kept.extend(later.kept);
    }
}

impl<T: Send + 'static> NodeBatch<T> {
    pub(crate) fn new(node: u64, congested: bool) -> Self {
        Self {
            node,
            congested,
            messages: Vec::new(),
            run_bytes: 0,
            route: None,
            tickets: SmallVec::new(),
            kept: Vec::new(),
        }
    }

    /// For all subscribers there. What is like the message before, but for its payload, travels with it.
    pub(crate) fn push(
        &mut self,
        message: &LiveMessage,
        publisher: &str,
        source: Option<Source>,
        route: &Arc<Route>,
    ) {
        let payload = message.publication.payload();
        if let Some(last) = self.messages.last_mut()
            && source.is_none()
            && last.more_payloads.len() + 1 < RUN_MESSAGES_MAX
            && self.run_bytes + payload.len() <= RUN_BYTES_MAX
            && self.route.as_ref().is_some_and(|last| Arc::ptr_eq(last, route))
            && is_alike(last, message)
        {
            self.run_bytes += payload.len();
            return last.more_payloads.push(payload);
        }
        self.run_bytes = payload.len();
        self.route = Some(Arc::clone(route));
        self.messages
            .push(outgoing(to_stored(message, publisher), source));
    }

    /// Sends the batch. `answer` is called once, unless nobody waits for it.
    pub(crate) fn send<A>(self, shared: &Arc<Shared>, lane: &str, answer: A)
    where
        A: FnOnce(SmallVec<[T; 4]>, ReasonCode) + Send + 'static,
    {
        let Self {
            node,
            messages,
            tickets,
            kept,
            ..
        } = self;
        if messages.is_empty() {
            return;
        }
        let count = messages.iter().map(count_of).sum();
        let qos_0 = messages.iter().filter(|message| is_qos_0(message));
        let qos_0 = qos_0.map(count_of).sum();
        if tickets.is_empty() {
            let sent = shared.cluster.forward(node, lane, messages, Box::new(drop));
            shared.metrics.forwarded(count, sent.is_err().then_some(qos_0));
            return;
        }
        let waiting = Waiting {
            kept,
            tickets,
            answer,
        };
        let waiting = Arc::new(Mutex::new(Some(waiting)));
        let (answered, later) = (Arc::clone(&waiting), Arc::clone(shared));
        let done = move |result| {
            let waiting = answered.lock().take();
            if let Some(waiting) = waiting {
                waiting.settle(later, result);
            }
        };
        let sent = shared.cluster.forward(node, lane, messages, Box::new(done));
        shared.metrics.forwarded(count, sent.is_err().then_some(qos_0));
        let refused = sent.is_err().then(|| waiting.lock().take()).flatten();
        if let Some(Waiting { tickets, answer, .. }) = refused {
            answer(tickets, ReasonCode::QuotaExceeded);
        }
    }
}

impl<T, A> Waiting<T, A>
where
    T: Send + 'static,
    A: FnOnce(SmallVec<[T; 4]>, ReasonCode) + Send + 'static,
{
    fn settle(self, shared: Arc<Shared>, result: Result<(), ProposeError>) {
        let Self {
            kept,
            tickets,
            answer,
        } = self;
        if let Err(error) = &result {
            shared.metrics.not_forwarded(error);
        }
        match result {
            Err(ProposeError::Gone) if !kept.is_empty() => {
                // As many as a lane holds: its bound is theirs.
                tokio::spawn(async move {
                    let reason_code = handover::all(&shared, kept).await;
                    answer(tickets, reason_code);
                });
            }
            // What was connected there is not any more: nobody is left to receive it.
            Ok(()) | Err(ProposeError::Gone) => {
                for Handover { source, group, .. } in &kept {
                    source
                        .iter()
                        .for_each(|source| shared.sources.share_taken(*source, group));
                }
                answer(tickets, ReasonCode::Success);
            }
            Err(error) => answer(tickets, reason_code(&error)),
        }
    }
}

/// How a publisher is told that a destination has not got its message.
pub(crate) fn reason_code(error: &ProposeError) -> ReasonCode {
    match error {
        ProposeError::Busy => ReasonCode::QuotaExceeded,
        _ => ReasonCode::UnspecifiedError,
    }
}

/// How many messages travel as one.
pub(crate) fn count_of(message: &ForwardMessage) -> u64 {
    1 + message.more_payloads.len() as u64
}

/// Whether a message of the same publisher and topic differs from the last one in its payload at the most.
fn is_alike(last: &ForwardMessage, message: &LiveMessage) -> bool {
    let Some(stored) = &last.publication else {
        return false;
    };
    last.only_client.is_empty()
        && last.source_shard.is_none()
        && stored.qos == message.qos as u32
        && stored.retain == message.retain
        && stored.expires_at_ms == message.expires_at.unwrap_or(0)
        && stored.properties == message.publication.properties_wire()
}

fn is_qos_0(message: &ForwardMessage) -> bool {
    message
        .publication
        .as_ref()
        .is_none_or(|publication| publication.qos == 0)
}

#[cfg(test)]
mod tests {
    use mqtt_codec::QoS;
    use tokio::sync::oneshot;

    use super::*;
    use crate::message::from_stored;
    use crate::share::Known;
    use crate::testing::{grant, message, node, received, subscribe};

    fn kept(client: &str, payload: &str) -> Handover {
        let stored = message("p", "t", payload, 1).publication.unwrap();
        Handover {
            group: "$share/g/t".into(),
            message: from_stored(&stored).unwrap(),
            publisher: "p".into(),
            source: None,
            except: SmallVec::from_iter([client.into()]),
            hops: 0,
        }
    }

    #[tokio::test]
    async fn shared_messages_a_node_died_with_go_to_other_members_before_they_are_acknowledged() {
        let (_files, shared) = node().await;
        let stays = subscribe(&shared, "b", "$share/g/t", grant(QoS::AtLeastOnce), false);
        let dead = Known {
            qos: QoS::AtLeastOnce,
            shard: None,
            node: u64::MAX,
        };
        shared.router.group("$share/g/t").unwrap().learn("a", dead);
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            kept: vec![kept("a", "1"), kept("a", "2")],
            tickets: SmallVec::from_iter([7]),
            answer: move |tickets: SmallVec<[i32; 4]>, reason_code| {
                sender.send((tickets.to_vec(), reason_code)).unwrap();
            },
        };
        waiting.settle(Arc::clone(&shared), Err(ProposeError::Gone));
        assert_eq!(answer.await.unwrap(), (vec![7], ReasonCode::Success));
        let payloads: Vec<_> = received(&stays).into_iter().map(|(payload, _)| payload).collect();
        assert_eq!(payloads, ["1", "2"]);
    }

    #[tokio::test]
    async fn a_node_that_died_is_not_waited_for() {
        let (_files, shared) = node().await;
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            kept: Vec::new(),
            tickets: SmallVec::from_iter([7]),
            answer: move |_: SmallVec<[i32; 4]>, reason_code| sender.send(reason_code).unwrap(),
        };
        waiting.settle(shared, Err(ProposeError::Gone));
        assert_eq!(answer.await.unwrap(), ReasonCode::Success);
    }
}
