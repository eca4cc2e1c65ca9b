//! What of a pod may change once it is made; that the new spec is good in itself has been checked before. Source: `ValidatePodUpdate`, `ValidatePodStatusUpdate`.

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus, Toleration};

use crate::checks;
use crate::podspec::is_sidecar;

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// Lines of a difference that an error shows.
const DIFF_LINES_MAX: usize = 40;

pub fn spec(new_pod: &Pod, old_pod: &Pod) -> Errors {
    let empty = PodSpec::default();
    let (new, old) = (new_pod.spec.as_ref().unwrap_or(&empty), old_pod.spec.as_ref().unwrap_or(&empty));
    let path = Path::new("spec");
    let init = |spec: &PodSpec| spec.init_containers.clone().unwrap_or_default();
    if new.containers.len() != old.containers.len() {
        return vec![Error::forbidden(&path.child("containers"), "pod updates may not add or remove containers")];
    }
    if init(new).len() != init(old).len() {
        return vec![Error::forbidden(&path.child("initContainers"), "pod updates may not add or remove containers")];
    }
    let mut errors = Vec::new();
    let deadline = active_deadline(new.active_deadline_seconds, old.active_deadline_seconds, &path);
    if !deadline.is_empty() {
        errors.extend(deadline);
        return errors;
    }
    errors.extend(only_added(new, old, &path.child("tolerations")));
    errors.extend(only_removed_gates(new, old, &path.child("schedulingGates")));
    errors.extend(unchanged(new, old, &path));
    errors
}

fn active_deadline(new: Option<i64>, old: Option<i64>, path: &Path) -> Errors {
    let path = path.child("activeDeadlineSeconds");
    match (new, old) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            vec![Error::invalid(&path, new, format!("must be between 0 and {}, inclusive", i32::MAX))]
        }
        (Some(new), Some(old)) if old < new => {
            vec![Error::invalid(&path, new, "must be less than or equal to previous value")]
        }
        (None, Some(_)) => {
            vec![Error::invalid(&path, serde_json::Value::Null, "must not update from a positive integer to nil value")]
        }
        _ => Vec::new(),
    }
}

/// Every old toleration must be there still; only its seconds may differ.
fn only_added(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let timeless = |toleration: &Toleration| Toleration { toleration_seconds: None, ..toleration.clone() };
    let kept: Vec<Toleration> = new.tolerations.iter().flatten().map(timeless).collect();
    if old.tolerations.iter().flatten().all(|toleration| kept.contains(&timeless(toleration))) {
        return Vec::new();
    }
    vec![Error::forbidden(path, "existing toleration can not be modified except its tolerationSeconds")]
}

fn only_removed_gates(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let before: Vec<&String> = old.scheduling_gates.iter().flatten().map(|gate| &gate.name).collect();
    let gates = new.scheduling_gates.iter().flatten().enumerate();
    gates
        .filter(|(_, gate)| !before.contains(&&gate.name))
        .map(|(index, gate)| {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            Error::forbidden(&path.index(index).child("name"), why)
        })
        .collect()
}

/// Takes from the new spec what may change; the rest must be the old spec.
fn unchanged(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let mut munged = new.clone();
    let lists = [
        (Some(&mut munged.containers), Some(&old.containers)),
        (munged.init_containers.as_mut(), old.init_containers.as_ref()),
    ];
    for (new, old) in lists {
        for (new, old) in new.into_iter().flatten().zip(old.into_iter().flatten()) {
            new.image.clone_from(&old.image);
        }
    }
    munged.active_deadline_seconds = old.active_deadline_seconds;
    munged.tolerations.clone_from(&old.tolerations);
    munged.scheduling_gates.clone_from(&old.scheduling_gates);
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        munged.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        // A pod that waits at a gate may be told where to go.
        munged.node_selector.clone_from(&old.node_selector);
        munged.affinity.clone_from(&old.affinity);
    }
    // What the scheduler and admission fill in compares as the API prints it.
    if checks::json(&munged) == checks::json(old) {
        return Vec::new();
    }
    let why = format!("pod updates may not change fields other than {CHANGEABLE}\n{}", diff(old, &munged));
    vec![Error::forbidden(path, why)]
}

