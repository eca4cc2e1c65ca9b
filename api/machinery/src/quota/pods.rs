//! What a pod costs. Source: `pkg/quota/v1/evaluator/core/pods.go`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, ScopedResourceSelectorRequirement};

use super::devices::IMPLICIT;
use super::{Amounts, one, selects};
use crate::pod_resources::{self, Options, Side, read};

const NAMES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
const REQUESTS: &str = "requests.";
const HUGE_PAGES: &str = "hugepages-";
/// A class's devices, as a pod may ask for them.
const DEVICES_OF_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// Names that every container must ask for where a quota counts them. Upstream calls this a mistake, and keeps it.
const DEMANDED: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

pub fn answers_for(name: &str) -> bool {
    NAMES.contains(&name)
        || name.starts_with(HUGE_PAGES)
        || name.strip_prefix(REQUESTS).is_some_and(|asked| asked.starts_with(HUGE_PAGES))
        || (name.starts_with(REQUESTS) && !is_native(name))
        || name.starts_with(IMPLICIT)
}

/// Names without a domain, or in that of Kubernetes itself.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    (!is_native(name) && !name.starts_with(REQUESTS)) || name.starts_with(DEVICES_OF_CLASS)
}

/// A pod is counted as an object as long as it is stored, and costs the rest until it has ended.
pub fn usage(pod: &Pod, now: Timestamp) -> Amounts {
    if has_ended(pod, now) {
        return Amounts::new();
    }
    let options = Options { with_status: true, with_overhead: true };
    let requests = pod_resources::of_pod(pod, Side::Requests, options);
    compute(&requests, &pod_resources::of_pod(pod, Side::Limits, options))
}

fn has_ended(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return true;
    }
    let (Some(until), Some(grace)) = (&pod.metadata.deletion_timestamp, pod.metadata.deletion_grace_period_seconds)
    else {
        return false;
    };
    until.0.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), one())]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = requests.get(name) {
            used.insert(name.to_owned(), *amount);
            used.insert(format!("{REQUESTS}{name}"), *amount);
        }
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    for (name, amount) in requests {
        let huge = name.starts_with(HUGE_PAGES);
        if huge {
            used.insert(name.clone(), *amount);
        }
        if huge || is_extended(name) {
            used.insert(format!("{REQUESTS}{name}"), *amount);
        }
    }
    used
}

pub fn constraints(pod: &Pod, required: &[String]) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let asked = |resources: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| {
        let side = |amounts: Option<_>| read(amounts);
        compute(
            &side(resources.and_then(|it| it.requests.as_ref())),
            &side(resources.and_then(|it| it.limits.as_ref())),
        )
    };
    // What is said of the pod as a whole is enough.
    if pod_resources::is_set_for_pod(spec) {
        return Ok(());
    }
    let demanded: BTreeSet<&str> = required.iter().map(String::as_str).filter(|name| DEMANDED.contains(name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let held = asked(container.resources.as_ref());
        for name in demanded.iter().filter(|name| !held.contains_key(**name)) {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let shown = missing
        .into_iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")));
    Err(format!("must specify {}", shown.collect::<Vec<_>>().join("; ")))
}

/// True for a pod that is to end by itself.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).is_some_and(|seconds| seconds >= 0)
}

pub fn in_scope(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let spec = pod.spec.as_ref();
    let terminating = || is_terminating(pod);
    let class = spec.and_then(|spec| spec.priority_class_name.as_deref()).filter(|name| !name.is_empty());
    match scope.scope_name.as_str() {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => pod_resources::is_best_effort(pod),
        "NotBestEffort" => !pod_resources::is_best_effort(pod),
        "PriorityClass" => selects(scope, class),
        "CrossNamespacePodAffinity" => looks_beyond(pod),
        _ => false,
    }
}

/// True where an affinity of the pod looks at pods of other namespaces.
fn looks_beyond(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return false };
    let beyond = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|it| !it.is_empty()) || term.namespace_selector.is_some()
    };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = near
        .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref())
        .into_iter()
        .chain(far.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref()));
    let preferred = near
        .and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref())
        .into_iter()
        .chain(far.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref()));
    required.flatten().any(beyond) || preferred.flatten().any(|weighted| beyond(&weighted.pod_affinity_term))
}
