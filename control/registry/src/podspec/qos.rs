//! A pod's quality of service class, which follows from what its containers ask for.
//!
//! Source: `pkg/apis/core/v1/helper/qos/qos.go`.

use std::collections::BTreeMap;

use wharf_types::k8s::api::core::v1::{PodSpec, ResourceRequirements};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use super::containers;
use crate::quantity::{self, Amount};

/// The resources that decide the class.
const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &PodSpec) -> &'static str {
    let empty = ResourceRequirements::default();
    let asked: Vec<&ResourceRequirements> = match &spec.resources {
        Some(whole_pod) => vec![whole_pod],
        None => containers(spec).map(|container| container.resources.as_ref().unwrap_or(&empty)).collect(),
    };
    let (mut requests, mut limits) = (Sums::new(), Sums::new());
    let mut all_limited = true;
    for resources in asked {
        add(&mut requests, resources.requests.as_ref());
        let limited = add(&mut limits, resources.limits.as_ref());
        all_limited &= limited == COMPUTE.len();
    }
    match (requests.is_empty() && limits.is_empty(), all_limited) {
        (true, _) => "BestEffort",
        (false, true) if requests == limits => "Guaranteed",
        _ => "Burstable",
    }
}

type Sums = BTreeMap<&'static str, Amount>;

/// Adds what is asked for, and returns how many of the resources were named with more than zero.
fn add(sums: &mut Sums, amounts: Option<&BTreeMap<String, Quantity>>) -> usize {
    let mut named = 0;
    for name in COMPUTE {
        let amount = amounts.and_then(|amounts| amounts.get(name)).and_then(quantity::amount).unwrap_or_default();
        if amount > Amount::default() {
            let sum = sums.entry(name).or_default();
            *sum += amount;
            named += 1;
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(containers: &str, expected: &str) {
        let spec: PodSpec = serde_yaml::from_str(&format!("containers: {containers}")).unwrap();
        assert_eq!(class(&spec), expected);
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        check("[{name: a}]", "BestEffort");
        check("[{name: a, resources: {requests: {cpu: '0'}}}]", "BestEffort");
        check("[{name: a, resources: {requests: {cpu: '1'}}}]", "Burstable");
        check(
            "[{name: a, resources: {requests: {cpu: '1', memory: 1Gi}, limits: {cpu: 1000m, memory: 1024Mi}}}]",
            "Guaranteed",
        );
        check(
            "[{name: a, resources: {requests: {cpu: '1', memory: 1Gi}, limits: {cpu: '1', memory: 1Gi}}}, {name: b}]",
            "Burstable",
        );
        check("[{name: a, resources: {requests: {example.com/gpu: '1'}}}]", "BestEffort");
    }
}
