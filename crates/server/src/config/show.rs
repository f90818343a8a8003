//! The effective configuration as TOML with the origin of each value, and the reference of all keys as Markdown.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use broker::config::{Config, SectionReference};
use clap::CommandFactory;
use toml::{Table, Value};

use super::draft::Setting;
use super::keys::{self, LISTENERS};
use super::{Loaded, Origin};
use crate::arguments::Arguments;

const COMMENT_COLUMN: usize = 44;

impl fmt::Display for Loaded {
    /// Can be read again as a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effective = Table::try_from(&self.config).map_err(|_| fmt::Error)?;
        for (number, section) in keys::sections().iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            match section_in(&effective, section.name) {
                Some(Value::Array(listeners)) => self.show_listeners(f, section, listeners)?,
                Some(Value::Table(values)) => {
                    writeln!(f, "[{}]", section.name)?;
                    show_keys(f, section, values, |key| {
                        self.draft.settings.get(&(section.name, key))
                    })?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A section by its name; `cluster.tls` lies within `cluster`.
fn section_in<'a>(effective: &'a Table, name: &str) -> Option<&'a Value> {
    match name.split_once('.') {
        None => effective.get(name),
        Some((outer, inner)) => effective.get(outer)?.get(inner),
    }
}

impl Loaded {
    fn show_listeners(
        &self,
        f: &mut fmt::Formatter<'_>,
        section: &SectionReference,
        listeners: &[Value],
    ) -> fmt::Result {
        let nothing_said = BTreeMap::new();
        for (index, listener) in listeners.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "[[{LISTENERS}]]")?;
            let said = self
                .draft
                .listeners
                .get(index)
                .map_or(&nothing_said, |draft| &draft.keys);
            if let Value::Table(values) = listener {
                show_keys(f, section, values, |key| said.get(key))?;
            }
        }
        Ok(())
    }
}

impl Loaded {
    /// The effective configuration for the API: every key with its value and origin, secrets masked.
    pub(crate) fn settings(&self) -> Vec<admin::views::Setting> {
        let mut settings = Vec::new();
        let Ok(effective) = Table::try_from(&self.config) else {
            return settings;
        };
        let nothing_said = BTreeMap::new();
        for section in keys::sections() {
            match section_in(&effective, section.name) {
                Some(Value::Array(listeners)) => {
                    for (index, listener) in listeners.iter().enumerate() {
                        let draft = self.draft.listeners.get(index);
                        let said = draft.map_or(&nothing_said, |draft| &draft.keys);
                        if let Value::Table(values) = listener {
                            let name = format!("{LISTENERS}[{index}]");
                            add_settings(&mut settings, &name, section, values, |key| said.get(key));
                        }
                    }
                }
                Some(Value::Table(values)) => {
                    add_settings(&mut settings, section.name, section, values, |key| {
                        self.draft.settings.get(&(section.name, key))
                    });
                }
                _ => {}
            }
        }
        settings
    }
}

fn add_settings<'a>(
    settings: &mut Vec<admin::views::Setting>,
    name: &str,
    section: &SectionReference,
    values: &Table,
    setting: impl Fn(&'static str) -> Option<&'a Setting>,
) {
    for key in &section.keys {
        let origin = setting(key.name).map_or(&Origin::Default, |setting| &setting.origin);
        let value = values.get(key.name).map(|value| keys::shown(key.name, value));
        settings.push(admin::views::Setting {
            section: name.to_owned(),
            key: key.name.to_owned(),
            value,
            origin: origin.to_string(),
        });
    }
}

