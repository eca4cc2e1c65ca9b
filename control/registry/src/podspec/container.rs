//! Containers of all three sorts. Source: `validateContainers`, `validateInitContainers`, `validateEphemeralContainers`.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{Container, ContainerPort, EphemeralContainer, PodSpec, Volume};

use super::{env, is_sidecar, mount, probe, resources, security};
use crate::checks::{self, PROTOCOLS};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];

/// The pod's volumes that are good, by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

pub fn validate_all(spec: &PodSpec, volumes: &Volumes, path: &Path) -> Errors {
    let grace_s = spec.termination_grace_period_seconds.unwrap_or_default();
    let mut errors = regular(spec, volumes, grace_s, &path.child("containers"));
    errors.extend(init(spec, volumes, grace_s, &path.child("initContainers")));
    errors.extend(ephemeral(spec, volumes, &path.child("ephemeralContainers")));
    errors
}

fn regular(spec: &PodSpec, volumes: &Volumes, grace_s: i64, path: &Path) -> Errors {
    if spec.containers.is_empty() {
        return vec![Error::required(path, "")];
    }
    let (mut errors, mut names) = (Vec::new(), BTreeSet::new());
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.index(index);
        errors.extend(common(container, volumes, &path));
        if !names.insert(&container.name) {
            errors.push(Error::duplicate(&path.child("name"), &container.name));
        }
        errors.extend(hooks(container, grace_s, &path));
    }
    errors.extend(host_port_conflicts(&spec.containers, path));
    errors
}

fn init(spec: &PodSpec, volumes: &Volumes, grace_s: i64, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut names: BTreeSet<&String> = spec.containers.iter().map(|container| &container.name).collect();
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        errors.extend(common(container, volumes, &path));
        if !container.name.is_empty() && !names.insert(&container.name) {
            errors.push(Error::duplicate(&path.child("name"), &container.name));
        }
        if is_sidecar(container) {
            errors.extend(hooks(container, grace_s, &path));
            continue;
        }
        // What comes and goes before the pod starts is neither probed nor hooked.
        for (field, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                let why = "may not be set for init containers without restartPolicy=Always";
                errors.push(Error::forbidden(&path.child(field), why));
            }
        }
    }
    errors.extend(host_port_conflicts(containers, path));
    errors
}

