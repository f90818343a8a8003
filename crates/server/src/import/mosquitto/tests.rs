//! Whole files, and what becomes of them.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config;

/// A folder with the files that configurations name.
fn folder() -> TempDir {
    let folder = TempDir::with_prefix("flotilla-import-").unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    for name in ["cert.pem", "key.pem", "ca.pem", "crl.pem"] {
        write(name, "");
    }
    write("acl", "topic read $SYS/#\nuser anna\ntopic a/#\n");
    write("users", "");
    folder
}

/// The configuration, which a start has to accept, and the notes by line.
fn imported(text: &str) -> (broker::config::Config, Vec<(usize, String)>) {
    let folder = folder();
    let (toml, notes) = translate(text, folder.path());
    let loaded = config::from_text(&PathBuf::from("flotilla.toml"), &toml);
    let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}\n{toml}"));
    let notes = notes.into_iter().map(|note| (note.line, note.text)).collect();
    (loaded.config, notes)
}

fn lines(notes: &[(usize, String)]) -> Vec<usize> {
    notes.iter().map(|(line, _)| *line).collect()
}

#[test]
fn an_empty_file_serves_this_machine_as_mosquitto_does() {
    let (config, notes) = imported("# nothing\n\n");
    let [listener] = &config.listeners[..] else {
        panic!("{:?}", config.listeners)
    };
    assert_eq!(listener.bind.to_string(), "127.0.0.1:1883");
    assert_eq!((listener.allow_anonymous, listener.insecure), (Some(true), false));
    assert_eq!(notes, []);
}

#[test]
fn a_usual_file_is_taken_over_whole() {
    let (config, notes) = imported(
        "persistence true\n\
         listener 1883\n\
         listener 8883\n\
         certfile cert.pem\n\
         keyfile key.pem\n\
         cafile ca.pem\n\
         require_certificate true\n\
         crlfile crl.pem\n\
         listener 9001 127.0.0.1\n\
         protocol websockets\n\
         allow_anonymous false\n\
         password_file users\n\
         acl_file acl\n\
         max_inflight_messages 0\n\
         max_queued_messages 5000\n\
         max_queued_bytes 1000000\n\
         message_size_limit 65536\n\
         max_keepalive 600\n\
         persistent_client_expiration 2w\n\
         max_qos 1\n\
         sys_interval 60\n\
         log_type all\n",
    );
    let shown: Vec<_> = config
        .listeners
        .iter()
        .map(|one| (one.protocol.as_str(), one.bind.to_string(), one.allow_anonymous))
        .collect();
    let address = |text: &str| text.to_owned();
    assert_eq!(
        shown,
        [
            ("tcp", address("0.0.0.0:1883"), Some(false)),
            ("tls", address("0.0.0.0:8883"), Some(false)),
            ("ws", address("127.0.0.1:9001"), Some(false)),
        ]
    );
    let files = |path: &Option<PathBuf>| path.as_ref().unwrap().file_name().unwrap().to_owned();
    assert_eq!(files(&config.listeners[1].client_ca), "ca.pem");
    assert_eq!(files(&config.listeners[1].client_crl), "crl.pem");
    assert_eq!(files(&config.auth.password_file), "users");
    assert_eq!(files(&config.access.mosquitto_acl), "acl");
    assert!(config.auth.password_file.unwrap().is_absolute());
    assert_eq!(config.limits.in_flight_max, 65_535);
    assert_eq!(config.queues.messages_max, 5000);
    assert_eq!(config.queues.bytes_max.get(), 1_000_000);
    assert_eq!(config.limits.packet_size_max.get(), 65_536);
    assert_eq!(config.limits.keep_alive_max.get().as_secs(), 600);
    assert_eq!(config.limits.session_expiry_max.get().as_secs(), 14 * 86_400);
    assert_eq!(config.mqtt.maximum_qos, 1);
    assert_eq!(config.mqtt.sys_interval.get().as_secs(), 60);
    assert_eq!(config.log.level, "debug");
    // Plain text, the path of the WebSocket, the stricter rules.
    assert_eq!(lines(&notes), [2, 9, 13], "{notes:#?}");
}

