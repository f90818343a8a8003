//! The configuration as it grows: sections with their keys, in the order in which they were said, and a comment where one helps.

use std::fmt::Write as _;
use std::path::Path;

use toml::Value;

/// Sections and listeners of a configuration.
#[derive(Debug, Default)]
pub(super) struct Output {
    sections: Vec<(&'static str, Lines)>,
    pub(super) listeners: Vec<Lines>,
}

/// Lines of one section. A key that is said again replaces what it was.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<(&'static str, String)>);

impl Lines {
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into().to_string();
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    pub(super) fn path(&mut self, key: &'static str, path: &Path) {
        self.set(key, path.display().to_string());
    }
}

impl Output {
    pub(super) fn section(&mut self, name: &'static str) -> &mut Lines {
        let index = match self.sections.iter().position(|(known, _)| *known == name) {
            Some(index) => index,
            None => {
                self.sections.push((name, Lines::default()));
                self.sections.len() - 1
            }
        };
        &mut self.sections[index].1
    }

    pub(super) fn to_toml(&self) -> String {
        let mut text = String::from("# Made from a mosquitto.conf by `flotilla import mosquitto`.\n");
        let listeners = self
            .listeners
            .iter()
            .map(|lines| ("[[listeners]]".to_owned(), lines));
        let sections = self
            .sections
            .iter()
            .map(|(name, lines)| (format!("[{name}]"), lines));
        for (head, lines) in listeners.chain(sections) {
            // Writing to a String has no way to fail.
            let _ = write!(text, "\n{head}\n");
            for (key, value) in &lines.0 {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}
