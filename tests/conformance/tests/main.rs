//! What MQTT 5.0, 3.1.1 and 3.1 demand of a server, asked of a running broker over a socket.
//!
//! A test named `mqtt_3_1_2_4_…` is about statement [MQTT-3.1.2-4] of MQTT 5.0, which its first comment line puts in
//! our words. `document` makes `docs/conformance.md` of them and of `not_tested`.

mod acknowledgements;
mod authentication;
mod bad_input;
mod common;
mod connack;
mod connect;
mod connect_payload;
mod data;
mod disconnect;
mod document;
mod features;
mod not_tested;
mod publish;
mod publish_properties;
mod qos;
mod queues;
mod restart;
mod retain;
mod sessions;
mod shared;
mod subscribe;
mod topics;
mod unsubscribe;
mod version3;
mod websocket;
mod wills;
