//! What the users of other brokers' charts complained of, each as a story that this chart must not repeat.

use anyhow::{Context, Result, ensure};
use deploy::{broker_config, object, read, render, render_case, root, run, tool};

/// The rendered chart with these values set.
fn with(values: &str) -> Result<Option<String>> {
    let Some(helm) = tool("helm") else { return Ok(None) };
    render(&helm, &["--set", values]).map(Some)
}

fn nodes(rendered: &str) -> Result<&str> {
    object(rendered, "StatefulSet", "flotilla")
}

/// The pod of `helm test`.
fn test(rendered: &str) -> Result<&str> {
    object(rendered, "Pod", "flotilla-test")
}

fn needs(text: &str, lines: &[&str]) -> Result<()> {
    for line in lines {
        ensure!(text.contains(line), "`{line}` is missing in\n{text}");
    }
    Ok(())
}

fn lacks(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(!text.contains(word), "`{word}` is in\n{text}");
    }
    Ok(())
}

#[test]
fn upgrade_forbidden_because_claim_templates_hold_the_charts_version() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    let copy = tempfile::tempdir()?;
    let newer = copy.path().join("flotilla");
    let copied = run(
        "cp".as_ref(),
        ["-r", "helm/flotilla", &newer.display().to_string()],
    )?;
    ensure!(copied.success, "{}", copied.err);
    let chart = read("helm/flotilla/Chart.yaml")?;
    std::fs::write(
        newer.join("Chart.yaml"),
        chart.replace("version: 0.1.0", "version: 9.9.9"),
    )?;
    let today = render(&helm, &[])?;
    let said = run(
        &helm,
        [
            "template",
            "flotilla",
            &newer.display().to_string(),
            "--namespace",
            "mqtt",
        ],
    )?;
    ensure!(
        said.success && said.out.contains("flotilla-9.9.9"),
        "{}",
        said.err
    );
    let spec = |rendered: &str| -> Result<String> {
        let (_, spec) = nodes(rendered)?.split_once("\nspec:\n").context("a spec")?;
        Ok(spec.to_owned())
    };
    // Not only the claims: a new chart alone rolls no pod.
    ensure!(
        spec(&today)? == spec(&said.out)?,
        "the StatefulSet changes with the chart's version"
    );
    lacks(&spec(&today)?, &["helm.sh/chart"])
}

#[test]
fn pods_wait_for_each_other_forever() -> Result<()> {
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    needs(nodes(&rendered)?, &["podManagementPolicy: Parallel"])?;
    let headless = object(&rendered, "Service", "flotilla-headless")?;
    needs(headless, &["clusterIP: None", "publishNotReadyAddresses: true"])
}

#[test]
fn data_is_not_where_it_is_kept() -> Result<()> {
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    needs(
        &broker_config(&rendered, "flotilla")?,
        &["data_dir = \"/var/lib/flotilla\""],
    )?;
    let kept = [
        "mountPath: /var/lib/flotilla",
        "volumeClaimTemplates:",
        "whenDeleted: Retain",
        "whenScaled: Retain",
    ];
    needs(nodes(&rendered)?, &kept)
}

#[test]
fn the_volume_may_not_be_written() -> Result<()> {
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    needs(
        nodes(&rendered)?,
        &[
            "fsGroup: 65532",
            "runAsUser: 65532",
            "fsGroupChangePolicy: OnRootMismatch",
        ],
    )
}

#[test]
fn a_pod_that_has_not_joined_takes_half_of_the_clients() -> Result<()> {
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    let (_, readiness) = nodes(&rendered)?
        .split_once("readinessProbe:")
        .context("a readiness probe")?;
    let (readiness, liveness) = readiness
        .split_once("livenessProbe:")
        .context("a liveness probe")?;
    needs(readiness, &["path: /readyz"])?;
    // And the other way round: a partition restarts nobody.
    needs(liveness, &["path: /livez"])?;
    lacks(
        object(&rendered, "Service", "flotilla-mqtt")?,
        &["publishNotReadyAddresses"],
    )
}

#[test]
fn a_long_recovery_is_cut_short_by_probes() -> Result<()> {
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    // An hour, within which the other probes do not count.
    needs(
        nodes(&rendered)?,
        &[
            "path: /startupz\n              port: admin\n            periodSeconds: 5\n            failureThreshold: 720",
        ],
    )
}

