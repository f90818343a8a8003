//! What end-to-end tests share: a broker process of their own, or a cluster of them with links that can be cut, and a
//! small MQTT client with full control of the wire.

mod broker;
mod certificate;
mod client;
mod cluster;
mod front;
mod link;
mod options;
mod process;
mod users;
mod wait;

pub use broker::{Broker, BrokerOptions, is_audited};
pub use certificate::{Certificate, peer_keys, write_client_certificate, write_peer_certificate};
pub use client::{Client, LIMIT, Transport, encoded, subscription_options};
pub use cluster::{Cluster, ClusterOptions, own_hosts_are_possible};
pub use front::{free_address, known_behind};
pub use link::{Cut, Link};
pub use options::{ConnectOptions, Message};
pub use process::flotilla;
pub use users::{Scram, passwd};
pub use wait::wait_for;
