//! Amounts of resources that pods ask for and nodes have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use wharf_machinery::quantity::Quantity;

/// What a container that asks for nothing counts as in scores, so that such pods spread too.
/// Source: `pkg/scheduler/util/pod_resources.go`.
pub const DEFAULT_MILLI_CPU: i64 = 100;
pub const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Sums of the resources that are counted; extended ones by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    pub fn parse(list: Option<&BTreeMap<String, Wire>>) -> Self {
        let mut sum = Self::default();
        for (name, wire) in list.into_iter().flatten() {
            // Validation has refused what does not parse.
            let Ok(quantity) = wire.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => sum.milli_cpu = quantity.milli_value(),
                "memory" => sum.memory_bytes = quantity.value(),
                "ephemeral-storage" => sum.ephemeral_bytes = quantity.value(),
                "pods" => {}
                _ => drop(sum.scalar.insert(name.clone(), quantity.value())),
            }
        }
        sum
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = with(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.scalar {
            let held = self.scalar.entry(name.clone()).or_default();
            *held = with(*held, *amount);
        }
    }
}

/// What a pod takes from a node: its containers together, or its hungriest init step if that is more; and the overhead.
/// Source: `k8s.io/component-helpers/resource.PodRequests`.
pub fn pod_requests(pod: &Pod) -> Resources {
    pod.spec.as_ref().map_or_else(Resources::default, |spec| total(spec, requests))
}

/// As [`pod_requests`], with the defaults for containers that ask for nothing.
pub fn pod_requests_for_score(pod: &Pod) -> Resources {
    let or_default = |container: &Container| {
        let mut asked = requests(container);
        let named = |name: &str| {
            container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref())
                .is_some_and(|list| list.contains_key(name))
        };
        if !named("cpu") {
            asked.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !named("memory") {
            asked.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
        asked
    };
    pod.spec.as_ref().map_or_else(Resources::default, |spec| total(spec, or_default))
}

fn requests(container: &Container) -> Resources {
    Resources::parse(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    // Sidecars run beside all that comes after them.
    let (mut sidecars, mut hungriest) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut step = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&step);
            hungriest.raise_to(&sidecars);
        } else {
            step.add(&sidecars);
            hungriest.raise_to(&step);
        }
    }
    running.add(&sidecars);
    running.raise_to(&hungriest);
    if let Some(level) = &spec.resources {
        // Pod-level requests replace the sum of the containers'.
        let whole = Resources::parse(level.requests.as_ref());
        if whole.milli_cpu > 0 {
            running.milli_cpu = whole.milli_cpu;
        }
        if whole.memory_bytes > 0 {
            running.memory_bytes = whole.memory_bytes;
        }
    }
    running.add(&Resources::parse(spec.overhead.as_ref()));
    running
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, milli_cpu: i64) {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        assert_eq!(pod_requests(&pod).milli_cpu, milli_cpu, "{spec}");
    }

    fn asks(cpu: &str) -> serde_json::Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } })
    }

    #[test]
    fn a_pod_takes_what_it_needs_at_its_hungriest_moment() {
        check(json!({ "containers": [asks("100m"), asks("1")] }), 1100);
        check(json!({ "containers": [asks("100m")], "initContainers": [asks("2")] }), 2000);
        let mut sidecar = asks("300m");
        sidecar["restartPolicy"] = json!("Always");
        check(json!({ "containers": [asks("100m")], "initContainers": [sidecar, asks("1")] }), 1300);
        check(json!({ "containers": [asks("100m")], "overhead": { "cpu": "50m" } }), 150);
    }

    #[test]
    fn pods_without_requests_count_in_scores() {
        let pod: Pod =
            serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [{ "name": "c" }] } })).unwrap();
        assert_eq!(pod_requests(&pod), Resources::default());
        assert_eq!(pod_requests_for_score(&pod).milli_cpu, DEFAULT_MILLI_CPU);
    }
}
