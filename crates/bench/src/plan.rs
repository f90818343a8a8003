//! Who publishes what and who subscribes to what, for each shape of load.

use std::ops::Range;

use crate::args::{Args, Scenario};

/// The parties of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Topic of each publisher.
    pub(crate) topics: Vec<String>,
    pub(crate) subscribers: Vec<SubscriberPlan>,
    /// Subscribers that receive each message.
    pub(crate) receivers: u16,
}

/// One subscriber.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberPlan {
    pub(crate) filters: Vec<String>,
    /// The publishers it hears.
    pub(crate) sources: Range<usize>,
}

impl Plan {
    /// `root` is the first level or levels of every topic, different in each run.
    pub(crate) fn new(args: &Args, root: &str) -> Self {
        match args.scenario {
            Scenario::FanIn => fan_in(args, root),
            Scenario::FanOut => fan_out(args, root),
            Scenario::Wildcards => wildcards(args, root),
            _ => pairs(args, root),
        }
    }
}

fn pairs(args: &Args, root: &str) -> Plan {
    let topics: Vec<_> = (0..args.pairs).map(|index| format!("{root}/{index}")).collect();
    let subscribers = topics.iter().enumerate().map(|(index, topic)| SubscriberPlan {
        filters: vec![topic.clone()],
        sources: index..index + 1,
    });
    Plan {
        subscribers: subscribers.collect(),
        topics,
        receivers: 1,
    }
}

fn fan_in(args: &Args, root: &str) -> Plan {
    let topic = format!("{root}/in");
    let subscriber = SubscriberPlan {
        filters: vec![topic.clone()],
        sources: 0..args.publishers,
    };
    Plan {
        topics: vec![topic; args.publishers],
        subscribers: vec![subscriber],
        receivers: 1,
    }
}

fn fan_out(args: &Args, root: &str) -> Plan {
    let topic = format!("{root}/out");
    let subscriber = SubscriberPlan {
        filters: vec![topic.clone()],
        sources: 0..1,
    };
    let receivers = u16::try_from(args.subscribers).expect("checked with the arguments");
    Plan {
        topics: vec![topic],
        subscribers: vec![subscriber; args.subscribers],
        receivers,
    }
}

/// Half of the subscribers use `+`, half `#`; the idle filters are of both kinds and share the first levels.
fn wildcards(args: &Args, root: &str) -> Plan {
    let topics = (0..args.pairs)
        .map(|index| format!("{root}/{index}/room/temperature"))
        .collect();
    let subscriber = |index: usize| {
        let wanted = if index.is_multiple_of(2) {
            format!("{root}/{index}/+/temperature")
        } else {
            format!("{root}/{index}/#")
        };
        let idle = (0..args.filters).map(|number| {
            if number.is_multiple_of(2) {
                format!("{root}/{index}/+/other{number}")
            } else {
                format!("{root}/other{index}/{number}/#")
            }
        });
        SubscriberPlan {
            filters: std::iter::once(wanted).chain(idle).collect(),
            sources: index..index + 1,
        }
    };
    Plan {
        topics,
        subscribers: (0..args.pairs).map(subscriber).collect(),
        receivers: 1,
    }
}
