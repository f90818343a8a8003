//! `FLOTILLA__SECTION__KEY=value`, with two words for a section like `[cluster.tls]`, and
//! `FLOTILLA__LISTENERS__NAME__KEY=value` for the listener of that name.

use std::collections::BTreeMap;

use super::Origin;
use super::draft::{Draft, Target};
use super::keys::LISTENERS;

const PREFIX: &str = "FLOTILLA__";

/// Puts what the environment says over what the file said. Other variables are none of this program's business.
pub(super) fn apply(variables: impl IntoIterator<Item = (String, String)>, draft: &mut Draft) {
    // Sorted, so that listeners come in the same order at each start.
    let variables: BTreeMap<_, _> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    for (name, value) in &variables {
        let origin = Origin::Environment(name.clone());
        let words = name[PREFIX.len()..].to_ascii_lowercase();
        match words.split("__").collect::<Vec<_>>()[..] {
            [LISTENERS, listener, key] => {
                let index = listener_index(listener, &origin, draft);
                draft.set_text(Target::Listener(index), key, value, origin);
            }
            [section, key] if section != LISTENERS => {
                draft.set_text(Target::Section(section), key, value, origin);
            }
            [section, part, key] => {
                let section = format!("{section}.{part}");
                draft.set_text(Target::Section(&section), key, value, origin);
            }
            _ => draft.mistake(
                origin,
                "",
                "names no key: write FLOTILLA__SECTION__KEY or FLOTILLA__LISTENERS__NAME__KEY",
            ),
        }
    }
}

/// A number is a position in the file, from 0; anything else is a name.
fn listener_index(listener: &str, origin: &Origin, draft: &mut Draft) -> usize {
    match listener.parse::<usize>() {
        Ok(index) if index < draft.listeners.len() => index,
        _ => draft.listener_named(listener, origin),
    }
}
