//! The configuration of each node and of HAProxy. `deploy/local` has the same for three nodes, to be read and started by
//! hand; a test keeps the two alike.

use std::fmt::Write as _;

/// The ports of one node, all on loopback.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) mqtt: u16,
    pub(super) ws: u16,
    pub(super) admin: u16,
    pub(super) peer: u16,
}

impl Ports {
    /// Nodes count from 1.
    pub(super) fn of(node: usize) -> Self {
        let node = u16::try_from(node).unwrap_or(u16::MAX);
        Self {
            mqtt: 11880 + node,
            ws: 18080 + node,
            admin: 9100 + node,
            peer: 7880 + node,
        }
    }
}

pub(super) fn node_name(node: usize) -> String {
    format!("node-{node}")
}

/// One of so many nodes.
pub(super) fn node_config(node: usize, nodes: usize) -> String {
    let Ports {
        mqtt,
        ws,
        admin,
        peer,
    } = Ports::of(node);
    let name = node_name(node);
    let seeds: Vec<String> = (1..=nodes)
        .map(|node| format!("\"127.0.0.1:{}\"", Ports::of(node).peer))
        .collect();
    // A node that is alone needs no seeds: it would only find itself.
    let seeds = if nodes > 1 {
        format!("seeds = [{}]\n", seeds.join(", "))
    } else {
        String::new()
    };
    format!(
        "\
# Node {node} of {nodes} on one machine, behind HAProxy (haproxy.cfg). Every key: docs/configuration.md.

[node]
name = \"{name}\"
data_dir = \"data/{name}\"

# `optional`: HAProxy says who the client is, and clients may also come without HAProxy. Whoever reaches HAProxy may come, and
# needs no name.
[[listeners]]
name = \"mqtt\"
bind = \"127.0.0.1:{mqtt}\"
proxy_protocol = \"optional\"
allow_anonymous = true

[[listeners]]
name = \"ws\"
protocol = \"ws\"
bind = \"127.0.0.1:{ws}\"
proxy_protocol = \"optional\"
allow_anonymous = true

[admin]
bind = \"127.0.0.1:{admin}\"

[cluster]
listen = \"127.0.0.1:{peer}\"
{seeds}"
    )
}

/// HAProxy in front of so many nodes.
pub(super) fn haproxy_config(nodes: usize) -> String {
    let mut text = HAPROXY_HEAD.to_owned();
    for (backend, port) in [
        ("mqtt", (|ports| ports.mqtt) as fn(Ports) -> u16),
        ("ws", |ports| ports.ws),
    ] {
        // Writing to a String has no way to fail.
        let _ = write!(text, "\nbackend {backend}\n{HAPROXY_BACKEND}");
        for node in 1..=nodes {
            let ports = Ports::of(node);
            let _ = writeln!(
                text,
                "    server {} 127.0.0.1:{} check port {}",
                node_name(node),
                port(ports),
                ports.admin
            );
        }
    }
    text
}

const HAPROXY_HEAD: &str = "\
# HAProxy in front of Flotilla's nodes on one machine: haproxy -db -f haproxy.cfg

global
    maxconn 4000

defaults
    mode tcp
    timeout connect 5s
    # Longer than the longest keep alive of a client: MQTT's own silence is no reason to close.
    timeout client 12h
    timeout server 12h
    option clitcpka
    option srvtcpka

frontend mqtt
    bind 127.0.0.1:1883
    default_backend mqtt

frontend ws
    bind 127.0.0.1:8083
    default_backend ws

frontend status
    bind 127.0.0.1:8404
    mode http
    timeout client 30s
    stats enable
    stats uri /
    stats refresh 2s
";

const HAPROXY_BACKEND: &str = "    balance leastconn
    # A node that stops, or has lost the majority, is not ready: new clients go elsewhere.
    option httpchk GET /readyz
    http-check expect status 200
    default-server send-proxy-v2 inter 1s fall 2 rise 2
";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::step;

    use super::*;

    #[test]
    fn the_files_in_deploy_are_those_of_this_task() {
        let mut files: Vec<(String, String)> = (1..=3)
            .map(|node| (format!("node{node}.toml"), node_config(node, 3)))
            .collect();
        files.push(("haproxy.cfg".to_owned(), haproxy_config(3)));
        for (name, text) in files {
            let path = step::root().join("deploy/local").join(&name);
            if std::env::var_os("FLOTILLA_UPDATE").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == text,
                "deploy/local/{name} is stale: FLOTILLA_UPDATE=1 cargo test -p xtask"
            );
        }
    }

    #[test]
    fn haproxy_accepts_its_configuration_for_any_number_of_nodes() {
        let folder = std::env::temp_dir().join(format!("flotilla-haproxy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for nodes in 1..=9 {
            let file = folder.join("haproxy.cfg");
            std::fs::write(&file, haproxy_config(nodes)).unwrap();
            // `cargo xtask test` installs it; elsewhere the text alone is compared.
            let Ok(output) = Command::new("haproxy").arg("-c").arg("-f").arg(&file).output() else {
                println!("haproxy is not here: nothing is checked");
                break;
            };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && !said.contains("WARN"),
                "{nodes} nodes: {said}"
            );
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
