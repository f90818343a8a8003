//! What keeps the tree tidy is checked by the tests of this crate: edges between crates, opening sentences, words.

use std::path::{Path, PathBuf};

/// All files below a folder whose names end with an extension (any, if empty), in order; build output is left out.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(folder, extension, &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !(name == "target" || name.starts_with(".git") || name == "node_modules") {
                collect(&path, extension, found);
            }
        } else if extension.is_empty() || path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
}
