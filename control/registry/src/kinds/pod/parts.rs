//! Changes through a pod's subresources `ephemeralcontainers` and `resize`, each of which reaches one part of the spec.
//!
//! Source: `podEphemeralContainersStrategy`, `podResizeStrategy` in `pkg/registry/core/pod/strategy.go`;
//! `ValidatePodEphemeralContainersUpdate`, `ValidatePodResize` in `pkg/apis/core/validation`.

use std::collections::BTreeMap;

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use crate::checks;
use crate::podspec::{is_sidecar, qos};

/// What a running pod can be given more or less of.
const RESIZABLE: &[&str] = &["cpu", "memory"];
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Takes the ephemeral containers of the new pod, and the rest of the old.
pub fn keep_all_but_ephemeral(new: &mut Pod, old: &Pod) {
    let containers = new.spec.as_mut().and_then(|spec| spec.ephemeral_containers.take());
    keep(new, old);
    new.spec.get_or_insert_default().ephemeral_containers = containers;
}

/// Takes the resources of the new pod's containers, and the rest of the old. Where the containers are not the same, the spec
/// stays as it is, for validation to refuse.
pub fn keep_all_but_resources(new: &mut Pod, old: &Pod) {
    let wanted = new.spec.take().unwrap_or_default();
    keep(new, old);
    let spec = new.spec.get_or_insert_default();
    let init = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    if wanted.containers.len() != spec.containers.len() || init(&wanted) != init(spec) {
        *spec = wanted;
        return;
    }
    let init = spec.init_containers.iter_mut().flatten().zip(wanted.init_containers.into_iter().flatten());
    for (held, asked) in spec.containers.iter_mut().zip(wanted.containers).chain(init) {
        held.name = asked.name;
        held.resources = asked.resources;
        held.resize_policy = asked.resize_policy;
    }
}

fn keep(new: &mut Pod, old: &Pod) {
    new.spec.clone_from(&old.spec);
    new.status.clone_from(&old.status);
    let version = new.metadata.resource_version.take();
    let managed = new.metadata.managed_fields.take();
    new.metadata.clone_from(&old.metadata);
    new.metadata.resource_version = version;
    new.metadata.managed_fields = managed;
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// Ephemeral containers are only ever added.
pub fn validate_ephemeral(new: &Pod, old: &Pod) -> Errors {
    if is_mirror(old) {
        return vec![Error::forbidden(&Path::root(), "static pods do not support ephemeral containers")];
    }
    let all = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone()).unwrap_or_default();
    let (path, now) = (Path::new("spec").child("ephemeralContainers"), all(new));
    let judge = |held: &wharf_types::k8s::api::core::v1::EphemeralContainer| {
        let what = match now.iter().find(|new| new.name == held.name) {
            None => "removed\n",
            Some(new) if checks::json(new) != checks::json(held) => "changed\n",
            Some(_) => return None,
        };
        let why = format!("existing ephemeral containers {:?} may not be {what}", held.name);
        Some(Error::forbidden(&path, why))
    };
    all(old).iter().filter_map(judge).collect()
}

pub fn validate_resize(new_pod: &Pod, old_pod: &Pod) -> Errors {
    if is_mirror(old_pod) {
        return vec![Error::forbidden(&Path::root(), "static pods cannot be resized")];
    }
    let empty = PodSpec::default();
    let (new, old) = (new_pod.spec.as_ref().unwrap_or(&empty), old_pod.spec.as_ref().unwrap_or(&empty));
    let (path, mut errors) = (Path::new("spec"), Vec::new());
    if qos::class(new) != qos::class(old) {
        let held = old_pod.status.as_ref().and_then(|status| status.qos_class.clone()).unwrap_or_default();
        errors.push(Error::invalid(&path, held, "Pod QOS Class may not change as a result of resizing"));
    }
    if !supported(old_pod) {
        errors.push(Error::forbidden(&path, "Pod running on node without support for resize"));
    }
    let order = same_order(new, old, &path);
    if !order.is_empty() {
        errors.extend(order);
        return errors;
    }
    for (index, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
        errors.extend(kept(new, old, &path.child("containers").index(index).child("resources")));
    }
    let init = new.init_containers.iter().flatten().zip(old.init_containers.iter().flatten());
    for (index, (new, old)) in init.enumerate().filter(|(_, (_, old))| is_sidecar(old)) {
        errors.extend(kept(new, old, &path.child("initContainers").index(index).child("resources")));
    }
    if checks::json(&without_resizable(new, old)) != checks::json(old) {
        errors.push(Error::forbidden(&path, "only cpu and memory resources are mutable"));
    }
    errors
}

/// A node that resizes containers says what those that run have.
fn supported(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let running = |state: &wharf_types::k8s::api::core::v1::ContainerState| state.running.is_some();
    let mut running = statuses.filter(|status| status.state.as_ref().is_some_and(running));
    running.next().is_none_or(|status| status.resources.is_some())
}

fn same_order(new: &PodSpec, old: &PodSpec, path: &Path) -> Errors {
    let none = Vec::new();
    let lists = [
        ("containers", &new.containers, &old.containers),
        (
            "initContainers",
            new.init_containers.as_ref().unwrap_or(&none),
            old.init_containers.as_ref().unwrap_or(&none),
        ),
    ];
    let mut errors = Vec::new();
    for (list, new, old) in lists {
        let path = path.child(list);
        if new.len() != old.len() {
            errors.push(Error::forbidden(&path, format!("{list} may not be added or removed on resize")));
            continue;
        }
        for (index, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new.name != old.name) {
            let why = format!("{list} may not be renamed or reordered on resize");
            errors.push(Error::forbidden(&path.index(index).child("name"), why));
        }
    }
    errors
}

