use serde_json::{Value, json};
use wharf_types::KubeObject;

use super::super::testing::{Cluster, json, write};
use super::*;

fn namespace(labels: Value) -> Namespace {
    let labels: serde_json::Map<String, Value> = labels
        .as_object()
        .expect("labels")
        .iter()
        .map(|(name, value)| (format!("{}{name}", policy::PREFIX), value.clone()))
        .collect();
    json(json!({"metadata": {"name": "default", "labels": labels, "resourceVersion": "1"}}))
}

async fn judge(plugin: &PodSecurity, write: &Attributes, cluster: &Cluster) -> (Result<(), String>, Notes) {
    let mut notes = Notes::default();
    let verdict = plugin.validate(write, cluster, &mut notes).await;
    (verdict.map_err(|error| error.message), notes)
}

/// What the pod breaks at this level: empty for nothing.
#[track_caller]
fn check(level: &str, version: &str, spec: Value, expected: &str) {
    let pod: Pod = json(json!({"metadata": {"name": "web", "annotations": spec["annotations"]}, "spec": spec}));
    let asked = LevelVersion { level: level.parse().expect("a level"), version: version.parse().expect("a version") };
    let subject = Subject { meta: &pod.metadata, spec: pod.spec.as_ref().expect("spec") };
    assert_eq!(checks::details(&checks::evaluate(asked, &subject)), expected, "{spec}");
}

fn with(mut spec: Value, security: Value) -> Value {
    spec["containers"] = json!([{"name": "a", "securityContext": security}, {"name": "b"}]);
    spec
}

fn hardened() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
}

#[test]
fn baseline_keeps_pods_off_the_node() {
    let baseline = |spec: Value, expected: &str| check("baseline", "latest", spec, expected);
    baseline(with(json!({}), json!({})), "");
    baseline(
        with(json!({"hostNetwork": true, "hostIPC": true}), json!({})),
        "host namespaces (hostNetwork=true, hostIPC=true)",
    );
    baseline(
        with(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), json!({})),
        r#"hostPath volumes (volume "v")"#,
    );
    baseline(
        with(json!({}), json!({"privileged": true})),
        r#"privileged (container "a" must not set securityContext.privileged=true)"#,
    );
    baseline(
        with(json!({}), json!({"capabilities": {"add": ["CHOWN", "NET_RAW", "BPF"]}})),
        r#"non-default capabilities (container "a" must not include "BPF", "NET_RAW" in securityContext.capabilities.add)"#,
    );
    baseline(
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 443}]}]}),
        r#"hostPort (container "a" uses hostPorts 443, 80)"#,
    );
    baseline(
        with(json!({}), json!({"procMount": "Unmasked"})),
        r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
    );
    baseline(with(json!({"hostUsers": false}), json!({"procMount": "Unmasked"})), "");
    baseline(
        with(
            json!({"securityContext": {"seLinuxOptions": {"user": "u"}}}),
            json!({"seLinuxOptions": {"type": "t", "role": "r"}}),
        ),
        r#"seLinuxOptions (pod and container "a" set forbidden securityContext.seLinuxOptions: type "t"; user may not be set; role may not be set)"#,
    );
    baseline(
        with(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}), json!({})),
        r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
    );
    baseline(
        with(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}), json!({})),
        "forbidden sysctls (kernel.msgmax)",
    );
    baseline(
        with(json!({}), json!({"windowsOptions": {"hostProcess": true}})),
        r#"hostProcess (container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
    );
    baseline(
        with(
            json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}}),
            json!({"appArmorProfile": {"type": "Unconfined"}}),
        ),
        r#"forbidden AppArmor profiles (container "a" and annotation must not set AppArmor profile type to "Unconfined", "container.apparmor.security.beta.kubernetes.io/a="unconfined"")"#,
    );
    baseline(
        json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}}}]}),
        r#"probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")"#,
    );
}

