//! The chart is well-formed: linted, rendered as written down, accepted by Kubernetes' schemas and by the broker, and strict.

use anyhow::{Context, Result, ensure};
use deploy::{broker_config, flotilla, names, object, read, render, render_case, root, run, run_with, tool};

/// What checkov asks for and is not done, and why.
const NOT_DONE: [(&str, &str); 6] = [
    (
        "CKV_K8S_11",
        "a CPU limit: a node that is throttled misses its heartbeats",
    ),
    ("CKV_K8S_15", "pulling always: the tag is a version"),
    ("CKV_K8S_43", "a digest: image.digest is there for it"),
    (
        "CKV_K8S_8",
        "a liveness probe of the pod of `helm test`, which ends by itself",
    ),
    ("CKV_K8S_9", "a readiness probe of the same pod"),
    (
        "CKV2_K8S_6",
        "a network policy for the same pod, which listens to nothing",
    ),
];

fn cases() -> Result<Vec<String>> {
    names("tests/deploy/values", ".yaml")
}

#[test]
fn helm_has_nothing_to_say_against_it() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    for case in cases()? {
        let values = format!("tests/deploy/values/{case}.yaml");
        let said = run(&helm, ["lint", "--strict", "helm/flotilla", "--values", &values])?;
        ensure!(said.success, "{case}: {}{}", said.out, said.err);
    }
    Ok(())
}

#[test]
fn what_is_rendered_is_what_is_written_down() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    // Its rules and its dashboard are compared with their own files.
    for case in cases()?.iter().filter(|case| *case != "watched") {
        let rendered = without_secrets(&render_case(&helm, case)?);
        let golden = format!("tests/deploy/golden/{case}.yaml");
        if std::env::var_os("FLOTILLA_UPDATE").is_some() {
            std::fs::write(root().join(&golden), &rendered)?;
        }
        let written = read(&golden).unwrap_or_default();
        let differs = written
            .lines()
            .zip(rendered.lines())
            .find(|(old, new)| old != new);
        ensure!(
            written == rendered,
            "{golden} is stale, from {differs:?}: FLOTILLA_UPDATE=1 cargo test -p deploy chart"
        );
    }
    Ok(())
}

/// Certificates are new in each rendering.
fn without_secrets(rendered: &str) -> String {
    let mut text = String::new();
    for line in rendered.lines() {
        match line.split_once(": ") {
            Some((key @ ("  ca.crt" | "  tls.crt" | "  tls.key"), _)) => text += &format!("{key}: MADE"),
            _ => text += line,
        }
        text.push('\n');
    }
    text
}

#[test]
fn kubernetes_schemas_accept_every_object() -> Result<()> {
    let (Some(helm), Some(validate)) = (tool("helm"), tool("kubernetes-validate")) else {
        return Ok(());
    };
    let files = tempfile::tempdir()?;
    let judge = |name: &str, text: &str| -> Result<deploy::Said> {
        let file = files.path().join(name);
        std::fs::write(&file, text)?;
        let file = file.display().to_string();
        run(&validate, ["--strict", "--kubernetes-version", "1.37.0", &file])
    };
    for case in cases()? {
        let said = judge(&case, &render_case(&helm, &case)?)?;
        ensure!(said.success, "{case}: {}{}", said.out, said.err);
    }
    let wrong = render(&helm, &[])?.replace("podManagementPolicy", "podManagmentPolicy");
    ensure!(
        !judge("wrong", &wrong)?.success,
        "a misspelt field was not noticed"
    );
    Ok(())
}

#[test]
fn checkov_finds_nothing_else() -> Result<()> {
    let (Some(helm), Some(checkov)) = (tool("helm"), tool("checkov")) else {
        return Ok(());
    };
    let files = tempfile::tempdir()?;
    let skipped = NOT_DONE.map(|(check, _)| check).join(",");
    for case in ["default", "outside"] {
        let file = files.path().join(format!("{case}.yaml"));
        std::fs::write(&file, render_case(&helm, case)?)?;
        let file = file.display().to_string();
        let flags = [
            "--framework",
            "kubernetes",
            "--compact",
            "--quiet",
            "--skip-check",
            &skipped,
            "--file",
            &file,
        ];
        let said = run(&checkov, flags)?;
        ensure!(said.success, "{case}: {}{}", said.out, said.err);
    }
    Ok(())
}

