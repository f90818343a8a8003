//! What `deny.toml` demands of dependencies, for machines without cargo-deny: licences, crates that are not wanted in any
//! version, sources.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The allowed licences, and the crates that are not wanted, each with those that may use it all the same.
struct Rules {
    allowed: Vec<String>,
    banned: BTreeMap<String, Vec<String>>,
}

impl Rules {
    fn read() -> Result<Self> {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deny.toml"))?;
        let table: toml::Table = text.parse()?;
        let words = |list: Option<&toml::Value>| -> Vec<String> {
            let list = list.and_then(toml::Value::as_array);
            let words = list.into_iter().flatten().filter_map(toml::Value::as_str);
            words.map(str::to_owned).collect()
        };
        let unwanted = table["bans"]["deny"].as_array().context("bans.deny")?;
        let banned = unwanted.iter().map(|ban| {
            let name = ban["crate"].as_str().context("a crate")?;
            Ok((name.to_owned(), words(ban.get("wrappers"))))
        });
        Ok(Self {
            allowed: words(table["licenses"].get("allow")),
            banned: banned.collect::<Result<_>>()?,
        })
    }

    /// Whether what is allowed is enough for an SPDX expression; the older `/` is an OR.
    fn allow(&self, expression: &str) -> bool {
        let words = expression
            .replace('/', " OR ")
            .replace('(', " ( ")
            .replace(')', " ) ");
        let mut words = words.split_whitespace().peekable();
        let allowed = self.any_of(&mut words);
        allowed && words.next().is_none()
    }

    fn any_of<'a>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        let mut allowed = self.all_of(words);
        while words.next_if_eq(&"OR").is_some() {
            allowed |= self.all_of(words);
        }
        allowed
    }

    fn all_of<'a>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        let mut allowed = self.one(words);
        while words.next_if_eq(&"AND").is_some() {
            allowed &= self.one(words);
        }
        allowed
    }

    fn one<'a>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        let Some(mut name) = words.next().map(str::to_owned) else {
            return false;
        };
        if name == "(" {
            let allowed = self.any_of(words);
            let is_closed = words.next() == Some(")");
            return allowed && is_closed;
        }
        if words.next_if_eq(&"WITH").is_some() {
            name = format!("{name} WITH {}", words.next().unwrap_or_default());
        }
        self.allowed.contains(&name)
    }
}

#[test]
fn every_dependency_is_of_the_public_registry_has_an_allowed_licence_and_is_wanted() -> Result<()> {
    let rules = Rules::read()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    ensure!(packages.len() > 100, "{} packages", packages.len());
    let mut wrong = Vec::new();
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let name = text("name");
        let of_the_registry = match text("source") {
            "" => package["publish"].as_array().is_some_and(Vec::is_empty),
            source => source.starts_with("registry+") && source.ends_with("/crates.io-index"),
        };
        if !of_the_registry {
            wrong.push(format!("{name} comes from {}", package["source"]));
        }
        if !rules.allow(text("license")) {
            wrong.push(format!("{name} has the licence {}", package["license"]));
        }
    }
    let names: BTreeMap<&str, &str> = packages
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    for node in metadata["resolve"]["nodes"].as_array().context("nodes")? {
        let user = names[node["id"].as_str().context("an id")?];
        for used in node["dependencies"].as_array().context("dependencies")? {
            let used = names[used.as_str().context("an id")?];
            let permitted = rules.banned.get(used);
            if permitted.is_some_and(|users| !users.iter().any(|permitted| permitted == user)) {
                wrong.push(format!("{user} uses {used}, which is not wanted"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn an_expression_is_allowed_when_what_is_allowed_is_enough_for_it() -> Result<()> {
    let rules = Rules::read()?;
    for expression in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
        "ISC AND (Apache-2.0 OR GPL-2.0)",
        "(GPL-2.0 OR GPL-3.0-only) OR MIT",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(rules.allow(expression), "{expression}");
    }
    for expression in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "GPL-3.0-only OR AGPL-3.0-only",
        "(MIT OR ISC) AND GPL-3.0-only",
        "Apache-2.0 WITH Classpath-exception",
        "MIT)",
        "(MIT",
    ] {
        assert!(!rules.allow(expression), "{expression}");
    }
    Ok(())
}
