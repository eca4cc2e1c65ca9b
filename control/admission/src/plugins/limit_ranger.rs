//! Gives containers the requests and limits that their namespace wants, and holds pods and claims to its bounds.
//!
//! Source: `plugin/pkg/admission/limitranger`. A pod's containers cannot change later but through `resize`, so an update of the
//! pod itself is not looked at.

use std::collections::BTreeMap;

use async_trait::async_trait;
use wharf_machinery::pod_resources::{self, Amounts, Options, Side, read};
use wharf_machinery::quantity::Quantity;
use wharf_registry::Subresource;
use wharf_types::k8s::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, ResourceRequirements,
};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use wharf_types::{ApiError, Gvr};

use super::refusals;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const LIMIT_RANGES: Gvr = super::core_v1("limitranges");
/// Tells what a pod was given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !is_limited(write) || !write.about("", "pods") {
            return Ok(());
        }
        let ranges = ranges(write, cluster);
        if let Some(pod) = write.new_as_mut::<Pod>() {
            ranges.iter().for_each(|range| give_defaults(pod, range));
        }
        Ok(())
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !is_limited(write) {
            return Ok(());
        }
        for range in ranges(write, cluster) {
            let items = range.spec.as_ref().map(|spec| spec.limits.as_slice()).unwrap_or_default();
            let found = match (write.new_as::<Pod>(), write.new_as::<PersistentVolumeClaim>()) {
                (Some(pod), _) => check_pod(pod, items),
                (_, Some(claim)) => check_claim(claim, items),
                _ => Vec::new(),
            };
            if !found.is_empty() {
                return Err(write.forbidden(refusals(&found)));
            }
        }
        Ok(())
    }
}

fn is_limited(write: &Attributes) -> bool {
    let new = match write.subresource {
        Some(Subresource::Resize) => write.about("", "pods"),
        Some(_) => false,
        None if write.about("", "pods") => write.operation == Operation::Create,
        None => write.about("", "persistentvolumeclaims"),
    };
    // What is being deleted is left alone.
    new && write.old.as_ref().is_none_or(|old| old.meta().deletion_timestamp.is_none())
}

fn ranges(write: &Attributes, cluster: &dyn Reader) -> Vec<LimitRange> {
    let found = cluster.list(&LIMIT_RANGES, write.namespace.as_deref());
    found.iter().filter_map(|object| object.downcast_ref::<LimitRange>().cloned()).collect()
}

type Wires = BTreeMap<String, Wire>;

/// Fills in what containers leave out, and notes it on the pod.
fn give_defaults(pod: &mut Pod, range: &LimitRange) {
    let (mut requests, mut limits) = (Wires::new(), Wires::new());
    for item in range.spec.iter().flat_map(|spec| &spec.limits).filter(|item| item.type_ == "Container") {
        requests.extend(item.default_request.clone().unwrap_or_default());
        limits.extend(item.default.clone().unwrap_or_default());
    }
    let Some(spec) = &mut pod.spec else { return };
    let mut given = Vec::new();
    for container in &mut spec.containers {
        give(container, "container", &requests, &limits, &mut given);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        give(container, "init container", &requests, &limits, &mut given);
    }
    if !given.is_empty() {
        let text = format!("LimitRanger plugin set: {}", given.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), text);
    }
}

fn give(container: &mut Container, what: &str, requests: &Wires, limits: &Wires, given: &mut Vec<String>) {
    let name = container.name.clone();
    let mut fill = |into: &mut Option<Wires>, from: &Wires, side: &str| {
        let held = into.clone().unwrap_or_default();
        let missing: Vec<_> = from.iter().filter(|(resource, _)| !held.contains_key(*resource)).collect();
        if missing.is_empty() {
            return;
        }
        let names: Vec<&str> = missing.iter().map(|(resource, _)| resource.as_str()).collect();
        given.push(format!("{} {side} for {what} {name}", names.join(", ")));
        into.get_or_insert_default().extend(missing.into_iter().map(|(name, amount)| (name.clone(), amount.clone())));
    };
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let resources = container.resources.get_or_insert_default();
    fill(&mut resources.requests, requests, "request");
    fill(&mut resources.limits, limits, "limit");
}