#[test]
fn the_broker_accepts_every_configuration_that_the_chart_writes() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    for case in cases()? {
        let files = tempfile::tempdir()?;
        let name = if case == "extras" {
            "flotilla-broker"
        } else {
            "flotilla"
        };
        let config = broker_config(&render_case(&helm, &case)?, name)?;
        let mounted = files.path().join("mounted").display().to_string();
        let config = config.replace("/etc/flotilla", &mounted);
        // That most files are there is all that is looked at.
        for path in config.split('"').filter(|text| text.starts_with(&mounted)) {
            std::fs::create_dir_all(std::path::Path::new(path).parent().context("a folder")?)?;
            let content = match path {
                // Long enough to be a secret.
                path if path.contains("/auth-jwt/") => vec![b'k'; 32],
                path if path.contains("/auth-service-ca/") => {
                    std::fs::read(harness::Certificate::create(files.path())?.chain_path)?
                }
                _ => Vec::new(),
            };
            std::fs::write(path, content)?;
        }
        let file = files.path().join("flotilla.toml");
        std::fs::write(&file, &config)?;
        let of_the_pod = [
            ("FLOTILLA__NODE__NAME", "flotilla-0"),
            (
                "FLOTILLA__CLUSTER__ADVERTISE",
                "flotilla-0.flotilla-headless.mqtt.svc.cluster.local:7883",
            ),
            ("FLOTILLA__CLUSTER__ZONE", ""),
        ];
        let said = run_with(
            &flotilla()?,
            ["check-config", "--config", &file.display().to_string()],
            &of_the_pod,
        )?;
        ensure!(said.success, "{case}: {}\n{config}", said.err);
    }
    Ok(())
}

#[test]
fn values_that_do_not_exist_or_do_not_fit_are_refused() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    for (value, reason) in [
        ("replicas=3", "additional properties 'replicas' not allowed"),
        ("replicaCount=0", "at '/replicaCount': minimum"),
        (
            "config.limits.connection_max=5",
            "additional properties 'connection_max' not allowed",
        ),
        (
            "config.cluster.seeds=a",
            "additional properties 'seeds' not allowed",
        ),
        (
            "config.durability.ack=never",
            "at '/config/durability/ack': value must be one of",
        ),
        (
            "config.limits.connect_timeout=5",
            "at '/config/limits/connect_timeout': got number, want string",
        ),
        ("config.queues.bytes_max=1Mi", "at '/config/queues/bytes_max'"),
        (
            "listeners.mqtt.protocol=udp",
            "at '/listeners/mqtt/protocol': value must be one of",
        ),
        (
            "listeners.Bad_Name.port=1999",
            "additional properties 'Bad_Name' not allowed",
        ),
        ("listeners.admin.port=1999", "'not' failed"),
        ("listeners.mqtt.port=80", "at '/listeners/mqtt/port': minimum"),
        (
            "listeners.mqtt.service.type=ExternalName",
            "at '/listeners/mqtt/service/type'",
        ),
        (
            "listeners.mqtt.service.typ=ClusterIP",
            "additional properties 'typ' not allowed",
        ),
        (
            "persistence.accessModes[0]=ReadWriteMany",
            "at '/persistence/accessModes/0'",
        ),
        ("drain.stopSeconds=5", "at '/drain/stopSeconds': minimum"),
        ("image.digest=abc", "does not match pattern"),
        ("auth.passwords.key=../users", "does not match pattern"),
        ("auth.jwt.keys=jwks.json", "at '/auth/jwt/keys'"),
        ("admin.token=x", "additional properties 'token' not allowed"),
        ("topologySpread.zone=Never", "at '/topologySpread/zone'"),
        (
            "resources.limit.memory=1Gi",
            "additional properties 'limit' not allowed",
        ),
        ("cluster.tls.mode=auto", "at '/cluster/tls/mode'"),
        ("cluster.tls.certManager.issuerRef.kind=Issuer", "issuerRef"),
        (
            "affinity.podAntiAfinity.x=y",
            "additional properties 'podAntiAfinity' not allowed",
        ),
        (
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
            "missing property 'preference'",
        ),
        (
            "dnsConfig.nameserver=x",
            "additional properties 'nameserver' not allowed",
        ),
        (
            "podSecurityContext.runAsUserId=5",
            "additional properties 'runAsUserId' not allowed",
        ),
        (
            "podSecurityContext.seccompProfile.typ=Unconfined",
            "additional properties 'typ' not allowed",
        ),
        (
            "containerSecurityContext.readOnlyRootFileSystem=true",
            "additional properties 'readOnlyRootFileSystem' not allowed",
        ),
        (
            "containerSecurityContext.capabilities.drop=ALL",
            "at '/containerSecurityContext/capabilities/drop': got string, want array",
        ),
        (
            "tolerations[0].keys=a",
            "additional properties 'keys' not allowed",
        ),
        (
            "topologySpread.extra[0].maxSkew=1",
            "at '/topologySpread/extra/0': missing properties",
        ),
        (
            "extraEnv[0].name=A,extraEnv[0].val=b",
            "additional properties 'val' not allowed",
        ),
        (
            "extraEnvFrom[0].secret.name=a",
            "additional properties 'secret' not allowed",
        ),
        (
            "extraVolumes[0].name=a,extraVolumes[0].hostpath.path=/b",
            "additional properties 'hostpath' not allowed",
        ),
        (
            "extraVolumeMounts[0].name=a,extraVolumeMounts[0].path=/b",
            "additional properties 'path' not allowed",
        ),
        (
            "initContainers[0].name=a,initContainers[0].img=b",
            "additional properties 'img' not allowed",
        ),
        ("extraContainers[0].image=b", "missing property 'name'"),
        (
            "listeners.mqtt.allowFrom[0].podselector.a=b",
            "additional properties 'podselector' not allowed",
        ),
        (
            "networkPolicy.adminFrom[0].cidr=10.0.0.0/8",
            "additional properties 'cidr' not allowed",
        ),
        (
            "networkPolicy.extraEgress[0].from[0].a=b",
            "additional properties 'from' not allowed",
        ),
        (
            "metrics.podMonitor.relabelings[0].action=dropp",
            "at '/metrics/podMonitor/relabelings/0/action'",
        ),
        (
            "metrics.prometheusRule.extraGroups[0].name=a",
            "missing property 'rules'",
        ),
    ] {
        refused(&helm, value, reason)?;
    }
    Ok(())
}