#[test]
fn the_load_balancer_loses_a_pod_that_restarted() -> Result<()> {
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    lacks(&rendered, &["readinessGates"])?;
    let (_, selector) = object(&rendered, "Service", "flotilla-mqtt")?
        .split_once("selector:\n")
        .context("a selector")?;
    let selector: Vec<&str> = selector.lines().take(3).map(str::trim).collect();
    let stable = [
        "app.kubernetes.io/name: flotilla",
        "app.kubernetes.io/instance: flotilla",
        "ports:",
    ];
    ensure!(selector == stable, "{selector:?}");
    Ok(())
}

#[test]
fn clients_are_cut_several_times_in_one_roll() -> Result<()> {
    let Some(rendered) = with("minReadySeconds=25")? else {
        return Ok(());
    };
    needs(nodes(&rendered)?, &["minReadySeconds: 25", "type: RollingUpdate"])
}

#[test]
fn a_script_takes_a_restart_for_a_leave_and_purges() -> Result<()> {
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    // The image has no shell, and nothing but the time to be noticed comes before SIGTERM.
    lacks(nodes(&rendered)?, &["command:", "exec:", "initContainers:"])?;
    needs(
        nodes(&rendered)?,
        &["preStop:\n              sleep:\n                seconds: 8"],
    )
}

#[test]
fn the_node_is_killed_while_it_still_stops() -> Result<()> {
    let Some(rendered) = with("drain.loadBalancerSeconds=15,drain.stopSeconds=100")? else {
        return Ok(());
    };
    needs(nodes(&rendered)?, &["terminationGracePeriodSeconds: 135"])?;
    needs(
        &broker_config(&rendered, "flotilla")?,
        &["stop_timeout = \"100s\""],
    )
}

#[test]
fn tls_at_the_load_balancer_and_plain_text_beside_it() -> Result<()> {
    let outside = "listeners.mqtts.enabled=true,listeners.mqtts.allowAnonymous=true,\
                   listeners.mqtts.tls.existingSecret=x,listeners.mqtts.service.type=LoadBalancer";
    let Some(rendered) = with(outside)? else {
        return Ok(());
    };
    needs(
        object(&rendered, "Service", "flotilla-mqtts")?,
        &["type: LoadBalancer"],
    )?;
    needs(
        object(&rendered, "Service", "flotilla-mqtt")?,
        &["type: ClusterIP"],
    )?;
    let Some(rendered) = with(&format!("{outside},listeners.mqtt.enabled=false"))? else {
        return Ok(());
    };
    ensure!(
        object(&rendered, "Service", "flotilla-mqtt").is_err(),
        "a service of a listener that is off"
    );
    lacks(&rendered, &[": 1883", ":1883"])
}

#[test]
fn the_clients_address_is_lost_also_over_websocket() -> Result<()> {
    let values = "listeners.ws.proxyProtocol=required,listeners.ws.proxyTrusted[0]=10.0.0.0/8,\
                  listeners.ws.service.type=LoadBalancer,listeners.ws.service.exposePlainText=true,\
                  listeners.ws.service.externalTrafficPolicy=Local";
    let Some(rendered) = with(values)? else {
        return Ok(());
    };
    needs(
        object(&rendered, "Service", "flotilla-ws")?,
        &["externalTrafficPolicy: Local"],
    )?;
    let config = broker_config(&rendered, "flotilla")?;
    let (_, ws) = config.split_once("name = \"ws\"").context("the listener ws")?;
    needs(
        ws,
        &[
            "proxy_protocol = \"required\"",
            "proxy_trusted = [\"10.0.0.0/8\"]",
        ],
    )?;
    lacks(
        config.split_once("name = \"ws\"").context("ws")?.0,
        &["proxy_protocol"],
    )
}

#[test]
fn a_renewed_certificate_never_reaches_the_container() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    // Kubernetes swaps mounted folders, never single files.
    lacks(&render_case(&helm, "outside")?, &["subPath"])
}

