//! `cargo xtask release`: what a release consists of, from the last commit alone: a static binary, what it is made of (CycloneDX),
//! an archive, checksums, and the folder that `deploy/Dockerfile.binary` makes an image of.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step::{self, cargo};
use crate::{tools, verify};

/// Writes down the parts of a Cargo project.
const PARTS_TOOL: &str = "cargo-cyclonedx";
const PARTS_TOOL_VERSION: &str = "0.5.9";

/// Builds a release into `target/dist`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    ensure!(args.is_empty(), "`release` takes nothing");
    ensure!(
        step::output("git", &["status", "--porcelain"])?.is_empty(),
        "a release is made of a commit: commit or stash what `git status` shows"
    );
    let commit = step::output("git", &["rev-parse", "HEAD"])?;
    let source = step::target_dir().join("release-source");
    let dist = step::target_dir().join("dist");
    for folder in [&source, &dist] {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)?;
    }
    export(&source)?;
    let host = step::host()?;
    let binary = build(&source, &host, &commit)?;
    let said = step::output(&binary.to_string_lossy(), &["--version"])?;
    let version = said.split_whitespace().nth(1).context("a version")?.to_owned();
    let name = format!("flotilla-{version}-{host}");
    parts(&source, &host, &dist.join(format!("{name}.cdx.json")))?;
    image(&binary, &dist)?;
    archive(&source, &binary, &dist, &name)?;
    checksums(&dist, &name)?;
    try_image(&binary)?;
    println!("\nrelease: {} is in {}", said, dist.display());
    Ok(())
}

/// The commit as it is, so that nothing else gets in.
fn export(source: &Path) -> Result<()> {
    let archive = source.join("source.tar");
    let mut git = Command::new("git");
    step::run(
        "export",
        git.args(["archive", "--output"]).arg(&archive).arg("HEAD"),
    )?;
    let mut tar = Command::new("tar");
    step::run("unpack", tar.arg("-xf").arg(&archive).arg("-C").arg(source))?;
    std::fs::remove_file(archive)?;
    Ok(())
}

/// glibc is linked statically. Naming the target keeps that away from build scripts and macros; paths of this machine stay out.
fn build(source: &Path, host: &str, commit: &str) -> Result<PathBuf> {
    let target = step::target_dir().join("static");
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .context("CARGO_HOME")?;
    let flags = format!(
        "-C target-feature=+crt-static --remap-path-prefix={}=flotilla --remap-path-prefix={}=cargo",
        source.display(),
        home.display()
    );
    let mut command = cargo();
    command
        .args([
            "build",
            "--release",
            "--locked",
            "--bin",
            "flotilla",
            "--target",
            host,
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(source)
        .env("RUSTFLAGS", flags)
        .env("FLOTILLA_COMMIT", commit);
    step::run("static binary", &mut command)?;
    let binary = target.join(host).join("release/flotilla");
    let libraries = Command::new("ldd").arg(&binary).output().context("ldd")?;
    ensure!(
        !String::from_utf8_lossy(&libraries.stdout).contains("=>"),
        "{} needs libraries",
        binary.display()
    );
    Ok(binary)
}

/// Every crate in the binary, with version, licence and checksum.
fn parts(source: &Path, host: &str, to: &Path) -> Result<()> {
    let tool = tools::dir().join("bin").join(PARTS_TOOL);
    if !tool.exists() {
        let mut install = cargo();
        install
            .args([
                "install",
                "--locked",
                "--version",
                PARTS_TOOL_VERSION,
                PARTS_TOOL,
                "--root",
            ])
            .arg(tools::dir());
        step::run(PARTS_TOOL, &mut install)?;
    }
    let mut command = Command::new(&tool);
    command
        .args([
            "cyclonedx",
            "--format",
            "json",
            "--spec-version",
            "1.5",
            "--target",
            host,
        ])
        .args([
            "--manifest-path",
            "crates/server/Cargo.toml",
            "--override-filename",
            "parts",
        ])
        .current_dir(source)
        .env("SOURCE_DATE_EPOCH", committed_at()?);
    step::run("parts", &mut command)?;
    let made = std::fs::read(source.join("crates/server/parts.json")).context("the list of parts")?;
    let list: serde_json::Value = serde_json::from_slice(&made)?;
    let count = list["components"].as_array().map_or(0, Vec::len);
    ensure!(count > 100, "the list of parts has {count}");
    // Where it was built is nobody's business.
    let made = String::from_utf8(made)?.replace(&source.display().to_string(), "/flotilla");
    std::fs::write(to, made)?;
    Ok(())
}

/// The context of `deploy/Dockerfile.binary`.
fn image(binary: &Path, dist: &Path) -> Result<()> {
    let folder = dist.join("image");
    std::fs::create_dir_all(folder.join("usr/bin"))?;
    std::fs::create_dir_all(folder.join("var/lib/flotilla"))?;
    let mut strip = Command::new("strip");
    strip
        .arg("--strip-debug")
        .arg("-o")
        .arg(folder.join("usr/bin/flotilla"))
        .arg(binary);
    step::run("strip", &mut strip)
}

/// Seconds since 1970.
fn committed_at() -> Result<String> {
    step::output("git", &["log", "-1", "--format=%ct"])
}

/// The same commit gives the same archive: names in order, the commit's time, nobody's names.
fn archive(source: &Path, binary: &Path, dist: &Path, name: &str) -> Result<()> {
    let folder = dist.join(name);
    std::fs::create_dir_all(folder.join("completions"))?;
    std::fs::copy(dist.join("image/usr/bin/flotilla"), folder.join("flotilla"))?;
    for file in ["LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"] {
        std::fs::copy(source.join(file), folder.join(file))?;
    }
    for shell in ["bash", "zsh", "fish"] {
        let text = step::output(&binary.to_string_lossy(), &["completions", shell])?;
        std::fs::write(
            folder.join("completions").join(format!("flotilla.{shell}")),
            text + "\n",
        )?;
    }
    let mut copy = Command::new("cp");
    step::run(
        "systemd",
        copy.arg("-r").arg(source.join("deploy/systemd")).arg(&folder),
    )?;
    let time = committed_at()?;
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=go-w",
    ])
    .arg(format!("--mtime=@{time}"))
    .args(["--use-compress-program", "gzip -n -9", "-cf"])
    .arg(dist.join(format!("{name}.tar.gz")))
    .arg("-C")
    .arg(dist)
    .arg(name);
    step::run("archive", &mut tar)?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn checksums(dist: &Path, name: &str) -> Result<()> {
    let sums = Command::new("sha256sum")
        .args([format!("{name}.tar.gz"), format!("{name}.cdx.json")])
        .current_dir(dist)
        .output()
        .context("sha256sum")?;
    ensure!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stderr));
    std::fs::write(dist.join("SHA256SUMS"), sums.stdout)?;
    Ok(())
}

/// The test of the image, with the binary that goes into it.
fn try_image(binary: &Path) -> Result<()> {
    verify::build()?;
    let mut command = cargo();
    command
        .args([
            "test",
            "--workspace",
            "--locked",
            "--test",
            "deploy-stories",
            "image::",
            "--",
            "--nocapture",
        ])
        .env("FLOTILLA_STATIC", binary);
    step::run("image", &mut command)
}
