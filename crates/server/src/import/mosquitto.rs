//! mosquitto.conf(5), as mosquitto 2.0 reads it: each line becomes a key of ours, or a note that says what to do.

mod listener;
mod words;

use std::path::Path;

use super::Note;
use super::output::Output;
use listener::Listener;
use words::{Fate, fate};

/// What is known while the lines are read.
struct Import<'a> {
    /// Where the file is: what it names without `/` in front is looked for here.
    folder: &'a Path,
    output: Output,
    notes: Vec<Note>,
    /// What is said before the first `listener` is about a default listener, which is there only if something is.
    default_listener: Listener,
    listeners: Vec<Listener>,
    per_listener: bool,
    allow_anonymous: Option<bool>,
    has_users: bool,
    /// The line of the bridge that the next lines may belong to.
    bridge: Option<usize>,
}

/// The configuration in TOML, and what it lacks, in the order of lines.
pub(super) fn translate(text: &str, folder: &Path) -> (String, Vec<Note>) {
    let mut import = Import {
        folder,
        output: Output::default(),
        notes: Vec::new(),
        default_listener: Listener::default(),
        listeners: Vec::new(),
        per_listener: false,
        allow_anonymous: None,
        has_users: false,
        bridge: None,
    };
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        import.line(index + 1, key, value.trim());
    }
    import.finish();
    let mut notes = import.notes;
    notes.sort_by_key(|note| note.line);
    (import.output.to_toml(), notes)
}