#[test]
fn restricted_asks_for_hardening() {
    let restricted = |spec: Value, expected: &str| check("restricted", "latest", spec, expected);
    restricted(json!({"containers": [{"name": "a", "securityContext": hardened()}]}), "");
    restricted(
        json!({"containers": [{"name": "a"}]}),
        r#"allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
    );
    let volumes = json!([{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {"server": "s", "path": "/"}}, {"name": "x", "emptyDir": {}}]);
    restricted(
        json!({"containers": [{"name": "a", "securityContext": hardened()}], "volumes": volumes}),
        r#"restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")"#,
    );
    let mut root = hardened();
    root["runAsUser"] = json!(0);
    root["capabilities"]["add"] = json!(["NET_BIND_SERVICE", "CHOWN"]);
    restricted(
        json!({"containers": [{"name": "a", "securityContext": root}]}),
        r#"unrestricted capabilities (container "a" must not include "CHOWN" in securityContext.capabilities.add), runAsUser=0 (container "a" must not set runAsUser=0)"#,
    );
}

#[test]
fn older_policies_ask_for_less() {
    let windows =
        json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]});
    check("restricted", "v1.25", windows.clone(), "");
    check("restricted", "v1.7", windows, "");
    check(
        "restricted",
        "v1.8",
        json!({"containers": [{"name": "a", "securityContext": {"runAsNonRoot": true}}]}),
        r#"allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false)"#,
    );
    let probe = json!({"containers": [{"name": "a", "livenessProbe": {"tcpSocket": {"host": "h", "port": 80}}}]});
    check("baseline", "v1.33", probe, "");
    let sysctl =
        with(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]}}), json!({}));
    check("baseline", "v1.31", sysctl.clone(), "forbidden sysctls (net.ipv4.tcp_rmem)");
    check("baseline", "v1.32", sysctl, "");
    let seccomp = with(json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}), json!({}));
    check(
        "baseline",
        "v1.18",
        seccomp,
        r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#,
    );
}

fn privileged<K: KubeObject>(spec: impl Fn(Value) -> Value) -> K {
    let pod = json!({"containers": [{"name": "a", "image": "i", "securityContext": {"privileged": true}}]});
    json(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec(pod)}))
}

const WHY: &str =
    r#"PodSecurity "baseline:latest": privileged (container "a" must not set securityContext.privileged=true)"#;

