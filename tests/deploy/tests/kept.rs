//! Certificates between nodes are made once: an upgrade that finds them keeps them. The Kubernetes API that helm asks is a few
//! answers of this file.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use deploy::{object, render, run, tool};
use serde_json::{Value, json};

const GROUPS: [(&str, &str, &str); 3] = [
    ("apps", "StatefulSet", "statefulsets"),
    ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
];
const CORE: [(&str, &str); 5] = [
    ("Secret", "secrets"),
    ("ConfigMap", "configmaps"),
    ("Service", "services"),
    ("ServiceAccount", "serviceaccounts"),
    ("Pod", "pods"),
];

#[test]
fn an_upgrade_keeps_the_certificates_of_the_first_install() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = format!("http://{}", listener.local_addr()?);
    // It ends with the process of this test.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    let files = tempfile::tempdir()?;
    let access = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
    });
    let config = files.path().join("config.json");
    std::fs::write(&config, access.to_string())?;
    let config = config.display().to_string();
    let upgrade = [
        "--is-upgrade",
        "--dry-run=server",
        "--disable-openapi-validation",
        "--kubeconfig",
        &config,
    ];
    let rendered = render(&helm, &upgrade)?;
    let kept = object(&rendered, "Secret", "flotilla-cluster-tls")?;
    for line in [
        "ca.crt: S0VQVC1DQQ==",
        "tls.crt: S0VQVC1DUlQ=",
        "tls.key: S0VQVC1LRVk=",
        "helm.sh/resource-policy: keep",
    ] {
        ensure!(kept.contains(line), "{kept}");
    }
    Ok(())
}

#[test]
fn a_first_install_makes_a_certificate_for_every_node_by_an_authority_of_its_own() -> Result<()> {
    let (Some(helm), Some(openssl)) = (tool("helm"), tool("openssl")) else {
        return Ok(());
    };
    let rendered = render(&helm, &["--set", "replicaCount=3"])?;
    let secret = object(&rendered, "Secret", "flotilla-cluster-tls")?;
    let files = tempfile::tempdir()?;
    for key in ["ca.crt", "tls.crt", "tls.key"] {
        let line = secret
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{key}: ")).map(str::to_owned));
        let (encoded, decoded) = (files.path().join("encoded"), files.path().join(key));
        std::fs::write(&encoded, line.with_context(|| key.to_owned())?)?;
        let (encoded, decoded) = (encoded.display().to_string(), decoded.display().to_string());
        let said = run(
            &openssl,
            ["base64", "-d", "-A", "-in", &encoded, "-out", &decoded],
        )?;
        ensure!(said.success, "{}", said.err);
    }
    let path = |name: &str| files.path().join(name).display().to_string();
    for node in [
        "flotilla-headless",
        "flotilla-0.flotilla-headless",
        "flotilla-99.flotilla-headless",
    ] {
        let name = format!("{node}.mqtt.svc.cluster.local");
        for purpose in ["sslserver", "sslclient"] {
            let said = run(
                &openssl,
                [
                    "verify",
                    "-CAfile",
                    &path("ca.crt"),
                    "-purpose",
                    purpose,
                    "-verify_hostname",
                    &name,
                    &path("tls.crt"),
                ],
            )?;
            ensure!(said.success, "{name}, {purpose}: {}{}", said.out, said.err);
        }
    }
    ensure!(
        !secret.contains("ca.key"),
        "whoever reads the secret could make more certificates"
    );
    Ok(())
}

/// Answers the requests of one connection until it closes.
fn serve(mut stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let answer = answer(target.split('?').next().unwrap_or_default());
        let status = if answer["kind"] == "Status" {
            "404 Not Found"
        } else {
            "200 OK"
        };
        let body = answer.to_string();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn answer(path: &str) -> Value {
    let kinds = |version: &str, kinds: &[(&str, &str)]| {
        let resource = |(kind, name): &(&str, &str)| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["get"]});
        let resources: Vec<Value> = kinds.iter().map(resource).collect();
        json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources})
    };
    let of_a_group = GROUPS
        .iter()
        .find(|(group, ..)| path == format!("/apis/{group}/v1"));
    match (path, of_a_group) {
        (_, Some((group, kind, name))) => kinds(&format!("{group}/v1"), [(*kind, *name)].as_slice()),
        ("/version", _) => json!({"major": "1", "minor": "35", "gitVersion": "v1.35.0"}),
        ("/api", _) => json!({"kind": "APIVersions", "versions": ["v1"]}),
        ("/api/v1", _) => kinds("v1", CORE.as_slice()),
        ("/apis", _) => {
            let group = |(group, ..): &(&str, &str, &str)| {
                let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
                json!({"name": group, "versions": [version.clone()], "preferredVersion": version})
            };
            let groups: Vec<Value> = GROUPS.iter().map(group).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ("/api/v1/namespaces/mqtt/secrets/flotilla-cluster-tls", _) => json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "flotilla-cluster-tls", "namespace": "mqtt"},
            "data": {"ca.crt": "S0VQVC1DQQ==", "tls.crt": "S0VQVC1DUlQ=", "tls.key": "S0VQVC1LRVk="},
        }),
        _ => {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
        }
    }
}
