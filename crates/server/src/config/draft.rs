//! Values as they come in, each with its origin; a later layer overwrites an earlier one.

use std::collections::BTreeMap;

use broker::config::Protocol;
use toml::Value;

use super::keys::{self, LISTENERS};
use super::{Mistake, Origin};

/// A value and where it was said.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// One listener: its keys and where it was first mentioned.
#[derive(Debug)]
pub(super) struct ListenerDraft {
    pub(super) keys: BTreeMap<&'static str, Setting>,
    pub(super) origin: Origin,
}

/// Everything said so far, right or wrong.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// By section and key; listeners are apart.
    pub(super) settings: BTreeMap<(&'static str, &'static str), Setting>,
    pub(super) listeners: Vec<ListenerDraft>,
    pub(super) mistakes: Vec<Mistake>,
}

/// What a setting is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    Section(&'a str),
    /// By position in `Draft::listeners`.
    Listener(usize),
}

impl Target<'_> {
    fn section(&self) -> &str {
        match self {
            Self::Section(name) => name,
            Self::Listener(_) => LISTENERS,
        }
    }

    /// The key as messages name it.
    pub(super) fn path(&self, key: &str) -> String {
        match self {
            Self::Section(name) => format!("{name}.{key}"),
            Self::Listener(index) => format!("{LISTENERS}[{index}].{key}"),
        }
    }
}

impl Draft {
    /// Notes a mistake.
    pub(super) fn mistake(&mut self, origin: Origin, path: impl Into<String>, message: impl Into<String>) {
        self.mistakes.push(Mistake {
            origin,
            path: path.into(),
            message: message.into(),
        });
    }

    /// Sets a key, or notes why it cannot be: no such section, no such key, no such value. `read` makes the value of the
    /// right type, or tells how to show the one that does not suit.
    pub(super) fn set(
        &mut self,
        target: Target<'_>,
        key: &str,
        origin: Origin,
        read: impl FnOnce(&str, &str) -> Result<Value, String>,
    ) {
        let section = match keys::section(target.section()) {
            Ok(section) => section,
            Err(message) => return self.mistake(origin, target.section(), message),
        };
        let known = match keys::key(section, key) {
            Ok(known) => known,
            Err(message) => return self.mistake(origin, target.path(key), message),
        };
        let value = match read(section.name, known.name) {
            Ok(value) => value,
            Err(shown) => {
                return self.mistake(origin, target.path(key), keys::unsuitable(known, &shown));
            }
        };
        let setting = Setting { value, origin };
        match target {
            Target::Section(_) => self.settings.insert((section.name, known.name), setting),
            Target::Listener(index) => self.listeners[index].keys.insert(known.name, setting),
        };
    }

    /// Sets a key from text.
    pub(super) fn set_text(&mut self, target: Target<'_>, key: &str, text: &str, origin: Origin) {
        self.set(target, key, origin, |section, key| {
            keys::read_text(section, key, text).ok_or_else(|| format!("`{text}`"))
        });
    }

    /// Adds a listener without keys.
    pub(super) fn add_listener(&mut self, origin: Origin) -> usize {
        self.listeners.push(ListenerDraft {
            keys: BTreeMap::new(),
            origin,
        });
        self.listeners.len() - 1
    }

    /// The listener of this name; a new one, with the protocol its name tells, when there is none.
    pub(super) fn listener_named(&mut self, name: &str, origin: &Origin) -> usize {
        if let Some(index) = self.listeners.iter().position(|listener| listener.is_named(name)) {
            return index;
        }
        let index = self.add_listener(origin.clone());
        self.set_text(Target::Listener(index), "name", name, origin.clone());
        let told = ALL_PROTOCOLS.iter().find(|protocol| {
            let usual = protocol.default_listener_name();
            name == usual || name.strip_prefix(usual).is_some_and(|rest| rest.starts_with('-'))
        });
        if let Some(protocol) = told {
            self.set_text(
                Target::Listener(index),
                "protocol",
                protocol.as_str(),
                origin.clone(),
            );
        }
        index
    }
}

const ALL_PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];

impl ListenerDraft {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.keys.get(key)?.value.as_str()
    }

    /// Whether it speaks TLS, as far as it is known.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.text("protocol"), Some("tls" | "wss"))
    }

    /// A listener without a name answers to the usual name of its protocol.
    fn is_named(&self, name: &str) -> bool {
        match self.text("name") {
            Some(own) => own == name || own.replace('-', "_").eq_ignore_ascii_case(name),
            None => {
                let protocol = self.text("protocol").unwrap_or("tcp");
                let usual = ALL_PROTOCOLS.iter().find(|known| known.as_str() == protocol);
                usual.is_some_and(|usual| usual.default_listener_name() == name)
            }
        }
    }
}
