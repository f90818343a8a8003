//! MQTT.js (Node) against a running broker: both protocol versions over every transport.

use anyhow::Result;
use clients::{Reach, mqttjs};

#[test]
fn mqttjs_speaks_mqtt_3_1_1_over_tcp() -> Result<()> {
    mqttjs("3.1.1", Reach::Tcp)
}

#[test]
fn mqttjs_speaks_mqtt_3_1_1_over_tls() -> Result<()> {
    mqttjs("3.1.1", Reach::Tls)
}

#[test]
fn mqttjs_speaks_mqtt_3_1_1_over_websocket() -> Result<()> {
    mqttjs("3.1.1", Reach::WebSocket)
}

#[test]
fn mqttjs_speaks_mqtt_3_1_1_over_secure_websocket() -> Result<()> {
    mqttjs("3.1.1", Reach::SecureWebSocket)
}

#[test]
fn mqttjs_speaks_mqtt_5_over_tcp() -> Result<()> {
    mqttjs("5", Reach::Tcp)
}

#[test]
fn mqttjs_speaks_mqtt_5_over_tls() -> Result<()> {
    mqttjs("5", Reach::Tls)
}

#[test]
fn mqttjs_speaks_mqtt_5_over_websocket() -> Result<()> {
    mqttjs("5", Reach::WebSocket)
}

#[test]
fn mqttjs_speaks_mqtt_5_over_secure_websocket() -> Result<()> {
    mqttjs("5", Reach::SecureWebSocket)
}