/// Every bound that the pod breaks.
fn check_pod(pod: &Pod, items: &[LimitRangeItem]) -> Vec<String> {
    let mut found = Vec::new();
    let empty = ResourceRequirements::default();
    for item in items {
        match item.type_.as_str() {
            "Container" => {
                let spec = pod.spec.iter();
                let all = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
                for container in all {
                    let resources = container.resources.as_ref().unwrap_or(&empty);
                    let asked =
                        Asked { requests: read(resources.requests.as_ref()), limits: read(resources.limits.as_ref()) };
                    found.extend(asked.check(item));
                }
            }
            "Pod" => {
                let whole = |side| pod_resources::of_pod(pod, side, Options::default());
                let asked = Asked { requests: whole(Side::Requests), limits: whole(Side::Limits) };
                found.extend(asked.check(item));
            }
            _ => {}
        }
    }
    found
}

fn check_claim(claim: &PersistentVolumeClaim, items: &[LimitRangeItem]) -> Vec<String> {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let asked = Asked { requests: read(resources.and_then(|it| it.requests.as_ref())), limits: Amounts::new() };
    let mut found = Vec::new();
    for item in items.iter().filter(|item| item.type_ == "PersistentVolumeClaim") {
        let bounds = |amounts: &Option<Wires>| read(amounts.as_ref());
        found.extend(bounds(&item.min).iter().filter_map(|(name, min)| asked.below(item, name, *min)));
        found.extend(bounds(&item.max).iter().filter_map(|(name, max)| {
            let at = format!("maximum {name} usage per {} is {max}", item.type_);
            match asked.requests.get(name) {
                None => Some(format!("{at}.  No request is specified")),
                Some(request) => (request > max).then(|| format!("{at}, but request is {request}")),
            }
        }));
    }
    found
}

/// What a container, or a pod as a whole, asks for.
struct Asked {
    requests: Amounts,
    limits: Amounts,
}

impl Asked {
    fn check(&self, item: &LimitRangeItem) -> Vec<String> {
        let bounds = |amounts: &Option<Wires>| read(amounts.as_ref());
        let low = bounds(&item.min).into_iter().filter_map(|(name, min)| self.below(item, &name, min));
        let mut found: Vec<String> = low.collect();
        found.extend(bounds(&item.max).into_iter().filter_map(|(name, max)| self.above(item, &name, max)));
        let ratios = bounds(&item.max_limit_request_ratio);
        found.extend(ratios.into_iter().filter_map(|(name, most)| self.beyond_ratio(item, &name, most)));
        found
    }

