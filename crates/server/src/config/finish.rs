//! From a draft to a configuration: fill in, check as a whole, look whether the named files are there.

use std::fs::File;
use std::path::Path;

use broker::config::{Config, Listener, Problem};
use serde::Deserialize;
use toml::{Table, Value};

use super::draft::{Draft, Setting};
use super::keys::{self, LISTENERS};
use super::{Loaded, Mistake, Mistakes, Origin};
use crate::log;

/// Answers with the configuration or with every mistake in it.
pub(super) fn finish(mut draft: Draft) -> Result<Loaded, Mistakes> {
    require_addresses(&mut draft);
    let mut config = match Config::deserialize(to_table(&draft)) {
        Ok(config) => config,
        // Each value was tried alone before; together they are not known to fail.
        Err(error) => {
            draft.mistake(Origin::Default, "", error.message());
            return Err(Mistakes::new(draft.mistakes));
        }
    };
    if config.listeners.is_empty() && draft.mistakes.iter().all(|mistake| mistake.path != LISTENERS) {
        config.listeners = Listener::defaults();
    }
    config.complete();
    let mut problems = config.problems();
    if let Some(message) = log::level_problem(&config.log.level) {
        problems.push(Problem::new("log.level", message));
    }
    check_files(&config, &mut problems);
    check_cluster_files(&config, &mut problems);
    problems.extend(broker::gate::file_problems(&config));
    if let Err(message) = config.admin.tokens() {
        problems.push(Problem::new("admin.read_token_file", message));
    }
    for problem in problems {
        add_problem(problem, &mut draft);
    }
    if draft.mistakes.is_empty() {
        Ok(Loaded { config, draft })
    } else {
        Err(Mistakes::new(draft.mistakes))
    }
}

/// A listener that was spelled out has to say where; guessing port 1883 for it would surprise.
fn require_addresses(draft: &mut Draft) {
    for index in 0..draft.listeners.len() {
        let path = format!("{LISTENERS}[{index}].bind");
        let said = draft.listeners[index].keys.contains_key("bind");
        if !said && draft.mistakes.iter().all(|mistake| mistake.path != path) {
            let origin = draft.listeners[index].origin.clone();
            draft.mistake(origin, path, "is missing: add `bind = \"127.0.0.1:1883\"`");
        }
    }
}

fn to_table(draft: &Draft) -> Table {
    let mut table = Table::new();
    for ((section, key), setting) in &draft.settings {
        keys::section_of(&mut table, section).insert((*key).to_owned(), setting.value.clone());
    }
    let listener_table = |keys: &std::collections::BTreeMap<&str, Setting>| {
        Value::Table(
            keys.iter()
                .map(|(key, setting)| ((*key).to_owned(), setting.value.clone()))
                .collect(),
        )
    };
    let listeners = draft
        .listeners
        .iter()
        .map(|listener| listener_table(&listener.keys))
        .collect();
    table.insert(LISTENERS.to_owned(), Value::Array(listeners));
    table
}

fn check_files(config: &Config, problems: &mut Vec<Problem>) {
    for (index, listener) in config.listeners.iter().enumerate() {
        for (key, file) in [
            ("cert", &listener.cert),
            ("key", &listener.key),
            ("client_ca", &listener.client_ca),
            ("client_crl", &listener.client_crl),
        ] {
            if let Some(error) = file.as_deref().and_then(unreadable) {
                problems.push(Problem::new(format!("{LISTENERS}[{index}].{key}"), error));
            }
        }
    }
}

fn check_cluster_files(config: &Config, problems: &mut Vec<Problem>) {
    for (key, file) in config.cluster.tls.files() {
        if let Some(error) = file.and_then(|path| unreadable(path)) {
            problems.push(Problem::new(format!("cluster.tls.{key}"), error));
        }
    }
}

fn unreadable(path: &Path) -> Option<String> {
    let error = File::open(path).err()?;
    Some(format!("{}: {error}", path.display()))
}

/// Notes a problem where its value came from, unless the same key is known to be wrong already.
fn add_problem(problem: Problem, draft: &mut Draft) {
    if draft.mistakes.iter().any(|mistake| mistake.path == problem.path) {
        return;
    }
    let origin = origin_of(&problem.path, draft);
    draft.mistakes.push(Mistake {
        origin,
        path: problem.path,
        message: problem.message,
    });
}

/// The origin of a key by its path, as `limits.receive_maximum`, `cluster.tls.key`, `cluster.seeds[1]` or `listeners[0].bind`.
fn origin_of(path: &str, draft: &Draft) -> Origin {
    let Some((section, key)) = path.rsplit_once('.') else {
        return Origin::Default;
    };
    let key = key.split('[').next().unwrap_or(key);
    let listener = section
        .strip_prefix(LISTENERS)
        .and_then(|rest| rest.strip_prefix('['));
    let setting = match listener {
        Some(rest) => {
            let index = rest.trim_end_matches(']').parse::<usize>().unwrap_or(usize::MAX);
            let Some(listener) = draft.listeners.get(index) else {
                return Origin::Default;
            };
            return match listener.keys.get(key) {
                Some(setting) => setting.origin.clone(),
                None => listener.origin.clone(),
            };
        }
        None => draft
            .settings
            .iter()
            .find(|((s, k), _)| *s == section && *k == key),
    };
    setting.map_or(Origin::Default, |(_, setting)| setting.origin.clone())
}
