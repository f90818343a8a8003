//! The configuration file: TOML, with the line of each value.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Value;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::Origin;
use super::draft::{Draft, Target};
use super::keys::{self, LISTENERS};

/// Reads the file into the draft; what cannot be read is noted there.
pub(super) fn read(path: &Path, draft: &mut Draft) {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text, draft),
        Err(error) => draft.mistake(
            Origin::Flag("--config"),
            "",
            format!("{}: {error}", path.display()),
        ),
    }
}

/// Reads the text of a file into the draft.
pub(super) fn parse(path: &Path, text: &str, draft: &mut Draft) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let source = Source { path, text };
    for error in &errors {
        let origin = source.origin(error.span().unwrap_or_default());
        draft.mistake(origin, "", error.message().trim());
    }
    // After an error the parser guesses on; what it guesses is no reason to blame further lines.
    if !errors.is_empty() {
        return;
    }
    for (name, value) in document.get_ref() {
        let origin = source.origin(name.span());
        match (name.get_ref().as_ref(), value.get_ref()) {
            (LISTENERS, DeValue::Array(items)) => {
                for item in items.iter() {
                    read_listener(&source, item.get_ref(), source.origin(item.span()), draft);
                }
            }
            (LISTENERS, _) => draft.mistake(origin, LISTENERS, "is a list: write `[[listeners]]`"),
            (section, DeValue::Table(table)) => match keys::section(section) {
                Ok(_) => read_keys(&source, table, Target::Section(section), draft),
                Err(message) => draft.mistake(origin, section, message),
            },
            (section, _) => {
                let message = keys::section(section).err();
                let message = message.unwrap_or_else(|| format!("is a section: write `[{section}]`"));
                draft.mistake(origin, section, message);
            }
        }
    }
}

fn read_listener(source: &Source<'_>, item: &DeValue<'_>, origin: Origin, draft: &mut Draft) {
    match item {
        DeValue::Table(table) => {
            let index = draft.add_listener(origin);
            read_keys(source, table, Target::Listener(index), draft);
        }
        _ => draft.mistake(origin, LISTENERS, "is a list of sections: write `[[listeners]]`"),
    }
}

fn read_keys(source: &Source<'_>, table: &DeTable<'_>, target: Target<'_>, draft: &mut Draft) {
    for (key, value) in table {
        if let DeValue::Table(inner) = value.get_ref() {
            let section = target.path(key.get_ref());
            if keys::section(&section).is_ok() {
                read_keys(source, inner, Target::Section(&section), draft);
                continue;
            }
        }
        let origin = source.origin(key.span());
        draft.set(target, key.get_ref(), origin, |section, key| {
            let parsed = Value::deserialize(ValueDeserializer::from(value.clone())).ok();
            match parsed {
                Some(parsed) if keys::suits(section, key, &parsed) => Ok(parsed),
                _ if value.get_ref().is_table() => Err("a section".to_owned()),
                _ => Err(source.slice(value.span()).to_owned()),
            }
        });
    }
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn slice(&self, span: Range<usize>) -> &str {
        self.text.get(span).unwrap_or_default()
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        Origin::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
        }
    }
}