    fn below(&self, item: &LimitRangeItem, name: &str, min: Quantity) -> Option<String> {
        let at = format!("minimum {name} usage per {} is {min}", item.type_);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{at}.  No request is specified")),
            (Some(request), _) if *request < min => Some(format!("{at}, but request is {request}")),
            (_, Some(limit)) if *limit < min => Some(format!("{at}, but limit is {limit}")),
            _ => None,
        }
    }

    fn above(&self, item: &LimitRangeItem, name: &str, max: Quantity) -> Option<String> {
        let at = format!("maximum {name} usage per {} is {max}", item.type_);
        match (self.limits.get(name), self.requests.get(name)) {
            (None, _) => Some(format!("{at}.  No limit is specified")),
            (Some(limit), _) if *limit > max => Some(format!("{at}, but limit is {limit}")),
            (_, Some(request)) if *request > max => Some(format!("{at}, but request is {request}")),
            _ => None,
        }
    }

    fn beyond_ratio(&self, item: &LimitRangeItem, name: &str, most: Quantity) -> Option<String> {
        let at = format!("{name} max limit to request ratio per {} is {most}", item.type_);
        let given = |amounts: &Amounts| amounts.get(name).filter(|amount| !amount.is_zero()).map(Quantity::as_f64);
        let Some(request) = given(&self.requests) else {
            return Some(format!("{at}, but no request is specified or request is 0"));
        };
        let Some(limit) = given(&self.limits) else {
            return Some(format!("{at}, but no limit is specified or limit is 0"));
        };
        let ratio = limit / request;
        (ratio > most.as_f64()).then(|| format!("{at}, but provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};

    fn cluster(limits: Value) -> Cluster {
        let range: LimitRange =
            json(json!({"metadata": {"name": "r", "namespace": "default"}, "spec": {"limits": limits}}));
        Cluster::default().with("limitranges", range)
    }

    /// The verdict's message without its first words, and the pod's resources.
    async fn check(limits: Value, containers: Value, expected: Result<Value, &str>) {
        let pod: Pod =
            json(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": containers}}));
        let mut write = write(Operation::Create, "pods", pod);
        let verdict = run(&LimitRanger, &mut write, &cluster(limits)).await;
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        let got = verdict.map(|()| serde_json::to_value(&spec.containers[0].resources).expect("json"));
        let expected = expected.map_err(|text| format!("pods \"web\" is forbidden: {text}"));
        assert_eq!(got.map_err(|error| error.message), expected);
    }

    fn asks(requests: Value, limits: Value) -> Value {
        json!([{"name": "a", "resources": {"requests": requests, "limits": limits}}])
    }

    #[tokio::test]
    async fn containers_get_what_they_leave_out() {
        let limits =
            json!([{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]);
        let filled = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        check(limits.clone(), asks(json!({}), json!({"cpu": "2"})), Ok(filled)).await;
        let pod: Pod = json(
            json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}}),
        );
        let mut write = write(Operation::Create, "pods", pod);
        run(&LimitRanger, &mut write, &cluster(limits)).await.expect("admitted");
        let annotations = write.new_as::<Pod>().and_then(|pod| pod.metadata.annotations.clone()).expect("annotations");
        assert_eq!(
            annotations[ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; cpu request for init container i; cpu, memory limit for init container i"
        );
    }

    #[tokio::test]
    async fn bounds_hold_for_containers_and_pods() {
        let two = |kind: &str| json!([{"type": kind, "min": {"cpu": "100m"}, "max": {"cpu": "1"}}]);
        check(
            two("Container"),
            asks(json!({"cpu": "50m"}), json!({"cpu": "1"})),
            Err("minimum cpu usage per Container is 100m, but request is 50m"),
        )
        .await;
        let both = "[minimum cpu usage per Container is 100m.  No request is specified, maximum cpu usage per Container is 1.  No limit is specified]";
        check(two("Container"), json!([{"name": "a"}]), Err(both)).await;
        let half = json!({"cpu": "600m"});
        let one = json!({"name": "a", "resources": {"requests": half, "limits": half}});
        check(two("Container"), json!([one]), Ok(json!({"requests": half, "limits": half}))).await;
        let mut other = one.clone();
        other["name"] = json!("b");
        check(two("Pod"), json!([one, other]), Err("maximum cpu usage per Pod is 1, but limit is 1200m")).await;
    }

    #[tokio::test]
    async fn limits_stay_near_requests() {
        let ratio = json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}]);
        let wide = asks(json!({"cpu": "100m"}), json!({"cpu": "300m"}));
        check(
            ratio.clone(),
            wide,
            Err("cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
        )
        .await;
        let none = "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0";
        check(ratio, asks(json!({}), json!({"cpu": "300m"})), Err(none)).await;
    }

    #[tokio::test]
    async fn claims_are_bounded_when_they_grow_too() {
        let limits = json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]);
        for (operation, size, expected) in [
            (
                Operation::Create,
                "500Mi",
                Some("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"),
            ),
            (
                Operation::Update,
                "3Gi",
                Some("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
            ),
            (Operation::Update, "2Gi", None),
        ] {
            let claim: PersistentVolumeClaim = json(
                json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {"resources": {"requests": {"storage": size}}}}),
            );
            let mut write = write(operation, "persistentvolumeclaims", claim);
            let verdict = run(&LimitRanger, &mut write, &cluster(limits.clone())).await.map_err(|error| error.message);
            let expected = expected.map(|text| format!("persistentvolumeclaims \"c\" is forbidden: {text}"));
            assert_eq!(verdict.err(), expected, "{size}");
        }
    }
}
