//! Traces, in the words of the API.

use admin::views::TraceLine;
use admin::{AdminError, TraceOf, TraceQuery};
use broker::operator::{Event, Line, Operator, Refused, Subject, Trace, TraceError, TracedPacket};
use tokio::sync::mpsc;

use super::{Names, NodeOperations};

/// Lines between the broker and whoever looks on. Behind them others wait where they are counted.
const LINES_MAX: usize = 1;

impl NodeOperations {
    pub(super) fn begin_trace(&self, query: TraceQuery) -> Result<mpsc::Receiver<TraceLine>, AdminError> {
        let operator = self.operator()?;
        let subject = match query.of {
            TraceOf::Client(client) => Ok(Subject::Client(client)),
            TraceOf::Topic(filter) => Subject::topic(&filter),
        };
        let trace = subject.and_then(|subject| operator.trace(subject, query.within));
        let trace = trace.map_err(|error| match error {
            TraceError::Filter(reason) => AdminError::Invalid(reason),
            error @ TraceError::Busy => AdminError::Unavailable(error.to_string()),
        })?;
        let (sender, receiver) = mpsc::channel(LINES_MAX);
        tokio::spawn(pass_on(trace, operator, self.name(), sender));
        Ok(receiver)
    }
}

async fn pass_on(mut trace: Trace, operator: Operator, node: String, sender: mpsc::Sender<TraceLine>) {
    loop {
        let line = tokio::select! {
            line = trace.next() => line,
            () = sender.closed() => return,
        };
        let is_end = line.is_none();
        let line = match line {
            Some(line) => shown(&operator, line),
            None => TraceLine {
                at_ms: operator.now_ms(),
                event: "end".to_owned(),
                lost: trace.lost_last(),
                ..TraceLine::default()
            },
        };
        let line = TraceLine {
            node: node.clone(),
            ..line
        };
        if sender.send(line).await.is_err() || is_end {
            return;
        }
    }
}

fn shown(operator: &Operator, line: Line) -> TraceLine {
    let told = match line.event {
        Event::Received(told) => packet("received", told),
        Event::Sent(told) => packet("sent", told),
        Event::Connected { address, listener } => TraceLine {
            event: "connected".to_owned(),
            address: Some(address.to_string()),
            listener: Some(listener.to_string()),
            ..TraceLine::default()
        },
        Event::Closed { reason, detail } => TraceLine {
            event: "closed".to_owned(),
            reason: Some(match detail {
                Some(detail) => format!("{reason}: {detail}"),
                None => reason.to_owned(),
            }),
            ..TraceLine::default()
        },
        Event::Refused(refused) => refusal(*refused),
        Event::Place(node) => TraceLine {
            event: "place".to_owned(),
            place: Some(node.map(|node| Names::of(operator).get(node))),
            ..TraceLine::default()
        },
    };
    TraceLine {
        at_ms: line.at_ms,
        lost: line.lost,
        client_id: Some(line.client_id),
        ..told
    }
}

fn packet(event: &str, told: TracedPacket) -> TraceLine {
    TraceLine {
        event: event.to_owned(),
        packet: Some(told.packet_type.name().to_owned()),
        bytes: Some(told.bytes),
        payload_bytes: told.payload_bytes,
        packet_id: told.packet_id,
        topic: told.topic,
        qos: told.qos.map(|qos| qos as u8),
        flags: told.flags.into_iter().map(str::to_owned).collect(),
        filters: told.filters,
        reason_codes: told.reason_codes.into_iter().map(|code| code as u8).collect(),
        ..TraceLine::default()
    }
}

fn refusal(refused: Refused) -> TraceLine {
    let is_connection = refused.action == "connect";
    TraceLine {
        event: if is_connection { "refused" } else { "denied" }.to_owned(),
        action: (!is_connection).then(|| refused.action.to_owned()),
        topic: (!refused.topic.is_empty()).then_some(refused.topic),
        address: (!refused.address.is_empty()).then_some(refused.address),
        reason_codes: refused.reason_code.iter().map(|code| *code as u8).collect(),
        reason: Some(refused.reason),
        rule_line: refused.rule_line,
        ..TraceLine::default()
    }
}
