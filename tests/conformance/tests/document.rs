//! `docs/conformance.md`: every numbered statement of MQTT 5.0, and the test that is about it.
//!
//! Made from the names and first comment lines of the tests; a test here fails when the file is not up to date.
//! `FLOTILLA_UPDATE=1 cargo test -p conformance document` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::not_tested::NOT_TESTED;

/// Sections with numbered statements, and the first and last number in each.
const SECTIONS: &[([u16; 3], u16, u16)] = &[
    ([1, 5, 4], 1, 3),
    ([1, 5, 5], 1, 1),
    ([1, 5, 7], 1, 1),
    ([2, 1, 3], 1, 1),
    ([2, 2, 1], 2, 6),
    ([2, 2, 2], 1, 1),
    ([3, 1, 0], 1, 2),
    ([3, 1, 2], 1, 30),
    ([3, 1, 3], 1, 12),
    ([3, 1, 4], 1, 6),
    ([3, 2, 0], 1, 2),
    ([3, 2, 2], 1, 22),
    ([3, 3, 1], 1, 13),
    ([3, 3, 2], 1, 20),
    ([3, 3, 4], 1, 10),
    ([3, 4, 2], 1, 3),
    ([3, 5, 2], 1, 3),
    ([3, 6, 1], 1, 1),
    ([3, 6, 2], 1, 3),
    ([3, 7, 2], 1, 3),
    ([3, 8, 1], 1, 1),
    ([3, 8, 3], 1, 5),
    ([3, 8, 4], 1, 8),
    ([3, 9, 2], 1, 2),
    ([3, 9, 3], 1, 2),
    ([3, 10, 1], 1, 1),
    ([3, 10, 3], 1, 2),
    ([3, 10, 4], 1, 6),
    ([3, 11, 2], 1, 2),
    ([3, 11, 3], 1, 2),
    ([3, 12, 4], 1, 1),
    ([3, 14, 0], 1, 1),
    ([3, 14, 1], 1, 1),
    ([3, 14, 2], 1, 4),
    ([3, 14, 4], 1, 3),
    ([3, 15, 1], 1, 1),
    ([3, 15, 2], 1, 3),
    ([4, 1, 0], 1, 2),
    ([4, 2, 0], 1, 1),
    ([4, 3, 1], 1, 1),
    ([4, 3, 2], 1, 5),
    ([4, 3, 3], 1, 13),
    ([4, 4, 0], 1, 2),
    ([4, 5, 0], 1, 2),
    ([4, 6, 0], 1, 6),
    ([4, 7, 0], 1, 1),
    ([4, 7, 1], 1, 2),
    ([4, 7, 2], 1, 1),
    ([4, 7, 3], 1, 4),
    ([4, 8, 2], 1, 6),
    ([4, 9, 0], 1, 3),
    ([4, 12, 0], 1, 7),
    ([4, 12, 1], 1, 2),
    ([4, 13, 1], 1, 1),
    ([4, 13, 2], 1, 1),
    ([6, 0, 0], 1, 4),
];

/// Section and number of a statement: [MQTT-3.1.2-4] is `([3, 1, 2], 4)`.
type Number = ([u16; 3], u16);

#[derive(Debug)]
enum Entry {
    Tested { says: String, tests: Vec<String> },
    NotTested { says: &'static str, why: &'static str },
}

#[test]
fn every_statement_has_a_test_or_a_reason_and_the_document_says_so() -> Result<()> {
    let entries = entries()?;
    let all: Vec<Number> = SECTIONS
        .iter()
        .flat_map(|(section, first, last)| (*first..=*last).map(|n| (*section, n)))
        .collect();
    let missing: Vec<_> = all
        .iter()
        .filter(|number| !entries.contains_key(number))
        .map(name)
        .collect();
    ensure!(
        missing.is_empty(),
        "neither tested nor listed in not_tested.rs: {missing:?}"
    );
    let unknown: Vec<_> = entries
        .keys()
        .filter(|number| !all.contains(number))
        .map(name)
        .collect();
    ensure!(unknown.is_empty(), "there are no such statements: {unknown:?}");

    let path = root().join("docs/conformance.md");
    let fresh = document(&entries);
    if std::env::var_os("FLOTILLA_UPDATE").is_some() {
        std::fs::write(&path, &fresh)?;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        kept == fresh,
        "docs/conformance.md is not up to date: FLOTILLA_UPDATE=1 cargo test -p conformance document"
    );
    Ok(())
}

