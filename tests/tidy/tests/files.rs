//! Every file says what it is for in its first line, and none holds words that only make sense to who wrote it.

use std::path::{Path, PathBuf};

/// Folders with Rust source of ours.
const SOURCES: [&str; 4] = ["crates", "tests", "xtask", "fuzz"];

/// Folders and files whose words are checked, of any kind.
const TREE: [&str; 14] = [
    "crates",
    "tests",
    "xtask",
    "fuzz",
    "proto",
    "docs",
    "deploy",
    "helm",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    ".ci",
];

#[test]
fn every_source_file_opens_with_a_sentence_that_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for file in SOURCES
        .iter()
        .flat_map(|folder| tidy::files(&root().join(folder), "rs"))
    {
        let text = std::fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let sentence = first.strip_prefix("//! ").unwrap_or_default();
        if sentence.split_whitespace().count() < 4 {
            wrong.push(shown(&file));
        }
    }
    assert!(
        wrong.is_empty(),
        "no opening `//!` sentence: {}",
        wrong.join(", ")
    );
}

#[test]
fn every_protobuf_file_opens_with_a_comment_that_says_what_it_is_for() {
    for file in tidy::files(&root().join("proto"), "proto") {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("// "),
            "{} opens without a comment",
            shown(&file)
        );
    }
}

#[test]
fn what_is_left_to_do_names_its_issue() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("HA", "CK:"),
    ];
    let mut wrong = Vec::new();
    for_each_line(|file, number, line| {
        let open = words
            .iter()
            .any(|word| line.contains(word) && !line.contains(&format!("{word}(#")));
        if open {
            wrong.push(format!("{}:{number}", shown(file)));
        }
    });
    assert!(
        wrong.is_empty(),
        "write the word with its issue, like {}(#12): {}",
        words[0],
        wrong.join(", ")
    );
}

#[test]
fn no_file_names_a_path_of_somebodys_machine() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/tm", "p/"),
    ];
    let mut wrong = Vec::new();
    for_each_line(|file, number, line| {
        if words.iter().any(|word| line.contains(word)) {
            wrong.push(format!("{}:{number}", shown(file)));
        }
    });
    assert!(wrong.is_empty(), "a path of one machine: {}", wrong.join(", "));
}

#[test]
fn no_warning_is_allowed_without_a_reason() {
    let mut wrong = Vec::new();
    for file in SOURCES
        .iter()
        .flat_map(|folder| tidy::files(&root().join(folder), "rs"))
    {
        let text = std::fs::read_to_string(&file).unwrap();
        let opening = [
            concat!("#[all", "ow("),
            concat!("#![all", "ow("),
            concat!("#[exp", "ect("),
        ];
        for attribute in opening.iter().flat_map(|opening| text.split(opening).skip(1)) {
            let inside = attribute.split(")]").next().unwrap_or_default();
            if !inside.contains("reason") {
                wrong.push(format!("{}: {inside}", shown(&file)));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "allowed without `reason = ..`: {}",
        wrong.join(", ")
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

fn for_each_line(mut check: impl FnMut(&Path, usize, &str)) {
    for name in TREE {
        let path = root().join(name);
        let files = if path.is_file() {
            vec![path]
        } else {
            tidy::files(&path, "")
        };
        for file in files
            .iter()
            .filter(|file| file.file_name().is_some_and(|name| name != "Cargo.lock"))
        {
            let Ok(text) = std::fs::read_to_string(file) else {
                continue;
            };
            text.lines()
                .enumerate()
                .for_each(|(number, line)| check(file, number + 1, line));
        }
    }
}