fn show_keys<'a>(
    f: &mut fmt::Formatter<'_>,
    section: &SectionReference,
    values: &Table,
    setting: impl Fn(&'static str) -> Option<&'a Setting>,
) -> fmt::Result {
    for key in &section.keys {
        let origin = setting(key.name).map_or(&Origin::Default, |setting| &setting.origin);
        let line = match values.get(key.name) {
            Some(value) => format!("{} = {}", key.name, keys::shown(key.name, value)),
            None => format!("# {} is not set", key.name),
        };
        writeln!(f, "{line:COMMENT_COLUMN$} # {origin}")?;
    }
    Ok(())
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `flotilla check-config --reference`. Change the comments in crates/broker/src/config.rs instead. -->

`flotilla start` runs without any configuration: MQTT on `127.0.0.1:1883`, WebSocket on `127.0.0.1:8083`, health,
metrics, the API and the dashboard on `127.0.0.1:9100`, data in `./flotilla-data`. What is different is said in four places, of which the first that
says something counts:

1. flags, listed at the end;
2. the environment: `FLOTILLA__LIMITS__CONNECTIONS_MAX=500` for `connections_max` in `[limits]`,
   `FLOTILLA__CLUSTER__TLS__KEY=node.key.pem` for `key` in `[cluster.tls]`,
   `FLOTILLA__LISTENERS__MQTT__BIND=127.0.0.1:1884` for `bind` of the listener named `mqtt` (which is added when there is
   none), lists with commas;
3. the TOML file named by `--config` or `FLOTILLA_CONFIG`;
4. the defaults below.

As soon as one listener is named anywhere, the default ones are gone. Unknown keys and values that do not fit are errors;
`flotilla check-config` takes the same flags as `flotilla start`, shows every mistake at once or, if there is none, each value
that would be used and where it comes from.

What is read again while the node runs, on SIGHUP, by `flotilla ctl config reload` and when a file changes: the files with users,
keys, rules, tokens, certificates and revoked ones, wherever they are named, and of this configuration the keys marked with `↻`. New values of the other keys count from
the next start; the answer names them until then. Whoever is connected keeps what CONNACK has told (sizes, Receive Maximum, topic
aliases, keep alive, session expiry) and its queue's bounds until it connects again; rates, limits of subscriptions and of what is retained hold for
its next packet, and a lower limit of connections closes none.

Durations are numbers with `ms`, `s`, `m`, `h`, `d` or `w`: `\"30s\"`, `\"1h30m\"`. Sizes are numbers with `B`, `KiB`, `MiB`,
`GiB`, `KB`, `MB` or `GB`: `\"64KiB\"`.

A listener beyond loopback has to be safe or to be told that it need not be: plain text asks for `insecure = true`,
clients that nobody knows ask for `allow_anonymous = true` or `insecure = true`. Either is logged at each start. Behind a proxy
(`proxy_protocol`) clients that nobody knows ask for it on loopback, too. The same holds between nodes: beyond loopback they need
certificates in `[cluster.tls]` or `insecure = true` in `[cluster]`. The admin listener speaks HTTP alone: bound beyond loopback, it
says at each start what can be read by others.
";

/// `docs/configuration.md`.
pub(crate) fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    for section in keys::sections() {
        // Writing to a String has no way to fail.
        let _ = write_section(&mut text, section);
    }
    let _ = write_flags(&mut text);
    text
}

fn write_section(text: &mut String, section: &SectionReference) -> fmt::Result {
    match section.name {
        LISTENERS => writeln!(text, "\n## `[[listeners]]`\n")?,
        name => writeln!(text, "\n## `[{name}]`\n")?,
    }
    writeln!(text, "{}\n", section.documentation)?;
    writeln!(text, "| key | value | default | bounds | meaning |")?;
    writeln!(text, "| --- | --- | --- | --- | --- |")?;
    for key in &section.keys {
        let required = section.name == LISTENERS && key.name == "bind";
        let default = match &key.default {
            Some(_) if required => "required".to_owned(),
            Some(value) => format!("`{value}`"),
            None => "not set".to_owned(),
        };
        let bounds = key
            .bounds
            .as_ref()
            .map_or(String::new(), |(min, max)| format!("{min} to {max}"));
        let mark = if Config::counts_at_once(section.name, key.name) {
            " ↻"
        } else {
            ""
        };
        let meaning = key.documentation.replace('|', "\\|");
        writeln!(
            text,
            "| `{}`{mark} | {} | {default} | {bounds} | {meaning} |",
            key.name, key.kind
        )?;
    }
    Ok(())
}

fn write_flags(text: &mut String) -> fmt::Result {
    writeln!(
        text,
        "\n## Flags of `flotilla start`\n\n| flag | meaning |\n| --- | --- |"
    )?;
    let command = Arguments::command();
    let start = command.find_subcommand("start").into_iter();
    for flag in start.flat_map(|start| start.get_arguments()) {
        let Some(long) = flag.get_long() else { continue };
        let takes_value = flag.get_action().takes_values();
        let value = flag.get_value_names().filter(|_| takes_value).unwrap_or_default();
        let value: String = value.iter().map(|name| format!(" {name}")).collect();
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(text, "| `--{long}{value}` | {help} |")?;
    }
    Ok(())
}