fn entries() -> Result<BTreeMap<Number, Entry>> {
    let mut entries = BTreeMap::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("tests/conformance/tests"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files {
        collect(&file, &mut entries).with_context(|| file.display().to_string())?;
    }
    for (number, says, why) in NOT_TESTED {
        let earlier = entries.insert(parse(number)?, Entry::NotTested { says, why });
        ensure!(
            earlier.is_none(),
            "{number} is in not_tested.rs and also there: {earlier:?}"
        );
    }
    Ok(entries)
}

/// Adds the tests of one file that are named after a statement.
fn collect(file: &Path, entries: &mut BTreeMap<Number, Entry>) -> Result<()> {
    let module = file
        .file_stem()
        .context("a file has a name")?
        .to_string_lossy()
        .into_owned();
    let source = std::fs::read_to_string(file)?;
    let mut comment = Vec::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            comment.push(text);
        } else if let Some(test) = line.strip_prefix("async fn mqtt_") {
            let test = format!("mqtt_{}", test.split('(').next().unwrap_or_default());
            let number = parse_test(&test).with_context(|| format!("{test} has no number"))?;
            ensure!(!comment.is_empty(), "{test} does not say what its statement says");
            let test = format!("{module}::{test}");
            match entries.entry(number).or_insert_with(|| Entry::Tested {
                says: comment.join(" "),
                tests: vec![],
            }) {
                Entry::Tested { tests, .. } => tests.push(test),
                Entry::NotTested { .. } => bail!("{test} is also in not_tested.rs"),
            }
            comment.clear();
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    Ok(())
}

fn document(entries: &BTreeMap<Number, Entry>) -> String {
    let tested = entries
        .values()
        .filter(|entry| matches!(entry, Entry::Tested { .. }))
        .count();
    let mut text = format!(
        "# Conformance with MQTT 5.0\n\n\
         Every numbered statement of the standard, in our words, with the test that asks a running broker for it, or\n\
         the reason why there is none: {tested} of {} have one. The tests are in `tests/conformance`;\n\
         `cargo test -p conformance` runs them. What 3.1.1 and 3.1 do differently is tested there in `version3`, bad\n\
         input in `bad_input`, wills in `wills`, and what survives `kill -9` in `restart`.\n\n\
         This file is generated from the tests: `FLOTILLA_UPDATE=1 cargo test -p conformance document`.\n\n\
         | Statement | What it says | Test |\n| --- | --- | --- |\n",
        entries.len()
    );
    for (number, entry) in entries {
        let (says, test) = match entry {
            Entry::Tested { says, tests } => (says.as_str(), format!("`{}`", tests.join("` `"))),
            Entry::NotTested { says, why } => (*says, format!("None. {why}")),
        };
        writeln!(
            text,
            "| MQTT-{} | {} | {test} |",
            name(number),
            says.replace('|', "\\|")
        )
        .expect("writing to a string does not fail");
    }
    text
}

/// The number as the standard writes it; section 4.2 has no third part.
fn name(number: &Number) -> String {
    match number {
        ([4, 2, 0], statement) => format!("4.2-{statement}"),
        ([a, b, c], statement) => format!("{a}.{b}.{c}-{statement}"),
    }
}

fn parse(number: &str) -> Result<Number> {
    let parts: Vec<u16> = number
        .split(['.', '-'])
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [a, b, c, statement] = parts[..] else {
        bail!("{number} is not the number of a statement")
    };
    Ok(([a, b, c], statement))
}

/// `mqtt_3_1_2_4_…` is about 3.1.2-4.
fn parse_test(test: &str) -> Result<Number> {
    let parts: Vec<&str> = test.split('_').skip(1).take(4).collect();
    let [a, b, c, statement] = parts[..] else {
        bail!("too short")
    };
    parse(&format!("{a}.{b}.{c}-{statement}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