#[test]
fn values_that_contradict_each_other_are_refused_with_what_to_do() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    let tls = "listeners.mqtts.enabled=true";
    let unknown_clients = format!("{tls},listeners.mqtts.tls.existingSecret=x");
    let revoked =
        format!("{unknown_clients},listeners.mqtts.insecure=true,listeners.mqtts.tls.clientCa.crlKey=x");
    for (value, reason) in [
        ("replicaCount=17", "begins with at most 16 nodes"),
        ("cluster.tls.mode=existing-secret", "needs the name of a secret"),
        ("cluster.tls.existingSecret=x", "has no meaning unless"),
        (
            "listeners.mqtt.enabled=false,listeners.ws.enabled=false",
            "no client could connect",
        ),
        ("listeners.ws.port=1883", "1883 is taken by listeners.mqtt"),
        ("admin.port=7883", "admin.port and cluster.port are the same"),
        (tls, "needs a certificate"),
        (unknown_clients.as_str(), "nothing tells who connects"),
        (revoked.as_str(), "crlKey: has no meaning without existingSecret"),
        ("auth.jwt.existingSecret=x", "how the tokens are signed"),
        ("auth.serviceCa.existingSecret=x", "has no meaning without"),
        (
            "auth.passwords.existingSecret=x,config.auth.password_file=/y",
            "exclude each other",
        ),
        (
            "access.rules=allow all #,access.existingSecret=x",
            "exclude each other",
        ),
        (
            "listeners.mqtt.insecure=false",
            "plain text can be read by others",
        ),
        (
            "listeners.mqtt.service.type=LoadBalancer",
            "would show plain text to the outside",
        ),
        (
            "listeners.mqtt.tls.existingSecret=x",
            "has no meaning for the protocol `tcp`",
        ),
        (
            "listeners.mqtt.proxyProtocol=required",
            "say whose PROXY headers are believed",
        ),
        ("drain.terminationGracePeriodSeconds=57", "57 is less than the 58"),
    ] {
        refused(&helm, value, reason)?;
    }
    Ok(())
}

fn refused(helm: &std::path::Path, value: &str, reason: &str) -> Result<()> {
    match render(helm, &["--set", value]) {
        Ok(_) => anyhow::bail!("{value} was taken"),
        Err(error) => {
            ensure!(error.to_string().contains(reason), "{value}: {error}");
            Ok(())
        }
    }
}

