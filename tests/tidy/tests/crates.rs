//! Compares the table "The crates" in ARCHITECTURE.md with what every crate's Cargo.toml really says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The crates without tokio, clocks, randomness and files; dev-dependencies are free.
const PURE: [&str; 6] = [
    "mqtt-topic",
    "access",
    "mqtt-codec",
    "mqtt-session",
    "cluster-proto",
    "cluster-state",
];
const IMPURE_DEPENDENCIES: [&str; 10] = [
    "tokio",
    "tokio-util",
    "rand",
    "socket2",
    "tempfile",
    "axum",
    "rustls",
    "tonic",
    "sled",
    "raft-engine",
];

/// A dependency that one crate keeps to itself.
const OWNED: [(&str, &str); 4] = [
    ("sled", "storage"),
    ("raft-engine", "storage"),
    ("openraft", "cluster"),
    ("tonic", "transport"),
];

/// One crate as its Cargo.toml describes it. It goes by its folder's name.
struct Crate {
    package: String,
    dependencies: BTreeSet<String>,
}

/// One row of the table.
struct Row {
    name: String,
    duty: String,
    may_use: Vec<String>,
}

#[test]
fn every_crate_has_a_row_with_its_duty_and_every_row_a_crate() {
    let listed: BTreeSet<String> = table().unwrap().into_iter().map(|row| row.name).collect();
    let real: BTreeSet<String> = crates().unwrap().into_keys().collect();
    assert_eq!(
        listed, real,
        "left: the table in ARCHITECTURE.md, right: the folders in crates/"
    );
    for row in table().unwrap() {
        assert!(row.duty.len() > 10, "{} has no duty in ARCHITECTURE.md", row.name);
    }
}

#[test]
fn rows_name_only_rows_above_them() {
    let rows = table().unwrap();
    for (position, row) in rows.iter().enumerate() {
        for used in row.may_use.iter().filter(|used| *used != "all") {
            let above = rows[..position].iter().any(|other| other.name == *used);
            assert!(
                above,
                "{} may not use {used}: it is not in a row above it",
                row.name
            );
        }
    }
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let crates = crates().unwrap();
    let folder_of: BTreeMap<&str, &str> = crates
        .iter()
        .map(|(folder, real)| (real.package.as_str(), folder.as_str()))
        .collect();
    let mut wrong = Vec::new();
    for row in table().unwrap() {
        let used = crates[&row.name]
            .dependencies
            .iter()
            .filter_map(|name| folder_of.get(name.as_str()));
        for used in used {
            let allowed = row.may_use.iter().any(|name| name == used || name == "all");
            if !allowed {
                wrong.push(format!("{} uses {used}", row.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "not allowed by the table in ARCHITECTURE.md: {}",
        wrong.join(", ")
    );
}

#[test]
fn storage_engines_raft_and_grpc_are_known_to_one_crate_each() {
    for (folder, real) in crates().unwrap() {
        for (dependency, owner) in OWNED {
            let named = real.dependencies.contains(dependency);
            assert!(
                !named || folder == owner,
                "{folder} names {dependency}; only {owner} may"
            );
        }
    }
}

#[test]
fn pure_crates_know_no_runtime_no_randomness_and_no_files() {
    let crates = crates().unwrap();
    for folder in PURE {
        for dependency in IMPURE_DEPENDENCIES {
            let named = crates[folder].dependencies.contains(dependency);
            assert!(!named, "{folder} is pure and names {dependency}");
        }
    }
}

#[test]
fn pure_crates_ask_no_clock_and_open_nothing() {
    let impure = [
        "std::fs",
        "std::net",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "std::env",
    ];
    for folder in PURE {
        for file in tidy_files(&root().join("crates").join(folder).join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            for word in impure {
                assert!(
                    !text.contains(word),
                    "{} is in a pure crate and says {word}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn every_member_takes_its_lints_and_versions_from_the_workspace() {
    for folder in ["crates", "tests"] {
        for manifest in manifests(folder).unwrap() {
            let text = std::fs::read_to_string(&manifest).unwrap();
            let parsed: toml::Table = text.parse().unwrap();
            let lints = parsed.get("lints").and_then(|lints| lints.get("workspace"));
            assert_eq!(
                lints,
                Some(&toml::Value::Boolean(true)),
                "{}: [lints] workspace = true",
                manifest.display()
            );
            for (name, value) in ["dependencies", "dev-dependencies", "build-dependencies"]
                .iter()
                .filter_map(|section| parsed.get(*section)?.as_table())
                .flatten()
            {
                let shared = value.get("workspace") == Some(&toml::Value::Boolean(true));
                assert!(
                    shared,
                    "{}: {name} does not come from the workspace",
                    manifest.display()
                );
                let plain = value.get("features").is_none();
                assert!(
                    plain,
                    "{}: features of {name} belong to the root Cargo.toml",
                    manifest.display()
                );
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn manifests(folder: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder))? {
        let manifest = entry?.path().join("Cargo.toml");
        if manifest.exists() {
            found.push(manifest);
        }
    }
    found.sort();
    Ok(found)
}

fn crates() -> Result<BTreeMap<String, Crate>> {
    let mut found = BTreeMap::new();
    for manifest in manifests("crates")? {
        let folder = manifest.parent().and_then(Path::file_name).context("a folder")?;
        let parsed: toml::Table = std::fs::read_to_string(&manifest)?.parse()?;
        let package = parsed["package"]["name"]
            .as_str()
            .context("a package name")?
            .to_owned();
        let dependencies = ["dependencies", "build-dependencies"]
            .iter()
            .filter_map(|section| parsed.get(*section)?.as_table())
            .flat_map(|section| section.keys().cloned())
            .collect();
        found.insert(
            folder.to_string_lossy().into_owned(),
            Crate {
                package,
                dependencies,
            },
        );
    }
    Ok(found)
}

fn table() -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("The crates\n"));
    let section = section.context("ARCHITECTURE.md has no section \"The crates\"")?;
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    Ok(rows.map(row).collect())
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [name, duty, may_use] = cells[..] else {
        panic!("not three cells: {line}")
    };
    Row {
        name: name.trim_matches('`').to_owned(),
        duty: duty.to_owned(),
        may_use: may_use
            .split(", ")
            .filter(|name| *name != "–")
            .map(|name| name.trim_matches('`').to_owned())
            .collect(),
    }
}

fn tidy_files(folder: &Path) -> Vec<PathBuf> {
    tidy::files(folder, "rs")
}