#[test]
fn a_drain_of_machines_takes_the_majority() -> Result<()> {
    for (values, most) in [
        ("replicaCount=3", Some(1)),
        ("replicaCount=5", Some(1)),
        ("replicaCount=5,config.cluster.replication_factor=5", Some(2)),
        (
            "replicaCount=5,config.cluster.replication_factor=5,config.cluster.meta_voters_max=3",
            Some(1),
        ),
        // A budget that nobody could keep would block every drain for ever.
        ("replicaCount=2", None),
        ("replicaCount=1", None),
    ] {
        let Some(rendered) = with(values)? else {
            return Ok(());
        };
        match (object(&rendered, "PodDisruptionBudget", "flotilla"), most) {
            (Ok(budget), Some(most)) => {
                let line = format!("maxUnavailable: {most}\n");
                needs(budget, &[line.as_str(), "AlwaysAllow"])?;
            }
            (Err(_), None) => {}
            (found, _) => anyhow::bail!("{values}: {found:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_change_of_size_rolls_every_pod() -> Result<()> {
    let checksum = |rendered: &str| {
        rendered
            .lines()
            .find(|line| line.contains("checksum/config"))
            .map(str::to_owned)
    };
    let (Some(three), Some(five)) = (with("replicaCount=3")?, with("replicaCount=5")?) else {
        return Ok(());
    };
    ensure!(
        checksum(&three).is_some() && checksum(&three) == checksum(&five),
        "the size is in the checksum"
    );
    let Some(changed) = with("config.mqtt.maximum_qos=1")? else {
        return Ok(());
    };
    ensure!(
        checksum(&three) != checksum(&changed),
        "a changed configuration rolls nobody"
    );
    Ok(())
}

#[test]
fn images_and_charts_of_others_are_withdrawn() -> Result<()> {
    lacks(&read("helm/flotilla/Chart.yaml")?, &["dependencies"])?;
    let Some(rendered) = with("replicaCount=3")? else {
        return Ok(());
    };
    let images: Vec<&str> = rendered
        .lines()
        .filter(|line| line.contains("image: "))
        .map(str::trim)
        .collect();
    ensure!(
        images.len() >= 2 && images.iter().all(|image| *image == "image: flotilla:0.1.0"),
        "{images:?}"
    );
    Ok(())
}

#[test]
fn the_chart_wants_rights_a_password_or_the_pods_token() -> Result<()> {
    let Some(helm) = tool("helm") else { return Ok(()) };
    for case in ["default", "outside", "extras"] {
        let rendered = render_case(&helm, case)?;
        lacks(
            &rendered,
            &[
                "kind: Role",
                "kind: ClusterRole",
                "RoleBinding",
                "password",
                "privileged: true",
                "hostPath",
            ],
        )?;
        ensure!(!rendered.contains("automountServiceAccountToken: true"), "{case}");
    }
    // Who tests an installation has no token, and is nobody that the API answers.
    let rendered = render(&helm, &[])?;
    needs(test(&rendered)?, &["args: [health, --admin"])?;
    lacks(test(&rendered)?, &["ctl"])?;
    let with_tokens = render(&helm, &["--set", "admin.tokens.existingSecret=operators"])?;
    needs(
        test(&with_tokens)?,
        &[
            "args: [ctl, --admin",
            "name: FLOTILLA_TOKEN_FILE",
            "secretName: operators",
        ],
    )?;
    needs(
        nodes(&with_tokens)?,
        &["name: FLOTILLA_TOKEN_FILE", "secretName: operators"],
    )?;
    let hardened = [
        "automountServiceAccountToken: false",
        "enableServiceLinks: false",
        "runAsNonRoot: true",
        "type: RuntimeDefault",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "- ALL",
    ];
    needs(nodes(&rendered)?, &hardened)
}

#[test]
fn there_is_no_autoscaler_that_takes_nodes_away_from_their_sessions() -> Result<()> {
    ensure!(
        !root().join("helm/flotilla/templates/hpa.yaml").exists(),
        "an autoscaler"
    );
    needs(
        &read("helm/flotilla/README.md")?,
        &["there is no autoscaler here"],
    )
}

#[test]
fn an_operator_scales_down_and_nobody_told_them_to_leave_first() -> Result<()> {
    let notes = read("helm/flotilla/templates/NOTES.txt")?;
    needs(
        &notes,
        &["flotilla ctl cluster scale-in", "A stop is never a leave"],
    )?;
    needs(
        &read("docs/operations.md")?,
        &["## Shrink", "flotilla ctl cluster scale-in --to"],
    )
}

#[test]
fn nothing_arrives_any_more_after_scaling_down_and_up() -> Result<()> {
    // Up with what was scaled away, and up with an identity that has left: `three_nodes_become_five_…` does the latter.
    let Some(rendered) = with("")? else {
        return Ok(());
    };
    needs(nodes(&rendered)?, &["whenScaled: Retain", "whenDeleted: Retain"])?;
    let docs = read("docs/operations.md")?;
    let shrink = docs.split("## Shrink").nth(1).unwrap_or_default();
    needs(
        shrink,
        &["kubectl -n NS delete pvc data-flotilla-4", "Scale up again"],
    )
}

#[test]
fn a_machine_is_lost_and_its_pod_hangs() -> Result<()> {
    let docs = read("docs/operations.md")?;
    let replace = docs.split("## Replace a node").nth(1).unwrap_or_default();
    needs(
        replace,
        &["`Terminating`", "kubectl delete node", "ctl cluster forget"],
    )
}
