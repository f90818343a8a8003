//! Files, variables and flags together: what wins, and what is said about mistakes.

use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;

use super::*;
use crate::arguments::{Arguments, Command};

/// What a person has said, without a process of its own.
#[derive(Default)]
struct Said<'a> {
    file: &'a str,
    environment: &'a [(&'a str, &'a str)],
    flags: &'a [&'a str],
}

impl Said<'_> {
    fn load(&self) -> Result<Loaded, Mistakes> {
        let arguments = Arguments::try_parse_from(["flotilla", "start"].iter().chain(self.flags)).unwrap();
        let Command::Start(flags) = arguments.command else {
            panic!("start was asked for")
        };
        let mut draft = Draft::default();
        file::parse(Path::new("flotilla.toml"), self.file, &mut draft);
        let owned = self
            .environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        environment::apply(owned, &mut draft);
        flags::apply(&flags, &mut draft);
        finish::finish(draft)
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    fn mistakes(&self) -> Vec<String> {
        let mistakes = self.load().expect_err("a mistake was made").0;
        mistakes.iter().map(Mistake::to_string).collect()
    }
}

fn mistakes_in_file(file: &str) -> Vec<String> {
    Said {
        file,
        ..Said::default()
    }
    .mistakes()
}

fn addresses(config: &Config) -> Vec<(String, String)> {
    config
        .listeners
        .iter()
        .map(|listener| (listener.name.clone(), listener.bind.to_string()))
        .collect()
}

fn pair(name: &str, address: &str) -> (String, String) {
    (name.to_owned(), address.to_owned())
}