#[test]
fn the_schema_knows_every_key_of_the_broker_and_no_other() -> Result<()> {
    let schema: serde_json::Value = serde_json::from_str(&read("helm/flotilla/values.schema.json")?)?;
    let sections = schema["properties"]["config"]["properties"]
        .as_object()
        .context("config")?;
    // What the chart itself says.
    let by_the_chart = [
        "node.name",
        "node.data_dir",
        "node.stop_timeout",
        "cluster.listen",
        "cluster.advertise",
        "cluster.seeds",
        "cluster.expect",
        "cluster.insecure",
        "cluster.zone",
        "cluster.peer_overrides",
    ];
    let mut documented = Vec::new();
    let mut section = "";
    let reference = read("docs/configuration.md")?;
    for line in reference.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.trim_matches(|c: char| "`[]".contains(c));
        }
        let key = line.strip_prefix("| `").and_then(|rest| rest.split_once('`'));
        let known = properties_of(sections, section).is_some();
        documented.extend(key.filter(|_| known).map(|(key, _)| format!("{section}.{key}")));
    }
    let mut in_the_schema: Vec<String> = by_the_chart.map(str::to_owned).to_vec();
    for (section, schema) in sections {
        for (key, schema) in schema["properties"].as_object().context("properties")? {
            match schema["properties"].as_object() {
                Some(inner) => {
                    in_the_schema.extend(inner.keys().map(|inner| format!("{section}.{key}.{inner}")))
                }
                None => in_the_schema.push(format!("{section}.{key}")),
            }
        }
    }
    documented.sort();
    in_the_schema.sort();
    ensure!(
        documented == in_the_schema,
        "docs: {documented:?}\nschema: {in_the_schema:?}"
    );
    Ok(())
}

/// The keys that a running broker reads again, as the reference marks them.
fn marked_as_reloadable() -> Result<Vec<String>> {
    let mut marked = Vec::new();
    let mut section = "";
    let reference = read("docs/configuration.md")?;
    for line in reference.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.trim_matches(|c: char| "`[]".contains(c));
        }
        let key = line.strip_prefix("| `").and_then(|rest| rest.split_once("` ↻ |"));
        marked.extend(key.map(|(key, _)| format!("{section}.{key}")));
    }
    Ok(marked)
}

#[test]
fn the_chart_knows_what_the_broker_reads_again() -> Result<()> {
    let template = read("helm/flotilla/templates/_config.tpl")?;
    let list = template
        .split_once("define \"flotilla.reloadable\" -}}\n")
        .and_then(|(_, rest)| rest.split_once("{{- end -}}"));
    let mut listed = Vec::new();
    let mut section = "";
    for line in list.context("no flotilla.reloadable")?.0.lines() {
        match line.strip_prefix("  - ") {
            Some(key) => listed.push(format!("{section}.{key}")),
            None => section = line.trim_end_matches(':'),
        }
    }
    let marked = marked_as_reloadable()?;
    ensure!(marked.len() > 30, "the marks were not found: {marked:?}");
    ensure!(listed == marked, "docs: {marked:?}\nchart: {listed:?}");
    Ok(())
}

/// The configuration and the pods' template of the chart with these values.
fn configured(helm: &std::path::Path, values: &str) -> Result<(String, String)> {
    let rendered = render(helm, &["--set", values])?;
    let set = object(&rendered, "StatefulSet", "flotilla")?;
    let (_, pods) = set.split_once("\n  template:\n").context("a template")?;
    let config = object(&rendered, "ConfigMap", "flotilla")?;
    Ok((config.to_owned(), pods.to_owned()))
}

#[test]
fn pods_are_rolled_by_what_wants_a_restart_and_by_nothing_else() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    let users = "auth.passwords.existingSecret=users,access.rules=deny all #";
    let (config, pods) = configured(&helm, users)?;
    for reloaded in [
        "config.limits.connections_max=500",
        "config.limits.connections_max=600",
        "config.queues.when_full=drop-new",
        "config.overload.memory_max=1GiB",
        "config.drain.connections_per_second=50",
        "config.log.level=debug",
        "access.rules=allow all #",
    ] {
        let (new_config, new_pods) = configured(&helm, &format!("{users},{reloaded}"))?;
        ensure!(config != new_config, "{reloaded} does not come to the nodes");
        ensure!(pods == new_pods, "{reloaded} rolls the pods");
    }
    for restarted in [
        "config.limits.handshakes_max=500",
        "config.queues.node_bytes_max=1GiB",
        "config.log.format=text",
        "config.storage.checkpoint_interval=5m",
        "config.tenants.from={user}",
        "listeners.mqtt.tcpKeepalive=30s",
    ] {
        let (new_config, new_pods) = configured(&helm, &format!("{users},{restarted}"))?;
        ensure!(config != new_config, "{restarted} does not come to the nodes");
        ensure!(
            pods != new_pods,
            "{restarted} waits for a restart of somebody else"
        );
    }
    Ok(())
}

