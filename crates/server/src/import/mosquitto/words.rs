//! Lines that have no key here: what becomes of each.

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is so here without a word.
    AsHere,
    /// It is not so, and this is what to do.
    Other(&'static str),
    /// Nobody knows what it means.
    Unknown,
}

/// Lines that are about a bridge when they stand behind `connection`.
pub(super) fn is_of_bridge(key: &str) -> bool {
    const OF_BRIDGE: [&str; 21] = [
        "address",
        "addresses",
        "topic",
        "cleansession",
        "local_cleansession",
        "clientid",
        "keepalive_interval",
        "idle_timeout",
        "notifications",
        "notifications_local_only",
        "notification_topic",
        "password",
        "username",
        "remote_clientid",
        "remote_username",
        "remote_password",
        "restart_timeout",
        "round_robin",
        "start_type",
        "threshold",
        "try_private",
    ];
    OF_BRIDGE.contains(&key) || key.starts_with("bridge_") || key.starts_with("local_")
}

/// What becomes of a line with this key, which has no counterpart.
pub(super) fn fate(key: &str) -> Fate {
    match key {
        "persistence"
        | "set_tcp_nodelay"
        | "connection_messages"
        | "log_timestamp"
        | "allow_duplicate_messages"
        | "retry_interval"
        | "store_clean_interval"
        | "upgrade_outgoing_qos" => Fate::AsHere,
        "persistence_location" | "persistence_file" => Fate::Other(
            "what mosquitto has stored is not read; `node.data_dir` says where Flotilla keeps its own",
        ),
        "autosave_interval" | "autosave_on_changes" => {
            Fate::Other("leave it out: what is acknowledged is on the disk already")
        }
        "include_dir" => Fate::Other(
            "is not followed: import each file of that directory, or put their lines into this one",
        ),
        "pid_file" => Fate::Other("leave it out: systemd or the container knows the process"),
        "user" => {
            Fate::Other("start it as that user: `User=` in the systemd unit, `--user` of the container")
        }
        "log_dest" => Fate::Other("the log goes to standard error: journald or the container keeps it"),
        "log_facility" | "log_timestamp_format" | "websockets_log_level" | "connection_messages_format" => {
            Fate::Other("leave it out: `log.format` knows `text` and `json`")
        }
        "tls_version" => Fate::Other("leave it out: TLS 1.2 and 1.3 are spoken, nothing older"),
        "ciphers" | "ciphers_tls1.3" | "dhparamfile" => {
            Fate::Other("leave it out: only ciphers that count as safe are there")
        }
        "capath" => {
            Fate::Other("put the certificates of that directory into one file, and name it in `client_ca`")
        }
        "tls_engine" | "tls_engine_kpass_sha1" | "tls_keyform" => {
            Fate::Other("keys are read from files alone: name one in `key`")
        }
        "psk_file" => Fate::Other("pre-shared keys are not there: use certificates (`client_ca`)"),
        "use_subject_as_username" => Fate::Other(
            "the whole subject is no user name here: `auth.certificate_user` has the names to choose from",
        ),
        "mount_point" => {
            Fate::Other("is not there: let clients use the whole topic, and say in rules who may")
        }
        "clientid_prefixes" => {
            Fate::Other("is not there: `auth.client_ids = \"user-prefix\"` binds client ids to users")
        }
        "bind_interface" => Fate::Other("name the interface's address in `bind`"),
        "socket_domain" => Fate::Other("an address in `bind` says it: `0.0.0.0` or `[::]`"),
        "accept_protocol_versions" => Fate::Other("MQTT 3.1, 3.1.1 and 5.0 are always spoken"),
        "http_dir" => Fate::Other("files are not served: use a web server"),
        "websockets_headers_size" => Fate::Other("leave it out: there is a limit that suits browsers"),
        "websockets_origin" => Fate::Other("add `allowed_origins` to the listener: a list of them"),
        "allow_zero_length_clientid" => Fate::Other("clients without a client id are always given one"),
        "auto_id_prefix" => Fate::Other("assigned client ids begin with `flotilla-`"),
        "plugin" | "auth_plugin" | "global_plugin" => Fate::Other(
            "there are no plugins: `auth.jwt_keys` takes JSON Web Tokens, `[auth.http]` asks a service of yours",
        ),
        "check_retain_source" => {
            Fate::Other("a retained message stays when its publisher loses the right to publish it")
        }
        "max_inflight_bytes" => Fate::Other("is not there: `limits.in_flight_max` counts messages"),
        "queue_qos0_messages" => Fate::Other("QoS 0 does not wait for clients that are away"),
        "retain_expiry_interval" => Fate::Other("publish with a Message Expiry Interval of MQTT 5.0"),
        "max_log_entries" | "enable_control_api" => {
            Fate::Other("leave it out: `docs/api.md` says what operators may ask")
        }
        _ if key.starts_with("auth_opt_") || key.starts_with("plugin_opt_") => {
            Fate::Other("belongs to a plugin, which is not there")
        }
        _ => Fate::Unknown,
    }
}

/// As `14d` or `2m`: hours, days, weeks, months or years.
pub(super) fn expiration_seconds(value: &str) -> Result<u64, String> {
    let wrong = || "is not a number of hours, days, weeks, months or years, as `14d`".to_owned();
    let unit = value.chars().last().ok_or_else(wrong)?;
    let hours = match unit {
        'h' => 1,
        'd' => 24,
        'w' => 24 * 7,
        'm' => 24 * 30,
        'y' => 24 * 365,
        _ => return Err(wrong()),
    };
    let count: u64 = value[..value.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = count.saturating_mul(hours).saturating_mul(3600);
    Ok(seconds.min(4_294_967_294))
}