/// Lines that one spec has and the other has not, as indented JSON.
fn diff(old: &PodSpec, new: &PodSpec) -> String {
    let text = |spec: &PodSpec| serde_json::to_string_pretty(spec).unwrap_or_default();
    let (old, new) = (text(old), text(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same_start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - same_start;
    let same_end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let changed = |lines: &[&str], sign: char| -> Vec<String> {
        lines[same_start..lines.len() - same_end]
            .iter()
            .take(DIFF_LINES_MAX)
            .map(|line| format!("{sign} {line}"))
            .collect()
    };
    [changed(&old, '-'), changed(&new, '+')].concat().join("\n")
}

pub fn status(new_pod: &Pod, old_pod: &Pod) -> Errors {
    let empty = PodStatus::default();
    let (new, old) = (new_pod.status.as_ref().unwrap_or(&empty), old_pod.status.as_ref().unwrap_or(&empty));
    let path = Path::new("status");
    let mut errors = Vec::new();
    if let Some(node) = new.nominated_node_name.as_deref().filter(|node| !node.is_empty()) {
        errors.extend(checks::dns1123_subdomain(node, &path.child("nominatedNodeName")));
    }
    let spec = old_pod.spec.clone().unwrap_or_default();
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    let stays = |container: &ContainerStatus| {
        let init = spec.init_containers.iter().flatten().find(|init| init.name == container.name);
        if init.is_some_and(is_sidecar) { "Always".to_owned() } else { policy.to_owned() }
    };
    for (field, new, old) in [
        ("containerStatuses", &new.container_statuses, &old.container_statuses),
        ("initContainerStatuses", &new.init_container_statuses, &old.init_container_statuses),
    ] {
        errors.extend(transitions(new.as_deref(), old.as_deref(), stays, &path.child(field)));
    }
    errors.extend(addresses(new, &path));
    errors
}

/// A container that its policy does not restart, once ended, stays ended.
fn transitions(
    new: Option<&[ContainerStatus]>,
    old: Option<&[ContainerStatus]>,
    policy: impl Fn(&ContainerStatus) -> String,
    path: &Path,
) -> Errors {
    let mut errors = Vec::new();
    for (index, old) in old.unwrap_or_default().iter().enumerate() {
        let ended = old.state.as_ref().and_then(|state| state.terminated.as_ref());
        let Some(ended) = ended else { continue };
        let final_end = match policy(old).as_str() {
            "Never" => true,
            "OnFailure" => ended.exit_code == 0,
            _ => false,
        };
        let now = new.unwrap_or_default().iter().find(|new| new.name == old.name);
        let revived = now.is_some_and(|new| new.state.as_ref().is_none_or(|state| state.terminated.is_none()));
        if final_end && revived {
            let why = "may not be transitioned to non-terminated state";
            errors.push(Error::forbidden(&path.index(index).child("state"), why));
        }
    }
    errors
}

fn addresses(status: &PodStatus, path: &Path) -> Errors {
    let ips: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let path = path.child("podIPs");
    let mut errors: Errors =
        ips.iter().enumerate().flat_map(|(index, ip)| checks::ip(ip, &path.index(index))).collect();
    let v6 = ips.iter().filter(|ip| ip.contains(':')).count();
    if v6 > 1 || ips.len() - v6 > 1 {
        errors.push(Error::invalid(&path, checks::json(&ips), "may specify no more than one IP for each IP family"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::Pods;
    use super::*;
    use crate::Strategy;
    use crate::testing::{check_update, object};

    fn pod(fields: &str) -> String {
        format!("{{metadata: {{name: p}}, spec: {{containers: [{{name: a, image: i}}]{fields}}}}}")
    }

    #[test]
    fn images_deadlines_and_tolerations_may_change() {
        check_update(&Pods, &pod(""), &pod("").replace("image: i", "image: j, imagePullPolicy: Always"), &[]);
        check_update(&Pods, &pod(""), &pod(", activeDeadlineSeconds: 5"), &[]);
        check_update(
            &Pods,
            &pod(", activeDeadlineSeconds: 5"),
            &pod(", activeDeadlineSeconds: 6"),
            &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
        );
        check_update(
            &Pods,
            &pod(", activeDeadlineSeconds: 5"),
            &pod(""),
            &["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"],
        );
        check_update(
            &Pods,
            &pod(", tolerations: [{operator: Exists}]"),
            &pod(", tolerations: [{operator: Exists}, {key: a, operator: Exists}]"),
            &[],
        );
        check_update(
            &Pods,
            &pod(", tolerations: [{operator: Exists}]"),
            &pod(""),
            &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
        );
        check_update(
            &Pods,
            &pod(", terminationGracePeriodSeconds: -1"),
            &pod(", terminationGracePeriodSeconds: 1"),
            &[],
        );
    }

    #[test]
    fn the_rest_is_fixed() {
        check_update(
            &Pods,
            &pod(""),
            &pod(", nodeSelector: {a: b}"),
            &[&format!(
                "spec: Forbidden: pod updates may not change fields other than {CHANGEABLE}\n+   \"nodeSelector\": {{\n+     \"a\": \"b\"\n+   }},"
            )],
        );
        check_update(
            &Pods,
            &pod(", nodeName: a"),
            &pod(", nodeName: b"),
            &[&format!(
                "spec: Forbidden: pod updates may not change fields other than {CHANGEABLE}\n-   \"nodeName\": \"a\",\n+   \"nodeName\": \"b\","
            )],
        );
        check_update(
            &Pods,
            &pod(""),
            &pod("").replace("[{name: a", "[{name: b, image: i}, {name: a"),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        );
        check_update(&Pods, &pod(", schedulingGates: [{name: g}]"), &pod(", nodeSelector: {a: b}"), &[]);
        check_update(
            &Pods,
            &pod(""),
            &pod(", schedulingGates: [{name: g}]"),
            &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"],
        );
    }

    #[test]
    fn ended_containers_stay_ended() {
        let with = |policy: &str, state: &str| {
            object(
                &Pods,
                &format!(
                    "{{spec: {{restartPolicy: {policy}, containers: [{{name: a}}]}}, status: {{containerStatuses: [{{name: a, ready: false, restartCount: 0, image: i, imageID: '', state: {state}}}]}}}}"
                ),
            )
        };
        let ended = |policy: &str| with(policy, "{terminated: {exitCode: 0}}");
        let errors = Pods.validate_status_update(&with("Never", "{running: {}}"), &ended("Never"));
        assert_eq!(
            errors[0].to_string(),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
        );
        assert!(Pods.validate_status_update(&with("Always", "{running: {}}"), &ended("Always")).is_empty());
        assert_eq!(Pods.validate_status_update(&with("OnFailure", "{running: {}}"), &ended("OnFailure")).len(), 1);
    }
}
