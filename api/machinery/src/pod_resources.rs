//! What a pod as a whole asks for: the sum of its containers, what its init containers need at their worst, its overhead.
//!
//! Source: `k8s.io/component-helpers/resource/helpers.go` (`PodRequests`, `PodLimits`, `IsSupportedPodLevelResource`).
//! Pure; an amount that cannot be read counts as zero, for bodies with such amounts are refused as they are read.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::quantity::Quantity;

/// Amounts of resources by their names.
pub type Amounts = BTreeMap<String, Quantity>;

/// Which side of `resources` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Requests,
    Limits,
}

/// What counts beside the spec's containers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Containers count with what they hold, where a resize has not come through yet.
    pub with_status: bool,
    pub with_overhead: bool,
}

pub fn read(amounts: Option<&BTreeMap<String, Wire>>) -> Amounts {
    let read = |(name, wire): (&String, &Wire)| (name.clone(), Quantity::try_from(wire).unwrap_or_default());
    amounts.into_iter().flatten().map(read).collect()
}

pub fn write(amounts: &Amounts) -> BTreeMap<String, Wire> {
    amounts.iter().map(|(name, amount)| (name.clone(), (*amount).into())).collect()
}

pub fn add(sums: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sums.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let held = most.entry(name.clone()).or_insert(*amount);
        *held = (*held).max(*amount);
    }
}

/// True for an init container that runs on beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn side(resources: Option<&ResourceRequirements>, side: Side) -> Amounts {
    let amounts = resources.and_then(|resources| match side {
        Side::Requests => resources.requests.as_ref(),
        Side::Limits => resources.limits.as_ref(),
    });
    read(amounts)
}

/// True for what `spec.resources` may speak of.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// True where the spec says for the pod as a whole what it may use. Source: `IsPodLevelResourcesSet`.
pub fn is_set_for_pod(spec: &PodSpec) -> bool {
    let said = spec.resources.iter().flat_map(|resources| [&resources.requests, &resources.limits]);
    said.flatten().flatten().any(|(name, _)| is_pod_level(name))
}

/// What the pod asks for, or may use, as a whole.
pub fn of_pod(pod: &Pod, which: Side, options: Options) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let ask = |container: &Container| match options.with_status {
        true => with_status(pod, container, which),
        false => side(container.resources.as_ref(), which),
    };
    let mut sums = of_containers(spec, ask);
    let whole = side(spec.resources.as_ref(), which);
    sums.extend(whole.into_iter().filter(|(name, _)| is_pod_level(name)));
    if options.with_overhead {
        for (name, amount) in read(spec.overhead.as_ref()) {
            match which {
                Side::Requests => *sums.entry(name).or_default() += amount,
                // Overhead widens limits that are there; it makes none.
                Side::Limits => {
                    if let Some(held) = sums.get_mut(&name).filter(|held| !held.is_zero()) {
                        *held += amount;
                    }
                }
            }
        }
    }
    sums
}

fn of_containers(spec: &PodSpec, ask: impl Fn(&Container) -> Amounts) -> Amounts {
    let (mut sums, mut sidecars, mut worst) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in &spec.containers {
        add(&mut sums, &ask(container));
    }
    for container in spec.init_containers.iter().flatten() {
        let mut asked = ask(container);
        if is_sidecar(container) {
            add(&mut sums, &asked);
            add(&mut sidecars, &asked);
            asked.clone_from(&sidecars);
        } else {
            add(&mut asked, &sidecars);
        }
        raise(&mut worst, &asked);
    }
    raise(&mut sums, &worst);
    sums
}

fn with_status(pod: &Pod, container: &Container, which: Side) -> Amounts {
    let asked = side(container.resources.as_ref(), which);
    let Some(status) = status_of(pod, &container.name) else { return asked };
    let Some(actual) = &status.resources else { return asked };
    let mut held = side(Some(actual), which);
    if which == Side::Requests {
        raise(&mut held, &read(status.allocated_resources.as_ref()));
    }
    if !resize_is_infeasible(pod) {
        raise(&mut held, &asked);
    }
    held
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|status| status.name == container)
}

fn resize_is_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| {
        condition.type_ == "PodResizePending"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("Infeasible")
    })
}

/// True where no container, nor the pod as a whole, asks for processor time or memory.
pub fn is_best_effort(pod: &Pod) -> bool {
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).filter(|it| !it.is_empty())
    {
        return class == "BestEffort";
    }
    let Some(spec) = &pod.spec else { return true };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let asked = containers.map(|container| container.resources.as_ref()).chain([spec.resources.as_ref()]);
    let asks =
        |amounts: &Amounts| ["cpu", "memory"].iter().any(|name| amounts.get(*name).is_some_and(|a| !a.is_zero()));
    !asked.flatten().any(|it| asks(&side(Some(it), Side::Requests)) || asks(&side(Some(it), Side::Limits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &str, options: Options, requests: &str, limits: &str) {
        let pod: Pod = serde_yaml::from_str(&format!("{{spec: {spec}}}")).expect("a pod");
        let shown = |which| {
            let amounts = of_pod(&pod, which, options);
            amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
        };
        assert_eq!((shown(Side::Requests).as_str(), shown(Side::Limits).as_str()), (requests, limits), "{spec}");
    }

    #[test]
    fn containers_add_up_and_init_containers_count_at_their_worst() {
        let plain = Options::default();
        check(
            "{containers: [{name: a, resources: {requests: {cpu: 1}, limits: {cpu: 2}}}, {name: b}]}",
            plain,
            "cpu=1",
            "cpu=2",
        );
        let init = "{containers: [{name: a, resources: {requests: {cpu: 1}}}], initContainers: [
            {name: s, restartPolicy: Always, resources: {requests: {cpu: 500m}}},
            {name: i, resources: {requests: {cpu: 2, memory: 1Gi}}}]}";
        check(init, plain, "cpu=2500m,memory=1Gi", "");
    }

    #[test]
    fn the_pod_speaks_last_and_overhead_comes_on_top() {
        let spec = "{containers: [{name: a, resources: {requests: {cpu: 1, x/y: 1}, limits: {cpu: 1}}}],
            resources: {requests: {cpu: 3}}, overhead: {cpu: 100m, memory: 1Mi}}";
        check(spec, Options { with_overhead: true, ..Options::default() }, "cpu=3100m,memory=1Mi,x/y=1", "cpu=1100m");
        check(spec, Options::default(), "cpu=3,x/y=1", "cpu=1");
    }

    #[test]
    fn what_asks_for_nothing_is_best_effort() {
        let check = |spec: &str, expected: bool| {
            let pod: Pod = serde_yaml::from_str(&format!("{{spec: {spec}}}")).expect("a pod");
            assert_eq!(is_best_effort(&pod), expected, "{spec}");
        };
        check("{containers: [{name: a}]}", true);
        check("{containers: [{name: a, resources: {requests: {cpu: 0, x/y: 1}}}]}", true);
        check("{containers: [{name: a}], initContainers: [{name: i, resources: {limits: {memory: 1}}}]}", false);
        check("{containers: [{name: a}], resources: {requests: {cpu: 1}}}", false);
    }
}
