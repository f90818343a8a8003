//! Which keys there are, whether a value suits a key, and what to say when it does not.

use std::sync::LazyLock;

use broker::config::{Config, Key, Listener, SectionReference};
use serde::Deserialize;
use toml::{Table, Value};

use super::suggest;

/// The section that is a list.
pub(super) const LISTENERS: &str = "listeners";

static SECTIONS: LazyLock<Vec<SectionReference>> = LazyLock::new(Config::reference);

/// All sections, in the order of the reference.
pub(super) fn sections() -> &'static [SectionReference] {
    &SECTIONS
}

/// The section of this name, or what to say.
pub(super) fn section(name: &str) -> Result<&'static SectionReference, String> {
    let found = sections().iter().find(|section| section.name == name);
    found.ok_or_else(|| {
        let names = sections().iter().map(|section| section.name);
        match (suggest::nearest(name, names), section_of_key(name)) {
            (_, Some(owner)) => format!("is a key of [{owner}]: write it below that line"),
            (Some(nearest), None) => format!("unknown section; did you mean `{nearest}`?"),
            (None, None) => {
                let names: Vec<_> = sections().iter().map(|section| section.name).collect();
                format!("unknown section; there are {}", names.join(", "))
            }
        }
    })
}

/// The key of this name within a section, or what to say.
pub(super) fn key(section: &'static SectionReference, name: &str) -> Result<&'static Key, String> {
    let found = section.keys.iter().find(|key| key.name == name);
    found.ok_or_else(|| {
        let names = section.keys.iter().map(|key| key.name);
        match (section_of_key(name), suggest::nearest(name, names)) {
            (Some(owner), _) => format!("unknown key; it belongs to [{owner}]"),
            (None, Some(nearest)) => format!("unknown key; did you mean `{nearest}`?"),
            (None, None) => "unknown key".to_owned(),
        }
    })
}

fn section_of_key(name: &str) -> Option<&'static str> {
    let owner = sections()
        .iter()
        .find(|section| section.keys.iter().any(|key| key.name == name))?;
    Some(owner.name)
}

/// Whether the configuration can hold this value under this key. Bounds are judged later, with everything else.
pub(super) fn suits(section: &str, key: &str, value: &Value) -> bool {
    let single = Table::from_iter([(key.to_owned(), value.clone())]);
    match section {
        LISTENERS => Listener::deserialize(single).is_ok(),
        _ => {
            let mut whole = Table::new();
            *section_of(&mut whole, section) = single;
            Config::deserialize(whole).is_ok()
        }
    }
}

/// The table of a section, made when it is missing; `cluster.tls` lies within `cluster`.
pub(super) fn section_of<'a>(whole: &'a mut Table, section: &str) -> &'a mut Table {
    section.split('.').fold(whole, |table, name| {
        let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        match entry {
            Value::Table(inner) => inner,
            _ => unreachable!("a section is a table"),
        }
    })
}

/// Finds what a text from the environment or a flag means for a key: TOML, the text itself, or a list of texts.
pub(super) fn read_text(section: &str, key: &str, text: &str) -> Option<Value> {
    let as_toml = toml::de::ValueDeserializer::parse(text)
        .ok()
        .and_then(|toml| Value::deserialize(toml).ok());
    let as_text = Value::String(text.to_owned());
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let as_list = Value::Array(parts.map(|part| Value::String(part.to_owned())).collect());
    as_toml
        .into_iter()
        .chain([as_text, as_list])
        .find(|value| suits(section, key, value))
}

/// What to say of a value that does not suit its key.
pub(super) fn unsuitable(key: &Key, value: &str) -> String {
    let value = if is_secret(key.name) { MASK } else { value };
    let hint = match key.kind.as_str() {
        "duration" => ", as \"30s\" or \"1h30m\"",
        "size" => ", as \"64KiB\" or \"1MiB\"",
        "address:port" => ", as \"127.0.0.1:1883\" or \"[::1]:1883\"",
        _ => "",
    };
    let bounds = key
        .bounds
        .as_ref()
        .map(|(min, max)| format!(" between {min} and {max}"))
        .unwrap_or_default();
    let kind = key.kind.replace('`', "");
    format!("{value} does not fit; expected: {kind}{bounds}{hint}")
}

/// What is shown instead of a secret.
pub(super) const MASK: &str = "\"***\"";

/// A value as people may see it. Of a list of secrets only how many they are.
pub(super) fn shown(key: &str, value: &Value) -> String {
    match value {
        _ if !is_secret(key) => value.to_string(),
        Value::Array(secrets) => format!("[{}]", vec![MASK; secrets.len()].join(", ")),
        _ => MASK.to_owned(),
    }
}

/// Whether the value of a key is not to be shown. The file that holds a secret may be.
pub(super) fn is_secret(key: &str) -> bool {
    ["password", "secret", "token", "tokens"]
        .iter()
        .any(|word| key.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_name() {
        assert!(
            is_secret("password")
                && is_secret("admin_token")
                && is_secret("join_secret")
                && is_secret("read_tokens")
        );
        assert!(
            !is_secret("key")
                && !is_secret("password_file")
                && !is_secret("read_token_file")
                && !is_secret("cert")
        );
    }

    #[test]
    fn secrets_are_shown_as_signs_and_lists_of_them_by_their_length() {
        let list = Value::Array(vec!["abc".into(), "def".into()]);
        assert_eq!(shown("read_tokens", &list), r#"["***", "***"]"#);
        assert_eq!(shown("read_tokens", &Value::Array(Vec::new())), "[]");
        assert_eq!(shown("password", &"abc".into()), MASK);
        assert_eq!(shown("name", &"abc".into()), r#""abc""#);
    }

    #[test]
    fn texts_become_what_their_key_holds() {
        assert_eq!(
            read_text("limits", "receive_maximum", "7"),
            Some(Value::Integer(7))
        );
        assert_eq!(read_text("limits", "receive_maximum", "seven"), None);
        assert_eq!(read_text("node", "name", "7"), Some(Value::String("7".into())));
        assert_eq!(
            read_text("mqtt", "retain_available", "false"),
            Some(Value::Boolean(false))
        );
        assert_eq!(
            read_text("limits", "connect_timeout", "3s"),
            Some(Value::String("3s".into()))
        );
        let seeds = Value::Array(vec!["a:1".into(), "b:2".into()]);
        assert_eq!(read_text("cluster", "seeds", "a:1, b:2"), Some(seeds.clone()));
        assert_eq!(read_text("cluster", "seeds", "[\"a:1\",\"b:2\"]"), Some(seeds));
    }
}
