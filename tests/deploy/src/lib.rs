//! What the tests of the operator's files share: where they are, the tools that judge them, and the chart as it is rendered.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Longest time a tool may take; coreutils' `timeout` keeps it.
const LIMIT_SECONDS: &str = "120";
/// Set by `cargo xtask test`, which installs the tools: then none may be missing.
const REQUIRED: &str = "FLOTILLA_TOOLS_REQUIRED";

/// What a program said until its end.
#[derive(Debug)]
pub struct Said {
    /// Whether its exit code was 0.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// The top of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of a file of the source tree.
pub fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

/// The names of the files of a folder of the source tree that end like this, without that end, in order.
pub fn names(folder: &str, end: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).with_context(|| folder.to_owned())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_suffix(end).map(str::to_owned));
    }
    found.sort();
    Ok(found)
}

/// A program that judges files: from the target directory, or of the system. `None`, and a line that says so, where it is
/// missing: some machines may not install it.
///
/// # Panics
/// It is missing, and the environment says that it has to be here.
pub fn tool(name: &str) -> Option<PathBuf> {
    let below = match name {
        "helm" => "tools/kubectl-layer/helm/helm".to_owned(),
        "readme-generator" => "tools/readme/node_modules/.bin/readme-generator".to_owned(),
        name => format!("tools/checks/bin/{name}"),
    };
    let test = std::env::current_exe().unwrap_or_default();
    let of_the_project = test
        .ancestors()
        .map(|folder| folder.join(&below))
        .find(|path| path.exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let of_the_system = || {
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
    };
    let found = of_the_project.or_else(of_the_system);
    if found.is_none() {
        assert!(std::env::var_os(REQUIRED).is_none(), "{name} is missing");
        println!("skipped: {name} is not here; `cargo xtask test` installs it where that is permitted");
    }
    found
}

/// The broker that was built with this test.
pub fn flotilla() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let found = test
        .ancestors()
        .map(|folder| folder.join("flotilla"))
        .find(|path| path.is_file());
    found.context("no flotilla binary next to the test: build it first with `cargo build`")
}

/// Runs a program to its end, from the top of the source tree.
pub fn run<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Result<Said> {
    run_with(program, arguments, &[])
}

/// The same with more environment.
pub fn run_with<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
    environment: &[(&str, &str)],
) -> Result<Said> {
    let output = Command::new("timeout")
        .arg(LIMIT_SECONDS)
        .arg(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} did not start", program.display()))?;
    Ok(Said {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Renders the chart as the release `flotilla` in the namespace `mqtt`.
///
/// # Errors
/// What helm says of values that do not fit.
pub fn render(helm: &Path, arguments: &[&str]) -> Result<String> {
    let chart = ["template", "flotilla", "helm/flotilla", "--namespace", "mqtt"];
    let said = run(helm, chart.iter().chain(arguments))?;
    ensure!(said.success, "{}", said.err);
    Ok(said.out)
}

/// Renders the chart with one of the files in `tests/deploy/values`.
///
/// # Errors
/// As of `render`.
pub fn render_case(helm: &Path, case: &str) -> Result<String> {
    render(helm, &["--values", &format!("tests/deploy/values/{case}.yaml")])
}

/// One object of a rendered chart.
///
/// # Errors
/// There is none of this kind and name.
pub fn object<'a>(rendered: &'a str, kind: &str, name: &str) -> Result<&'a str> {
    let (kind_line, name_line) = (format!("\nkind: {kind}\n"), format!("\n  name: {name}\n"));
    let found = rendered
        .split("\n---\n")
        .find(|object| object.contains(&kind_line) && object.contains(&name_line));
    found.with_context(|| format!("there is no {kind} {name}"))
}

/// The broker's configuration within a rendered chart.
///
/// # Errors
/// The ConfigMap or its text is missing.
pub fn broker_config(rendered: &str, name: &str) -> Result<String> {
    let map = object(rendered, "ConfigMap", name)?;
    let (_, text) = map.split_once("flotilla.toml: |\n").context("no flotilla.toml")?;
    // Up to the next key of the map.
    let lines = text
        .lines()
        .take_while(|line| line.starts_with("    ") || line.is_empty())
        .map(|line| line.strip_prefix("    ").unwrap_or(line));
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}