/// Checks the ephemeral containers of a pod, against its other containers and its volumes.
pub fn ephemeral(spec: &PodSpec, volumes: &Volumes, path: &Path) -> Errors {
    let others: BTreeSet<&String> = super::containers(spec).map(|container| &container.name).collect();
    let mut names = others.clone();
    let mut errors = Vec::new();
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(index);
        errors.extend(common(&as_container(container), volumes, &path));
        if !container.name.is_empty() && !names.insert(&container.name) {
            errors.push(Error::duplicate(&path.child("name"), &container.name));
        }
        if let Some(target) = container.target_container_name.as_ref().filter(|target| !target.is_empty())
            && !others.contains(target)
        {
            errors.push(Error::not_found(&path.child("targetContainerName"), target));
        }
        let resources = container.resources.clone().unwrap_or_default();
        for (field, set) in [
            ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("resources", resources != Default::default()),
            ("restartPolicy", container.restart_policy.is_some()),
        ] {
            if set {
                errors.push(Error::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
            }
        }
        for (mount_index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let path = path.child("volumeMounts").index(mount_index);
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if value.as_ref().is_some_and(|value| !value.is_empty()) {
                    errors.push(Error::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
    errors
}

/// An ephemeral container as an ordinary one, without what only it has.
fn as_container(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        name: container.name,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        env: container.env,
        env_from: container.env_from,
        volume_mounts: container.volume_mounts,
        volume_devices: container.volume_devices,
        security_context: container.security_context,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        ..Container::default()
    }
}

fn common(container: &Container, volumes: &Volumes, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match container.name.as_str() {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => errors.extend(checks::dns1123_label(name, &path.child("name"))),
    }
    errors.extend(image(container.image.as_deref().unwrap_or_default(), &path.child("image")));
    let policy = container.termination_message_policy.as_deref().unwrap_or_default();
    errors.extend(checks::required_one_of(policy, MESSAGE_POLICIES, &path.child("terminationMessagePolicy")));
    errors.extend(ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports")));
    errors.extend(env::validate(container.env.as_deref().unwrap_or_default(), &path.child("env")));
    errors.extend(env::validate_from(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom")));
    errors.extend(mount::validate(container, volumes, &path.child("volumeMounts")));
    errors.extend(mount::validate_devices(container, volumes, &path.child("volumeDevices")));
    let policy = container.image_pull_policy.as_deref().unwrap_or_default();
    errors.extend(checks::required_one_of(policy, PULL_POLICIES, &path.child("imagePullPolicy")));
    if let Some(asked) = &container.resources {
        errors.extend(resources::validate(asked, &path.child("resources")));
    }
    if let Some(policy) = &container.restart_policy {
        errors.extend(checks::one_of(policy, RESTART_POLICIES, &path.child("restartPolicy")));
    }
    if let Some(context) = &container.security_context {
        errors.extend(security::validate_container(context, &path.child("securityContext")));
    }
    errors
}

/// Checks the reference of an image, of a container or of a volume.
pub fn image(image: &str, path: &Path) -> Errors {
    if image.is_empty() {
        vec![Error::required(path, "")]
    } else if image.trim() != image {
        vec![Error::invalid(path, image, "must not have leading or trailing whitespace")]
    } else {
        Vec::new()
    }
}

fn hooks(container: &Container, grace_s: i64, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(lifecycle) = &container.lifecycle {
        errors.extend(probe::validate_lifecycle(lifecycle, grace_s, &path.child("lifecycle")));
    }
    if let Some(check) = &container.liveness_probe {
        errors.extend(probe::validate(check, probe::Role::Liveness, &path.child("livenessProbe")));
    }
    if let Some(check) = &container.readiness_probe {
        errors.extend(probe::validate(check, probe::Role::Readiness, &path.child("readinessProbe")));
    }
    if let Some(check) = &container.startup_probe {
        errors.extend(probe::validate(check, probe::Role::Startup, &path.child("startupProbe")));
    }
    errors
}

fn ports(ports: &[ContainerPort], path: &Path) -> Errors {
    let (mut errors, mut names) = (Vec::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let wrong = checks::port_name(name, &path.child("name"));
            if wrong.is_empty() && !names.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
            errors.extend(wrong);
        }
        match port.container_port {
            0 => errors.push(Error::required(&path.child("containerPort"), "")),
            number => errors.extend(checks::port_number(number, &path.child("containerPort"))),
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            errors.extend(checks::port_number(number, &path.child("hostPort")));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        errors.extend(checks::required_one_of(protocol, PROTOCOLS, &path.child("protocol")));
    }
    errors
}

fn host_port_conflicts(containers: &[Container], path: &Path) -> Errors {
    let (mut errors, mut taken) = (Vec::new(), BTreeSet::new());
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let (protocol, ip) =
                (port.protocol.as_deref().unwrap_or_default(), port.host_ip.as_deref().unwrap_or_default());
            let key = format!("{protocol}/{ip}/{number}");
            if taken.contains(&key) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                errors.push(Error::duplicate(&path, &key));
            }
            taken.insert(key);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::{Owner, defaults, volume};

    #[track_caller]
    fn check(spec: &str, expected: &[&str]) {
        let mut spec: PodSpec = serde_yaml::from_str(spec).unwrap();
        defaults::pod(&mut spec);
        let path = Path::new("spec");
        let (volumes, _) =
            volume::validate_all(spec.volumes.as_deref().unwrap_or_default(), Owner::Pod, &path.child("volumes"));
        let errors: Vec<String> = validate_all(&spec, &volumes, &path).iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        assert!(errors.iter().zip(expected).all(|(error, start)| error.starts_with(start)), "{errors:#?}");
    }

    #[test]
    fn a_pod_has_containers_with_names_and_images() {
        check("{containers: []}", &["spec.containers: Required value"]);
        check(
            "{containers: [{name: '', image: ' i'}, {name: B}]}",
            &[
                "spec.containers[0].name: Required value",
                "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
                "spec.containers[1].name: Invalid value: \"B\": a lowercase RFC 1123 label must",
                "spec.containers[1].image: Required value",
            ],
        );
        check(
            "{containers: [{name: a, image: i}, {name: a, image: i}], initContainers: [{name: a, image: i}]}",
            &["spec.containers[1].name: Duplicate value: \"a\"", "spec.initContainers[0].name: Duplicate value: \"a\""],
        );
        check(
            "{containers: [{name: a, image: i, imagePullPolicy: Often}]}",
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        );
    }

    #[test]
    fn ports_are_named_once_and_do_not_clash() {
        check(
            "{containers: [{name: a, image: i, ports: [{containerPort: 0}, {containerPort: 80, name: WEB}]}]}",
            &[
                "spec.containers[0].ports[0].containerPort: Required value",
                "spec.containers[0].ports[1].name: Invalid value: \"WEB\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.containers[0].ports[1].name: Invalid value: \"WEB\": must contain at least one letter (a-z)",
            ],
        );
        check(
            "{containers: [{name: a, image: i, ports: [{containerPort: 1, hostPort: 9}]}, {name: b, image: i, ports: [{containerPort: 2, hostPort: 9}]}]}",
            &["spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//9\""],
        );
    }

    #[test]
    fn mounts_need_a_volume_and_a_place() {
        check(
            "{volumes: [{name: v}], containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /x}, {name: w, mountPath: /x}, {name: v, mountPath: /y, subPath: ../z}]}]}",
            &[
                "spec.containers[0].volumeMounts[1].name: Not found: \"w\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"../z\": must not contain '..'",
            ],
        );
    }

    #[test]
    fn init_containers_are_not_probed_unless_they_stay() {
        check(
            "{containers: [{name: a, image: i}], initContainers: [{name: b, image: i, readinessProbe: {exec: {command: [x]}}}]}",
            &[
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        );
        check(
            "{containers: [{name: a, image: i}], initContainers: [{name: b, image: i, restartPolicy: Always, readinessProbe: {exec: {command: [x]}}}]}",
            &[],
        );
    }

    #[test]
    fn ephemeral_containers_have_fewer_fields() {
        check(
            "{containers: [{name: a, image: i}], ephemeralContainers: [{name: d, image: i, targetContainerName: z, ports: [{containerPort: 1}]}]}",
            &[
                "spec.ephemeralContainers[0].targetContainerName: Not found: \"z\"",
                "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            ],
        );
    }
}