#[tokio::test]
async fn pods_are_refused_and_workloads_warned_of() {
    let plugin = PodSecurity::default();
    let cluster = Cluster::default().with("namespaces", namespace(json!({"enforce": "baseline", "audit": "baseline"})));
    let pod = write(Operation::Create, "pods", privileged::<Pod>(|pod| pod));
    let (verdict, notes) = judge(&plugin, &pod, &cluster).await;
    assert_eq!(verdict, Err(format!("pods \"web\" is forbidden: violates {WHY}")));
    assert_eq!(notes.warnings, [""; 0]);
    assert_eq!(notes.audit_annotations["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    assert_eq!(notes.audit_annotations["pod-security.kubernetes.io/audit-violations"], format!("would violate {WHY}"));

    let deployment = privileged::<Deployment>(|pod| json!({"selector": {}, "template": {"spec": pod}}));
    let (verdict, notes) = judge(&plugin, &write(Operation::Create, "deployments", deployment), &cluster).await;
    assert_eq!((verdict, notes.warnings), (Ok(()), vec![format!("would violate {WHY}")]));

    let update = write(Operation::Update, "pods", privileged::<Pod>(|pod| pod)).replacing(privileged::<Pod>(|pod| pod));
    assert_eq!(judge(&plugin, &update, &cluster).await.0, Ok(()));
}

#[tokio::test]
async fn some_are_exempt() {
    let cluster = Cluster::default().with("namespaces", namespace(json!({"enforce": "restricted"})));
    let pod = write(Operation::Create, "pods", privileged::<Pod>(|pod| pod));
    for (plugin, why) in [
        (PodSecurity { exempt_users: vec!["jane".into()], ..PodSecurity::default() }, "user"),
        (PodSecurity { exempt_namespaces: vec!["default".into()], ..PodSecurity::default() }, "namespace"),
    ] {
        let (verdict, notes) = judge(&plugin, &pod, &cluster).await;
        assert_eq!((verdict, notes.audit_annotations["pod-security.kubernetes.io/exempt"].as_str()), (Ok(()), why));
    }
}

#[tokio::test]
async fn a_runtime_class_is_exempt_where_something_is_asked() {
    let plugin = PodSecurity { exempt_runtime_classes: vec!["sandboxed".into()], ..PodSecurity::default() };
    let confined = || {
        privileged::<Pod>(|mut pod| {
            pod["runtimeClassName"] = json!("sandboxed");
            pod
        })
    };
    let create = write(Operation::Create, "pods", confined());
    let update = write(Operation::Update, "pods", confined()).replacing(confined());
    let asking = Cluster::default().with("namespaces", namespace(json!({"enforce": "restricted"})));
    let open = Cluster::default().with("namespaces", namespace(json!({})));
    let (exempt, enforced) = ("pod-security.kubernetes.io/exempt", "pod-security.kubernetes.io/enforce-policy");
    for (write, cluster, expected) in [
        (&create, &asking, Some((exempt, "runtimeClass"))),
        (&create, &open, Some((enforced, "privileged:latest"))),
        // What does not matter is nobody's to exempt.
        (&update, &asking, None),
    ] {
        let (verdict, notes) = judge(&plugin, write, cluster).await;
        let noted = notes.audit_annotations.iter().next().map(|(key, value)| (key.as_str(), value.as_str()));
        assert_eq!((verdict, noted), (Ok(()), expected));
    }
}

#[tokio::test]
async fn an_update_that_lifts_a_confinement_is_judged() {
    let cluster =
        Cluster::default().with("namespaces", namespace(json!({"enforce": "baseline", "enforce-version": "v1.18"})));
    let annotated = |value: &str| {
        let mut pod: Pod =
            json(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": [{"name": "a"}]}}));
        let key = "seccomp.security.alpha.kubernetes.io/pod".to_owned();
        pod.metadata.annotations = Some([(key, value.to_owned())].into());
        pod
    };
    let update = write(Operation::Update, "pods", annotated("unconfined")).replacing(annotated("runtime/default"));
    let why = r#"pods "web" is forbidden: violates PodSecurity "baseline:v1.18": seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#;
    assert_eq!(judge(&PodSecurity::default(), &update, &cluster).await.0, Err(why.to_owned()));
}

#[tokio::test]
async fn a_namespace_that_gets_stricter_hears_of_its_pods() {
    let cluster = Cluster::default().with("pods", privileged::<Pod>(|pod| pod)).with(
        "pods",
        json::<Pod>(
            json!({"metadata": {"name": "ok", "namespace": "default"}, "spec": {"containers": [{"name": "a"}]}}),
        ),
    );
    let update =
        |old: Value, new: Value| write(Operation::Update, "namespaces", namespace(new)).replacing(namespace(old));
    let plugin = PodSecurity::default();
    let (verdict, notes) = judge(&plugin, &update(json!({}), json!({"enforce": "baseline"})), &cluster).await;
    assert_eq!(verdict, Ok(()));
    let first = r#"existing pods in namespace "default" violate the new PodSecurity enforce level "baseline:latest""#;
    assert_eq!(notes.warnings, [first, "web: privileged"]);
    let (_, notes) =
        judge(&plugin, &update(json!({"enforce": "restricted"}), json!({"enforce": "baseline"})), &cluster).await;
    assert_eq!(notes.warnings, [""; 0]);
    let (verdict, _) = judge(&plugin, &update(json!({}), json!({"warn": "odd"})), &cluster).await;
    assert_eq!(
        verdict,
        Err("Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"odd\": must be one of privileged, baseline, restricted".to_owned())
    );
}