#[test]
fn what_has_no_counterpart_is_named_with_its_line_and_what_to_do() {
    let (config, notes) = imported(
        "per_listener_settings true\n\
         listener 1883 127.0.0.1\n\
         allow_anonymous true\n\
         listener 1884 127.0.0.1\n\
         mount_point sites/\n\
         plugin /usr/lib/dynsec.so\n\
         plugin_opt_config_file /etc/dynsec.json\n\
         listener 0 /run/mosquitto.sock\n\
         ciphers HIGH\n\
         queue_qos0_messages true\n\
         log_dest file /var/log/mosquitto.log\n\
         max_packet_size 20\n\
         max_queued_bytes 0\n\
         max_qos many\n\
         no_such_key 7\n\
         connection to-centre\n\
         address centre.example:8883\n\
         topic # out 1\n\
         bridge_cafile ca.pem\n\
         retain_available false\n",
    );
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[0].allow_anonymous, Some(true));
    assert_eq!(config.listeners[1].allow_anonymous, Some(false));
    assert_eq!(config.limits.packet_size_max.get(), 128);
    assert!(
        !config.mqtt.retain_available,
        "a bridge does not swallow what is no part of it"
    );
    let expected = [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19];
    assert_eq!(lines(&notes), expected, "{notes:#?}");
    let of = |line: usize| &notes.iter().find(|(at, _)| *at == line).unwrap().1;
    assert!(of(6).contains("[auth.http]"), "{}", of(6));
    assert!(of(14).contains("max_qos many"), "{}", of(14));
    assert!(of(15).contains("not known"), "{}", of(15));
    assert!(of(17).contains("bridge of line 16"), "{}", of(17));
}

#[test]
fn a_listener_that_cannot_be_takes_its_lines_with_it() {
    let (config, notes) = imported(
        "per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous false\nlistener 0 /run/mosquitto.sock\n\
         allow_anonymous true\nlistener 8883\npsk_hint fleet\n",
    );
    let [listener] = &config.listeners[..] else {
        panic!("{:?}", config.listeners)
    };
    assert_eq!(listener.bind.port(), 1883);
    assert_eq!(listener.allow_anonymous, Some(false));
    // Encrypted before, it does not become plain text.
    assert_eq!(lines(&notes), [1, 2, 4, 6], "{notes:#?}");
}

#[test]
fn limits_of_connections_are_added_up_where_all_have_one() {
    let (config, notes) = imported(
        "listener 1883 127.0.0.1\nmax_connections 100\nlistener 1884 127.0.0.1\nmax_connections 200\nallow_anonymous true\n",
    );
    assert_eq!(config.limits.connections_max, 300);
    assert_eq!(lines(&notes), [0]);
    let (config, notes) = imported(
        "listener 1883 127.0.0.1\nmax_connections 100\nlistener 1884 127.0.0.1\nmax_connections -1\nallow_anonymous true\n",
    );
    assert_eq!(config.limits.connections_max, 100_000);
    assert_eq!(lines(&notes), [0]);
}

#[test]
fn a_listener_that_let_nobody_in_still_does_not() {
    let (config, notes) = imported("port 1884\nbind_address 0.0.0.0\n");
    let [listener] = &config.listeners[..] else {
        panic!("{:?}", config.listeners)
    };
    assert_eq!(listener.bind.to_string(), "0.0.0.0:1884");
    assert!(!listener.permits_anonymous(&config.auth));
    assert_eq!(lines(&notes), [1, 1]);
}

#[test]
fn names_of_hosts_are_looked_up_and_lifetimes_are_read() {
    let (config, _) = imported("listener 1883 localhost\nallow_anonymous true\n");
    assert!(config.listeners[0].bind.ip().is_loopback());
    for (text, seconds) in [
        ("1h", Ok(3600)),
        ("14d", Ok(1_209_600)),
        ("2m", Ok(5_184_000)),
        ("1y", Ok(31_536_000)),
        ("99999999y", Ok(4_294_967_294)),
        ("14", Err(())),
        ("d", Err(())),
        ("", Err(())),
        ("1ü", Err(())),
    ] {
        assert_eq!(words::expiration_seconds(text).map_err(drop), seconds, "{text}");
    }
}
