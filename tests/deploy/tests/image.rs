//! The image, built and run by a Docker engine of the test's own: as nobody, on a file system it cannot write, without a network.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use deploy::{Said, flotilla, run, run_with};
use harness::wait_for;

const LIMIT: Duration = Duration::from_secs(60);
/// The image's binary, where `cargo xtask release` has linked one that needs nothing else.
const STATIC_BINARY: &str = "FLOTILLA_STATIC";

/// A Docker engine in a folder, ended with the test. It has no network to give and changes none.
struct Engine {
    process: Child,
    folder: tempfile::TempDir,
}

impl Engine {
    /// `None`, and a line that says why: this machine has no engine, or does not let it start.
    async fn start() -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let log = std::fs::File::create(path("log"))?;
        let started = Command::new("dockerd")
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--host")
            .arg(format!("unix://{}", path("socket").display()))
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--storage-driver=vfs",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let Ok(process) = started else {
            println!("skipped: dockerd is not here; `cargo xtask test` installs it where that is permitted");
            return Ok(None);
        };
        let mut engine = Self { process, folder };
        let mut has_ended = false;
        let answers_or_has_ended = async || {
            has_ended = engine.process.try_wait().is_ok_and(|status| status.is_some());
            has_ended || engine.docker(["version"]).is_ok_and(|said| said.success)
        };
        wait_for(answers_or_has_ended, LIMIT)
            .await
            .context("the engine says nothing")?;
        if has_ended {
            let log = std::fs::read_to_string(engine.folder.path().join("log"))?;
            println!("skipped: no Docker engine can be started here: {log}");
            return Ok(None);
        }
        Ok(Some(engine))
    }

    fn docker<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Said> {
        let socket = format!("unix://{}", self.folder.path().join("socket").display());
        run_with(Path::new("docker"), arguments, &[("DOCKER_HOST", &socket)])
    }

    /// What a command says that has to succeed.
    fn answer<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let said = self.docker(arguments)?;
        ensure!(said.success, "{}{}", said.out, said.err);
        Ok(said.out)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.docker(["rm", "--force", "--volumes", "node"]);
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

/// The folder that `deploy/Dockerfile.binary` makes an image of. A binary that is not linked statically brings its libraries.
fn context(folder: &Path) -> Result<()> {
    let given = std::env::var_os(STATIC_BINARY).map(PathBuf::from);
    let binary = given.clone().map_or_else(flotilla, Ok)?;
    std::fs::create_dir_all(folder.join("usr/bin"))?;
    std::fs::create_dir_all(folder.join("var/lib/flotilla"))?;
    let inside = folder.join("usr/bin/flotilla");
    let (from, to) = (binary.display().to_string(), inside.display().to_string());
    let said = run(Path::new("strip"), ["--strip-debug", "-o", &to, &from])?;
    ensure!(said.success, "{}", said.err);
    let said = run(Path::new("ldd"), [&from])?;
    let libraries = said.out.split_whitespace().filter(|word| word.starts_with('/'));
    let mut count = 0;
    for library in libraries {
        let inside = folder.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(inside.parent().context("a folder")?)?;
        std::fs::copy(library, inside)?;
        count += 1;
    }
    ensure!(given.is_none() || count == 0, "linked dynamically: {}", said.out);
    Ok(())
}

#[tokio::test]
async fn the_image_runs_as_nobody_keeps_its_data_and_stops_in_order() -> Result<()> {
    let Some(engine) = Engine::start().await? else {
        return Ok(());
    };
    let files = tempfile::tempdir()?;
    context(files.path())?;
    let folder = files.path().display().to_string();
    engine.answer([
        "build",
        "--quiet",
        "--file",
        "deploy/Dockerfile.binary",
        "--tag",
        "flotilla:test",
        &folder,
    ])?;
    let version = engine.docker(["run", "--rm", "--network", "none", "flotilla:test", "--version"])?;
    if !version.success && !version.err.contains("no such file") {
        println!("skipped: the engine can run nothing here: {}", version.err);
        return Ok(());
    }
    ensure!(version.out.starts_with("flotilla "), "{version:?}");
    engine.answer([
        "run",
        "--detach",
        "--health-interval",
        "1s",
        "--name",
        "node",
        "--network",
        "none",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--volume",
        "data:/var/lib/flotilla",
        "flotilla:test",
    ])?;
    // A shell is not there: what can be run inside is the binary.
    let inside = |arguments: &[&str]| {
        engine.docker(
            ["exec", "node", "/usr/bin/flotilla"]
                .into_iter()
                .chain(arguments.iter().copied()),
        )
    };
    let is_ready = async || inside(&["health"]).is_ok_and(|said| said.success);
    wait_for(is_ready, LIMIT).await.context("not ready")?;
    let healthy = async || {
        let state = engine.docker(["inspect", "--format", "{{.State.Health.Status}}", "node"]);
        state.is_ok_and(|said| said.out.trim() == "healthy")
    };
    wait_for(healthy, LIMIT).await.context("not found healthy")?;
    let user = engine.answer(["top", "node", "-eo", "pid,uid,gid"])?;
    ensure!(user.split_whitespace().skip(4).eq(["65532", "65532"]), "{user}");

    let said = inside(&[
        "ctl",
        "publish",
        "kept",
        "in the volume",
        "--retain",
        "--qos",
        "1",
    ])?;
    ensure!(said.success, "{}{}", said.out, said.err);
    engine.answer(["stop", "--time", "30", "node"])?;
    let code = engine.answer(["inspect", "--format", "{{.State.ExitCode}}", "node"])?;
    ensure!(
        code.trim() == "0",
        "exit code {code}: {}",
        engine.docker(["logs", "node"])?.err
    );
    engine.answer(["start", "node"])?;
    wait_for(is_ready, LIMIT).await.context("not ready again")?;
    let said = inside(&["ctl", "retained", "show", "kept"])?;
    ensure!(said.out.contains("in the volume"), "{}{}", said.out, said.err);
    Ok(())
}