impl Import<'_> {
    fn note(&mut self, line: usize, text: impl Into<String>) {
        let text = text.into();
        self.notes.push(Note { line, text });
    }

    fn line(&mut self, line: usize, key: &str, value: &str) {
        if let Some(begun) = self.bridge
            && words::is_of_bridge(key)
        {
            return self.note(line, format!("`{key}` belongs to the bridge of line {begun}"));
        }
        let taken = match key {
            "listener" | "connection" => self.begin(line, key, value),
            _ => self
                .of_listener(line, key, value)
                .or_else(|| self.of_access(line, key, value))
                .or_else(|| self.of_limits(line, key, value)),
        };
        match taken {
            Some(Ok(())) => {}
            Some(Err(problem)) => self.note(line, format!("`{key} {value}`: {problem}")),
            None => match fate(key) {
                Fate::AsHere => {}
                Fate::Other(what_to_do) => self.note(line, format!("`{key}`: {what_to_do}")),
                Fate::Unknown => {
                    self.note(
                        line,
                        format!("`{key}` is not known: look whether you need what it does"),
                    );
                }
            },
        }
    }

    fn begin(&mut self, line: usize, key: &str, value: &str) -> Option<Result<(), String>> {
        self.bridge = None;
        if key == "connection" {
            self.bridge = Some(line);
            self.note(
                line,
                "`connection`: there are no bridges here; let the other broker's bridge send to this one",
            );
            return Some(Ok(()));
        }
        self.listeners.push(Listener::begin(line, value));
        Some(Ok(()))
    }

    /// The listener that a line is about.
    fn listener(&mut self) -> &mut Listener {
        self.listeners.last_mut().unwrap_or(&mut self.default_listener)
    }

    /// `None`: the key is not one of a listener.
    fn of_listener(&mut self, line: usize, key: &str, value: &str) -> Option<Result<(), String>> {
        let path = self.folder.join(value);
        let listener = self.listener();
        let done = || {
            match key {
                "port" => {
                    listener.line = line;
                    listener.port = number(value)?;
                }
                "psk_hint" => {
                    let reason = "pre-shared keys are not there: use certificates (`client_ca`); this listener is left out";
                    listener.left_out = Some(reason.to_owned());
                    listener.line = listener.line.max(1);
                }
                "bind_address" => value.clone_into(&mut listener.host),
                "protocol" => match value {
                    "mqtt" => listener.is_websocket = false,
                    "websockets" => listener.is_websocket = true,
                    _ => return Err(format!("there is no `{value}` here: mqtt and websockets")),
                },
                "certfile" => listener.cert = Some(path),
                "keyfile" => listener.key = Some(path),
                "cafile" => listener.ca = Some(path),
                "crlfile" => listener.crl = Some((line, path)),
                "require_certificate" => listener.requires_certificate = truth(value)?,
                "max_connections" => listener.connections_max = value.parse::<u32>().ok(),
                _ => return Ok(false),
            }
            Ok(true)
        };
        match done() {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(problem) => Some(Err(problem)),
        }
    }

    /// `None`: the key has nothing to do with who may come in.
    fn of_access(&mut self, line: usize, key: &str, value: &str) -> Option<Result<(), String>> {
        let path = self.folder.join(value);
        let taken = match key {
            "per_listener_settings" => truth(value).map(|truth| {
                self.per_listener = truth;
                if truth {
                    self.note(
                        line,
                        "`per_listener_settings`: users and rules are those of the node here: of several files the last is \
                         taken; `allow_anonymous` stays each listener's own",
                    );
                }
            }),
            "allow_anonymous" => truth(value).map(|truth| {
                let per_listener = self.per_listener;
                match per_listener {
                    true => self.listener().allow_anonymous = Some(truth),
                    false => self.allow_anonymous = Some(truth),
                }
            }),
            "password_file" => {
                self.has_users = true;
                self.output.section("auth").path("password_file", &path);
                Ok(())
            }
            "acl_file" => {
                self.output.section("access").path("mosquitto_acl", &path);
                self.note(
                    line,
                    "`acl_file` is read as it is; in one thing it is stricter: a SUBSCRIBE has to lie inside what may be read",
                );
                Ok(())
            }
            "use_identity_as_username" => truth(value).map(|truth| {
                if truth {
                    self.output.section("auth").set("certificate_user", "common-name");
                }
            }),
            "use_username_as_clientid" => truth(value).map(|truth| {
                if truth {
                    self.output.section("auth").set("client_ids", "user");
                    self.note(
                        line,
                        "`use_username_as_clientid` replaces the client id; here (`auth.client_ids`) a client whose id is not \
                         its user name is refused",
                    );
                }
            }),
            _ => return None,
        };
        Some(taken)
    }

    /// `None`: the key is no limit.
    fn of_limits(&mut self, line: usize, key: &str, value: &str) -> Option<Result<(), String>> {
        let taken = match key {
            "max_inflight_messages" => number::<u16>(value).map(|max| {
                let max = if max == 0 { u16::MAX } else { max };
                self.output.section("limits").set("in_flight_max", i64::from(max));
            }),
            "max_queued_messages" => number::<u32>(value).map(|max| {
                let max = if max == 0 {
                    100_000_000
                } else {
                    max.min(100_000_000)
                };
                self.output.section("queues").set("messages_max", i64::from(max));
            }),
            "max_queued_bytes" => self.bytes(line, value, ("queues", "bytes_max"), 1024, 1 << 40),
            "memory_limit" => self.bytes(line, value, ("queues", "node_bytes_max"), 1 << 20, 1 << 40),
            "max_packet_size" | "message_size_limit" => {
                self.bytes(line, value, ("limits", "packet_size_max"), 128, 268_435_460)
            }
            "max_keepalive" => number::<u16>(value).map(|seconds| {
                self.output
                    .section("limits")
                    .set("keep_alive_max", format!("{seconds}s"));
            }),
            "max_topic_alias" => number::<u16>(value).map(|max| {
                self.output
                    .section("limits")
                    .set("topic_alias_maximum", i64::from(max));
            }),
            "max_qos" => number::<u8>(value).map(|qos| {
                self.output.section("mqtt").set("maximum_qos", i64::from(qos));
            }),
            "retain_available" => truth(value).map(|truth| {
                self.output.section("mqtt").set("retain_available", truth);
            }),
            "sys_interval" => number::<u32>(value).map(|seconds| {
                let seconds = seconds.min(86_400);
                self.output
                    .section("mqtt")
                    .set("sys_interval", format!("{seconds}s"));
            }),
            "persistent_client_expiration" => words::expiration_seconds(value).map(|seconds| {
                self.output
                    .section("limits")
                    .set("session_expiry_max", format!("{seconds}s"));
            }),
            "log_type" => {
                if ["debug", "all"].contains(&value) {
                    self.output.section("log").set("level", "debug");
                }
                Ok(())
            }
            _ => return None,
        };
        Some(taken)
    }

    /// A number of bytes, cut to what is possible here; 0 is no limit there.
    fn bytes(
        &mut self,
        line: usize,
        value: &str,
        (section, key): (&'static str, &'static str),
        min: u64,
        max: u64,
    ) -> Result<(), String> {
        let bytes: u64 = number(value)?;
        if bytes == 0 {
            self.note(
                line,
                format!("there is always a limit here: `{section}.{key}` stays as it is by default"),
            );
            return Ok(());
        }
        let within = bytes.clamp(min, max);
        if within != bytes {
            self.note(
                line,
                format!("`{section}.{key}` is {within} bytes, the nearest possible"),
            );
        }
        self.output.section(section).set(key, format!("{within}B"));
        Ok(())
    }

    fn finish(&mut self) {
        if self.default_listener.is_said() || self.listeners.is_empty() {
            let mut listener = std::mem::take(&mut self.default_listener);
            // Without a word about it, mosquitto serves this machine alone, and everybody on it.
            if !listener.is_said() {
                "127.0.0.1".clone_into(&mut listener.host);
                self.allow_anonymous.get_or_insert(true);
            }
            if listener.port == 0 {
                listener.port = 1883;
            }
            self.listeners.insert(0, listener);
        }
        let listeners = std::mem::take(&mut self.listeners);
        let maxima: Vec<Option<u32>> = listeners
            .iter()
            .map(|listener| listener.connections_max)
            .collect();
        if let Some(sum) = maxima.iter().copied().sum::<Option<u32>>().filter(|sum| *sum > 0) {
            self.output
                .section("limits")
                .set("connections_max", i64::from(sum.min(10_000_000)));
            if listeners.len() > 1 {
                self.note(
                    0,
                    "`max_connections` is of the node here: the sum over all listeners is taken",
                );
            }
        } else if maxima.iter().any(Option::is_some) {
            self.note(
                0,
                "`max_connections` is of the node here, and not every listener has it: `limits.connections_max` stays as it is",
            );
        }
        for listener in listeners {
            let anonymous = listener.allow_anonymous.or(self.allow_anonymous).unwrap_or(false);
            match listener.lines(anonymous, self.has_users, &mut self.notes) {
                Ok(lines) => self.output.listeners.push(lines),
                Err(problem) => self.note(listener.line, problem),
            }
        }
    }
}

fn truth(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "is not a number that fits".to_owned())
}

#[cfg(test)]
mod tests;