#[test]
fn nodes_that_do_not_look_at_their_files_are_rolled_by_a_limit() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    let blind = "config.node.watch_files=0s";
    let (_, pods) = configured(&helm, blind)?;
    let (_, new_pods) = configured(&helm, &format!("{blind},config.limits.connections_max=500"))?;
    ensure!(pods != new_pods, "the new limit would not be read");
    Ok(())
}

/// What a section may hold; `auth.http` lies within `auth`.
fn properties_of<'a>(
    sections: &'a serde_json::Map<String, serde_json::Value>,
    section: &str,
) -> Option<&'a serde_json::Map<String, serde_json::Value>> {
    let (outer, inner) = section.split_once('.').unwrap_or((section, ""));
    let properties = sections.get(outer)?["properties"].as_object()?;
    match inner {
        "" => Some(properties),
        inner => properties.get(inner)?["properties"].as_object(),
    }
}

/// Where any key may be, and why.
const OPEN: [(&str, &str); 4] = [
    (
        "values.$defs.container.",
        "a container's own fields are known; those in them are judged by Kubernetes",
    ),
    (
        "values.$defs.volume.",
        "as of a container: there are thirty kinds",
    ),
    (
        "values.properties.extraObjects.items",
        "objects of any kind, of others as well",
    ),
    (
        "values.properties.global",
        "what a chart above this one shares with all of its parts",
    ),
];

#[test]
fn nothing_in_the_schema_may_hold_what_it_does_not_name() -> Result<()> {
    let schema: serde_json::Value = serde_json::from_str(&read("helm/flotilla/values.schema.json")?)?;
    let mut left = vec![("values".to_owned(), &schema)];
    let mut open = Vec::new();
    while let Some((path, node)) = left.pop() {
        let is_closed = node.get("additionalProperties").is_some();
        let holds_keys = node.get("properties").is_some_and(serde_json::Value::is_object)
            || node.get("type").is_some_and(|kind| kind == "object");
        if holds_keys && !is_closed {
            open.push(path.clone());
        }
        match node {
            serde_json::Value::Object(fields) => {
                left.extend(fields.iter().map(|(key, value)| (format!("{path}.{key}"), value)));
            }
            serde_json::Value::Array(items) => left.extend(items.iter().map(|item| (path.clone(), item))),
            _ => {}
        }
    }
    let known = |path: &str| OPEN.iter().any(|(known, _)| path.starts_with(known));
    let unknown: Vec<_> = open.iter().filter(|path| !known(path)).collect();
    ensure!(unknown.is_empty(), "these take any key: {unknown:?}");
    for (known, _) in OPEN {
        ensure!(
            open.iter().any(|path| path.starts_with(known)),
            "{known} is closed by now"
        );
    }
    Ok(())
}

#[test]
fn the_table_in_the_readme_is_that_of_the_values() -> Result<()> {
    let Some(generator) = tool("readme-generator") else {
        return Ok(());
    };
    let written = read("helm/flotilla/README.md")?;
    let files = tempfile::tempdir()?;
    let copy = files.path().join("README.md");
    std::fs::write(&copy, &written)?;
    let copy_path = copy.display().to_string();
    let said = run(
        &generator,
        ["--values", "helm/flotilla/values.yaml", "--readme", &copy_path],
    )?;
    ensure!(said.success, "{}{}", said.out, said.err);
    let made = std::fs::read_to_string(&copy)?;
    if std::env::var_os("FLOTILLA_UPDATE").is_some() {
        std::fs::write(root().join("helm/flotilla/README.md"), &made)?;
    }
    ensure!(
        made == written,
        "helm/flotilla/README.md is stale: FLOTILLA_UPDATE=1 cargo test -p deploy chart"
    );
    Ok(())
}
