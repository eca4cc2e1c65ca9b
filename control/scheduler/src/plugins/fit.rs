//! A pod goes where its requests fit, preferably where most is left (upstream's `NodeResourcesFit`, `LeastAllocated`).

use crate::cluster::NodeInfo;
use crate::framework::{Change, Filter, MAX_SCORE, Rejection, Score};
use crate::pod::PodInfo;
use crate::resources::Resources;

pub struct Fit;

const NAME: &str = "NodeResourcesFit";

impl Filter for Fit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let reject = |reason: String| Err(Rejection { reason, plugin: NAME });
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.max_pods {
            return reject("Too many pods".to_owned());
        }
        match lacking(&pod.requests, &node.allocatable, &node.requested) {
            Some(resource) => reject(format!("Insufficient {resource}")),
            None => Ok(()),
        }
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        let enough = |node: &k8s_openapi::api::core::v1::Node| {
            let allocatable = Resources::parse(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
            lacking(&pod.requests, &allocatable, &Resources::default()).is_none()
        };
        let list = |node: &k8s_openapi::api::core::v1::Node| {
            node.status.as_ref().and_then(|status| status.allocatable.clone())
        };
        match change {
            Change::NodeAdded(node) => enough(node),
            Change::NodeUpdated { old, new } => list(old) != list(new) && enough(new),
            Change::PodGone(_) => true,
        }
    }
}

/// The first resource that is asked for and not left.
fn lacking<'a>(asked: &'a Resources, allocatable: &Resources, taken: &Resources) -> Option<&'a str> {
    let short = |asked: i64, has: i64, taken: i64| asked > 0 && asked > has - taken;
    if short(asked.milli_cpu, allocatable.milli_cpu, taken.milli_cpu) {
        return Some("cpu");
    }
    if short(asked.memory_bytes, allocatable.memory_bytes, taken.memory_bytes) {
        return Some("memory");
    }
    if short(asked.ephemeral_bytes, allocatable.ephemeral_bytes, taken.ephemeral_bytes) {
        return Some("ephemeral-storage");
    }
    let of = |list: &Resources, name: &str| list.scalar.get(name).copied().unwrap_or_default();
    asked
        .scalar
        .iter()
        .find(|(name, amount)| short(**amount, of(allocatable, name), of(taken, name)))
        .map(|(name, _)| name.as_str())
}

impl Score for Fit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let left = |allocatable: i64, taken: i64, asked: i64| {
            let after = taken.saturating_add(asked);
            if allocatable <= 0 || after > allocatable { 0 } else { (allocatable - after) * MAX_SCORE / allocatable }
        };
        let (has, taken, asked) = (&node.allocatable, &node.score_requested, &pod.score_requests);
        let cpu = left(has.milli_cpu, taken.milli_cpu, asked.milli_cpu);
        let memory = left(has.memory_bytes, taken.memory_bytes, asked.memory_bytes);
        (cpu + memory) / 2
    }
}