/// A request or limit, once given, can be changed but not taken away.
fn kept(new: &Container, old: &Container, path: &Path) -> Errors {
    type Amounts = Option<BTreeMap<String, Quantity>>;
    type Get = fn(&ResourceRequirements) -> &Amounts;
    let part = |container: &Container, get: Get| {
        container.resources.as_ref().and_then(|resources| get(resources).clone()).unwrap_or_default()
    };
    let mut errors = Vec::new();
    let parts: [(&str, Get); 2] =
        [("limits", |resources| &resources.limits), ("requests", |resources| &resources.requests)];
    for (name, get) in parts {
        let now = part(new, get);
        if part(old, get).keys().any(|resource| RESIZABLE.contains(&resource.as_str()) && !now.contains_key(resource)) {
            errors.push(Error::forbidden(&path.child(name), format!("resource {name} cannot be removed")));
        }
    }
    errors
}

/// The new spec with the old amounts of what may change.
fn without_resizable(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut spec = new.clone();
    let init = spec.init_containers.iter_mut().flatten().zip(old.init_containers.iter().flatten());
    let init = init.filter(|(_, old)| is_sidecar(old));
    for (container, old) in spec.containers.iter_mut().zip(&old.containers).chain(init) {
        container.resize_policy.clone_from(&old.resize_policy);
        let (held, asked) = (old.resources.clone().unwrap_or_default(), container.resources.take().unwrap_or_default());
        let merged = ResourceRequirements {
            limits: with_old(asked.limits, held.limits),
            requests: with_old(asked.requests, held.requests),
            ..asked
        };
        container.resources = Some(merged).filter(|merged| *merged != ResourceRequirements::default());
    }
    for (held, container) in old.containers.iter().zip(&mut spec.containers) {
        if held.resources.is_some() && container.resources.is_none() {
            container.resources = Some(ResourceRequirements::default());
        }
    }
    spec
}

fn with_old(
    asked: Option<BTreeMap<String, Quantity>>,
    held: Option<BTreeMap<String, Quantity>>,
) -> Option<BTreeMap<String, Quantity>> {
    let mut amounts = asked.unwrap_or_default();
    amounts.retain(|name, _| !RESIZABLE.contains(&name.as_str()));
    let old = held.iter().flatten().filter(|(name, _)| RESIZABLE.contains(&name.as_str()));
    amounts.extend(old.map(|(name, amount)| (name.clone(), amount.clone())));
    (!amounts.is_empty() || held.is_some()).then_some(amounts)
}

#[cfg(test)]
mod tests {
    use super::super::Pods;
    use crate::Strategy;
    use crate::row::Subresource;
    use crate::testing::object;

    #[track_caller]
    fn check(part: Subresource, old: &str, new: &str, expected: &[&str]) {
        let (old, mut new) = (object(&Pods, old), object(&Pods, new));
        Pods.prepare_for_subresource(part, &mut new, &old);
        let errors: Vec<String> = Pods.validate_subresource(part, &new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    fn debugged(names: &[&str], image: &str) -> String {
        let all: Vec<String> = names.iter().map(|name| format!("{{name: {name}, image: {image}}}")).collect();
        format!(
            "{{metadata: {{name: p, resourceVersion: '5'}}, spec: {{containers: [{{name: a, image: i}}], ephemeralContainers: [{}]}}}}",
            all.join(",")
        )
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        use Subresource::EphemeralContainers as Part;
        check(Part, &debugged(&["x"], "i"), &debugged(&["x", "y"], "i"), &[]);
        check(
            Part,
            &debugged(&["x"], "i"),
            &debugged(&["y"], "i"),
            &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"x\" may not be removed\n"],
        );
        check(
            Part,
            &debugged(&["x"], "i"),
            &debugged(&["x"], "j"),
            &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"x\" may not be changed\n"],
        );
        let (old, mut new) =
            (object(&Pods, &debugged(&[], "i")), object(&Pods, &debugged(&["x"], "i").replace("name: a", "name: b")));
        Pods.prepare_for_subresource(Part, &mut new, &old);
        assert_eq!(new.spec.unwrap().containers[0].name, "a", "nothing else changes");
    }

    fn sized(resources: &str) -> String {
        format!(
            "{{metadata: {{name: p, resourceVersion: '5'}}, spec: {{containers: [{{name: a, image: i, resources: {{{resources}}}}}]}}}}"
        )
    }

    #[test]
    fn cpu_and_memory_can_be_resized_and_nothing_else() {
        use Subresource::Resize as Part;
        let old = sized("requests: {cpu: 1, memory: 1Gi}");
        check(Part, &old, &sized("requests: {cpu: 2, memory: 2Gi}"), &[]);
        check(Part, &old, &sized("requests: {cpu: 2, memory: 2Gi}, limits: {cpu: 3}"), &[]);
        check(Part, &old, &old.replace("image: i", "image: j"), &[]);
        check(
            Part,
            &old,
            &sized("requests: {cpu: 2}"),
            &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        );
        check(
            Part,
            &old,
            &sized("requests: {cpu: 1, memory: 1Gi, ephemeral-storage: 1Gi}"),
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        );
        check(
            Part,
            &sized(""),
            &sized("requests: {cpu: 1}"),
            &["spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing"],
        );
        check(
            Part,
            &old,
            &old.replace("name: a", "name: b"),
            &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
        );
        let status = ", status: {containerStatuses: [{name: a, image: i, imageID: '', ready: true, restartCount: 0, state: {running: {}}}]}}";
        let running = format!("{}{status}", old.strip_suffix('}').unwrap());
        check(
            Part,
            &running,
            &sized("requests: {cpu: 2, memory: 2Gi}"),
            &["spec: Forbidden: Pod running on node without support for resize"],
        );
    }
}