/// Each key with bounds gets another value; what is taken over then is what is said to count at once.
#[test]
fn what_counts_at_once_is_taken_over_and_nothing_else() {
    let before = Config::default();
    let mut checked = 0;
    for section in Config::reference() {
        for key in &section.keys {
            let Some((min, max)) = &key.bounds else { continue };
            let default = key.default.as_deref().unwrap_or("").trim_matches('"');
            let other = if default == min { max } else { min };
            let value = match other.parse::<i64>() {
                Ok(number) => number.to_string(),
                Err(_) => format!("{other:?}"),
            };
            let Ok(new) = toml::from_str::<Config>(&format!("[{}]\n{} = {value}\n", section.name, key.name))
            else {
                continue;
            };
            assert_ne!(new, before, "{}.{}", section.name, key.name);
            let mut after = before.clone();
            after.adopt(&new);
            let at_once = Config::counts_at_once(section.name, key.name);
            assert_eq!(after == new, at_once, "{}.{}", section.name, key.name);
            assert_eq!(after == before, !at_once, "{}.{}", section.name, key.name);
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn without_a_word_the_defaults_are_used() {
    let config = Said::default().config();
    assert_eq!(config, Config::default());
    assert_eq!(
        addresses(&config),
        [pair("mqtt", "127.0.0.1:1883"), pair("ws", "127.0.0.1:8083")]
    );
    assert_eq!(config.admin.bind, SocketAddr::from(([127, 0, 0, 1], 9100)));
    assert_eq!(config.node.data_dir, Path::new("./flotilla-data"));
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "[admin]\nbind = '127.0.0.1:1'\n[limits]\nconnections_max = 1\nreceive_maximum = 5\n";
    let environment = [
        ("FLOTILLA__ADMIN__BIND", "127.0.0.1:2"),
        ("FLOTILLA__LIMITS__CONNECTIONS_MAX", "2"),
        ("HOME", "/"),
    ];
    let config = Said {
        file,
        environment: &environment,
        flags: &["--admin", "127.0.0.1:3"],
    }
    .config();
    assert_eq!(config.admin.bind.port(), 3);
    assert_eq!(config.limits.connections_max, 2);
    assert_eq!(config.limits.receive_maximum, 5);
    assert_eq!(config.limits.client_id_bytes_max, 256);
}

#[test]
fn each_listener_flag_is_a_listener_and_the_defaults_are_gone() {
    let flags = [
        "--mqtt",
        "127.0.0.1:0",
        "--mqtt",
        "127.0.0.1:1",
        "--ws",
        "[::1]:0",
    ];
    let config = Said {
        flags: &flags,
        ..Said::default()
    }
    .config();
    assert_eq!(
        addresses(&config),
        [
            pair("mqtt", "127.0.0.1:0"),
            pair("mqtt-2", "127.0.0.1:1"),
            pair("ws", "[::1]:0")
        ]
    );
}

#[test]
fn a_listener_of_the_file_is_changed_by_its_name() {
    let file = "[[listeners]]\nname = 'inside'\nbind = '127.0.0.1:1'\n[[listeners]]\nprotocol = 'ws'\nbind = '127.0.0.1:2'\n";
    let environment = [
        ("FLOTILLA__LISTENERS__INSIDE__BIND", "127.0.0.1:11"),
        ("FLOTILLA__LISTENERS__1__PATH", "/here"),
        ("FLOTILLA__LISTENERS__MORE__BIND", "127.0.0.1:3"),
    ];
    let config = Said {
        file,
        environment: &environment,
        flags: &["--ws", "127.0.0.1:12"],
    }
    .config();
    assert_eq!(
        addresses(&config),
        [
            pair("inside", "127.0.0.1:11"),
            pair("ws", "127.0.0.1:12"),
            pair("more", "127.0.0.1:3")
        ]
    );
    assert_eq!(config.listeners[1].path, "/here");
}

#[test]
fn certificate_flags_serve_the_tls_listeners_that_have_none() {
    let files = tempfile::tempdir().unwrap();
    let file_of = |name: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, "").unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (flag, own) = (file_of("flag.pem"), file_of("own.pem"));
    let file = format!(
        "[[listeners]]\nprotocol = 'tls'\nname = 'own'\nbind = '127.0.0.1:1'\ncert = '{own}'\nkey = '{own}'\n"
    );
    let flags = [
        "--mqtts",
        "127.0.0.1:2",
        "--mqtt",
        "127.0.0.1:3",
        "--cert",
        &flag,
        "--key",
        &flag,
    ];
    let config = Said {
        file: &file,
        environment: &[],
        flags: &flags,
    }
    .config();
    let certificates: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| listener.cert.clone())
        .collect();
    assert_eq!(certificates, [Some(own.into()), None, Some(flag.into())]);
}

#[test]
fn insecure_permits_what_is_refused_otherwise() {
    let flags = ["--mqtt", "0.0.0.0:0"];
    let mistakes = Said {
        flags: &flags,
        ..Said::default()
    }
    .mistakes();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(
        mistakes[0].starts_with("--mqtt: listeners[0].bind: plain text on 0.0.0.0:0"),
        "{mistakes:?}"
    );
    assert!(mistakes[0].contains("`insecure = true`"), "{mistakes:?}");
    assert!(mistakes[1].contains("`allow_anonymous = true`"), "{mistakes:?}");
    let config = Said {
        flags: &["--mqtt", "0.0.0.0:0", "--insecure"],
        ..Said::default()
    }
    .config();
    assert!(config.listeners[0].permits_anonymous(&config.auth));
    assert!(!config.listeners[0].risks(&config.auth).is_empty());
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let file = "\
[limits]
recieve_maximum = 5
connect_timeout = 10
packet_size_max = '1Mb'
keep_alive_max = '1500ms'
[mqqt]
maximum_qos = 1
[mqtt]
maximum_qos = 3
shared_strategy = 'fair'
[[listeners]]
protocol = 'tls'
bind = 'localhost'
";
    let environment = [
        ("FLOTILLA__LOG__LEVEL", "inof"),
        ("FLOTILLA__LIMIT__CONNECTIONS_MAX", "5"),
    ];
    let mistakes = Said {
        file,
        environment: &environment,
        flags: &["--seeds", "a"],
    }
    .mistakes();
    let expected = [
        "cluster.listen: seeds have to reach this node, too: add `listen = \"127.0.0.1:7883\"` to [cluster]",
        "flotilla.toml:2: limits.recieve_maximum: unknown key; did you mean `receive_maximum`?",
        "flotilla.toml:3: limits.connect_timeout: 10 does not fit; expected: duration between 10ms and 10m, as \"30s\"",
        "flotilla.toml:4: limits.packet_size_max: '1Mb' does not fit; expected: size between 128B",
        "flotilla.toml:5: limits.keep_alive_max: has to be whole seconds",
        "flotilla.toml:6: mqqt: unknown section; did you mean `mqtt`?",
        "flotilla.toml:9: mqtt.maximum_qos: 3 is not within 0 and 2",
        "flotilla.toml:10: mqtt.shared_strategy: 'fair' does not fit; expected: \"round-robin\", \"random\"",
        "flotilla.toml:11: listeners[0].cert: `tls` needs a certificate",
        "flotilla.toml:11: listeners[0].key: `tls` needs a certificate",
        "flotilla.toml:13: listeners[0].bind: 'localhost' does not fit; expected: address:port, as \"127.0.0.1:1883\"",
        "FLOTILLA__LIMIT__CONNECTIONS_MAX: limit: unknown section; did you mean `limits`?",
        "FLOTILLA__LOG__LEVEL: log.level: `inof` is not a level",
        "--seeds: cluster.seeds[0]: `a` is not an address to dial: write host:port, as `node-1:7883`",
    ];
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    for (mistake, expected) in mistakes.iter().zip(expected) {
        assert!(
            mistake.starts_with(expected),
            "{mistake}\nshould start with\n{expected}"
        );
    }
}

#[test]
fn single_mistakes_are_told_apart() {
    for (file, expected) in [
        (
            "receive_maximum = 5",
            "flotilla.toml:1: receive_maximum: is a key of [limits]: write it below that line",
        ),
        (
            "[node]\nbind = 'a'",
            "flotilla.toml:2: node.bind: unknown key; it belongs to [listeners]",
        ),
        (
            "[node]\nname = 5",
            "flotilla.toml:2: node.name: 5 does not fit; expected: text",
        ),
        (
            "[node.name]\na = 5",
            "flotilla.toml:1: node.name: a section does not fit; expected: text",
        ),
        (
            "limits = 5",
            "flotilla.toml:1: limits: is a section: write `[limits]`",
        ),
        (
            "[listeners]\nbind = 'a'",
            "flotilla.toml:1: listeners: is a list: write `[[listeners]]`",
        ),
        (
            "listeners = [1]",
            "flotilla.toml:1: listeners: is a list of sections: write `[[listeners]]`",
        ),
        (
            "[[listeners]]\nprotocol = 'ws'",
            "flotilla.toml:1: listeners[0].bind: is missing",
        ),
        (
            "[zebra]",
            "flotilla.toml:1: zebra: unknown section; there are node, drain, listeners, auth, auth.http, access, limits",
        ),
        (
            "[limits]\nreceive_maximum = -1",
            "flotilla.toml:2: limits.receive_maximum: -1 does not fit; expected: number",
        ),
        ("[limits]\na = 1\na = 2", "flotilla.toml:3: duplicate key"),
    ] {
        let mistakes = mistakes_in_file(file);
        assert_eq!(mistakes.len(), 1, "{file}: {mistakes:?}");
        assert!(
            mistakes[0].starts_with(expected),
            "{file}\n{}\nshould start with\n{expected}",
            mistakes[0]
        );
    }
}

#[test]
fn all_broken_lines_of_a_file_are_named() {
    let mistakes = mistakes_in_file("[limits]\nreceive_maximum = \nclient_id_bytes_max 5\n");
    assert!(mistakes[0].starts_with("flotilla.toml:2: "), "{mistakes:?}");
    assert!(
        mistakes
            .iter()
            .any(|mistake| mistake.starts_with("flotilla.toml:3: ")),
        "{mistakes:?}"
    );
}

#[test]
fn variables_that_name_no_key_are_mistakes() {
    for (name, expected) in [
        ("FLOTILLA__ADMIN", "names no key"),
        ("FLOTILLA__LISTENERS__BIND", "names no key"),
        (
            "FLOTILLA__LISTENERS__MQTT__BNID",
            "listeners[0].bnid: unknown key; did you mean `bind`?",
        ),
    ] {
        let mistakes = Said {
            environment: &[(name, "127.0.0.1:1")],
            ..Said::default()
        }
        .mistakes();
        assert!(mistakes[0].starts_with(&format!("{name}: ")), "{mistakes:?}");
        assert!(mistakes[0].contains(expected), "{mistakes:?}");
    }
}

#[test]
fn files_that_are_not_there_are_named() {
    let flags = [
        "--mqtts",
        "127.0.0.1:0",
        "--cert",
        "no-such.pem",
        "--key",
        "no-such-key.pem",
    ];
    let mistakes = Said {
        flags: &flags,
        ..Said::default()
    }
    .mistakes();
    assert!(
        mistakes[0].starts_with("--cert: listeners[0].cert: no-such.pem: "),
        "{mistakes:?}"
    );
    assert!(
        mistakes[1].starts_with("--key: listeners[0].key: no-such-key.pem: "),
        "{mistakes:?}"
    );
    let flags = ConfigFlags {
        config: Some("no-such.toml".into()),
        ..ConfigFlags::default()
    };
    let mistakes = load_with(&flags, []).unwrap_err().to_string();
    assert!(mistakes.contains("--config: no-such.toml: "), "{mistakes}");
}

#[test]
fn the_nodes_of_a_cluster_are_told_by_flags_and_their_certificates_by_a_section_of_its_own() {
    let files = tempfile::tempdir().unwrap();
    let [ca, certificate, key] = ["ca", "certificate", "key"].map(|name| {
        let path = files.path().join(name);
        std::fs::write(&path, "").unwrap();
        path
    });
    let file = format!(
        "[cluster]\nzone = 'a'\npeer_overrides = {{ 'c:7883' = '127.0.0.1:1' }}\n\
         [cluster.tls]\nca = '{}'\ncertificate = '{}'\nkey = 'elsewhere'\n",
        ca.display(),
        certificate.display()
    );
    let key_text = key.to_str().unwrap();
    let loaded = Said {
        file: &file,
        environment: &[("FLOTILLA__CLUSTER__TLS__KEY", key_text)],
        flags: &[
            "--node",
            "a",
            "--peer",
            "0.0.0.0:7883",
            "--advertise",
            "a:7883",
            "--seeds",
            "a:7883,b:7883,c:7883",
        ],
    }
    .load()
    .unwrap();
    let cluster = &loaded.config.cluster;
    assert_eq!(loaded.config.node.shown_name(), "a");
    assert_eq!(cluster.advertised().as_deref(), Some("a:7883"));
    assert_eq!((cluster.seeds.len(), cluster.expected_nodes()), (3, 3));
    assert_eq!(cluster.dialled("c:7883"), "127.0.0.1:1");
    assert_eq!(cluster.tls.key, Some(key.clone()));
    let shown = loaded.to_string();
    assert!(shown.contains("[cluster.tls]\n"), "{shown}");
    let again = Said {
        file: &shown,
        ..Said::default()
    };
    assert_eq!(again.config(), loaded.config);
}

#[test]
fn mistakes_about_certificates_between_nodes_name_their_lines() {
    let mistakes = mistakes_in_file(
        "[cluster]\nlisten = '10.0.0.1:7883'\n[cluster.tls]\nca = 'no-such.pem'\ncrt = 'a'\n",
    );
    for expected in [
        "cluster.tls.certificate: is missing",
        "cluster.tls.key: is missing",
        "flotilla.toml:2: cluster.listen: plain text between nodes on 10.0.0.1:7883",
        "flotilla.toml:4: cluster.tls.ca: no-such.pem: ",
        "flotilla.toml:5: cluster.tls.crt: unknown key",
    ] {
        assert!(
            mistakes.iter().any(|mistake| mistake.starts_with(expected)),
            "{expected}: {mistakes:#?}"
        );
    }
    let mistakes = Said {
        flags: &["--insecure", "--peer", "10.0.0.1:7883"],
        ..Said::default()
    };
    assert!(mistakes.config().cluster.insecure);
}

#[test]
fn what_is_shown_names_origins_and_can_be_read_again() {
    let file = "[limits]\n\nreceive_maximum = 7\n[cluster]\nadvertise = 'node-1:1884'\n";
    let environment = [("FLOTILLA__LIMITS__CONNECT_TIMEOUT", "90s")];
    let loaded = Said {
        file,
        environment: &environment,
        flags: &["--mqtt", "127.0.0.1:5"],
    }
    .load()
    .unwrap();
    let shown = loaded.to_string();
    let line = |start: &str| {
        let line = shown.lines().find(|line| line.starts_with(start)).expect(start);
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("receive_maximum"), "receive_maximum = 7 # flotilla.toml:3");
    assert_eq!(
        line("connect_timeout"),
        "connect_timeout = \"1m30s\" # FLOTILLA__LIMITS__CONNECT_TIMEOUT"
    );
    assert_eq!(line("bind = \"127.0.0.1:5\""), "bind = \"127.0.0.1:5\" # --mqtt");
    assert_eq!(line("client_id_bytes_max"), "client_id_bytes_max = 256 # default");
    assert_eq!(line("# listen"), "# listen is not set # default");
    assert_eq!(
        Said {
            file: &shown,
            ..Said::default()
        }
        .config(),
        loaded.config
    );
}

#[test]
fn the_reference_in_the_documentation_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/configuration.md is stale: cargo run -- check-config --reference > docs/configuration.md"
    );
}
