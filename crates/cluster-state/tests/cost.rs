//! What applying costs. `cargo test -p cluster-state --test cost -- --ignored --nocapture` prints it.

use std::time::Instant;

use bytes::Bytes;
use cluster_proto::shard_command::Command;
use cluster_proto::{
    Acknowledge, Append, Connect, Publication, SequenceRange, ShardCommand, Subscribe, Subscription,
};
use cluster_state::{ApplyContext, ShardState};

const CLIENTS: u32 = 10_000;
const MESSAGES: u32 = 200_000;

struct Log {
    state: ShardState,
    index: u64,
}

impl Log {
    fn apply(&mut self, command: Command) {
        self.index += 1;
        let context = ApplyContext {
            index: self.index,
            command: 0,
            now_ms: 1,
            shard: 0,
        };
        let mut effects = Vec::new();
        self.state.apply(
            &context,
            ShardCommand {
                command: Some(command),
            },
            &mut effects,
        );
    }

    fn measure(&mut self, what: &str, commands: Vec<Command>) {
        let count = commands.len();
        let start = Instant::now();
        for command in commands {
            self.apply(command);
        }
        println!("{what}: {} ns", start.elapsed().as_nanos() as usize / count);
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_commands() {
    let mut log = Log {
        state: ShardState::new(),
        index: 0,
    };
    let client = |number: u32| format!("client-{number}");
    let connect = |number| Connect {
        client: client(number),
        session_expiry_s: 100,
        ..Connect::default()
    };
    log.measure(
        "connect",
        (0..CLIENTS)
            .map(|number| Command::Connect(connect(number)))
            .collect(),
    );
    let subscribe = |number: u32, filter: String| {
        let subscriptions = vec![Subscription {
            filter,
            qos: 1,
            ..Subscription::default()
        }];
        Command::Subscribe(Subscribe {
            client: client(number),
            epoch: u64::from(number) + 1,
            subscriptions,
        })
    };
    log.measure(
        "subscribe",
        (0..CLIENTS)
            .map(|number| subscribe(number, format!("devices/{number}/in")))
            .collect(),
    );
    log.measure(
        "subscribe to one filter",
        (0..1000).map(|number| subscribe(number, "all".into())).collect(),
    );
    let payload = Bytes::from(vec![0; 200]);
    let append = |topic: String| {
        let publication = Some(Publication {
            topic,
            payload: payload.clone(),
            qos: 1,
            ..Publication::default()
        });
        Command::Append(Append {
            publication,
            ..Append::default()
        })
    };
    let to_one = (0..MESSAGES)
        .map(|number| append(format!("devices/{}/in", number % CLIENTS)))
        .collect();
    log.measure("append to one subscriber", to_one);
    log.measure(
        "append to nobody",
        (0..MESSAGES).map(|_| append("nobody/wants/it".into())).collect(),
    );
    log.measure(
        "append to 1000 subscribers",
        (0..200).map(|_| append("all".into())).collect(),
    );
    let start = Instant::now();
    println!(
        "checkpoint: {} records in {:?}",
        log.state.take_dirty().len(),
        start.elapsed()
    );
    let acknowledge = |number: u32, last| {
        let ranges = vec![SequenceRange { first: 0, last }];
        Command::Acknowledge(Acknowledge {
            client: client(number),
            epoch: u64::from(number) + 1,
            ranges,
        })
    };
    log.measure(
        "acknowledge 10 of one session",
        (0..CLIENTS).map(|number| acknowledge(number, 9)).collect(),
    );
    let start = Instant::now();
    println!(
        "checkpoint: {} records in {:?}",
        log.state.take_dirty().len(),
        start.elapsed()
    );
}
