//! Real clients and load balancers against a running broker. One module for each.

mod haproxy;
mod mosquitto;
mod mqttjs;
mod paho;
mod proxy_protocol;
mod rumqttc_v4;
mod rumqttc_v5;
