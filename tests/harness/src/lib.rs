//! What end-to-end tests share: a broker process of their own and a small MQTT client with full control of the wire.

mod broker;
mod certificate;
mod client;
mod options;
mod wait;

pub use broker::{Broker, BrokerOptions};
pub use certificate::Certificate;
pub use client::{Client, LIMIT, Transport, encoded, subscription_options};
pub use options::{ConnectOptions, Message};
pub use wait::wait_for;
