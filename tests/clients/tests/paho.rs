//! Paho (Python) against a running broker: both protocol versions over every transport.

use anyhow::Result;
use clients::{Reach, paho, paho_over_nodes, paho_while_nodes_die};

#[test]
fn paho_speaks_mqtt_3_1_1_over_tcp() -> Result<()> {
    paho("3.1.1", Reach::Tcp)
}

#[test]
fn paho_speaks_mqtt_3_1_1_over_tls() -> Result<()> {
    paho("3.1.1", Reach::Tls)
}

#[test]
fn paho_speaks_mqtt_3_1_1_over_websocket() -> Result<()> {
    paho("3.1.1", Reach::WebSocket)
}

#[test]
fn paho_speaks_mqtt_3_1_1_over_secure_websocket() -> Result<()> {
    paho("3.1.1", Reach::SecureWebSocket)
}

#[test]
fn paho_speaks_mqtt_5_over_tcp() -> Result<()> {
    paho("5", Reach::Tcp)
}

#[test]
fn paho_speaks_mqtt_5_over_tls() -> Result<()> {
    paho("5", Reach::Tls)
}

#[test]
fn paho_speaks_mqtt_5_over_websocket() -> Result<()> {
    paho("5", Reach::WebSocket)
}

#[test]
fn paho_speaks_mqtt_5_over_secure_websocket() -> Result<()> {
    paho("5", Reach::SecureWebSocket)
}

#[test]
fn paho_speaks_mqtt_3_1_1_to_three_nodes_as_to_one() -> Result<()> {
    paho_over_nodes("3.1.1")
}

#[test]
fn paho_speaks_mqtt_5_to_three_nodes_as_to_one() -> Result<()> {
    paho_over_nodes("5")
}

#[test]
fn paho_loses_nothing_of_mqtt_3_1_1_while_nodes_die() -> Result<()> {
    paho_while_nodes_die("3.1.1")
}

#[test]
fn paho_loses_nothing_of_mqtt_5_while_nodes_die() -> Result<()> {
    paho_while_nodes_die("5")
}
